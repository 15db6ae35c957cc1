"""What a model's KV is called, and which models and caches have none that can be stored."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import blake3
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from kvstore.errors import UnsupportedError
from kvstore.keys import Namespace
from kvstore.layout import KVLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["has_adapters", "namespace_for", "plain_layers"]

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
    the tokens determines the KV (multimodal models, adapters with virtual tokens, rotary embeddings that depend on the
    whole prompt), and for models over several devices.
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


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether more than the weights that its revision names may compute this model's KV."""
    return bool(getattr(model, "_hf_peft_config_loaded", False)) or hasattr(model, "peft_config")


def _refuse_unsupported(model: PreTrainedModel) -> None:
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    rope_types = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    devices = set(map(str, (getattr(model, "hf_device_map", None) or {}).values()))
    reasons = {
        "an encoder-decoder has a second cache": config.is_encoder_decoder,
        "KV of a multimodal model depends on more than token ids": config.get_text_config(decoder=True) is not config,
        "latent attention has keys and values of different sizes": getattr(config, "kv_lora_rank", None),
        "virtual tokens of an adapter move those of the prompt": any(
            getattr(adapter, "is_prompt_learning", False) for adapter in getattr(model, "peft_config", {}).values()
        ),
        "the rotary embedding depends on the length of the whole prompt": rope_types & _ROPE_TYPES_OF_WHOLE_PROMPT,
        f"the model is spread over several devices ({', '.join(sorted(devices))})": len(devices) > 1,
        f"parameters are {model.dtype}, not float16, bfloat16 or float32": model.dtype not in _DTYPE_NAMES,
    }
    for reason, applies in reasons.items():
        if applies:
            raise UnsupportedError(f"the KV of this {config.model_type} model cannot be stored: {reason}")
    if len(plain_layers(DynamicCache(config=config))) != config.num_hidden_layers:
        raise UnsupportedError(f"the KV of this {config.model_type} model cannot be stored: layers share their KV")


def plain_layers(cache: DynamicCache) -> list[DynamicLayer]:
    """The layers of a cache. Raises `UnsupportedError` where one is not plain keys and values."""
    layers = []
    for index, layer in enumerate(cache.layers):
        # Exactly: subclasses (sliding, indexed, quantised, hybrid) hold more than keys and values, or not all of them.
        if type(layer) is not DynamicLayer:
            raise UnsupportedError(
                f"layer {index} of the cache is a {type(layer).__name__}; only DynamicLayer is supported"
            )
        layers.append(layer)
    return layers
