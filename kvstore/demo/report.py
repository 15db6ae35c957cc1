"""The demo's words: what is about to happen, the table of what did, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Column, Table

from kvstore.config import format_bytes
from kvstore.demo.messages import Ready, Transfer
from kvstore.demo.verdict import Check, Continuation, Sharing, largest_difference

__all__ = ["show_checks", "show_introduction", "show_last_bits", "show_sharing", "show_verdict"]

_LANES = {"mapped": "the node's memory, mapped into the engine"}


def show_introduction(console: Console, *, prompt_tokens: int) -> None:
    """What the three processes are going to do."""
    text = (
        f"A small Llama with seeded random weights is to continue an essay of {prompt_tokens:,} tokens. Engine A"
        " computes the KV cache of the essay and stores it in a node. Engine B, a process that starts when A has ended,"
        " loads it from there and continues an essay that it has never read. Then the node is stopped and started, and"
        " killed and started: what it had on disk is there again, and while it is gone, engine B computes."
    )
    console.print(Panel(text, title="[bold]kvstore demo[/]", title_align="left", box=box.ROUNDED, border_style="cyan"))


def show_sharing(console: Console, sharing: Sharing, engine: Ready, *, prompt_tokens: int, block_size: int) -> None:
    """The table of the first act. `engine` is engine B."""
    saved, loaded = sharing.stored.answer.saved, sharing.warm.answer.loaded
    cold_s, warm_s = (one.answer.first_token_seconds for one in (sharing.one_shot, sharing.warm))
    tail = prompt_tokens - loaded.blocks * block_size
    columns = (Column(style="bold"), Column(justify="right", no_wrap=True), Column(style="dim", ratio=1))
    table = Table(*columns, show_header=False, expand=True, box=box.ROUNDED, border_style="cyan")
    block_bytes = loaded.bytes // max(1, loaded.blocks)
    table.add_row("Blocks", f"{loaded.blocks:,}", f"of {block_size} tokens, {format_bytes(block_bytes)} each")
    table.add_row("Bytes", format_bytes(loaded.bytes), f"{loaded.bytes:,}: keys and values of {engine.layers} layers")
    table.add_row("Lane", engine.lane, _LANES.get(engine.lane, f"UCX: {engine.endpoint}"))
    table.add_row("Store", *_rates(saved, "packing"))
    table.add_row("Load", *_rates(loaded, "unpacking"), end_section=True)
    table.add_row("First token, cold", f"{cold_s:.2f} s", f"one prefill of all {prompt_tokens:,} tokens")
    table.add_row(
        "First token, warm", f"{warm_s:.2f} s", f"load, prefill the last {tail}: {cold_s / warm_s:.0f} times sooner"
    )
    console.print(table)


def show_checks(console: Console, checks: Sequence[Check]) -> None:
    """One line a claim."""
    grid = Table.grid(
        Column(), Column(ratio=1), Column(justify="right", style="dim"), padding=(0, 1, 0, 0), expand=True
    )
    for check in checks:
        mark = "[bold green]✓[/]" if check.holds else "[bold red]✗[/]"
        grid.add_row(mark, check.claim, check.evidence)
    console.print(grid)


def show_last_bits(console: Console, one_shot: Continuation, split: Continuation) -> None:
    """Why the logits are compared with a recomputation split alike, not with the one-shot prefill."""
    difference = largest_difference(one_shot.logits, split.logits)
    here = f"here by up to {difference:.1e}" if difference else "although here it happens not to"
    console.print(
        f"[dim]A one-shot prefill by itself differs from a split one in the last bits, {here}: its matrices have other"
        " shapes, so sums are rounded in another order. That is arithmetic, not an effect of the store.[/]"
    )


def show_verdict(console: Console, checks: Sequence[Check], *, seconds: float) -> None:
    """The last line."""
    failed = sum(not check.holds for check in checks)
    if failed:
        console.print(f"[bold red]{failed} of {len(checks)} checks failed[/] after {seconds:.0f} s.")
    else:
        console.print(f"[bold green]All {len(checks)} checks hold[/], after {seconds:.0f} s.")


def _rates(transfer: Transfer, besides: str) -> tuple[str, str]:
    lane, whole = (transfer.bytes / 1e9 / max(1e-9, s) for s in (transfer.move_seconds, transfer.seconds))
    return f"{lane:.2f} GB/s", f"over the lane; {whole:.2f} GB/s with {besides}"
