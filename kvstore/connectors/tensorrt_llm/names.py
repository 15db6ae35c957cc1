"""Names of blocks, for all ranks at once, and what beside the tokens belongs to a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kvstore.connectors.core import join_salts
from kvstore.connectors.tensorrt_llm.deployment import Deployment
from kvstore.connectors.tensorrt_llm.pages import EnginePages
from kvstore.keys import Namespace

__all__ = ["Names", "salt_of"]

# What makes KV depend on more than the token ids of a request.
_BESIDE_TOKENS = (
    *("py_multimodal_data", "py_mm_item_order", "py_mm_encoder_state", "py_encoder_input_features"),
    *("multimodal_hashes", "multimodal_embedding", "mrope_rotary_cos_sin", "position_ids"),
    *("prompt_embedding_table", "input_token_extra_ids", "encoder_tokens", "skip_cross_attn_blocks"),
)
# Names under which versions of the engine keep a request's cache salt.
_SALTS = ("cache_salt", "cache_salt_id")


@dataclass(frozen=True)
class Names:
    """One namespace a rank; they differ in nothing but the rank."""

    namespaces: tuple[Namespace, ...]

    @classmethod
    def of(cls, deployment: Deployment, pages: EnginePages, tenant_secret: bytes) -> Names:
        """The names of an engine's blocks."""
        return cls(
            tuple(
                Namespace(
                    model=deployment.model,
                    revision=deployment.revision,
                    layout=pages.layout,
                    block_size=pages.block_size,
                    rank=rank,
                    world_size=deployment.world_size,
                    tenant_secret=tenant_secret,
                )
                for rank in range(deployment.world_size)
            )
        )

    @property
    def fingerprints(self) -> tuple[bytes, ...]:
        """What the ranks' blocks mean, by which they check that they agree."""
        return tuple(namespace.fingerprint for namespace in self.namespaces)

    def keys(self, tokens: Sequence[int], salt: bytes) -> npt.NDArray[np.uint8]:
        """Of the full blocks of a prompt: `(blocks, ranks, 32)` uint8.

        Hashes over the tokens by ourselves: those of the engine have 64 bits, and its second manager gives none.
        """
        return np.ascontiguousarray(
            np.stack([namespace.chain(tokens, salt=salt) for namespace in self.namespaces], axis=1)
        )


def salt_of(request: Any, *, engine_salts: bool) -> bytes | None:
    """The salt of a request of the engine; None where its KV cannot be named safely.

    That is so for what is not text, for beams, and for an adapter of which the engine gives only its number: numbers
    are dealt out by each engine. `engine_salts` says that this engine knows cache salts.
    """
    if any(_is_given(getattr(request, name, None)) for name in _BESIDE_TOKENS):
        return None
    if getattr(getattr(request, "sampling_config", None), "beam_width", 1) > 1:
        return None
    adapter = getattr(request, "py_lora_path", None)
    if getattr(request, "lora_task_id", None) is not None and not adapter:
        return None
    if engine_salts and not any(hasattr(request, name) for name in _SALTS):
        return None
    salts = {name: str(value) for name in _SALTS if (value := getattr(request, name, None)) is not None}
    return join_salts(adapter=str(adapter or ""), **salts)


def _is_given(value: Any) -> bool:
    return value is not None and not (hasattr(value, "__len__") and len(value) == 0)
