"""Hugging Face transformers: a prefix's `DynamicCache` into the store and, in any other process, out of it again.

    connector = TransformersConnector(store, model, revision="2f1c")
    loaded = connector.load_prefix(ids)  # of shape (1, n); the cache is always usable, perhaps empty
    output = model(ids[:, loaded.tokens :], past_key_values=loaded.cache)
    connector.save_prefix(loaded.cache, ids)  # what the node does not have yet

Only whole blocks travel. Python handles two tensors a layer, never a block: one strided copy a tensor packs blocks into
a window of bounded size, or unpacks them, and the native client moves that window.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import blake3
import numpy as np
import numpy.typing as npt

from kvstore.errors import BufferSizeError, UnsupportedError
from kvstore.keys import Namespace
from kvstore.layout import KVLayout
from kvstore.status import Status

try:
    import torch
    from transformers import DynamicCache, PreTrainedModel
    from transformers.cache_utils import DynamicLayer
except ImportError as error:
    raise ImportError("this connector needs torch and transformers: pip install 'kvstore[transformers]'") from error

if TYPE_CHECKING:
    from kvstore.client import Client

__all__ = ["LoadedPrefix", "SaveReport", "TransformersConnector", "namespace_for"]

Layers: TypeAlias = "list[tuple[torch.Tensor, torch.Tensor]]"  # keys and values, each (1, KV heads, tokens, head size)
TokenIds: TypeAlias = "Sequence[int] | npt.NDArray[np.integer[Any]] | torch.Tensor"

_LOGGER: Final = logging.getLogger(__name__)

# Small enough to be used again and again: packing a whole prompt at once spends most of its time in page faults.
_WINDOW_BYTES: Final = 16 << 20

_DTYPE_NAMES: Final = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}

# Settings of a configuration that change nothing in what the layers compute, or that the namespace holds elsewhere.
_CONFIG_KEYS_WITHOUT_EFFECT: Final = frozenset(
    {
        *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "initializer_range"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "problem_type", "id2label", "label2id"),
        *("chunk_size_feed_forward", "output_attentions", "output_hidden_states", "return_dict", "use_cache"),
    }
)

# Computed anew from the length of the whole prompt: the KV of a prefix depends on what follows it.
_ROPE_TYPES_OF_WHOLE_PROMPT: Final = frozenset({"dynamic", "longrope"})

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


def namespace_for(
    model: PreTrainedModel,
    *,
    revision: str,
    block_size: int = 16,
    model_name: str | None = None,
    tenant_secret: bytes = b"",
    ttl_s: float | None = None,
) -> Namespace:
    """The namespace of a model's KV: geometry from its configuration, dtype from its parameters.

    `revision` must name the weights: a commit of the model's repository, or a digest of weights that have none.
    `model_name` is by default the name or path the model was loaded from; give it where engines keep the same model
    under different paths. A digest of the configuration is part of the identity, so variants of one name never meet.

    Raises `UnsupportedError` for what a `DynamicCache` of plain `DynamicLayer`s with equal key and value heads cannot
    hold (sliding, chunked, linear, compressed or shared layers, latent attention, encoder-decoders), where more than
    the tokens determines the KV (multimodal models, adapters, rotary embeddings that depend on the whole prompt), and
    for models over several devices.
    """
    _refuse_unsupported(model)
    config = model.config
    heads = config.num_attention_heads
    layout = KVLayout(
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        dtype=_DTYPE_NAMES[model.dtype],
    )
    settings = {name: value for name, value in config.to_dict().items() if name not in _CONFIG_KEYS_WITHOUT_EFFECT}
    digest = blake3.blake3(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest(length=16)
    name = model_name or config.name_or_path or config.model_type
    return Namespace(
        model=f"{name} config={digest}",
        revision=revision,
        layout=layout,
        block_size=block_size,
        tenant_secret=tenant_secret,
        ttl_s=ttl_s,
    )


class TransformersConnector:
    """Saves and loads prefixes of one model. Thread-safe as far as the model and the caches given to it are.

    `store` is a connected `kvstore.Client`; whatever happens to its node later shows as shorter prefixes and incomplete
    reports, never as an exception. The other arguments, and what is refused, are those of `namespace_for`.
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

    def save_prefix(
        self, cache: DynamicCache, tokens: TokenIds, *, salt: bytes = b"", ttl_s: float | None = None
    ) -> SaveReport:
        """Stores the whole blocks of `tokens` that `cache` holds and the node does not.

        `tokens`: integers, shape (n,) or (1, n), with `tokens[i]` at position i of `cache` and no padding; either may
        be the longer one. Blocks saved under a `salt` are found under that salt only. They expire after `ttl_s`, or the
        namespace's, if either is given. The tensors of `cache` are not used after the return.

        Raises `UnsupportedError` for a cache that is not this model's plain dynamic one with batch 1, and
        `InvalidArgumentError` for tokens that are no token ids.
        """
        layers = self._layers_of(cache)
        ttl_s = self.namespace.ttl_s if ttl_s is None else ttl_s
        ids, block_size = _token_ids(tokens), self.namespace.block_size
        blocks = min(len(ids), cache.get_seq_length()) // block_size
        keys = self.namespace.chain(ids[: blocks * block_size], salt=salt)
        stored = 0
        watch = _Stopwatch()
        present = self._store.match(keys)
        watch.lap()
        for batch, window in self._batches(present, blocks, deepest_first=True):
            for of_cache, of_window in _pairs(layers, window, batch.start * block_size):
                _copy(of_window, of_cache)
            watch.lap("pack")
            result = self._store.put(keys[batch], _raw(window), ttl_s=ttl_s, first_depth=batch.start)
            watch.lap("put")
            stored += int(np.isin(result.status, _IN_STORE).sum())
            # After a timed-out put the native core may still be reading the window: it must not be packed again.
            if np.isin(result.status, _NODE_LOST).any():
                break
        else:
            # Counts all as used now, and tells what did not survive the arrival of the rest.
            held = self._store.touch(keys, ttl_s=ttl_s)
            present, stored = int(held[:present].sum()), int(held[present:].sum())
        if present + stored < blocks:
            _LOGGER.warning("%d of %d blocks are not stored", blocks - present - stored, blocks)
        return SaveReport(
            blocks=blocks,
            blocks_present=present,
            blocks_stored=stored,
            bytes_stored=stored * self.namespace.block_bytes,
            pack_seconds=watch.seconds["pack"],
            put_seconds=watch.seconds["put"],
        )

    def load_prefix(self, tokens: TokenIds, *, salt: bytes = b"") -> LoadedPrefix:
        """A cache with the longest stored prefix of `tokens`, leaving at least one token to compute.

        `tokens`, `salt` and `InvalidArgumentError` are as in `save_prefix`. The cache lies on the model's device, may
        be empty, and belongs to the caller.
        """
        ids, block_size = _token_ids(tokens), self.namespace.block_size
        blocks = max(0, len(ids) - 1) // block_size
        keys = self.namespace.chain(ids[: blocks * block_size], salt=salt)
        loaded = 0
        watch = _Stopwatch()
        matched = self._store.match(keys)
        watch.lap("match")
        layers = self._empty_layers(matched)
        for batch, window in self._batches(0, matched):
            ok = self._get(keys[batch], window, first_depth=batch.start)
            watch.lap("get")
            # What lies behind a gap is of no use: a state cannot be entered in the middle.
            usable = len(window) if ok.all() else int(np.argmin(ok))
            for of_cache, of_window in _pairs(layers, window[:usable], batch.start * block_size):
                _copy(of_cache, of_window)
            watch.lap("unpack")
            loaded += usable
            if usable < len(window):
                break
        else:
            # The batches were used from the start of the chain, so that a part is worth having: even that out.
            self._store.touch(keys[:loaded])
        return LoadedPrefix(
            cache=self._cache_of(layers, loaded * block_size),
            tokens=loaded * block_size,
            blocks=loaded,
            bytes=loaded * self.namespace.block_bytes,
            match_seconds=watch.seconds["match"],
            get_seconds=watch.seconds["get"],
            unpack_seconds=watch.seconds["unpack"],
        )

    def _get(self, keys: npt.NDArray[np.uint8], window: torch.Tensor, *, first_depth: int) -> npt.NDArray[np.bool_]:
        try:
            result = self._store.get(keys, _raw(window), first_depth=first_depth)
        except BufferSizeError as error:
            # No writer of this namespace made such a block; the engine computes what it wanted.
            _LOGGER.warning("a block of another size is stored under a key of this namespace: %s", error)
            return np.zeros(len(keys), dtype=np.bool_)
        if not result.all_ok:
            _LOGGER.warning("blocks that were matched could not be loaded: %r", result)
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
            for layer, (keys, values) in zip(_plain_layers(cache), layers, strict=True):
                # Not `update`, which would copy once more to append to nothing.
                layer.lazy_initialization(keys, values)
                layer.keys, layer.values = keys[:, :, :tokens], values[:, :, :tokens]
        return cache

    def _layers_of(self, cache: DynamicCache) -> Layers:
        layout, dtype = self._layout, self._model.dtype
        layers = [(layer.keys, layer.values) for layer in _plain_layers(cache)]
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


def _refuse_unsupported(model: PreTrainedModel) -> None:
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    rope_types = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    devices = set(map(str, (getattr(model, "hf_device_map", None) or {}).values()))
    reasons = {
        "an encoder-decoder has a second cache": config.is_encoder_decoder,
        "KV of a multimodal model depends on more than token ids": config.get_text_config(decoder=True) is not config,
        "latent attention has keys and values of different sizes": getattr(config, "kv_lora_rank", None),
        "KV depends on adapters that no revision names; merge them": getattr(model, "_hf_peft_config_loaded", False)
        or hasattr(model, "peft_config"),
        "the rotary embedding depends on the length of the whole prompt": rope_types & _ROPE_TYPES_OF_WHOLE_PROMPT,
        f"the model is spread over several devices ({', '.join(sorted(devices))})": len(devices) > 1,
        f"parameters are {model.dtype}, not float16, bfloat16 or float32": model.dtype not in _DTYPE_NAMES,
    }
    for reason, applies in reasons.items():
        if applies:
            raise UnsupportedError(f"the KV of this {config.model_type} model cannot be stored: {reason}")
    if len(_plain_layers(DynamicCache(config=config))) != config.num_hidden_layers:
        raise UnsupportedError(f"the KV of this {config.model_type} model cannot be stored: layers share their KV")


def _plain_layers(cache: DynamicCache) -> list[DynamicLayer]:
    layers = []
    for index, layer in enumerate(cache.layers):
        # Exactly: subclasses (sliding, indexed, quantised, hybrid) hold more than keys and values, or not all of them.
        if type(layer) is not DynamicLayer:
            raise UnsupportedError(
                f"layer {index} of the cache is a {type(layer).__name__}; only DynamicLayer is supported"
            )
        layers.append(layer)
    return layers


def _token_ids(tokens: TokenIds) -> npt.NDArray[Any]:
    ids = tokens.cpu().numpy() if isinstance(tokens, torch.Tensor) else np.asarray(tokens)
    if ids.ndim == 2 and len(ids) == 1:
        ids = ids[0]
    if ids.ndim != 1:
        raise UnsupportedError(f"token ids of shape {ids.shape} are not one sequence; use shape (n,) or (1, n)")
    return ids


def _pairs(layers: Layers, window: torch.Tensor, first_token: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each tensor of the cache: its tokens that `window` has room for, and that room.

    Both are views of shape (blocks, KV heads, block size, head size): copying one onto the other packs or unpacks.
    """
    blocks, _, _, kv_heads, block_size, head_size = window.shape
    for index, layer in enumerate(layers):
        for pair, tensor in enumerate(layer):
            tokens = tensor[0, :, first_token : first_token + blocks * block_size]
            yield tokens.view(kv_heads, blocks, block_size, head_size).transpose(0, 1), window[:, index, pair]


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    if target.is_cpu and source.is_cpu:
        # One thread is about as fast as memory. Torch takes them all for each tensor, and on a busy machine they wait
        # for one another many times as long as they copy.
        np.copyto(_raw(target), _raw(source))
    else:
        target.detach().copy_(source.detach())


def _raw(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    """The bytes of a CPU tensor, the last axis that many times longer, without a copy: NumPy has no bfloat16."""
    raw: npt.NDArray[np.uint8] = tensor.detach().view(torch.uint8).numpy()
    return raw


class _Stopwatch:
    """Adds up the seconds between laps under the name of the lap that ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._since = time.perf_counter()

    def lap(self, name: str = "") -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self._since
        self._since = now
