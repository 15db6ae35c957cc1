"""A node inside the client's process: the same data plane, reached over the same-host lane, with no network at all."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from kvstore.client.session import Session
from kvstore.config import ClientConfig, NodeConfig
from kvstore.errors import ConnectError
from kvstore.transport import fork, native
from kvstore.transport.capability import ALL_VERBS
from kvstore.transport.entropy import new_token

__all__ = ["EmbeddedSession"]


class EmbeddedSession(Session):
    """With a node of its own, which ends with it. Raises `ConnectError` when the memory cannot be had."""

    def __init__(self, node_config: NodeConfig, config: ClientConfig) -> None:
        super().__init__(config)
        self._runtime_dir = tempfile.mkdtemp(prefix="kvstore-")
        try:
            self._node = native().Node(
                memory_bytes=node_config.memory_bytes,
                max_block_bytes=node_config.max_block_bytes,
                host=node_config.listen_host,
                data_port=0,
                threads=node_config.thread_count,
                runtime_dir=self._runtime_dir,
                spin_us=node_config.spin_us,
                network=False,
            )
            token = new_token()
            self._node.grant(token, ALL_VERBS, node_config.capability_ttl_ms)
            self.lane = "mapped"
            self.endpoint = self.native.attach(
                lane=self.lane,
                host="",
                port=0,
                socket=self._node.endpoints()[0][1],
                token=token,
                timeout_ms=config.connect_timeout_ms,
            )
        except OSError as error:
            shutil.rmtree(self._runtime_dir, ignore_errors=True)
            raise ConnectError(f"the embedded store cannot be started: {error}") from error

    def __str__(self) -> str:
        return "embedded store"

    def abandon(self) -> None:
        super().abandon()
        fork.keep_forever(self._node)

    def _node_stats(self, timeout_ms: int) -> dict[str, Any] | None:
        return dict(self._node.stats())

    def _close(self) -> None:
        self.native.close()
        self._node.stop()
        shutil.rmtree(self._runtime_dir, ignore_errors=True)
