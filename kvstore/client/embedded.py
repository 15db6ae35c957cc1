"""A node inside the client's process: the same data plane, reached over the same-host lane, with no network at all."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from kvstore.client.session import Session
from kvstore.config import ClientConfig, NodeConfig
from kvstore.errors import ConnectError
from kvstore.transport import fork, native
from kvstore.transport.capability import ALL_VERBS
from kvstore.transport.entropy import new_token

if TYPE_CHECKING:
    from kvstore import _native

__all__ = ["EmbeddedSession"]


class EmbeddedSession(Session):
    """With a node of its own, which ends with it. Raises `ConnectError` when the memory cannot be had."""

    def __init__(self, node_config: NodeConfig, config: ClientConfig) -> None:
        super().__init__(config)
        with ExitStack() as opened:
            runtime_dir = tempfile.mkdtemp(prefix="kvstore-")
            opened.callback(shutil.rmtree, runtime_dir, ignore_errors=True)
            try:
                self._node = _start_node(node_config, runtime_dir)
                opened.callback(self._node.stop)
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

    def _node_stats(self, timeout_ms: int) -> dict[str, Any] | None:
        return dict(self._node.stats())

    def _close(self) -> None:
        self._opened.close()

    def _attach(self, node_config: NodeConfig, config: ClientConfig) -> str:
        token = new_token()
        self._node.grant(token, ALL_VERBS, node_config.capability_ttl_ms)
        return self.native.attach(
            lane=self.lane,
            host="127.0.0.1",
            address=b"",
            socket=self._node.endpoints()[0][3],
            token=token,
            timeout_ms=config.connect_timeout_ms,
        )


def _start_node(config: NodeConfig, runtime_dir: str) -> _native.Node:
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
    )
