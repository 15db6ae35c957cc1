"""The judging of eviction policies: benchmarks/replay on small traces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.replay.measure import BASELINE, DEFAULT, replay_all
from benchmarks.replay.synthetic import SYNTHETIC, synthetic_trace
from benchmarks.replay.table import policy_table, summary_table
from benchmarks.replay.trace import numbered, read_trace


class TestTrace:
    def test_blocks_are_numbered_as_they_appear(self) -> None:
        trace = numbered([[70, 8, 9], [70, 8], [3]])
        assert trace.blocks.tolist() == [0, 1, 2, 0, 1, 3]
        assert trace.lengths.tolist() == [3, 2, 1]
        assert trace.unique_blocks == 4

    def test_an_id_after_another_block_is_another_block(self) -> None:
        assert numbered([[1, 2], [2]]).blocks.tolist() == [0, 1, 2]

    def test_a_file_of_requests(self, tmp_path: Path) -> None:
        file = tmp_path / "trace.jsonl"
        file.write_text("\n".join(json.dumps({"timestamp": 0, "hash_ids": ids}) for ids in ([0, 1], [0, 2])))
        assert read_trace(file).blocks.tolist() == [0, 1, 0, 2]

    @pytest.mark.parametrize("line", ["{}", "[]", "not JSON", '{"hash_ids": ["x"]}'])
    def test_a_file_of_something_else(self, tmp_path: Path, line: str) -> None:
        file = tmp_path / "trace.jsonl"
        file.write_text('{"hash_ids": [0]}\n' + line)
        with pytest.raises(ValueError, match=r"trace\.jsonl:2 is not a request"):
            read_trace(file)

    def test_a_seed_is_a_trace(self) -> None:
        for name in SYNTHETIC:
            one, same, other = (synthetic_trace(name, requests=300, seed=seed) for seed in (1, 1, 2))
            assert np.array_equal(one.blocks, same.blocks)
            assert not np.array_equal(one.blocks, other.blocks)


@pytest.mark.parametrize("as_engines", [False, True], ids=["one stamp", "as engines"])
@pytest.mark.parametrize("name", sorted(SYNTHETIC))
def test_the_default_is_never_far_below_lru(name: str, as_engines: bool) -> None:
    # Half a point, and what chance does to so few requests where there is nothing to learn.
    tolerance = 0.015 if name == "uniform" else 0.005
    report = replay_all(name, synthetic_trace(name, requests=6000), as_engines=as_engines, percents=(2, 5, 10, 25, 50))
    assert report.worst(DEFAULT) > -tolerance
    for policy, figures in report.figures.items():
        for percent, figure in figures.items():
            assert figure.hit_ratio <= report.bounds[percent], policy


def test_the_default_is_far_above_lru_where_there_is_something_to_learn() -> None:
    report = replay_all("scans", synthetic_trace("scans", requests=6000))
    for percent in (1, 5, 10):
        closed = report.closed(DEFAULT, percent)
        assert closed is not None
        assert closed > 0.15


def test_the_tables_name_every_policy() -> None:
    report = replay_all("agents", synthetic_trace("agents", requests=1000), percents=(10, 50))
    assert policy_table(report).row_count == len(report.figures) + 1
    assert summary_table([report]).row_count == 1
    assert report.closed(BASELINE, 10) == 0
