"""Where a node listens."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from kvstore.errors import ConnectError, InvalidArgumentError

__all__ = ["NodeAddress"]


@dataclass(frozen=True)
class NodeAddress:
    """Host (DNS name or numeric, IPv6 without brackets) and port of a control plane. Prints as `host:port`."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> NodeAddress:
        """From `host:port` or `[ipv6]:port`. Raises `InvalidArgumentError`."""
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not colon or not host or bracketed != (":" in host) or any(letter in host for letter in " /?#@[]"):
            raise InvalidArgumentError(f"{text!r} is not host:port (an IPv6 host needs brackets: [::1]:7400)")
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            raise InvalidArgumentError(f"{port!r} in {text!r} is not a port between 0 and 65535")
        return cls(host, int(port))

    def numeric_hosts(self) -> list[str]:
        """The addresses that the host's name stands for, the system's first choice first. Raises `ConnectError`."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ConnectError(f"the host name in {self} cannot be resolved: {error.strerror}") from error
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
