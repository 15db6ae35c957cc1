"""The `kvstore` command."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from kvstore.errors import KVStoreError

__all__ = ["app", "main"]

app = typer.Typer(
    name="kvstore",
    help="A distributed store for the KV cache of LLM inference.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# These commands parse their own arguments, and need packages that the others do without.
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

NodeUrl = Annotated[str, typer.Argument(metavar="kv://HOST:PORT", help="The node's control address.")]
Timeout = Annotated[int, typer.Option("--timeout-ms", min=1, help="How long to wait for the node.")]
TokenFile = Annotated[
    str | None, typer.Option(help="File with a tenant's token, where the node has tenants: whose blocks this is about.")
]


@app.command()
def serve(
    listen: Annotated[str | None, typer.Option(help="Control address; port 0 picks a free one.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory for blocks, such as 4GiB.")] = None,
    disk: Annotated[str | None, typer.Option(help="Directory of the NVMe tier; several are joined by commas.")] = None,
    disk_size: Annotated[str | None, typer.Option(help="Space on all disks together, such as 200GiB.")] = None,
    admission: Annotated[str | None, typer.Option(help="What goes to disk: eager, after-first-reuse or off.")] = None,
    max_block: Annotated[str | None, typer.Option(help="Largest block that the node accepts, such as 8MiB.")] = None,
    threads: Annotated[int | None, typer.Option(help="Data threads; 0 chooses by the number of cores.")] = None,
    data_port: Annotated[int | None, typer.Option(help="First port of the data plane; 0 picks free ones.")] = None,
    prefault: Annotated[bool | None, typer.Option("--prefault", help="Touch all memory before answering.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Address of a page of counters for Prometheus.")] = None,
    tenants: Annotated[str | None, typer.Option(help="TOML file with tenants, their quotas and tokens.")] = None,
    runtime_dir: Annotated[str | None, typer.Option(help="Where to put the sockets of the same-host lane.")] = None,
    insecure: Annotated[bool | None, typer.Option("--insecure", help="Allow an address beyond loopback.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with a \\[node] table; flags win over it.")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Write the control address here once it answers.")] = None,
) -> None:
    """Run a storage node until SIGTERM or Ctrl-C."""
    from kvstore.cli.serve import run

    flags = {
        "listen": listen,
        "memory": memory,
        "disk": disk,
        "disk_size": disk_size,
        "admission": admission,
        "max_block_bytes": max_block,
        "threads": threads,
        "data_port": data_port,
        "prefault": prefault,
        "metrics": metrics,
        "tenants": tenants,
        "runtime_dir": runtime_dir,
        "insecure": insecure,
        "log_level": log_level,
    }
    run(flags, config, ready_file)


@app.command()
def stats(
    node: NodeUrl,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counters as JSON.")] = False,
    timeout_ms: Timeout = 2000,
    token_file: TokenFile = None,
) -> None:
    """Show what a node holds and has done."""
    from kvstore.cli.stats import run

    run(node, as_json=as_json, timeout_ms=timeout_ms, token_file=token_file)


@app.command()
def evict(
    node: NodeUrl,
    size: Annotated[str, typer.Argument(metavar="BYTES", help="How much to free, such as 512MiB.")],
    timeout_ms: Timeout = 10_000,
    token_file: TokenFile = None,
) -> None:
    """Have a node evict blocks, the least useful first."""
    from kvstore.cli.evict import run

    run(node, size, timeout_ms=timeout_ms, token_file=token_file)


@app.command()
def flush(node: NodeUrl, timeout_ms: Timeout = 60_000, token_file: TokenFile = None) -> None:
    """Wait until a node's disk keeps every block that it has acknowledged."""
    from kvstore.cli.flush import run

    run(node, timeout_ms=timeout_ms, token_file=token_file)


@app.command()
def fsck(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The disk directory, as given to serve --disk.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove the rows of bad blocks, mend catalog and files.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Check the disk of a stopped node: every row, every block. Status 0: clean, 1: damage, 2: not checked."""
    from kvstore.cli.fsck import run

    raise typer.Exit(run(path, repair=repair, as_json=as_json))


@app.command()
def version() -> None:
    """Show the versions of kvstore and UCX, and which CRC32C is used."""
    from kvstore.cli.version import run

    run()


@app.command(context_settings=_PASS_ON)
def demo(context: typer.Context) -> None:
    """Show a model's KV cache crossing from one process to another."""
    _run_extra("demo", context.args)


@app.command(context_settings=_PASS_ON)
def bench(context: typer.Context) -> None:
    """Measure every lane of a node beside the limits of this machine."""
    _run_extra("bench", context.args)


def main() -> None:
    """The entry point. Errors that a user can mend are one line on standard error and exit status 1."""
    try:
        app()
    except KVStoreError as error:
        command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
        print(f"kvstore {command}: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _run_extra(name: str, arguments: list[str]) -> None:
    """Runs the `app` of `kvstore.cli.<name>`; packages that only it needs may be missing."""
    try:
        module = importlib.import_module(f"kvstore.cli.{name}")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "kvstore":
            raise
        raise KVStoreError(f"{error.name} is not installed; run: pip install 'kvstore[{name}]'") from error
    module.app(args=arguments, prog_name=f"kvstore {name}")
