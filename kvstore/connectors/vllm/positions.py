"""Where in a prompt vLLM's chunks stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.v1.kv_offload.base import make_offload_key
from vllm.v1.kv_offload.config import OffloadingConfig

__all__ = ["Positions"]

# vLLM's keys end with the index of the cache group.
_GROUP = slice(-4, None)


class Positions:
    """Of the chunks of one engine. Immutable."""

    def __init__(self, config: OffloadingConfig) -> None:
        self._tokens_by_group = {
            make_offload_key(b"", group.group_id): group.tokens_per_block * config.cache.blocks_per_chunk
            for group in config.groups
        }

    def chunk_tokens(self, key: bytes) -> int:
        """Tokens of a chunk."""
        return self._tokens_by_group[key[_GROUP]]

    def end_token(self, context: Any, key: bytes) -> int:
        """Where in the request's prompt the chunk ends; 0 where vLLM does not say, as 0.30 never does."""
        position = getattr(context, "get_offload_key_position", None)
        return (position(key) if position is not None else None) or 0

    def depth(self, context: Any, key: bytes) -> int:
        """How many chunks of its group stand before it."""
        return max(0, self.end_token(context, key) // self.chunk_tokens(key) - 1)

    def leading_tokens(self, context: Any, keys: Sequence[bytes], there: Sequence[bool]) -> int:
        """Of the chunks that a request asked about, in that order, how many tokens are there without a gap.

        Those of the group of layers that was asked about first: what it lacks, no other can make up. Groups are asked
        about from the beginning of the prompt on, or, where only a window of it matters, from its end. 0 where there is
        nothing, or vLLM does not say where things stand.
        """
        group = keys[0][_GROUP]
        asked = len(keys) if keys[-1][_GROUP] == group else sum(key[_GROUP] == group for key in keys)
        first, last = self.end_token(context, keys[0]), self.end_token(context, keys[asked - 1])
        if not first or not last:
            return 0
        hits = list(there[:asked] if first <= last else there[asked - 1 :: -1])
        run = hits.index(False) if False in hits else asked
        return run * self.chunk_tokens(keys[0])

    def tokens_of_first_group(self, keys: Sequence[bytes]) -> int:
        """Of chunks, tokens counted once although every group of layers has chunks of them."""
        return sum(key[_GROUP] == keys[0][_GROUP] for key in keys) * self.chunk_tokens(keys[0])
