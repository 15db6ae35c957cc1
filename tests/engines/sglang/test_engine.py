"""The whole engine on a CPU: what one process stored another uses, token for token."""

import pytest

import tests.engines.sglang  # noqa: F401 - lets SGLang be imported

pytest.importorskip("sglang")

from tests.engines.sglang.engine import PAGE_SIZE, EngineProcess
from tests.engines.sglang.models import prompt, write_llama
from tests.node_process import wait_until
from tests.support.node import Node

pytestmark = pytest.mark.timeout(600)

PROMPTS = {seed: prompt(seed) for seed in range(1, 7)}
# All whole pages but the last: the engine computes at least one token.
STORED_TOKENS = len(PROMPTS[1]) - PAGE_SIZE
STORED_PAGES = len(PROMPTS[1]) // PAGE_SIZE
EXTENDED = PROMPTS[1] + prompt(100, 50)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def tokens(model, tmp_path_factory):
    """What an engine without storage generates."""
    with EngineProcess(model, tmp_path_factory.mktemp("plain") / "log") as engine:
        found = {seed: engine.generate(ids).tokens for seed, ids in PROMPTS.items()}
        return found | {"extended": engine.generate(EXTENDED).tokens}


@pytest.fixture
def node(tmp_path):
    with Node(tmp_path, memory="256MiB") as running:
        yield running


def store(node, engine, *seeds):
    """Has the engine compute prompts; what it generated, once the node has their pages."""
    before = node.counters["blocks"]
    found = {seed: engine.generate(PROMPTS[seed]) for seed in seeds}
    wait_until(
        lambda: node.counters["blocks"] >= before + STORED_PAGES * len(seeds), "the pages are stored", timeout_s=20
    )
    return found


def test_a_second_process_goes_on_from_what_the_first_stored(model, tokens, node, tmp_path):
    prefixes = {"hicache_storage_pass_prefix_keys": True}
    with EngineProcess(model, tmp_path / "first", node.url, settings=prefixes) as engine:
        for seed, answer in store(node, engine, 1, 2, 3).items():
            assert answer.stored_tokens == 0
            assert answer.tokens == tokens[seed]
    with EngineProcess(model, tmp_path / "second", node.url, settings=prefixes, enable_metrics=True) as engine:
        salted = engine.generate(PROMPTS[1], cache_salt="pepper")
        assert (salted.stored_tokens, salted.tokens) == (0, tokens[1])
        for seed in (1, 2):
            answer = engine.generate(PROMPTS[seed])
            assert answer.stored_tokens == STORED_TOKENS
            assert answer.backend == "KVStoreHiCache"
            assert answer.tokens == tokens[seed]
        assert engine.generate(EXTENDED).tokens == tokens["extended"]

        node.freeze()
        answer = engine.generate(PROMPTS[3])
        assert (answer.stored_tokens, answer.tokens) == (0, tokens[3])
        node.thaw()
        node.kill()
        answer = engine.generate(PROMPTS[4])
        assert (answer.stored_tokens, answer.tokens) == (0, tokens[4])


def test_what_is_loaded_is_used(model, tokens, node, tmp_path):
    zeros = {"module": "tests.engines.sglang.storing_zeros", "name": "StoringZeros"}
    with EngineProcess(model, tmp_path / "first", node.url, **zeros) as engine:
        assert store(node, engine, 1)[1].tokens == tokens[1]
    with EngineProcess(model, tmp_path / "second", node.url) as engine:
        answer = engine.generate(PROMPTS[1])
        assert answer.stored_tokens == STORED_TOKENS
        assert answer.tokens != tokens[1]


def test_an_engine_starts_without_a_node_and_finds_it_later(model, tokens, node, tmp_path):
    node.kill()
    with EngineProcess(model, tmp_path / "engine", node.url, settings={"interface_v1": 0}) as engine:
        assert engine.generate(PROMPTS[5]).tokens == tokens[5]
        node.start()
        wait_until(lambda: node.counters["sessions_open"] >= 3, "the engine reaches the node", timeout_s=20)
        assert store(node, engine, 6)[6].tokens == tokens[6]
    with EngineProcess(model, tmp_path / "second", node.url, settings={"interface_v1": 0}) as engine:
        answer = engine.generate(PROMPTS[6])
        assert answer.stored_tokens == STORED_TOKENS
        assert answer.tokens == tokens[6]


def test_ranks_agree_on_what_they_find(model, tokens, node, tmp_path):
    """Each of two ranks stores its heads; without one rank's pages there is no hit."""
    with EngineProcess(model, tmp_path / "first", node.url, tp_size=2) as engine:
        answer = engine.generate(PROMPTS[1])
        assert (answer.stored_tokens, answer.tokens) == (0, tokens[1])
        wait_until(lambda: node.counters["blocks"] >= 2 * STORED_PAGES, "both ranks' pages are stored", timeout_s=20)
    with EngineProcess(model, tmp_path / "second", node.url, tp_size=2) as engine:
        answer = engine.generate(PROMPTS[1])
        assert (answer.stored_tokens, answer.tokens) == (STORED_TOKENS, tokens[1])
