"""Hugging Face transformers: a prefix's `DynamicCache` into the store and, in any other process, out of it again.

    connector = TransformersConnector(store, model, revision="2f1c")
    loaded = connector.load_prefix(ids)  # of shape (1, n); the cache is always usable, perhaps empty
    output = model(ids[:, loaded.tokens :], past_key_values=loaded.cache)
    connector.save_prefix(loaded.cache, ids)  # what the node does not have yet

Only whole blocks travel. Python handles two tensors a layer, never a block: one strided copy a tensor packs blocks into
a window of bounded size, or unpacks them, and the native client moves that window.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from kvstore.connectors.core import CostGate, QuietLog, Statistics, join_salts
from kvstore.errors import BufferSizeError, UnsupportedError
from kvstore.layout import KVLayout
from kvstore.status import Status

try:
    import torch
    from transformers import DynamicCache, PreTrainedModel
except ImportError as error:
    raise ImportError("this connector needs torch and transformers: pip install 'kvstore[transformers]'") from error

from kvstore.connectors.dynamic_cache.models import has_adapters, namespace_for, plain_layers
from kvstore.connectors.dynamic_cache.stopwatch import Stopwatch
from kvstore.connectors.dynamic_cache.windows import Layers, copy, pairs, raw

if TYPE_CHECKING:
    from kvstore.client import Client

__all__ = ["LoadedPrefix", "SaveReport", "TransformersConnector", "namespace_for"]

TokenIds: TypeAlias = "Sequence[int] | npt.NDArray[np.integer[Any]] | torch.Tensor"

_LOGGER: Final = logging.getLogger("kvstore.connectors.transformers")

# Small enough to be used again and again: packing a whole prompt at once spends most of its time in page faults.
_WINDOW_BYTES: Final = 16 << 20

# Two engines that computed a prefix in different parts differ in its last bits; the first one's block serves both.
_IN_STORE: Final = (Status.OK, Status.CONFLICT)
_NODE_LOST: Final = (Status.TIMEOUT, Status.UNAVAILABLE)


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveReport:
    """What one `save_prefix` did with the `blocks` whole blocks of a prefix: some the node had, some it holds since.

    Bytes are of the latter; the seconds are those of packing blocks and of the native client sending them.
    """

    blocks: int
    blocks_present: int
    blocks_stored: int
    bytes_stored: int
    pack_seconds: float
    put_seconds: float

    @property
    def complete(self) -> bool:
        """Whether the node held every whole block of the prefix in the end."""
        return self.blocks_present + self.blocks_stored == self.blocks


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedPrefix:
    """What one `load_prefix` found: `cache` holds the KV of the first `tokens` tokens, which may be none.

    The seconds are those of asking what the node has, of the native client receiving it and of unpacking blocks.
    """

    cache: DynamicCache
    tokens: int
    blocks: int
    bytes: int
    match_seconds: float
    get_seconds: float
    unpack_seconds: float


class TransformersConnector:
    """Saves and loads prefixes of one model. Thread-safe as far as the model and the caches given to it are.

    `store` is a `kvstore.Client`; whatever happens to its node shows as shorter prefixes and incomplete reports, never
    as an exception. `cost_gate` leaves prefixes alone that would take longer to load than to compute, as far as both
    are known: loads are timed here, prefills are what `note_prefill` is told. The other arguments, and what is refused,
    are those of `namespace_for`.
    """

    def __init__(
        self,
        store: Client,
        model: PreTrainedModel,
        *,
        revision: str,
        block_size: int = 16,
        model_name: str | None = None,
        tenant_secret: bytes = b"",
        ttl_s: float | None = None,
        cost_gate: bool = True,
    ) -> None:
        self.namespace = namespace_for(
            model,
            revision=revision,
            block_size=block_size,
            model_name=model_name,
            tenant_secret=tenant_secret,
            ttl_s=ttl_s,
        )
        assert isinstance(self.namespace.layout, KVLayout)
        self._layout = self.namespace.layout
        self._store = store
        self._model = model
        self._window_blocks = max(1, _WINDOW_BYTES // self.namespace.block_bytes)
        self._gate = CostGate(enabled=cost_gate)
        self._statistics = Statistics()
        self._log = QuietLog(_LOGGER)

    def save_prefix(
        self,
        cache: DynamicCache,
        tokens: TokenIds,
        *,
        salt: bytes = b"",
        adapter: str = "",
        ttl_s: float | None = None,
        timeout_ms: int | None = None,
    ) -> SaveReport:
        """Stores the whole blocks of `tokens` that `cache` holds and the node does not.

        `tokens`: integers, shape (n,) or (1, n), with `tokens[i]` at position i of `cache` and no padding; either may
        be the longer one. Blocks saved under a `salt` and an `adapter` are found under those only; a model with
        adapters needs the name and version of what is active, or a word for none. Blocks expire after `ttl_s`, or the
        namespace's, if either is given. What is not stored after `timeout_ms`, if given, is left; each request to the
        node has the client's deadline anyhow. The tensors of `cache` are not used after the return.

        Raises `UnsupportedError` for a cache that is not this model's plain dynamic one with batch 1, and for adapters
        without a name; `InvalidArgumentError` for tokens that are no token ids.
        """
        layers = self._layers_of(cache)
        ttl_s = self.namespace.ttl_s if ttl_s is None else ttl_s
        ids, block_size = _token_ids(tokens), self.namespace.block_size
        blocks = min(len(ids), cache.get_seq_length()) // block_size
        keys = self.namespace.chain(ids[: blocks * block_size], salt=self._salt(salt, adapter))
        stored = 0
        watch = Stopwatch(timeout_ms)
        present = self._store.match(keys, timeout_ms=watch.left_ms())
        watch.lap("match")
        for batch, window in self._batches(present, blocks, deepest_first=True):
            if watch.is_over():
                break
            for of_cache, of_window in pairs(layers, window, batch.start * block_size):
                copy(of_window, of_cache)
            watch.lap("pack")
            result = self._store.put(
                keys[batch], raw(window), ttl_s=ttl_s, first_depth=batch.start, timeout_ms=watch.left_ms()
            )
            watch.lap("put")
            stored += int(np.isin(result.status, _IN_STORE).sum())
            # After a timed-out put the native core may still be reading the window: it must not be packed again.
            if np.isin(result.status, _NODE_LOST).any():
                break
        else:
            # Counts all as used now, and tells what did not survive the arrival of the rest.
            held = self._store.touch(keys, ttl_s=ttl_s, timeout_ms=watch.left_ms())
            present, stored = int(held[:present].sum()), int(held[present:].sum())
        if present + stored < blocks:
            self._log.warning("%d of %d blocks are not stored", blocks - present - stored, blocks)
        report = SaveReport(
            blocks=blocks,
            blocks_present=present,
            blocks_stored=stored,
            bytes_stored=stored * self.namespace.block_bytes,
            pack_seconds=watch.seconds["pack"],
            put_seconds=watch.seconds["put"],
        )
        self._statistics.submitted("save", blocks)
        self._statistics.ended("save", present + stored, report.bytes_stored, report.pack_seconds + report.put_seconds)
        return report

    def load_prefix(
        self, tokens: TokenIds, *, salt: bytes = b"", adapter: str = "", timeout_ms: int | None = None
    ) -> LoadedPrefix:
        """A cache with the longest stored prefix of `tokens`, leaving at least one token to compute.

        `tokens`, `salt`, `adapter`, `timeout_ms` and errors are as in `save_prefix`. The cache lies on the model's
        device, may be empty, and belongs to the caller.
        """
        ids, block_size = _token_ids(tokens), self.namespace.block_size
        blocks = max(0, len(ids) - 1) // block_size
        keys = self.namespace.chain(ids[: blocks * block_size], salt=self._salt(salt, adapter))
        loaded = 0
        watch = Stopwatch(timeout_ms)
        matched = self._match(keys, watch)
        layers = self._empty_layers(matched)
        for batch, window in self._batches(0, matched):
            if watch.is_over():
                break
            ok = self._get(keys[batch], window, first_depth=batch.start, timeout_ms=watch.left_ms())
            watch.lap("get")
            # What lies behind a gap is of no use: a state cannot be entered in the middle.
            usable = len(window) if ok.all() else int(np.argmin(ok))
            for of_cache, of_window in pairs(layers, window[:usable], batch.start * block_size):
                copy(of_cache, of_window)
            watch.lap("unpack")
            loaded += usable
            if usable < len(window):
                break
        else:
            # The batches were used from the start of the chain, so that a part is worth having: even that out.
            self._store.touch(keys[:loaded], timeout_ms=watch.left_ms())
        prefix = LoadedPrefix(
            cache=self._cache_of(layers, loaded * block_size),
            tokens=loaded * block_size,
            blocks=loaded,
            bytes=loaded * self.namespace.block_bytes,
            match_seconds=watch.seconds["match"],
            get_seconds=watch.seconds["get"],
            unpack_seconds=watch.seconds["unpack"],
        )
        self._note_load(prefix, matched)
        return prefix

    def note_prefill(self, tokens: int, seconds: float) -> None:
        """Tells the cost gate that the model computed the KV of so many tokens in so long."""
        self._gate.note_prefill(tokens, seconds)

    def stats(self) -> dict[str, int | float]:
        """Everything counted since the start: names in docs/connectors/README.md."""
        gate = {"gate_taken": self._gate.taken, "gate_skipped": self._gate.skipped}
        return {**self._statistics.values(), **gate}

    def _salt(self, salt: bytes, adapter: str) -> bytes:
        if not adapter and has_adapters(self._model):
            raise UnsupportedError(
                "this model has adapters, which change its KV: name the active ones and their version, adapter=..., or"
                " give a word of your own for none"
            )
        return join_salts(salt=salt, adapter=adapter)

    def _match(self, keys: npt.NDArray[np.uint8], watch: Stopwatch) -> int:
        """How many leading blocks to load: what the node has, or none where computing them is quicker."""
        matched = self._store.match(keys, timeout_ms=watch.left_ms())
        watch.lap("match")
        self._statistics.submitted("lookup", len(keys))
        self._statistics.ended("lookup", matched, 0, watch.seconds["match"])
        namespace = self.namespace
        tokens, nbytes = matched * namespace.block_size, matched * namespace.block_bytes
        return matched if matched and self._gate.is_worth_loading(tokens=tokens, nbytes=nbytes) else 0

    def _note_load(self, prefix: LoadedPrefix, wanted: int) -> None:
        if not wanted:
            return
        seconds = prefix.get_seconds + prefix.unpack_seconds
        self._statistics.submitted("load", wanted)
        self._statistics.ended("load", prefix.blocks, prefix.bytes, seconds)
        if prefix.blocks == wanted:
            self._gate.note_load(prefix.bytes, seconds)

    def _get(
        self, keys: npt.NDArray[np.uint8], window: torch.Tensor, *, first_depth: int, timeout_ms: int | None
    ) -> npt.NDArray[np.bool_]:
        try:
            result = self._store.get(keys, raw(window), first_depth=first_depth, timeout_ms=timeout_ms)
        except BufferSizeError as error:
            # No writer of this namespace made such a block; the engine computes what it wanted.
            self._log.warning("a block of another size is stored under a key of this namespace: %s", error)
            return np.zeros(len(keys), dtype=np.bool_)
        if not result.all_ok:
            self._log.warning("blocks that were matched could not be loaded: %r", result)
        return result.ok

    def _batches(self, first: int, end: int, *, deepest_first: bool = False) -> Iterator[tuple[slice, torch.Tensor]]:
        """The blocks `first` to `end` in batches, each with the same window on the CPU to move it through.

        A window has shape (blocks, layers, 2, KV heads, block size, head size) and is contiguous. A node evicts first
        what was used longest ago, and of a chain that should be the end: so the start is best used last.
        """
        namespace, step = self.namespace, self._window_blocks
        shape = self._layout.block_shape(namespace.block_size)
        window = torch.empty((min(end - first, step), *shape), dtype=self._model.dtype)
        starts = range(first, end, step)
        for start in reversed(starts) if deepest_first else starts:
            count = min(step, end - start)
            yield slice(start, start + count), window[:count]

    def _empty_layers(self, blocks: int) -> Layers:
        layout, model = self._layout, self._model
        shape = (1, layout.kv_heads, blocks * self.namespace.block_size, layout.head_size)

        def empty() -> torch.Tensor:
            return torch.empty(shape, dtype=model.dtype, device=model.device)

        return [(empty(), empty()) for _ in range(layout.layers)]

    def _cache_of(self, layers: Layers, tokens: int) -> DynamicCache:
        cache = DynamicCache(config=self._model.config)
        if tokens:
            for layer, (keys, values) in zip(plain_layers(cache), layers, strict=True):
                # Not `update`, which would copy once more to append to nothing.
                layer.lazy_initialization(keys, values)
                layer.keys, layer.values = keys[:, :, :tokens], values[:, :, :tokens]
        return cache

    def _layers_of(self, cache: DynamicCache) -> Layers:
        layout, dtype = self._layout, self._model.dtype
        layers = [(layer.keys, layer.values) for layer in plain_layers(cache)]
        if cache.get_seq_length() == 0:
            return []
        shape = (1, layout.kv_heads, cache.get_seq_length(), layout.head_size)
        if len(layers) != layout.layers:
            raise UnsupportedError(
                f"the cache has {len(layers)} layers; the model's configuration says {layout.layers}"
            )
        for index, tensor in ((index, tensor) for index, pair in enumerate(layers) for tensor in pair):
            if tensor is None or tuple(tensor.shape) != shape or tensor.dtype != dtype:
                found = "nothing" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                raise UnsupportedError(
                    f"layer {index} of the cache holds {found}; this model's, of batch 1, would hold {dtype} of {shape}"
                )
        return [(keys, values) for keys, values in layers if keys is not None and values is not None]


def _token_ids(tokens: TokenIds) -> npt.NDArray[Any]:
    ids = tokens.cpu().numpy() if isinstance(tokens, torch.Tensor) else np.asarray(tokens)
    if ids.ndim == 2 and len(ids) == 1:
        ids = ids[0]
    if ids.ndim != 1:
        raise UnsupportedError(f"token ids of shape {ids.shape} are not one sequence; use shape (n,) or (1, n)")
    return ids
