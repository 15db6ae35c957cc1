"""What the scheduler tells the workers to do in one step. It travels between processes by the engine's own means."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kvstore.connectors.tensorrt_llm.staging import StagingPlace

__all__ = ["Load", "Save", "StepPlan"]


@dataclass(frozen=True, slots=True)
class Load:
    """Block `block` of the engine gets what waits in slot `slot`."""

    block: int
    slot: int


@dataclass(frozen=True, slots=True)
class Save:
    """Consecutive blocks of a request that are complete after the step: `keys` is (blocks, ranks, 32) uint8."""

    blocks: list[int]
    keys: npt.NDArray[np.uint8]
    first_depth: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. `fingerprints` (one a rank) are what the scheduler takes the ranks' blocks to mean."""

    step: int
    staging: StagingPlace | None = None
    fingerprints: tuple[bytes, ...] = ()
    loads: list[Load] = field(default_factory=list)
    saves: list[Save] = field(default_factory=list)
