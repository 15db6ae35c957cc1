"""What the orchestrator and an engine say to each other: one JSON object a line, arrays as .npy files beside.

The orchestrator writes tasks; the engine writes `{"ready": ...}` once, then for each task any number of
`{"progress": fraction}` and one `{"answer": ...}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Answer", "Ready", "Task", "Transfer"]


@dataclass(frozen=True, kw_only=True)
class Ready:
    """An engine has built its model, of so many layers, and is connected over `lane`, by what UCX calls `endpoint`."""

    layers: int
    lane: str
    endpoint: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """Read the text and continue it.

    Without `use_store` in one prefill. With it through the connector: load what the node has, compute the rest up to
    the last block boundary, store that if `save`, go on. `zero_loaded` is the negative control: it zeroes what came.
    `node`, where given, is the address of the node to use from now on; connecting belongs to no time that is measured.
    """

    use_store: bool
    node: str = ""
    save: bool = False
    zero_loaded: bool = False


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Blocks that travelled. `move_seconds` is the native client alone, `seconds` the whole call of the connector.

    `disk_blocks` of them the node had to read from its disk first.
    """

    blocks: int = 0
    disk_blocks: int = 0
    bytes: int = 0
    move_seconds: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a task.

    `tokens` were chosen greedily from the logits in `logits_file`, float32 of shape (tokens, vocabulary).
    `first_token_seconds` is from the task to the first of them; `match_seconds` how long it took to learn what the node
    has.
    """

    tokens: list[int]
    logits_file: str
    first_token_seconds: float
    match_seconds: float
    loaded: Transfer
    saved: Transfer

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Answer:
        """The inverse of `dataclasses.asdict`."""
        transfers = {name: Transfer(**fields[name]) for name in ("loaded", "saved")}
        return cls(**{**fields, **transfers})
