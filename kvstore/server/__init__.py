"""A storage node: the native data plane and its gRPC control plane in one process."""

from kvstore.server.node_server import NodeServer
from kvstore.server.serve import serve

__all__ = ["NodeServer", "serve"]
