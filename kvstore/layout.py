"""How the KV tensors of one block lie in its bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from kvstore.errors import InvalidArgumentError

__all__ = ["DTYPE_BYTES", "KVLayout", "PageLayout"]

DTYPE_BYTES: Final = MappingProxyType(
    {"float16": 2, "bfloat16": 2, "float32": 4, "float8_e4m3": 1, "float8_e5m2": 1},
)
"""Bytes of one element of each supported dtype."""

_ATTENTION_AXES: Final = "LPHND"
_LATENT_AXES: Final = "LND"
_SIZE_MAX: Final = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class KVLayout:
    """The shape, element type and memory order of the KV tensors of a block. Immutable, thread-safe.

    `order` names the axes of a block from the outermost to the innermost, one letter an axis, in the letters vLLM uses
    for its cache layouts (without its B: a block is one block):

        L  layer, `layers` long
        P  the pair: keys first, then values, 2 long (vLLM's content axis C is "PD")
        H  KV head of this rank, `kv_heads` long
        N  token, `block_size` long
        D  element of one head, `head_size` long

    The default "LPHND" is what Hugging Face caches hold for each layer; "LHNPD" is vLLM's LBHNC, "LNHPD" its LBNHC,
    "PNLHD" SGLang's page_first. Multi-head and grouped-query attention differ only in `kv_heads`. For multi-head latent
    attention use `KVLayout.mla`: one vector a token and layer, no pair and no heads, so `order` has "L", "N" and "D".

    Raises `InvalidArgumentError` for sizes below 1 or beyond 2**20, an unknown dtype, or an order that does not name
    each axis exactly once.
    """

    layers: int
    kv_heads: int
    head_size: int
    dtype: str
    order: str = _ATTENTION_AXES
    rope_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "kv_heads", "head_size"):
            check_integer(name, getattr(self, name), 1, _SIZE_MAX)
        if not isinstance(self.dtype, str) or self.dtype not in DTYPE_BYTES:
            raise InvalidArgumentError(f"dtype {self.dtype!r} is not supported; use one of {', '.join(DTYPE_BYTES)}")
        if self.rope_size is not None:
            check_integer("rope_size", self.rope_size, 0, _SIZE_MAX)
            if self.kv_heads != 1 or self.rope_size >= self.head_size:
                raise InvalidArgumentError(
                    "a latent layout has one KV head and a latent part; build it with KVLayout.mla"
                )
        axes = _LATENT_AXES if self.is_mla else _ATTENTION_AXES
        if not isinstance(self.order, str) or sorted(self.order) != sorted(axes):
            raise InvalidArgumentError(
                f"order {self.order!r} must name each of the axes {', '.join(axes)} exactly once"
            )

    @classmethod
    def mla(cls, *, layers: int, latent_size: int, rope_size: int, dtype: str, order: str = _LATENT_AXES) -> KVLayout:
        """Multi-head latent attention: for each layer and token, `latent_size` elements and then `rope_size` more.

        The latent is the compressed KV that all heads share and the rest is the key's rotary part (0 where there is
        none), as in DeepSeek-V2 (arXiv 2405.04434, section 2.1), where they are 512 and 64.
        """
        check_integer("latent_size", latent_size, 1, _SIZE_MAX)
        check_integer("rope_size", rope_size, 0, _SIZE_MAX)
        return cls(
            layers=layers, kv_heads=1, head_size=latent_size + rope_size, dtype=dtype, order=order, rope_size=rope_size
        )

    @property
    def is_mla(self) -> bool:
        """Whether a token is one latent vector a layer instead of keys and values."""
        return self.rope_size is not None

    @property
    def element_bytes(self) -> int:
        """Bytes of one element."""
        return DTYPE_BYTES[self.dtype]

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token over all layers, of this rank."""
        return self.block_bytes(1)

    def block_shape(self, block_size: int) -> tuple[int, ...]:
        """The lengths of the axes of a block of `block_size` tokens, outermost first, as `order` names them."""
        check_integer("block_size", block_size, 1, _SIZE_MAX)
        lengths = {"L": self.layers, "P": 2, "H": self.kv_heads, "N": block_size, "D": self.head_size}
        return tuple(lengths[axis] for axis in self.order)

    def block_bytes(self, block_size: int) -> int:
        """Bytes of a block of `block_size` tokens."""
        return math.prod(self.block_shape(block_size)) * self.element_bytes

    def canonical(self) -> bytes:
        """The layout as bytes for the fingerprint of a namespace: equal exactly for equal layouts, and frozen.

        ASCII, single spaces: `kvlayout/1 layers=L kv_heads=H head_size=D dtype=T order=O rope=R`, numbers in decimal,
        R `-` unless the layout is latent. No value can contain a space, so two layouts never share an encoding.
        """
        rope = "-" if self.rope_size is None else str(self.rope_size)
        return (
            f"kvlayout/1 layers={self.layers} kv_heads={self.kv_heads} head_size={self.head_size}"
            f" dtype={self.dtype} order={self.order} rope={rope}"
        ).encode("ascii")


@dataclass(frozen=True, kw_only=True, slots=True)
class PageLayout:
    """A block as an engine lays it out: bytes that only such an engine understands. Immutable, thread-safe.

    `engine` says whose terms the rest is in ("vllm"); `dtype` is its name of the cache's element type, "fp8_e4m3" or
    whatever it is; `page_bytes` the length of a block of this rank. `terms` holds everything else that two engines must
    have in common to understand each other's bytes (memory order, groups of layers, shapes, shards), as the engine's
    own configuration says it: plain JSON values under names, in any order.

    For engines whose pages no `KVLayout` describes. Raises `InvalidArgumentError` for an empty name, a size below 1 and
    terms that JSON does not have.
    """

    engine: str
    dtype: str
    page_bytes: int
    terms: tuple[tuple[str, Any], ...]

    def __init__(self, *, engine: str, dtype: str, page_bytes: int, terms: Mapping[str, Any]) -> None:
        for name, text in (("engine", engine), ("dtype", dtype)):
            if not isinstance(text, str) or not text:
                raise InvalidArgumentError(f"{name} must be a string that is not empty, not {text!r}")
        check_integer("page_bytes", page_bytes, 1, 1 << 40)
        try:
            frozen = tuple(sorted((name, json.dumps(value, sort_keys=True)) for name, value in terms.items()))
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"terms must be JSON values under names: {error}") from error
        for name, value in (("engine", engine), ("dtype", dtype), ("page_bytes", page_bytes), ("terms", frozen)):
            object.__setattr__(self, name, value)

    def block_bytes(self, block_size: int) -> int:
        """`page_bytes`: a block is a page, however many tokens that has."""
        return self.page_bytes

    def canonical(self) -> bytes:
        """The layout as bytes for the fingerprint of a namespace: equal exactly for equal layouts, and frozen.

        `pagelayout/1 ` and a JSON list: engine, dtype, page_bytes, then [name, value as JSON] for each term by name.
        """
        values = [self.engine, self.dtype, self.page_bytes, *map(list, self.terms)]
        return b"pagelayout/1 " + json.dumps(values, separators=(",", ":")).encode("ascii")


def check_integer(name: str, value: object, least: int, most: int) -> None:
    """Raises `InvalidArgumentError` unless `value` is an integer from `least` to `most`; a bool is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidArgumentError(f"{name} must be an integer from {least} to {most}, not {value!r}")
