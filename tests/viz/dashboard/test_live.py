"""The dashboard in a notebook while the loop runs, its form without motion, and the views beside it."""

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from course_lib.viz import Dashboard, TensorBoardLog, Views, dashboard
from course_lib.viz.dashboard_run import RunFiles
from course_lib.viz.picture import unpack
from course_lib.viz.series import scalars


class _Handle:
    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, picture: Any) -> None:
        self.shown.append(picture.words())


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> _Handle:
    handle = _Handle()
    monkeypatch.setattr(
        dashboard, "display", lambda picture, display_id: handle.shown.append(picture.words()) or handle
    )
    return handle


def replay(view: Any, source: Path, target: Path, upto: int | None = None) -> None:
    """Drive a view as a loop does, which writes into `target` what a run wrote into `source`."""
    records = (source / "metrics.jsonl").read_text().splitlines(keepends=True)[:upto]
    samples = {json.loads(line)["step"]: line for line in (source / "samples.jsonl").read_text().splitlines(True)}
    view.started(len(records) - 1, 0)
    for text in records:
        record = json.loads(text)
        for phase in ("generate", "reward", "train", "sync"):
            view.phase(phase)
        for file, line in (("samples.jsonl", samples.get(record["step"], "")), ("metrics.jsonl", text)):
            with (target / file).open("a") as lines:
                lines.write(line)
        view.step(record)
    view.finished()


@pytest.fixture
def source(runs: SimpleNamespace, tmp_path: Path) -> Path:
    path: Path = runs.write(tmp_path / "run", 12, failed=7)
    return path


@pytest.fixture
def target(source: Path, tmp_path: Path) -> Path:
    path = tmp_path / "again" / "run"
    path.mkdir(parents=True)
    (path / "config.json").write_text((source / "config.json").read_text())
    return path


def data(board: Dashboard) -> dict[str, Any]:
    found: dict[str, Any] = unpack(board.payload["packed"])
    return found


def test_a_live_run_ends_as_the_finished_one(source: Path, target: Path, output: _Handle) -> None:
    board = Dashboard(refresh=0)
    board.attach(SimpleNamespace(run_folder=SimpleNamespace(path=target)))  # type: ignore[arg-type]
    seen: list[tuple[int, int]] = []
    board.observe(
        lambda _: seen.append((len(data(board)["runs"][0]["steps"]), len(data(board)["runs"][0]["samples"]))), "payload"
    )
    nows: list[str] = []
    board.observe(lambda change: nows.append(change["new"]), "now")
    board._next = math.inf  # nothing is drawn between, unless it is time
    replay(board, source, target)
    assert data(board) == data(Dashboard(source))
    assert len(output.shown) == 2, "one output, which is replaced once"
    assert "6 of 12" not in output.shown[1]
    assert "12 of 12" in output.shown[1]
    assert "step 7: weights 7 FAILED: stale lm_head" in output.shown[1]
    assert nows[:4] == [f"step 1 of 12: {name}" for name in ("generate", "reward", "train", "sync")]
    assert board.now == ""
    steps = [count for count, _ in seen]
    assert steps == sorted(steps)
    assert steps[0] == 0


def test_every_step_is_drawn_where_there_is_time(
    source: Path, target: Path, output: _Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "_REST", 0)
    board = Dashboard(target, refresh=0)
    seen: list[dict[str, Any]] = []
    board.observe(lambda _: seen.append(data(board)["runs"][0]), "payload")
    replay(board, source, target)
    assert [len(run["steps"]) for run in seen] == [0, *range(1, 14), *([13] if len(seen) > 14 else [])]
    for run in seen[2:]:
        assert run["samples"][str(run["steps"][-1])]["total"] == 16, "the newest step's samples are there at once"
        assert len(run["samples"]) <= max(6, 12 if run is seen[-1] else 0)


def test_drawing_leaves_the_loop_its_time(
    source: Path, target: Path, output: _Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(dashboard, "time", SimpleNamespace(monotonic=lambda: 0.01 * next(clock)))
    board = Dashboard(target, refresh=0)
    drawn: list[int] = []
    board.observe(lambda _: drawn.append(1), "payload")
    replay(board, source, target)
    # A look at the clock takes 10 ms here, and so does a drawing, after which nothing is drawn for 200 ms.
    assert 2 <= len(drawn) <= 3


def test_a_loop_that_does_not_attach_itself_is_drawn_without_samples(
    source: Path, target: Path, output: _Handle
) -> None:
    board = Dashboard(refresh=0)
    assert board.words().endswith("nothing has run yet")
    replay(board, source, target, upto=4)
    (run,) = data(board)["runs"]
    assert run["steps"] == [0, 1, 2, 3]
    assert run["samples"] == {}
    assert "this run: steps 3, reward" in board.words()


def test_a_run_that_resumes_shows_what_was_before(source: Path, output: _Handle) -> None:
    board = Dashboard(source, refresh=0)
    board.started(20, 12)
    board.step({"step": 13, "reward": 0.5})
    board.finished()
    (run,) = data(board)["runs"]
    assert run["steps"] == list(range(14))
    assert run["columns"]["reward"][13] == 0.5


@pytest.mark.parametrize("case", ["none", "step 0", "one step", "idle", "not finite", "long"])
@pytest.mark.filterwarnings("error")
def test_the_still_picture_stands_whatever_a_run_lacks(case: str, make: SimpleNamespace) -> None:
    cases = {
        "none": [],
        "step 0": [make.measurement()],
        "one step": [make.step(1)],
        "idle": [make.measurement(), make.idle(1), make.idle(2)],
        "not finite": [
            make.step(1, reward=math.nan, entropy=math.inf, receipt=make.receipt(1, math.nan)),
            make.step(2, seconds={"train": math.nan}),
        ],
        "long": make.run(150),
    }
    board = Dashboard()
    board._own = RunFiles(None)
    for record in cases[case]:
        board._own.add(record)
    figure = board.figure()
    figure.draw_without_rendering()
    assert all(math.isfinite(limit) for axes in figure.axes for limit in (*axes.get_ylim(), *axes.get_xlim()))
    assert "nan" not in board.words()


def test_the_still_picture_shows_phases_failures_and_both_runs(
    source: Path, runs: SimpleNamespace, tmp_path: Path
) -> None:
    other = runs.write(tmp_path / "other", 6)
    figure = Dashboard(source, other).figure()
    axes = {one.get_title(loc="left"): one for one in figure.axes}
    labels = {line.get_label() for line in axes["Reward and accuracy"].get_lines()}
    assert {"run: reward", "other: reward", "run: held-out accuracy"} <= labels
    (failed,) = (line for line in axes["Weight sync"].get_lines() if line.get_label() == "receipt failed")
    assert list(failed.get_xdata()) == [7]
    rows = [label.get_text() for label in axes["What ran when"].get_yticklabels()]
    assert rows == ["generate", "reward", "train", "sync", "evaluate", "checkpoint", "idle"]
    assert max(line.get_ydata().max() for line in axes[""].get_lines()) == pytest.approx(80, abs=1)


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refresh is -1"):
        Dashboard(refresh=-1)
    with pytest.raises(ValueError, match="holds no run"):
        Dashboard(tmp_path)


def test_tensorboard_gets_every_number_and_a_resumed_run_purges(make: SimpleNamespace, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TensorBoardLog(tmp_path / "board")
    records = make.run(6)
    log.started(6, 0)
    for record in records:
        log.step(record)
    log.finished()
    log.finished()  # twice does no harm
    read = EventAccumulator(str(tmp_path / "board"), size_guidance={"scalars": 0}).Reload()
    assert set(read.Tags()["scalars"]) == {name for record in records for name in scalars(record)} - {"step"}
    for name in ("reward", "receipt/gap", "seconds/train", "peak_memory/gpu"):
        expected = [(record["step"], scalars(record)[name]) for record in records if name in scalars(record)]
        found = [(event.step, event.value) for event in read.Scalars(name)]
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]
    again = TensorBoardLog(tmp_path / "board")
    again.started(6, 3)
    again.step(records[4] | {"reward": -5.0})
    again.finished()
    read = EventAccumulator(str(tmp_path / "board"), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in read.Scalars("reward")] == [1, 2, 3, 4]
    assert read.Scalars("reward")[-1].value == -5
    with pytest.raises(RuntimeError, match="before the run began"):
        TensorBoardLog(tmp_path).step(records[0])


def test_several_views_are_told_in_order(source: Path, target: Path, output: _Handle) -> None:
    told: list[tuple[Any, ...]] = []

    class Listener:
        def __init__(self, name: str):
            self.name = name

        def __getattr__(self, what: str) -> Any:
            if what == "attach" and self.name == "b":
                raise AttributeError(what)
            return lambda *values: told.append((self.name, what, *values))

    views = Views(Listener("a"), Listener("b"), board := Dashboard(refresh=0))
    loop = SimpleNamespace(run_folder=SimpleNamespace(path=target))
    views.attach(loop)
    assert told == [("a", "attach", loop)]
    replay(views, source, target, upto=3)
    assert [call[1:] for call in told if call[0] == "a"][1:] == [call[1:] for call in told if call[0] == "b"]
    assert told[1:3] == [("a", "started", 2, 0), ("b", "started", 2, 0)]
    assert told[-1] == ("b", "finished")
    assert len(data(board)["runs"][0]["samples"]) == 2
