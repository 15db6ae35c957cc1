"""What every connector keeps, whatever engine it is for: inherit `ConnectorContract` and name the driver.

    class TestContract(ConnectorContract):
        driver = MyDriver

Each test has a node of its own kind; drivers in this process and in others use the connector as an engine would.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, ClassVar

import pytest

from tests.connectors.driver import OTHERS, ConnectorDriver, Identity
from tests.connectors.process import start_elsewhere
from tests.node_process import wait_until
from tests.support.node import Node

__all__ = ["ConnectorContract"]

PAGES = 12
BACK_S = 30.0
_prompts = itertools.count(1)


class ConnectorContract:
    """Tests of one connector. `settings` are added to those that every driver gets."""

    driver: ClassVar[type[ConnectorDriver]]
    settings: ClassVar[dict[str, Any]] = {}
    identity: ClassVar[Identity] = Identity()

    @pytest.fixture
    def node(self, tmp_path):
        with Node(tmp_path, memory="256MiB") as running:
            yield running

    @pytest.fixture
    def prompt(self):
        return next(_prompts)

    @pytest.fixture
    def connector(self, node):
        with self.open(node) as connector:
            yield connector

    def all_settings(self) -> dict[str, Any]:
        return {"lookup_timeout_ms": 2000, "load_timeout_ms": 3000, "save_timeout_ms": 3000, **self.settings}

    def open(self, node, **changes) -> ConnectorDriver:
        return self.driver(node.url, dataclasses.replace(self.identity, **changes), self.all_settings())

    def elsewhere(self, node, *steps):
        """Starts the steps in another process."""
        return start_elsewhere(self.driver, node.url, self.identity, self.all_settings(), *steps)

    def await_back(self, connector, prompt):
        """The connector reaches the node again: something new can be saved and loaded."""

        def is_back():
            fresh = 1_000_000 + next(_prompts)
            return connector.save(fresh, 1) == 1 and connector.load(fresh, 1) == 1

        wait_until(is_back, "the connector reaches the node", BACK_S)

    def test_saved_here_and_loaded_in_another_process(self, node, connector, prompt):
        assert connector.lookup(prompt, PAGES) == 0
        assert connector.save(prompt, PAGES) == PAGES
        elsewhere = self.elsewhere(node, ["lookup", prompt, PAGES], ["load", prompt, PAGES])
        assert elsewhere.results() == [PAGES, PAGES]

    def test_saved_in_another_process_and_loaded_here(self, node, connector, prompt):
        assert self.elsewhere(node, ["save", prompt, PAGES]).results() == [PAGES]
        assert connector.lookup(prompt, PAGES) == PAGES
        assert connector.load(prompt, PAGES) == PAGES

    def test_a_shorter_prefix_is_found(self, connector, prompt):
        connector.save(prompt, PAGES)
        assert connector.lookup(prompt, 5) == 5
        assert connector.load(prompt, 5) == 5

    def test_a_longer_prompt_finds_its_prefix(self, connector, prompt):
        connector.save(prompt, 5)
        assert connector.lookup(prompt, PAGES) == 5
        assert connector.load(prompt, PAGES) == 5

    def test_other_prompts_are_misses(self, connector, prompt):
        connector.save(prompt, PAGES)
        assert connector.lookup(next(_prompts), PAGES) == 0
        assert connector.load(next(_prompts), PAGES) == 0

    @pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Identity)])
    def test_what_means_something_else_is_a_miss(self, node, connector, prompt, field):
        if field not in self.driver.distinguishes:
            pytest.skip(f"this engine has no {field}")
        assert connector.save(prompt, PAGES) == PAGES
        changes = {"world_size": 2} if field == "rank" else {}
        with self.open(node, **{**changes, field: OTHERS[field]}) as other:
            assert other.lookup(prompt, PAGES) == 0
            assert other.load(prompt, PAGES) == 0
            assert other.save(prompt, PAGES) == PAGES
            assert other.load(prompt, PAGES) == PAGES
        assert connector.load(prompt, PAGES) == PAGES

    def test_saved_again_is_saved(self, connector, prompt):
        assert connector.save(prompt, PAGES) == PAGES
        assert connector.save(prompt, PAGES) == PAGES
        assert connector.load(prompt, PAGES) == PAGES

    def test_two_engines_save_the_same_prefix_at_once(self, node, prompt):
        engines = [self.elsewhere(node, *[["save", prompt + i, PAGES] for i in range(5)]) for _ in range(2)]
        for engine in engines:
            assert engine.results() == [PAGES] * 5
        with self.open(node) as connector:
            assert [connector.load(prompt + i, PAGES) for i in range(5)] == [PAGES] * 5
        next(itertools.islice(_prompts, 5, 5), None)

    def test_the_engine_restarts(self, node, prompt):
        with self.open(node) as first:
            assert first.save(prompt, PAGES) == PAGES
        with self.open(node) as second:
            assert second.lookup(prompt, PAGES) == PAGES
            assert second.load(prompt, PAGES) == PAGES

    def test_the_node_restarts(self, node, connector, prompt):
        connector.save(prompt, PAGES)
        node.kill()
        node.start()
        self.await_back(connector, prompt)
        assert connector.load(prompt, PAGES) == 0  # it had no disk
        assert connector.save(prompt, PAGES) == PAGES
        assert connector.load(prompt, PAGES) == PAGES

    def test_the_node_is_dead(self, node, connector, prompt):
        connector.save(prompt, PAGES)
        node.kill()
        assert connector.lookup(prompt, PAGES) == 0
        assert connector.load(prompt, PAGES) == 0
        assert connector.save(next(_prompts), PAGES) == 0

    @pytest.mark.parametrize("verb", ["lookup", "load", "save"])
    def test_the_node_is_frozen(self, node, connector, prompt, verb):
        connector.save(prompt, PAGES)
        wanted = next(_prompts) if verb == "save" else prompt
        node.freeze()
        try:
            assert getattr(connector, verb)(wanted, PAGES) == 0
        finally:
            node.thaw()
        self.await_back(connector, prompt)
        assert connector.load(prompt, PAGES) == PAGES

    def test_the_node_is_away_at_the_start(self, node, prompt):
        node.kill()
        with self.open(node) as connector:
            assert connector.lookup(prompt, PAGES) == 0
            assert connector.load(prompt, PAGES) == 0
            assert connector.save(prompt, PAGES) == 0
            node.start()
            self.await_back(connector, prompt)
            assert connector.save(prompt, PAGES) == PAGES
            assert connector.load(prompt, PAGES) == PAGES

    def test_evicted_pages_are_misses(self, node, connector, prompt):
        connector.save(prompt, PAGES)

        def is_gone():
            node.evict(1 << 40)
            return connector.load(prompt, PAGES) == 0

        wait_until(is_gone, "the pages are evicted")
