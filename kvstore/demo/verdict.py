"""What the demo claims, and whether it came true. Pure functions of the engines' answers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from kvstore.demo.messages import Answer

__all__ = [
    "Check",
    "Continuation",
    "Sharing",
    "bits_in_common",
    "judge_loss",
    "judge_restart",
    "judge_sharing",
    "largest_difference",
]


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """An engine's answer and the logits behind its tokens, float32 of shape (tokens, vocabulary)."""

    answer: Answer
    logits: npt.NDArray[np.float32]

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Continuation:
        """From an engine's answer, with the logits read from the file that it names."""
        answer = Answer.from_json(fields)
        return cls(answer=answer, logits=np.load(answer.logits_file, allow_pickle=False))


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """The first act. `blocks` is how many whole blocks the text has that leave a token to compute.

    `one_shot` and `stored` are engine A's, without the store and while storing; `warm` and `zeroed` engine B's.
    """

    blocks: int
    one_shot: Continuation
    stored: Continuation
    warm: Continuation
    zeroed: Continuation


@dataclass(frozen=True, kw_only=True)
class Check:
    """One claim: whether it holds, and the figures that say so."""

    claim: str
    holds: bool
    evidence: str


def judge_sharing(sharing: Sharing) -> list[Check]:
    """Whether the KV travelled whole, and is what engine B's answer rests on."""
    one_shot, stored, warm, zeroed = sharing.one_shot, sharing.stored, sharing.warm, sharing.zeroed
    saved, loaded = stored.answer.saved, warm.answer.loaded
    return [
        Check(
            claim="engine A stored every block",
            holds=saved.blocks == sharing.blocks,
            evidence=f"{saved.blocks:,} of {sharing.blocks:,}",
        ),
        Check(
            claim="engine B loaded every block",
            holds=loaded.blocks == sharing.blocks and loaded.bytes == saved.bytes,
            evidence=f"{loaded.blocks:,} of {sharing.blocks:,}",
        ),
        _same_logits("logits bit-identical to recomputing, split at the same block", warm, stored),
        _same_tokens("tokens equal to those of a one-shot prefill", warm, one_shot),
        Check(
            claim="other logits once the loaded KV is zeroed, so it is used",
            holds=zeroed.answer.loaded.blocks == sharing.blocks and bits_in_common(zeroed.logits, warm.logits) == 0,
            evidence=f"up to {largest_difference(zeroed.logits, warm.logits):.2g} apart",
        ),
    ]


def judge_restart(how: str, sharing: Sharing, reloaded: Continuation) -> list[Check]:
    """After the node was `how` and started again: whether engine B got everything back, and from the disk."""
    loaded = reloaded.answer.loaded
    seconds = f"{loaded.seconds:.2f} s, {loaded.bytes / 1e9 / max(1e-9, loaded.seconds):.2f} GB/s"
    return [
        Check(
            claim=f"the {how} node has every block, and reads it from disk",
            holds=loaded.blocks == loaded.disk_blocks == sharing.blocks,
            evidence=f"{loaded.disk_blocks:,} of {sharing.blocks:,} in {seconds}",
        ),
        _same_logits("logits bit-identical", reloaded, sharing.stored),
    ]


def judge_loss(sharing: Sharing, recomputed: Continuation, *, timeout_ms: int) -> list[Check]:
    """The third act: whether losing the node cost engine B nothing but time."""
    match_ms = 1000 * recomputed.answer.match_seconds
    return [
        Check(
            claim="the dead node is a miss within the deadline, not an error",
            holds=recomputed.answer.loaded.blocks == 0 and match_ms <= timeout_ms,
            evidence=f"{match_ms:.1f} of {timeout_ms:,} ms",
        ),
        _same_logits("recomputed logits bit-identical", recomputed, sharing.stored),
        _same_tokens("recomputed tokens the same", recomputed, sharing.stored),
    ]


def bits_in_common(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> int:
    """How many values of two arrays have the same bits: zeros of different sign do not, equal NaNs do."""
    return int((a.view(np.uint32) == b.view(np.uint32)).sum()) if a.shape == b.shape else 0


def largest_difference(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """The largest absolute difference over the tokens that both have."""
    common = min(len(a), len(b))
    return float(np.abs(a[:common] - b[:common]).max(initial=0.0))


def _same_logits(claim: str, one: Continuation, other: Continuation) -> Check:
    common, total = bits_in_common(one.logits, other.logits), max(one.logits.size, other.logits.size)
    apart = "" if common == total else f", up to {largest_difference(one.logits, other.logits):.2g} apart"
    return Check(claim=claim, holds=common == total > 0, evidence=f"{common:,} of {total:,}{apart}")


def _same_tokens(claim: str, one: Continuation, other: Continuation) -> Check:
    ours, theirs = one.answer.tokens, other.answer.tokens
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))
    total = max(len(ours), len(theirs))
    return Check(claim=claim, holds=common == total > 0, evidence=f"{common:,} of {total:,}")
