"""What the page is fed with: files read as they grow, time without holes, samples and columns that keep what matters."""

import itertools
import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.viz.dashboard_charts import charts
from course_lib.viz.dashboard_data import FULL, LIVE, MOST_STEPS, dashboard_data, receipt_words
from course_lib.viz.dashboard_run import RunFiles
from course_lib.viz.dashboard_samples import grouped
from course_lib.viz.dashboard_time import IDLE, curves, timeline
from course_lib.viz.series import scalars
from tests.viz.conftest import receipt, step

PHASES = ["generate", "reward", "train", "sync", "evaluate", "checkpoint"]


@st.composite
def timed(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[bool]]:
    """Records with phases and gaps between them, and before which of them the clock began anew."""
    records, restarts, clock = [], [], draw(st.floats(0, 50))
    for number in range(draw(st.integers(1, 8))):
        restart = number > 0 and draw(st.integers(0, 4)) == 0
        clock = draw(st.floats(0, clock * 0.5)) if restart else clock
        spans = []
        for phase in draw(st.lists(st.sampled_from(PHASES), min_size=1, max_size=5)):
            clock += draw(st.sampled_from([0.0, 0.2, 3.0]))
            end = clock + draw(st.floats(0.01, 4))
            spans.append([phase, clock, end])
            clock = end
        kv = [[spans[0][1] + 0.001 * at, draw(st.floats(0, 1)), at, 0] for at in range(draw(st.integers(0, 30)))]
        records.append({"step": number, "timeline": spans, "kv": kv})
        restarts.append(restart)
    return records, restarts


@given(timed())
def test_time_has_no_holes_and_no_phase_is_lost(case: tuple[list[dict[str, Any]], list[bool]]) -> None:
    records, restarts = case
    steps, measured = timeline(records)
    assert measured
    assert steps[0][0].start == 0
    everything = [span for spans in steps for span in spans]
    for one, other in itertools.pairwise(everything):
        assert other.start == pytest.approx(one.end, abs=2e-3)
    for record, spans in zip(records, steps, strict=True):
        real = [span for span in spans if span.phase != IDLE]
        assert [span.phase for span in real] == [phase for phase, *_ in record["timeline"]]
        lengths = [end - start for _, start, end in record["timeline"]]
        assert [span.length for span in real] == pytest.approx(lengths, abs=1e-6)
    gaps = sum(
        max(0.0, later["timeline"][0][1] - before["timeline"][-1][2])
        for (before, later), restart in zip(itertools.pairwise(records), restarts[1:], strict=True)
        if not restart
    )
    gaps += sum(one[1] - other[2] for record in records for other, one in itertools.pairwise(record["timeline"]))
    assert sum(span.length for span in everything if span.phase == IDLE) >= gaps - 0.01
    if not any(restarts):
        assert sum(span.length for span in everything if span.phase == IDLE) == pytest.approx(gaps, abs=0.01)


@given(timed(), st.integers(1, 200))
def test_kv_use_keeps_its_peak_and_the_clock_of_the_phases(
    case: tuple[list[dict[str, Any]], list[bool]], limit: int
) -> None:
    records, _ = case
    steps, _ = timeline(records)
    found = curves(records, limit)
    assert sum(map(len, found)) <= max(limit, 8 * len(records))
    for record, spans, points in zip(records, steps, found, strict=True):
        if not record["kv"]:
            assert points == []
            continue
        assert max(used for _, used, *_ in points) == max(used for _, used, *_ in record["kv"])
        assert points == sorted(points, key=lambda point: point[0])
        begin = next(span.start for span in spans if span.phase != IDLE)
        assert all(begin - 1e-6 <= at <= begin + 0.001 * len(record["kv"]) + 1e-6 for at, *_ in points)


def test_an_old_run_has_its_phases_in_a_row_and_no_idle_time(make: SimpleNamespace) -> None:
    records = make.run(5)
    steps, measured = timeline(records)
    assert not measured
    assert [span.phase for span in steps[3]] == ["generate", "reward", "train", "sync"]
    assert sum(span.length for span in steps[3]) == pytest.approx(records[3]["seconds"]["step"])
    assert {span.phase for spans in steps for span in spans} == {"generate", "reward", "train", "sync", "evaluate"}
    for one, other in itertools.pairwise(span for spans in steps for span in spans):
        assert other.start == pytest.approx(one.end)


@given(places=st.lists(st.floats(0, 1), max_size=6))
def test_a_growing_file_is_read_as_a_whole_one(places: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("run")
    records = [{"step": number, "reward": number / 7, "what": "ä\u2028" * number} for number in range(5)]
    whole = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    cuts = sorted(round(place * len(whole)) for place in places)
    (folder / "metrics.jsonl").write_bytes(b"")
    files = RunFiles(folder)
    for start, end in itertools.pairwise([0, *cuts, len(whole)]):
        with (folder / "metrics.jsonl").open("ab") as file:
            file.write(whole[start:end])
        files.refresh()
        assert files.records == records[: whole[:end].count(b"\n")]
    assert files.records == RunFiles(folder).records == records


def test_what_a_crash_cut_off_is_left_out(runs: SimpleNamespace, tmp_path: Path) -> None:
    folder = runs.write(tmp_path / "run", 3)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    (folder / "config.json").write_text('{"steps"')
    files = RunFiles(folder)
    assert [record["step"] for record in files.records] == [0, 1, 2, 3]
    assert files.config == {}
    assert repr(files) == "RunFiles(run, 4 records, samples of 3 steps)"


def test_a_file_that_a_resumed_run_cut_is_read_anew(runs: SimpleNamespace, tmp_path: Path) -> None:
    folder = runs.write(tmp_path / "run", 6)
    files = RunFiles(folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:4]) + json.dumps({"step": 4, "reward": -1}) + "\n")
    files.refresh()
    assert files.records[4] == {"step": 4, "reward": -1}


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no run: expected a folder with config\.json and metrics\.jsonl"):
        RunFiles(tmp_path)
    assert RunFiles(tmp_path / "to come").records == []


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 40), st.integers(0, 99))
def test_samples_are_thinned_by_group(runs: SimpleNamespace, prompts: int, each: int, limit: int, seed: int) -> None:
    line = runs.samples(20, random.Random(seed), prompts, each)
    shown = grouped(line, limit)
    assert (shown["version"], shown["total"]) == (19, prompts * each)
    chosen = [(group["question"], sample) for group in shown["groups"] for sample in group["samples"]]
    share = limit if prompts == 1 else max(1, limit // 2)
    assert 1 <= len(chosen) <= min(limit, prompts * each)
    assert len(shown["groups"]) >= min(2, prompts, limit)
    signal = [any(sample["advantage"] for sample in group["samples"]) for group in shown["groups"]]
    learning = sum(
        any(row["advantage"] for row in rows)
        for _, rows in itertools.groupby(line["samples"], key=lambda row: row["question"])
    )
    assert signal == sorted(signal, reverse=True)
    assert sum(signal) == min(learning, len(signal))
    for group in shown["groups"]:
        rows = [row for row in line["samples"] if row["question"] == group["question"]]
        texts = [(row["tokens"]["text"], row["reward"]) for row in rows]
        mine = [(sample["tokens"]["text"], sample["reward"]) for sample in group["samples"]]
        rest = iter(texts)
        assert all(one in rest for one in mine), "in their order"
        assert max(row["reward"] for row in rows) == max(reward for _, reward in mine), "the best is there"
        if share > 1 and len(mine) > 1:
            assert {max(row["reward"] for row in rows), min(row["reward"] for row in rows)} == {
                max(reward for _, reward in mine),
                min(reward for _, reward in mine),
            }
    for _, sample in chosen:
        tokens = sample["tokens"]
        assert {len(values) for values in tokens.values()} == {len(tokens["text"])}
        assert ("trained" in tokens) == bool(sample["advantage"])


@pytest.mark.parametrize("limits", [LIVE, *FULL])
def test_data_are_strict_json_whatever_a_run_lacks(limits: Any, make: SimpleNamespace, tmp_path: Path) -> None:
    odd = [
        make.measurement(),
        make.idle(1),
        make.step(
            2,
            reward=math.nan,
            entropy=math.inf,
            mismatch=None,
            receipt=make.receipt(2, math.nan),
            seconds={"train": math.nan},
        ),
        make.step(3, receipt=None, seconds={}),
        {"step": 4},
    ]
    for place, records in enumerate([odd, [], [make.measurement()], make.run(3)]):
        files = RunFiles(None)
        for record in records:
            files.add(record)
        data = json.loads(json.dumps(dashboard_data([files], limits), allow_nan=False))
        (run,) = data["runs"]
        counted = {len(run[name]) for name in ("steps", "spans", "kv", "receipts", "notes")} | set(
            map(len, run["columns"].values())
        )
        assert counted == {len(records)}, place


def test_a_long_run_is_thinned_but_keeps_what_failed(make: SimpleNamespace) -> None:
    files = RunFiles(None)
    for number in range(1, 3 * MOST_STEPS):
        failed = number == 1001
        files.add(
            {"step": number, "reward": 0.5, "receipt": make.receipt(number, culprit="no sync" if failed else None)}
            | ({"held_out": 0.7} if number == 902 else {})
        )
    (run,) = dashboard_data([files], LIVE)["runs"]
    assert len(run["steps"]) <= MOST_STEPS + 3
    assert run["steps"] == sorted(set(run["steps"]))
    assert run["left_out"] == 3 * MOST_STEPS - 1 - len(run["steps"])
    assert {1, 902, 1001, 3 * MOST_STEPS - 1} <= set(run["steps"])
    ok, words = run["receipts"][run["steps"].index(1001)]
    assert not ok
    assert "FAILED: no sync" in words


def test_columns_are_the_records_numbers(make: SimpleNamespace) -> None:
    files = RunFiles(None)
    for record in make.run(9):
        files.add(record)
    (run,) = dashboard_data([files], LIVE)["runs"]
    for place, record in enumerate(files.records):
        flat = scalars(record) | ({"tokens_per_second": None} if not record["step"] else {})
        for key, values in run["columns"].items():
            if not key.endswith("~"):
                expected = flat.get(key)
                assert values[place] == (None if expected is None else pytest.approx(expected, rel=1e-4))


@given(
    st.sets(
        st.sampled_from(["reward", "held_out", "entropy", "ratio_min", "receipt/gap", "reward_parts/brief", "other"])
    )
)
def test_charts_hold_only_what_was_measured(keys: set[str]) -> None:
    drawn = [line.key for chart in charts(keys) for line in chart.lines]
    assert sorted(drawn) == sorted(keys - {"other"})
    assert all(chart.title and chart.unit and chart.about for chart in charts(keys))


def test_scalars_are_flat() -> None:
    record = {
        "step": 3,
        "applied": True,
        "loss": None,
        "receipt": {"gap": 0.5, "stale": [], "seconds": {"check": 1}},
        "timeline": [[1]],
        "text": "x",
    }
    assert scalars(record) == {"step": 3.0, "applied": 1.0, "receipt/gap": 0.5, "receipt/seconds/check": 1.0}


def test_a_receipt_speaks_in_its_own_words() -> None:
    clean = receipt_words(receipt(7, 0.05))
    assert clean.startswith("weights 7 clean. 273 of 273 tensors equal")
    assert "gap 0.0500 nats, noise floor 0.0450" in clean
    failed = receipt_words(receipt(8, math.nan, "stale lm_head: the old one"))
    assert failed.startswith("weights 8 FAILED: stale lm_head: the old one. 272 of 273")
    assert "nan" not in failed


def test_what_went_wrong_is_noted(runs: SimpleNamespace, tmp_path: Path) -> None:
    files = RunFiles(runs.write(tmp_path / "run", 8, failed=5, refused=3))
    idle = next(value for label, value, _ in dashboard_data([files], LIVE)["runs"][0]["facts"] if label == "idle")
    assert float(idle.removesuffix("%")) == pytest.approx(
        100 * 7 * 0.5 / (files.records[-1]["timeline"][-1][2] - 1), abs=0.06
    )
    files.add(step(9, reward_faults=2))
    (run,) = dashboard_data([files], LIVE)["runs"]
    assert run["notes"][3] == ["loss or gradient was not finite: the step was refused"]
    assert run["notes"][9] == ["the reward failed on 2 samples"]
    told = {label: (value, mood) for label, value, mood in run["facts"]}
    assert told["receipts"] == ("8 of 9 clean", "bad")
    assert told["refused steps"] == ("1", "bad")
    assert told["reward faults"] == ("2", "bad")
    assert told["steps"] == ("9 of 8", "")
