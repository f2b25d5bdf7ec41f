"""The trace: the same from our scheduler and from vLLM's, whole after a file, and true to what happened."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from course_lib.scheduling.comparable import comparable
from course_lib.scheduling.trace import Trace, first_difference, record
from course_lib.serving.probe import probe

from .conftest import VLLM, Ours
from .traces import difference, draw


def recorded(seed: int) -> Trace:
    """Run a trace's requests on our scheduler alone."""
    trace = draw(seed)
    ours = Ours(trace)
    found = record(ours.scheduler)
    difference(trace, ours, Ours(trace))
    return found


@pytest.mark.slow
def test_ours_and_vllms_are_equal(folder: str) -> None:
    for seed in range(20000, 20020):
        trace = draw(seed)
        ours, theirs = Ours(trace), VLLM(trace, folder)
        mine, other = record(ours.scheduler), probe(theirs.scheduler)
        assert not difference(trace, ours, theirs)
        assert first_difference(comparable(mine), comparable(other)) == ""


def test_a_file_gives_back_the_trace(tmp_path: Path) -> None:
    trace = recorded(3)
    trace.save(tmp_path / "trace.jsonl")
    again = Trace.load(tmp_path / "trace.jsonl")
    assert asdict(again) == asdict(trace)
    assert len((tmp_path / "trace.jsonl").read_text().splitlines()) == len(trace.steps) + 1


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]\n", json.dumps({"source": "x", "block_size": 1, "blocks": []}) + "\n{}\n"]
)
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_text(text)
    with pytest.raises(ValueError, match="is no trace"):
        Trace.load(tmp_path / "other")


def test_records_add_up() -> None:
    """Computed tokens are those before, plus the plan; blocks are free or in a table; admissions and endings pair up."""
    for seed in range(40):
        trace = recorded(seed)
        computed: dict[str, int] = {}
        for step in trace.steps:
            held = {block for table in step.tables.values() for block in table}
            assert held | set(step.free) == set(trace.blocks) and not held & set(step.free)
            for name in step.running:
                before = step.admitted.get(name, computed.get(name))
                assert before is not None
                assert step.requests[name].computed == before + step.plan.get(name, 0)
            computed = {name: step.requests[name].computed for name in step.running}
            assert set(step.sampled) <= set(step.plan) and set(step.finished) <= set(step.sampled)
            assert not set(step.preempted) & set(step.running)


def test_a_difference_is_named() -> None:
    one, other = recorded(5), recorded(5)
    assert first_difference(one, other) == ""
    other.steps[2].free.reverse()
    assert first_difference(one, other).startswith("step 2, free: course_lib has")
    other.steps[2].free.reverse()
    other.steps.pop()
    assert "took" in first_difference(one, other)
