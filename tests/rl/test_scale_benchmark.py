"""The scaling benchmark: real loops on one rank and on two, the arithmetic of a row, and combinations that can't run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from course_lib.rl import scale_benchmark, scale_rank
from course_lib.rl.scale_benchmark import COLUMNS, ScaleCase, ScaleWork, add_efficiency, bench_scale, row_of, rows
from course_lib.training.launch import cores

WORK = ScaleWork(steps=4, prompts=4, samples=4, max_new_tokens=8, micro_batch_tokens=512)
SECONDS = st.floats(1e-3, 1e3)


@pytest.mark.slow
@pytest.mark.skipif(cores() < 2, reason="two ranks want two cores")
def test_one_rank_and_two_do_the_same_work(tiny: Path) -> None:
    events: list[str] = []
    record = bench_scale(tiny, WORK, (2, 1), (2,), limit=200, on_event=events.append)
    one, two = record["rows"]
    assert (one["ranks"], two["ranks"]) == (1, 2)
    weights = load_file(tiny / "model.safetensors")
    for row in (one, two):
        assert "error" not in row
        assert row["trained"] == row["clean_receipts"] == len(row["seconds"]) == len(row["rewards"]) == WORK.steps
        assert row["sync"]["bytes"] == sum(weight.nbytes for weight in weights.values())
        assert row["step"] in row["seconds"][3:]
        assert row["sync"]["reload"] + row["sync"]["check"] <= sum(row["phases"].values()) <= row["step"]
        assert row["memory"]["most"] >= row["memory"]["train"] > 0
    assert one["rewards"][0] == pytest.approx(two["rewards"][0])  # the same samples, before rounding parts the policies
    assert one["efficiency"] == 1
    assert two["efficiency"] == pytest.approx(one["step"] / (2 * two["step"]))
    assert all(len(line) == len(COLUMNS) for line in rows(record))
    assert len(events) == 4
    json.dumps(record)


def test_a_combination_that_fails_or_hangs_is_an_error_of_its_own(tmp_path: Path, tiny: Path) -> None:
    record = bench_scale(tmp_path, WORK, (1,), (2,), limit=100)
    assert "rank 0" in record["rows"][0]["error"]
    assert rows(record)[0][:2] == ["1 x ZeRO-2", "failed"]
    assert "0.5 s" in bench_scale(tiny, WORK, (1,), (2,), limit=0.5)["rows"][0]["error"]
    many = cores() + 1
    record = bench_scale(tiny, replace(WORK, prompts=many), (many,), (2,), limit=100)
    assert f"{many} ranks on" in record["rows"][0]["error"]


@pytest.mark.parametrize(
    ("ranks", "stages", "change", "message"),
    [
        ((), (2,), {}, "at least one of each"),
        ((1,), (), {}, "at least one of each"),
        ((0, 1), (2,), {}, "from 1 rank"),
        ((1, 5), (2,), {}, "as many as there are prompts"),
        ((1,), (4,), {}, "zero_stage is 4"),
        ((1,), (2, 0), {"offload": True}, "offload_optimizer needs a ZeRO stage"),
    ],
)
def test_bad_input_is_one_clear_message_before_anything_starts(
    tmp_path: Path, ranks: tuple[int, ...], stages: tuple[int, ...], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        bench_scale(tmp_path, replace(WORK, **change), ranks, stages)
    with pytest.raises(ValueError, match="3 warm up"):
        ScaleWork(steps=3)


def test_weak_scaling_gives_each_rank_the_work_of_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[ScaleCase] = []

    def measure(_folder: Path, _work: ScaleWork, case: ScaleCase, _limit: float) -> dict[str, Any]:
        seen.append(case)
        return {"step": 1.0}

    monkeypatch.setattr(scale_benchmark, "_measure", measure)
    found = bench_scale(tmp_path, WORK, (1, 4), (3,), weak=True)["rows"]
    assert seen == [ScaleCase(1, 3), ScaleCase(4, 3), ScaleCase(4, 3, "weak")]
    assert [row["prompts"] for row in found] == [4, 4, 16]
    assert [row["efficiency"] for row in found] == [1, 0.25, 1]


@given(alone=SECONDS, times=st.integers(2, 64), stage=st.integers(0, 3))
def test_perfect_scaling_is_an_efficiency_of_one(alone: float, times: int, stage: int) -> None:
    one = {"ranks": 1, "zero_stage": stage, "scaling": "strong", "step": alone}
    strong = one | {"ranks": times, "step": alone / times}
    weak = one | {"ranks": times, "scaling": "weak"}
    unknown = strong | {"zero_stage": stage + 1}  # of another stage, which one rank did not take
    failed = {"ranks": times, "zero_stage": stage, "scaling": "weak", "error": "no"}
    add_efficiency([strong, weak, one, unknown, failed])
    assert strong["efficiency"] == pytest.approx(1)
    assert weak["efficiency"] == one["efficiency"] == 1
    assert "efficiency" not in unknown
    assert "efficiency" not in failed


def rank(seconds: list[float], held: dict[str, int], trainer: int) -> dict[str, Any]:
    step = {"phases": {"train": 0.5}, "tokens": 60, "reload": 0.25, "check": 0.1, "trained": True, "clean": True}
    steps = [step | {"seconds": value, "reward": 0.5} for value in seconds]
    return {"steps": steps, "held": held, "trainer": trainer, "bytes": 1000, "copy_bandwidth": 16_000.0}


@given(warm=st.lists(SECONDS, min_size=3, max_size=3), counted=st.lists(SECONDS, min_size=1, max_size=9))
def test_steps_that_warm_up_do_not_count(warm: list[float], counted: list[float]) -> None:
    held = {"generate": 3 << 30, "train": 1 << 30}
    row = row_of([rank(warm + counted, held, 0)])
    assert row == row_of([rank([9e9] * 3 + counted, held, 0)]) | {"seconds": warm + counted}
    assert min(counted) <= row["step"] <= max(counted)
    assert min(counted) <= 60 / row["tokens_per_second"] * (1 + 1e-9)


def test_memory_is_the_fullest_rank_s_and_a_copied_byte_is_read_and_written() -> None:
    first = rank([1.0] * 5, {"generate": 3 << 30, "train": 1 << 30}, 2 << 30)
    row = row_of([first, rank([1.0] * 5, {"generate": 2 << 30, "train": 4 << 30}, 1 << 30)])
    assert row["memory"] == {"generate": 3, "train": 4, "most": 4, "trainer": 2}
    assert row["sync"]["bytes_per_second"] == 4000
    assert row["sync"]["of_copy"] == 0.5


def test_what_is_held_is_noted_at_the_end_of_each_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([5, 7, 9, 4])
    monkeypatch.setattr(scale_rank, "_held", lambda: next(sizes))
    held = scale_rank.Held()
    for name in ("generate", "train"):
        held.phase(name)
    held.end()
    held.end()  # none runs
    assert held.held == {"generate": 5, "train": 7}
    for name in ("generate", "train"):
        held.phase(name)
    held.end()
    assert held.held == {"generate": 9, "train": 7}


def test_the_reward_tells_any_two_texts_apart_by_their_letters() -> None:
    assert scale_rank.early_letters([], ["", "AbZz", "mn", "12"]) == [0, 0.5, 0.5, 0]
