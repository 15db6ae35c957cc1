"""The text of the main job and its tokens: one token a byte, so that no tokenizer has to be downloaded."""

from __future__ import annotations

from importlib import resources

__all__ = ["prompt_tokens"]


def prompt_tokens(limit: int | None = None) -> list[int]:
    """The UTF-8 bytes of the shipped essay as token ids 0..255, at most the first `limit`.

    Raises ValueError when the essay has fewer than `limit` tokens.
    """
    tokens = list(resources.files("kvstore.demo").joinpath("text.txt").read_bytes().rstrip())
    if limit is None:
        return tokens
    if not 0 < limit <= len(tokens):
        raise ValueError(f"the text has {len(tokens)} tokens; {limit} were asked for")
    return tokens[:limit]
