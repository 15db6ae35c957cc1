"""The clients, the public face of the package."""

from kvstore.client.async_client import AsyncClient
from kvstore.client.client import Client
from kvstore.client.connecting import connect, connect_async, connect_polled
from kvstore.client.polled_client import Completion, PolledClient
from kvstore.client.results import Borrow, GetResult, PinResult, PutResult

__all__ = [
    "AsyncClient",
    "Borrow",
    "Client",
    "Completion",
    "GetResult",
    "PinResult",
    "PolledClient",
    "PutResult",
    "connect",
    "connect_async",
    "connect_polled",
]
