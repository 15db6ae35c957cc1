"""The data plane of one tenant: its native node and its disks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kvstore.config import NodeConfig, format_bytes
from kvstore.disks import NodeDisks
from kvstore.errors import ConfigError
from kvstore.server.tenants import Tenant
from kvstore.transport import native
from kvstore.transport.lanes import rdma_transports

if TYPE_CHECKING:
    from kvstore import _native

__all__ = ["DataPlane"]


class DataPlane:
    """Takes memory and disks; `start` then serves what they hold. Every method may take long. Raises `ConfigError`.

    `runtime_dir` is an existing private directory; the sockets go into a new one inside it.
    """

    def __init__(self, tenant: Tenant, runtime_dir: str) -> None:
        self.tenant = tenant
        self._disks = NodeDisks(tenant.config)
        try:
            os.mkdir(runtime_dir, mode=0o700)
            self.node: _native.Node = _make_node(tenant.config, runtime_dir, self._disks)
        except BaseException:
            self._disks.close()
            raise

    def start(self) -> None:
        """Recovers what the disks hold and serves."""
        self._disks.start(self.node)

    def stop(self) -> None:
        """Brings to disk what is not there yet and stops. Idempotent."""
        self._disks.stop(self.node)


def _make_node(config: NodeConfig, runtime_dir: str, disks: NodeDisks) -> _native.Node:
    try:
        return native().Node(
            memory_bytes=config.memory_bytes,
            max_block_bytes=config.max_block_bytes,
            host=config.listen_host,
            data_port=config.data_port,
            threads=config.thread_count,
            runtime_dir=runtime_dir,
            spin_us=config.spin_us,
            rdma_transports=rdma_transports(config.rdma),
            huge_pages=config.huge_pages,
            prefault=config.prefault,
            **disks.node_options(),
        )
    except (OSError, ValueError) as error:
        disk = f", {format_bytes(config.disk_bytes)} in {config.disk}" if config.disks else ""
        wanted = f"memory {format_bytes(config.memory_bytes)}, data port {config.data_port or 'any'}{disk}"
        raise ConfigError(f"the data plane cannot start ({wanted}): {error}") from error
