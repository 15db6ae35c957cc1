"""A node inside the client's process: the same data plane, reached over the same-host lane, with no network at all."""

from __future__ import annotations

import shutil
import tempfile
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from kvstore.client.session import Session
from kvstore.config import ClientConfig, NodeConfig
from kvstore.disks import NodeDisks
from kvstore.errors import ConnectError
from kvstore.transport import fork, native
from kvstore.transport.capability import ALL_VERBS
from kvstore.transport.entropy import new_token

if TYPE_CHECKING:
    from kvstore import _native

__all__ = ["EmbeddedSession"]


class EmbeddedSession(Session):
    """With a node of its own, which ends with it. Raises `ConnectError` when memory or disks cannot be had."""

    def __init__(self, node_config: NodeConfig, config: ClientConfig) -> None:
        super().__init__(config)
        with ExitStack() as opened:
            runtime_dir = tempfile.mkdtemp(prefix="kvstore-")
            opened.callback(shutil.rmtree, runtime_dir, ignore_errors=True)
            try:
                self._disks = NodeDisks(node_config)
                opened.callback(self._disks.close)
                self._node = _make_node(node_config, runtime_dir, self._disks)
                opened.callback(self._disks.stop, self._node)
                self._disks.start(self._node)
                opened.callback(self.native.close)
                self.lane = "mapped"
                self.endpoint = self._attach(node_config, config)
            except (OSError, ValueError) as error:
                raise ConnectError(f"the embedded store cannot be started: {error}") from error
            self._opened = opened.pop_all()

    def __str__(self) -> str:
        return "embedded store"

    def abandon(self) -> None:
        super().abandon()
        fork.keep_forever(self._node)
        self._disks.abandon()

    def _node_stats(self, timeout_ms: int) -> dict[str, Any] | None:
        return dict(self._node.stats())

    def _flush_node(self, timeout_ms: int) -> bool:
        return self._node.flush(timeout_ms)

    def _pin_on_node(self, keys: bytes, owner: str, ttl_ms: int, timeout_ms: int) -> bytes:
        return self._node.pin(keys, owner, ttl_ms, timeout_ms)

    def _close(self) -> None:
        if self._disks.owns_current_thread:
            # A store that was dropped is collected by whichever thread allocates next, and that may be one of its own.
            threading.Thread(target=self._opened.close, name="kvstore embedded store, closing").start()
        else:
            self._opened.close()

    def _attach(self, node_config: NodeConfig, config: ClientConfig) -> str:
        token = new_token()
        self._node.grant(token, ALL_VERBS, node_config.capability_ttl_ms)
        return self.native.attach(
            lane=self.lane,
            host="127.0.0.1",
            port=0,
            address=b"",
            socket=self._node.endpoints()[0][3],
            token=token,
            timeout_ms=config.connect_timeout_ms,
        )


def _make_node(config: NodeConfig, runtime_dir: str, disks: NodeDisks) -> _native.Node:
    return native().Node(
        memory_bytes=config.memory_bytes,
        max_block_bytes=config.max_block_bytes,
        host=config.listen_host,
        data_port=0,
        threads=config.thread_count,
        runtime_dir=runtime_dir,
        spin_us=config.spin_us,
        network=False,
        huge_pages=config.huge_pages,
        prefault=config.prefault,
        **disks.node_options(),
    )
