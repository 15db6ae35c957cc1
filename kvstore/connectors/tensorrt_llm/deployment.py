"""What an engine's arguments say about its KV, and which engines are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kvstore.config import ConnectorConfig
from kvstore.errors import ConfigError, UnsupportedError

__all__ = ["Deployment"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """An engine, as far as it bears on KV. `tokens_per_block` is what it was told; its layout may say more."""

    model: str
    revision: str
    world_size: int
    tokens_per_block: int
    kv_dtype: str
    terms: dict[str, Any]

    @classmethod
    def of(cls, llm_args: Any, config: ConnectorConfig) -> Deployment:
        """From the arguments that TensorRT-LLM gives to connectors.

        Raises `UnsupportedError` for engines whose pages this connector cannot keep exact, `ConfigError` for an
        endpoint that is not a node.
        """
        if config.endpoint.startswith("embedded:"):
            raise ConfigError(
                "scheduler and workers are several clients, so the endpoint must be a node (kv://host:port),"
                f" not {config.endpoint!r}"
            )
        cache = _required(llm_args, "kv_cache_config")
        _refuse(llm_args, cache)
        kv_dtype = str(getattr(cache, "dtype", None) or "auto")
        quantisation = getattr(getattr(llm_args, "quant_config", None), "quant_algo", None)
        return cls(
            model=config.model or str(_required(llm_args, "model")),
            revision=config.revision or str(getattr(llm_args, "revision", None) or "none"),
            world_size=_required(llm_args, "tensor_parallel_size"),
            tokens_per_block=_required(cache, "tokens_per_block"),
            kv_dtype=kv_dtype,
            terms={
                "dtype": str(getattr(llm_args, "dtype", None)),
                "quantisation": str(quantisation),
                "attention": str(getattr(llm_args, "attn_backend", None)),
            },
        )


def _required(owner: Any, name: str) -> Any:
    value = getattr(owner, name, None)
    if value is None:
        raise UnsupportedError(f"the arguments of this TensorRT-LLM have no {name}, without which KV has no safe name")
    return value


def _refuse(llm_args: Any, cache: Any) -> None:
    ranks = _required(llm_args, "tensor_parallel_size")
    gpus_per_node = getattr(llm_args, "gpus_per_node", None)
    windows = set(getattr(cache, "max_attention_window", None) or ())
    longest = getattr(llm_args, "max_seq_len", None)
    reasons = {
        "pipeline parallelism: pages of ranks differ in size": getattr(llm_args, "pipeline_parallel_size", 1) > 1,
        "context parallelism: a rank has a part of each block": getattr(llm_args, "context_parallel_size", 1) > 1,
        "attention data parallelism: each rank schedules alone": bool(getattr(llm_args, "enable_attention_dp", False)),
        f"{ranks} ranks on nodes of {gpus_per_node} GPUs: ranks must share a host": gpus_per_node is not None
        and ranks > gpus_per_node,
        "beam search: beams share pages": (getattr(llm_args, "max_beam_width", None) or 1) > 1,
        "speculative decoding: its draft layers lie in the same pages": bool(
            getattr(llm_args, "speculative_config", None)
        ),
        "attention windows: pages are used again within a request": any(
            longest is None or window < longest for window in windows
        ),
        "attention sinks: pages are used again within a request": bool(getattr(cache, "sink_token_length", None)),
        "NVFP4 KV: its scales lie outside of the pages": str(getattr(cache, "dtype", "")).lower() == "nvfp4",
    }
    for reason, applies in reasons.items():
        if applies:
            raise UnsupportedError(f"kvstore cannot serve this TensorRT-LLM engine: {reason}")
