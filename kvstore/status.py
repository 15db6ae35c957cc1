"""The outcome of one operation on one block, as a small number."""

import enum

__all__ = ["Status"]


class Status(enum.IntEnum):
    """What became of one key of a batch. Results carry one a key, as a `(n,)` uint8 array of these numbers.

    The numbers travel on the wire and mirror `native/src/base/status.h`; they are never renumbered. Only OK and EXISTS
    mean that the block's bytes are where they were asked to be; to an engine that reads, everything but OK is a miss.
    """

    OK = 0
    """Done: the bytes are in the buffer, or the block is visible."""
    MISS = 1
    """No visible block has this key."""
    BUSY = 2
    """No room right now: what could be evicted is in use, or the disk lags behind its writers. Try again later."""
    EXISTS = 3
    """Put: the block was there already, with the same checksum."""
    CONFLICT = 4
    """Put: the block was there already, with another checksum. The first writer's bytes stay."""
    TOO_LARGE = 5
    """Put: the block can never fit in this node."""
    WRONG_SIZE = 6
    """Get: the block's length is not the buffer's length."""
    CORRUPT = 7
    """The bytes do not have the checksum they were stored with; they must not be used."""
    TIMEOUT = 8
    """The deadline passed first."""
    UNAVAILABLE = 9
    """There is no node to talk to right now."""
    DENIED = 10
    """The capability of this session does not allow the verb."""
    INVALID = 11
    """The node refused the request as malformed."""
    NOT_DURABLE = 12
    """Put, durable: the block is in memory, but no disk keeps it: there is none, or it is full or failing."""
