"""What the scheduler knows about each request of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kvstore.connectors.tensorrt_llm.names import Names
from kvstore.connectors.tensorrt_llm.plan import Load, Save

__all__ = ["Promise", "TrackedRequest"]


@dataclass(frozen=True, slots=True)
class Promise:
    """Blocks that wait in slots: the engine takes block `first` of the request, and those after it, for loaded."""

    first: int
    slots: list[int]


@dataclass(slots=True)
class TrackedRequest:
    """A request between its allocation and its end. `in_store` leading blocks are there, or were sent there."""

    salt: bytes
    in_store: int = 0
    promise: Promise | None = None
    tokens: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)

    def begin(self, data: Any) -> None:
        """The engine has given it blocks."""
        self.tokens, self.blocks = list(data.new_tokens), _block_ids(data)

    def take_loads(self) -> list[Load]:
        """What to load into its blocks, of which it has enough."""
        promise, self.promise = self.promise, None
        if promise is None:
            return []
        targets = self.blocks[promise.first : promise.first + len(promise.slots)]
        # A block without a page lies outside of all that the request will look at.
        return [Load(block, slot) for block, slot in zip(targets, promise.slots, strict=True) if block >= 0]

    def go_on(self, data: Any) -> None:
        """The engine schedules it again, with what has been added to it."""
        self.tokens += data.new_tokens
        self.blocks += _block_ids(data)

    def complete_blocks(self, data: Any, block_size: int) -> int:
        """How many leading blocks have all their KV after the step. May say less in a step that loads, never more."""
        computed = min(len(self.tokens), data.computed_position + data.num_scheduled_tokens)
        return min(computed // block_size, len(self.blocks))

    def take_saves(self, complete: int, names: Names, block_size: int) -> list[Save]:
        """The complete blocks that nobody has sent yet, in runs of blocks that have pages."""
        if complete <= self.in_store:
            return []
        keys = names.keys(self.tokens[: complete * block_size], self.salt)
        saves: list[Save] = []
        for index in range(self.in_store, complete):
            if self.blocks[index] < 0:
                continue
            if not saves or saves[-1].first_depth + len(saves[-1].blocks) != index:
                saves.append(Save([], keys[index:index], index))
            saves[-1].blocks.append(self.blocks[index])
        self.in_store = complete
        return [Save(s.blocks, keys[s.first_depth : s.first_depth + len(s.blocks)], s.first_depth) for s in saves]

    def has_blocks_of(self, data: Any, block_size: int) -> bool:
        """Whether it has as many blocks as it needs for this step if they have that size, and not twice as many.

        The engine may give those of a whole prompt at once or by its chunks, and some to grow into.
        """
        scheduled = -(-(data.computed_position + data.num_scheduled_tokens) // block_size)
        promised = 0 if self.promise is None else self.promise.first + len(self.promise.slots)
        return max(scheduled, promised) <= len(self.blocks) < 2 * -(-len(self.tokens) // block_size) + 2


def _block_ids(data: Any) -> list[int]:
    groups: Sequence[Sequence[int]] = getattr(data, "new_block_ids_by_layer_group", None) or ()
    return list(groups[0]) if len(groups) == 1 else list(data.new_block_ids)
