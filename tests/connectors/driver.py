"""A connector, driven the way its engine drives it, on pages whose bytes follow from what they are."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np

from tests.support.blocks import Bytes, block

__all__ = ["OTHERS", "ConnectorDriver", "Identity", "WrongBytesError", "check_page", "page"]


@dataclasses.dataclass(frozen=True)
class Identity:
    """What two engines must have in common to share pages, as far as a connector can tell them apart.

    `layout` is "first" or "second", for two memory orders of the engine. The fields are what the contract varies; those
    that an engine does not have are not in the `distinguishes` of its driver.
    """

    model: str = "model"
    revision: str = "revision"
    dtype: str = "float32"
    layout: str = "first"
    page_size: int = 16
    rank: int = 0
    world_size: int = 1
    salt: str = ""
    lora: str = ""


OTHERS: dict[str, Any] = {
    "model": "another model",
    "revision": "another revision",
    "dtype": "bfloat16",
    "layout": "second",
    "page_size": 32,
    "rank": 1,
    "world_size": 2,
    "salt": "pepper",
    "lora": "adapter",
}


class WrongBytesError(AssertionError):
    """A page was said to be loaded and holds other bytes than were saved under its name."""


def page(identity: Identity, prompt: int, index: int, nbytes: int) -> Bytes:
    """The bytes of page `index` of a prompt."""
    name = repr((dataclasses.astuple(identity), prompt, index)).encode()
    return block(np.frombuffer(name, np.uint8), nbytes)


def check_page(identity: Identity, prompt: int, index: int, found: Bytes) -> None:
    """Raises `WrongBytesError` unless these are the bytes of the page."""
    if not np.array_equal(found, page(identity, prompt, index, found.size)):
        raise WrongBytesError(f"page {index} of prompt {prompt} as {identity} holds other bytes")


class ConnectorDriver(abc.ABC):
    """One engine process with the connector, for one identity.

    `prompt` is a number that stands for the token ids of a long prompt, the same for every process; prompts with other
    numbers share no page. Each verb waits for its end, as long as the settings' timeouts allow, and raises nothing but
    `WrongBytesError`. Pages are filled by `page` before a save, with other bytes before a load, and looked at by
    `check_page` after it.
    """

    distinguishes: ClassVar[frozenset[str]]
    """The fields of `Identity` that this engine can differ in."""

    def __init__(self, endpoint: str, identity: Identity, settings: dict[str, Any]) -> None:
        self.endpoint = endpoint
        self.identity = identity
        self.settings = settings

    @abc.abstractmethod
    def save(self, prompt: int, pages: int) -> int:
        """Saves the first pages of a prompt; how many the connector says are in the store now."""

    @abc.abstractmethod
    def lookup(self, prompt: int, pages: int) -> int:
        """How many of the first pages of a prompt the connector finds."""

    @abc.abstractmethod
    def load(self, prompt: int, pages: int) -> int:
        """Loads the first pages of a prompt, without looking them up before where the interface allows that; how many
        leading pages were loaded, each with its own bytes."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the connector as the engine does at shutdown."""

    def __enter__(self) -> ConnectorDriver:
        return self

    def __exit__(self, *ending: object) -> None:
        self.close()
