"""What strangers do to open ports: each is a function of a connected socket and a source of seeded bytes."""

from __future__ import annotations

import array
import os
import random
import socket
import struct
from collections.abc import Callable

__all__ = ["ON_TCP", "ON_UNIX", "Stranger", "hello_frame", "some_bytes"]

Stranger = Callable[[socket.socket, random.Random], None]

_HELLO = 1
_TOKEN_BYTES = 32


def hello_frame(token: bytes, *, magic: int = 0x564B, version: int = 2, count: int = 0, more: int = 0) -> bytes:
    """The first frame of a session, as docs/WIRE.md has it; `more` lies about the length of the body."""
    return struct.pack("<HBBIQIIII", magic, version, _HELLO, count, 1, 1000, 0, len(token) + more, 0) + token


def connect_and_close(peer: socket.socket, _: random.Random) -> None:
    peer.close()


def connect_and_reset(peer: socket.socket, _: random.Random) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def some_bytes(peer: socket.socket, source: random.Random) -> None:
    peer.send(source.randbytes(source.randint(1, 4096)))


def many_bytes(peer: socket.socket, source: random.Random) -> None:
    for _ in range(16):
        peer.send(source.randbytes(65_536))


def http_request(peer: socket.socket, _: random.Random) -> None:
    peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: scanner\r\n\r\n")


def http2_then_garbage(peer: socket.socket, source: random.Random) -> None:
    peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + source.randbytes(500))


def tls_greeting(peer: socket.socket, source: random.Random) -> None:
    peer.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + source.randbytes(500))


def our_own_frame(peer: socket.socket, source: random.Random) -> None:
    peer.send(hello_frame(source.randbytes(_TOKEN_BYTES)))


def half_closed(peer: socket.socket, source: random.Random) -> None:
    peer.send(source.randbytes(5))
    peer.shutdown(socket.SHUT_WR)


def a_packet(peer: socket.socket, source: random.Random) -> None:
    peer.send(source.randbytes(source.randint(1, 4096)))


def an_oversized_packet(peer: socket.socket, source: random.Random) -> None:
    peer.send(source.randbytes(100_000))


def a_doorbell(peer: socket.socket, _: random.Random) -> None:
    peer.send(b"\x01")


def a_broken_hello(peer: socket.socket, source: random.Random) -> None:
    token = source.randbytes(_TOKEN_BYTES)
    peer.send(
        source.choice(
            [
                hello_frame(token, magic=0x4B56),
                hello_frame(token, version=1),
                hello_frame(token, count=1),
                hello_frame(token, more=1),
                hello_frame(token, more=-1),
                hello_frame(token[:-1]),
                hello_frame(token)[:-1],
                hello_frame(token)[:31],
                hello_frame(b""),
            ]
        )
    )


def descriptors_nobody_asked_for(peer: socket.socket, source: random.Random) -> None:
    number = source.randint(1, 8)
    given = [os.open(os.devnull, os.O_RDONLY) for _ in range(number)]
    peer.sendmsg([source.randbytes(40)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", given))])
    for descriptor in given:
        os.close(descriptor)


ON_TCP: tuple[Stranger, ...] = (
    *(connect_and_close, connect_and_reset, some_bytes, many_bytes, http_request, http2_then_garbage, tls_greeting),
    *(our_own_frame, half_closed),
)
# All of these break the protocol; a hello with a token that is only unknown is another matter.
ON_UNIX: tuple[Stranger, ...] = (
    a_packet,
    an_oversized_packet,
    a_doorbell,
    a_broken_hello,
    descriptors_nobody_asked_for,
)
