"""Every error that kvstore raises, on one screen.

A miss is a value, never an exception: a node that is lost, slow, full or holds corrupt bytes answers with a
`kvstore.Status` for each key. What is raised is what the caller can mend: a wrong argument, a wrong setting, a closed
client, a node that was never reached.
"""

__all__ = [
    "BlockTooLargeError",
    "BufferSizeError",
    "ClosedError",
    "ConfigError",
    "ConnectError",
    "FingerprintMismatchError",
    "InvalidArgumentError",
    "KVStoreError",
    "UnknownSchemeError",
    "UnsupportedError",
    "VersionMismatchError",
]


class KVStoreError(Exception):
    """Base of all errors of this package."""


class InvalidArgumentError(KVStoreError, ValueError):
    """An argument cannot be used: key shape or length, token ids, a buffer that is not contiguous, a limit."""


class BufferSizeError(InvalidArgumentError):
    """A buffer, or the pieces of one block together, has the wrong number of bytes."""


class BlockTooLargeError(InvalidArgumentError):
    """A block is larger than the node or the client accepts (`max_block_bytes`)."""


class UnknownSchemeError(InvalidArgumentError):
    """The address given to `connect` starts with a scheme that is neither `kv` nor `embedded`."""


class ClosedError(KVStoreError):
    """The client was closed, or this process is a fork of the one that opened it."""


class ConnectError(KVStoreError, ConnectionError):
    """`connect` got no answer from the node within its timeout. After that, a lost node means misses."""


class VersionMismatchError(KVStoreError):
    """Client and node speak different versions of the wire format."""


class FingerprintMismatchError(KVStoreError):
    """Two namespaces that should name the same blocks differ; the message says in which fields."""


class ConfigError(KVStoreError, ValueError):
    """A setting is unknown, malformed, out of range or refused for safety."""


class UnsupportedError(KVStoreError, NotImplementedError):
    """What was asked for is valid but not available here: a cache layer type, a device, a lane."""
