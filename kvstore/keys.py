"""Names of blocks: from token ids, or an engine's own block hashes, to 32-byte keys.

Format, version 1 (frozen by tests/golden/keys.json; `||` joins bytes, integers are little-endian, `str` is UTF-8):

    field(x)     = u32 length of x || x
    fingerprint  = BLAKE3(field("kvstore-fingerprint-v1") || field(model) || field(revision)
                          || field(layout.canonical()) || field(u64 block_size) || field(u64 rank)
                          || field(u64 world_size) || field(engine_hash))
    hash_0       = BLAKE3(field("kvstore-chain-v1") || field(salt))
    hash_i       = BLAKE3(hash_{i-1} || u32 of each of the block_size token ids of block i), i from 1
    tenant key   = BLAKE3-derive-key(context "kvstore 2026 tenant key v1", tenant_secret)
    key_i        = BLAKE3-keyed(tenant key, fingerprint || hash_i)

and, for an engine's own hash with a salt that is not in it, hash_i = BLAKE3(field("kvstore-engine-salt-v1") ||
field(salt) || engine's hash).

A key thus names everything that must agree for the bytes to mean the same: what computed them, in which shape, from
which prefix, under which salt, for which tenant. Fingerprints have 32 bytes; an engine's hash, which may have other
lengths, stands last, so no two inputs share an encoding. BLAKE3: github.com/BLAKE3-team/BLAKE3-specs.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from kvstore.errors import FingerprintMismatchError, InvalidArgumentError
from kvstore.layout import KVLayout, PageLayout, check_integer

__all__ = ["ENGINE_HASH", "KEY_BYTES", "TTL_S_MAX", "Namespace"]

ENGINE_HASH: Final = "kvstore-blake3-v1"
"""Name of the rolling hash that `Namespace.chain` computes."""
KEY_BYTES: Final = 32
"""Bytes of a block key."""
TTL_S_MAX: Final = 100 * 365 * 24 * 3600
"""Longest time to live, a century: what is to stay longer needs none."""

_TOKEN_BYTES: Final = 4
_BLOCK_SIZE_MAX: Final = 1 << 16
_WORLD_SIZE_MAX: Final = 1 << 20
_TEXT_BYTES_MAX: Final = 4096
_ENGINE_HASH_BYTES_MAX: Final = 64


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """Whose blocks these are and what they mean: the context that turns a prefix into block keys.

    `model` and `revision` identify the weights (never empty: two checkpoints must not share keys); `layout` the
    tensors, in our terms (`KVLayout`) or an engine's own (`PageLayout`); `block_size` the tokens in a block; `rank` of
    `world_size` which part of the heads this process holds; `engine_hash` the algorithm behind the hashes given to
    `keys` (such as "vllm-sha256-cbor"; leave it for `chain`).
    `tenant_secret` keys the names: without the same secret nobody can guess, probe or write them. The empty default
    means that all users of a node form one tenant. The secret never appears in `repr`, errors or the fingerprint.
    `ttl_s` says how many seconds blocks are worth keeping (None: until evicted). It is advice to whoever writes them,
    `store.put(keys, buffers, ttl_s=namespace.ttl_s)`, which connectors do unless told otherwise; it is part of no key,
    and namespaces that differ in nothing else are equal.

    Immutable and thread-safe. Raises `InvalidArgumentError` for values out of range.
    """

    model: str
    revision: str
    layout: KVLayout | PageLayout
    block_size: int = 16
    rank: int = 0
    world_size: int = 1
    engine_hash: str = ENGINE_HASH
    tenant_secret: bytes = field(default=b"", repr=False)
    ttl_s: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("model", "revision", "engine_hash"):
            _check_text(name, getattr(self, name))
        if not isinstance(self.layout, KVLayout | PageLayout):
            raise InvalidArgumentError(f"layout must be a KVLayout or a PageLayout, not {type(self.layout).__name__}")
        check_integer("block_size", self.block_size, 1, _BLOCK_SIZE_MAX)
        check_integer("world_size", self.world_size, 1, _WORLD_SIZE_MAX)
        check_integer("rank", self.rank, 0, self.world_size - 1)
        if not isinstance(self.tenant_secret, bytes):
            raise InvalidArgumentError(f"tenant_secret must be bytes, not {type(self.tenant_secret).__name__}")
        if self.ttl_s is not None and not (isinstance(self.ttl_s, int | float) and 0 < self.ttl_s <= TTL_S_MAX):
            raise InvalidArgumentError(
                f"ttl_s must be a number of seconds above 0 and up to {TTL_S_MAX}, or None, not {self.ttl_s!r}"
            )

    @cached_property
    def fingerprint(self) -> bytes:
        """32 bytes that are equal exactly when two namespaces, tenants aside, give blocks the same meaning."""
        parts = (
            b"kvstore-fingerprint-v1",
            self.model.encode(),
            self.revision.encode(),
            self.layout.canonical(),
            self.block_size.to_bytes(8, "little"),
            self.rank.to_bytes(8, "little"),
            self.world_size.to_bytes(8, "little"),
            self.engine_hash.encode(),
        )
        return blake3(b"".join(map(_field, parts))).digest()

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of this rank."""
        return self.layout.block_bytes(self.block_size)

    def chain(self, token_ids: npt.ArrayLike, salt: bytes = b"") -> npt.NDArray[np.uint8]:
        """The keys of a prompt's full blocks, in order, as a C-contiguous `(n, 32)` uint8 array; n may be 0.

        `token_ids`: a one-dimensional sequence, array or CPU tensor of integers, each at least 0 and below 2**32.
        Tokens after the last full block have no key. Key i depends on all tokens up to the end of block i, so the chain
        of a prefix is a prefix of the chain. `salt` (at most 4,096 bytes) separates prompts that must not share blocks.

        Raises `InvalidArgumentError` for other tokens or salts, and if this namespace's `engine_hash` is not ours.
        """
        if self.engine_hash != ENGINE_HASH:
            raise InvalidArgumentError(
                f"this namespace is for hashes of {self.engine_hash!r}; pass them to keys(), or use a namespace"
                f" with the default engine_hash {ENGINE_HASH!r} for chain()"
            )
        _check_salt(salt)
        tokens = _token_bytes(token_ids)
        step = self.block_size * _TOKEN_BYTES
        digest = blake3(_field(b"kvstore-chain-v1") + _field(salt)).digest()
        hashes = []
        for start in range(0, len(tokens) - step + 1, step):
            digest = blake3(digest + tokens[start : start + step]).digest()
            hashes.append(digest)
        return self._block_keys(hashes)

    def keys(self, engine_hashes: Iterable[bytes | str | int], salt: bytes = b"") -> npt.NDArray[np.uint8]:
        """The keys of blocks that the engine has hashed itself, as a C-contiguous `(n, 32)` uint8 array.

        Each hash is 1 to 64 bytes, or a string of as many hexadecimal pairs, or an unsigned 64-bit integer (NumPy's
        too), which stands for its 8 bytes, little-endian. Each must already cover the whole prefix of its block; set
        `engine_hash` so that no engine's hash is taken for another's. `salt` (at most 4,096 bytes) is for whatever else
        must keep blocks apart and is not in the hashes: a cache salt, the identity of an adapter.

        Raises `InvalidArgumentError` for anything else, naming the position.
        """
        if isinstance(engine_hashes, bytes | bytearray | memoryview | str):
            raise InvalidArgumentError("engine_hashes must be a sequence of hashes, not a single one")
        hashes = [_engine_hash_bytes(position, value) for position, value in enumerate(engine_hashes)]
        if salt:
            _check_salt(salt)
            prefix = _field(b"kvstore-engine-salt-v1") + _field(salt)
            hashes = [blake3(prefix + value).digest() for value in hashes]
        return self._block_keys(hashes)

    def require_match(self, other: Namespace) -> None:
        """Raises `FingerprintMismatchError`, naming the fields that differ, unless both give equal keys."""
        if self == other:
            return
        differences = [
            name if name == "tenant_secret" else f"{name} ({here!r} here, {there!r} there)"
            for name, here, there in _pairs(self, other)
            if here != there
        ]
        raise FingerprintMismatchError(f"the namespaces name different blocks: they differ in {', '.join(differences)}")

    @cached_property
    def _tenant_key(self) -> bytes:
        return blake3(self.tenant_secret, derive_key_context="kvstore 2026 tenant key v1").digest()

    def _block_keys(self, hashes: list[bytes]) -> npt.NDArray[np.uint8]:
        fingerprint = self.fingerprint
        # One hasher for all, because making one takes longer than hashing a block's name.
        hasher = blake3(key=self._tenant_key)
        joined = bytearray()
        for value in hashes:
            joined += hasher.update(fingerprint + value).digest()
            hasher.reset()
        return np.frombuffer(joined, dtype=np.uint8).reshape(-1, KEY_BYTES)


def _field(value: bytes) -> bytes:
    return len(value).to_bytes(4, "little") + value


def _pairs(a: Namespace, b: Namespace) -> list[tuple[str, Any, Any]]:
    """(name, value in a, value in b) for each field, with those of the layout in place of the layout."""
    names = [f.name for f in fields(Namespace) if f.compare and f.name != "layout"]
    own = [(name, getattr(a, name), getattr(b, name)) for name in names]
    if type(a.layout) is not type(b.layout):
        return [*own, ("layout", a.layout, b.layout)]
    layout = [
        (f"layout.{f.name}", getattr(a.layout, f.name), getattr(b.layout, f.name)) for f in fields(type(a.layout))
    ]
    return own + layout


def _token_bytes(token_ids: npt.ArrayLike) -> bytes:
    try:
        tokens = np.asarray(token_ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgumentError(f"token_ids cannot be read as an array: {error}") from error
    if tokens.ndim != 1:
        raise InvalidArgumentError(f"token_ids must have one dimension, not the shape {tokens.shape}")
    if tokens.size == 0:
        return b""
    if tokens.dtype.kind not in "iu":
        raise InvalidArgumentError(f"token_ids must be integers from 0 to 2**32 - 1, not {tokens.dtype}")
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most >= 1 << 32:
        raise InvalidArgumentError(f"token ids must be from 0 to 2**32 - 1, not {least if least < 0 else most}")
    return tokens.astype("<u4").tobytes()


def _engine_hash_bytes(position: int, value: object) -> bytes:
    if isinstance(value, bytes):
        encoded = value
    elif isinstance(value, bytearray | memoryview):
        encoded = bytes(value)
    elif isinstance(value, str):
        try:
            encoded = bytes.fromhex(value)
        except ValueError as error:
            raise InvalidArgumentError(f"engine hash {position} is not hexadecimal: {value!r:.80}") from error
    else:
        encoded = _integer_bytes(position, value)
    if not 1 <= len(encoded) <= _ENGINE_HASH_BYTES_MAX:
        raise InvalidArgumentError(
            f"engine hash {position} has {len(encoded)} bytes; 1 to {_ENGINE_HASH_BYTES_MAX} are accepted"
        )
    return encoded


def _integer_bytes(position: int, value: object) -> bytes:
    try:
        if isinstance(value, bool):
            raise TypeError("a truth value is no hash")
        return operator.index(value).to_bytes(8, "little")  # type: ignore[arg-type]  # index() is the check
    except (TypeError, OverflowError) as error:
        raise InvalidArgumentError(
            f"engine hash {position} must be bytes, a hexadecimal string or an unsigned 64-bit integer,"
            f" not {value!r:.80}"
        ) from error


def _check_salt(salt: object) -> None:
    if not isinstance(salt, bytes) or len(salt) > _TEXT_BYTES_MAX:
        raise InvalidArgumentError(f"salt must be bytes, at most {_TEXT_BYTES_MAX} of them")


def _check_text(name: str, value: object) -> None:
    try:
        size = len(value.encode()) if isinstance(value, str) else 0
    except UnicodeEncodeError:  # a lone surrogate
        size = 0
    if not 1 <= size <= _TEXT_BYTES_MAX:
        raise InvalidArgumentError(f"{name} must be a string of 1 to {_TEXT_BYTES_MAX} UTF-8 bytes, not {value!r:.80}")
