"""The connector for TensorRT-LLM under the contract of all connectors: one driver is an engine with all its ranks."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from tests.connectors.driver import ConnectorDriver, Identity, check_page, page
from tests.connectors.tensorrt_llm.engine import FakeEngine, Request, arguments, environment
from tests.node_process import wait_until

__all__ = ["TensorRTDriver", "TwoRanksDriver"]


class TensorRTDriver(ConnectorDriver):
    distinguishes = frozenset(vars(Identity())) - {"rank"}

    def __init__(self, endpoint: str, identity: Identity, settings: dict[str, Any]) -> None:
        super().__init__(endpoint, identity, settings)
        llm_args = arguments(
            ranks=identity.world_size,
            block_size=identity.page_size,
            kv_dtype=identity.dtype,
            model=identity.model,
            revision=identity.revision,
        )
        with environment(endpoint, settings):
            self._engine = FakeEngine(
                llm_args, dtype=getattr(torch, identity.dtype), second_manager=identity.layout == "second"
            )
        self._requests = 0

    def save(self, prompt: int, pages: int) -> int:
        request, found = self._admit(prompt, pages)
        engine, before = self._engine, self._saved()
        engine.step([engine.first(request)], forward=lambda: self._compute(request, prompt, found, pages))
        wait_until(lambda: not engine.is_saving(), "saves end at their timeout", 60)
        engine.finish(request)
        return found + (self._saved() - before) // self.identity.world_size

    def lookup(self, prompt: int, pages: int) -> int:
        request, found = self._admit(prompt, pages)
        self._engine.scheduler.cancel_load(request)
        self._engine.finish(request)
        return found

    def load(self, prompt: int, pages: int) -> int:
        request, found = self._admit(prompt, pages)

        def look() -> None:
            for rank, rank_pages in enumerate(self._engine.pages):
                for index, block in enumerate(self._engine.blocks_of(request)[:found]):
                    check_page(self._rank(rank), prompt, index, rank_pages[block].numpy())

        # The engine schedules less than a page of what is not there, so that nothing is saved.
        self._engine.step([self._engine.first(request, scheduled=1)], forward=look)
        self._engine.finish(request)
        return found

    def close(self) -> None:
        self._engine.close()

    def _admit(self, prompt: int, pages: int) -> tuple[Request, int]:
        """A request with one token more, since the last one is always computed; and how many pages it was promised."""
        self._requests += 1
        tokens = [1000 * prompt + at for at in range(pages * self.identity.page_size + 1)]
        salt, adapter = self.identity.salt or None, self.identity.lora
        request = Request(self._requests, tokens, salt=salt, adapter=adapter)
        return request, self._engine.admit(request) // self.identity.page_size

    def _compute(self, request: Request, prompt: int, first: int, end: int) -> None:
        for rank, rank_pages in enumerate(self._engine.pages):
            for index, block in enumerate(self._engine.blocks_of(request)[first:end], start=first):
                content = page(self._rank(rank), prompt, index, rank_pages.shape[1])
                rank_pages[block] = torch.from_numpy(content.copy())

    def _rank(self, rank: int) -> Identity:
        return dataclasses.replace(self.identity, rank=rank)

    def _saved(self) -> int:
        return sum(int(worker.stats()["save_good_blocks"]) for worker in self._engine.workers)


class TwoRanksDriver(TensorRTDriver):
    """For engines that have two ranks already, so that this is no difference."""

    distinguishes = TensorRTDriver.distinguishes - {"world_size"}
