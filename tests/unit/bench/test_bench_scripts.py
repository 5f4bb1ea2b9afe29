"""The parts of the `benchmarks` folder that work without a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.make_model import CONTROLS, SHAPE, byte_characters, merges, tokenizer
from benchmarks.overhead import open_at_once
from benchmarks.results import Goal, Result, write_result
from openllm.bench.settings import RequestRecord


def test_the_model_has_135_million_parameters() -> None:
    assert round(SHAPE.parameters() / 1e6) == 135


def test_the_vocabulary_is_a_whole_byte_level_bpe() -> None:
    found = tokenizer()
    ids = found["model"]["vocab"]
    assert list(ids.values()) == list(range(49_152))
    assert [entry["content"] for entry in found["added_tokens"]] == list(CONTROLS)
    known = set(byte_characters())
    assert len(known) == 256
    for first, second in merges():
        assert first in known
        assert second in known
        known.add(first + second)
    assert known | set(CONTROLS) == set(ids)
    assert all(text.isprintable() for text in known)


def test_streams_open_at_once() -> None:
    spans = [(0.0, 2.0), (1.0, 2.0), (2.0, 1.0), (5.0, 1.0)]
    records = [RequestRecord(start=start, latency=length) for start, length in spans]
    assert open_at_once(records) == 2
    assert open_at_once([]) == 0


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal("ratio", 0.97, 0.97, at_least=True), True),
        (Goal("ratio", 0.96, 0.97, at_least=True), False),
        (Goal("ms", 2.0, 2.0), True),
        (Goal("ms", 2.1, 2.0), False),
        (Goal("ms", float("nan"), 2.0), False),
    ],
)
def test_goals_are_met_or_not(goal: Goal, met: bool) -> None:
    assert goal.met is met


def test_results_are_written_with_their_goals(tmp_path: Path) -> None:
    result = Result("sample", [Goal("ms", 3.0, 2.0, "ms")], {"ms": 3.0}, {"raw": [3.0]})
    found = json.loads(write_result(result, tmp_path / "new").read_text())
    assert found["schema"] == "openllm-benchmarks/1"
    assert found["goals"][0]["met"] is False
    assert found["data"] == {"raw": [3.0]}


def test_an_unknown_benchmark_is_told_with_those_there_are() -> None:
    done = CliRunner().invoke(main, ["nothing"])
    assert done.exit_code == 2
    for name in ("overhead", "download", "vllm_serve"):
        assert f"'{name}'" in done.stderr
