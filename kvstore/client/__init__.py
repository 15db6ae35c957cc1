"""The clients, the public face of the package."""

from kvstore.client.async_client import AsyncClient
from kvstore.client.client import Client
from kvstore.client.connecting import connect, connect_async
from kvstore.client.results import Borrow, GetResult, PinResult, PutResult

__all__ = ["AsyncClient", "Borrow", "Client", "GetResult", "PinResult", "PutResult", "connect", "connect_async"]
