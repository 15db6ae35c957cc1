"""The names that the connector imports from TensorRT-LLM, as its published interface describes them, and no more."""

from __future__ import annotations

import abc
import importlib.machinery
import sys
import types
from dataclasses import dataclass, field
from typing import Any

__all__ = ["RequestData", "SchedulerOutput", "install", "set_rank"]

NEW_PLACE = "tensorrt_llm._torch.pyexecutor.connectors.kv_cache_connector"
OLD_PLACE = "tensorrt_llm._torch.pyexecutor.kv_cache_connector"


@dataclass
class RequestData:
    """A request of a step: what was added to it since it was last in one."""

    request_id: int
    new_tokens: list[int]
    new_block_ids: list[int]
    computed_position: int
    num_scheduled_tokens: int
    block_hashes: list[int] = field(default_factory=list)
    priorities: list[int] | None = None
    cache_salt: str | None = None
    new_block_ids_by_layer_group: list[list[int]] = field(default_factory=list)


@dataclass
class SchedulerOutput:
    """The requests of a step."""

    new_requests: list[RequestData] = field(default_factory=list)
    cached_requests: list[RequestData] = field(default_factory=list)
    attention_dp_rank: int | None = None


class KvCacheConnectorWorker(abc.ABC):
    """What an engine calls on each rank."""

    supports_attention_dp = False

    def __init__(self, llm_args: Any) -> None:
        self._llm_args = llm_args
        self._metadata: Any = None

    def bind_connector_meta(self, metadata: Any) -> None:
        self._metadata = metadata

    def get_connector_meta(self) -> Any:
        return self._metadata

    @abc.abstractmethod
    def register_kv_caches(self, kv_cache_tensor: Any) -> None: ...

    @abc.abstractmethod
    def start_load_kv(self, stream: Any) -> None: ...

    @abc.abstractmethod
    def wait_for_layer_load(self, layer_idx: int, stream: Any) -> None: ...

    @abc.abstractmethod
    def save_kv_layer(self, layer_idx: int, stream: Any) -> None: ...

    @abc.abstractmethod
    def wait_for_save(self, stream: Any) -> None: ...

    @abc.abstractmethod
    def get_finished(self, finished_gen_req_ids: list[int], started_loading_req_ids: list[int]) -> Any: ...


class KvCacheConnectorScheduler(abc.ABC):
    """What an engine calls on rank 0."""

    supports_attention_dp = False

    def __init__(self, llm_args: Any) -> None:
        self._llm_args = llm_args

    @abc.abstractmethod
    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> Any: ...

    @abc.abstractmethod
    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]: ...

    @abc.abstractmethod
    def request_finished(self, request: Any, cache_block_ids: list[int]) -> bool: ...

    @abc.abstractmethod
    def update_state_after_alloc(self, request: Any, block_ids: list[int]) -> None: ...


_rank = 0


def set_rank(rank: int) -> None:
    """Which rank this process is for what is made from now on."""
    global _rank
    _rank = rank


def install(place: str = NEW_PLACE) -> None:
    """Puts the modules in place, with the connector's in one of the two that versions have had."""
    names = place.split(".")
    for depth in range(1, len(names) + 1):
        name = ".".join(names[:depth])
        module = sys.modules.setdefault(name, types.ModuleType(name))
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []  # type: ignore[attr-defined]
    sys.modules["tensorrt_llm"].__version__ = "1.4.0-fake"  # type: ignore[attr-defined]
    utilities = sys.modules.setdefault("tensorrt_llm._utils", types.ModuleType("tensorrt_llm._utils"))
    utilities.mpi_rank = lambda: _rank  # type: ignore[attr-defined]
    for offered in (KvCacheConnectorScheduler, KvCacheConnectorWorker, RequestData, SchedulerOutput):
        setattr(sys.modules[place], offered.__name__, offered)
