"""kill -9 at nasty moments and at any: the next start goes on as if nothing had happened. See `course_lib.rl.kill_points`."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from course_lib.rl import RLLoop
from course_lib.rl.kill_child import MOMENTS, Life, early_letters
from course_lib.rl.kill_points import Ended, Point, differences, live

STEPS = 6


@pytest.fixture(scope="module")
def undisturbed(make_loop: Callable[..., RLLoop], quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in this process that nothing disturbs."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    loop_of(make_loop, run).run(quiet())
    return run


def loop_of(make_loop: Callable[..., RLLoop], run: Path, resume: bool = False) -> RLLoop:
    life = Life(str(run))
    numbers = {"steps": STEPS, "evaluate_every": life.loop.evaluate_every, "checkpoint_every": life.checkpoint_every}
    return make_loop(run, resume=resume, reward=early_letters, **numbers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "signal", "from_step"),
    [
        ("in the middle of a line of metrics", "SIGXFSZ", 2),
        ("in the middle of a checkpoint's first file", "SIGXFSZ", 2),
        ((14, 0.1), "SIGKILL", None),  # in the third step, or soon after
    ],
)
def test_killed_run_resumes(
    moment: str | tuple[int, float],
    signal: str,
    from_step: int | None,
    undisturbed: Path,
    make_loop: Callable[..., RLLoop],
    quiet: Any,
    tmp_path: Path,
) -> None:
    """The process that dies is one of its own; this one resumes what it left, with a new trainer."""
    run = tmp_path / "run"
    life = Life(str(run), moment=moment if isinstance(moment, str) else None)
    killed = live(life, tmp_path / "log", moment if isinstance(moment, tuple) else None)
    assert killed.signal == signal
    resumed = loop_of(make_loop, run, resume=True)
    if from_step is not None:
        assert resumed.completed == from_step
    resumed.run(quiet())
    assert list(differences(run, undisturbed)) == []


def damaged(run: Path) -> Iterator[tuple[str, Path]]:
    """Yield runs that something was lost of, and what."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        lines = (run / name).read_text().splitlines(keepends=True)
        changed = json.loads(lines[3])
        changed.pop("reward" if name == "metrics.jsonl" else "samples")
        for what, text in {
            "lost": lines[:2] + lines[3:],
            "twice": lines[:3] + lines[2:],
            "cut": [*lines[:-1], lines[-1][:-9]],
            "other": [*lines[:3], json.dumps(changed) + os.linesep, *lines[4:]],
        }.items():
            copy = run.parent / f"{name}-{what}"
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
            (copy / name).write_text("".join(text))
            yield name, copy


@pytest.mark.slow
def test_what_is_lost_is_a_difference(undisturbed: Path) -> None:
    assert list(differences(undisturbed, undisturbed)) == []
    for name, copy in damaged(undisturbed):
        found = list(differences(copy, undisturbed))
        assert found and found[0].startswith(name), copy


def test_a_second_of_one_run_is_a_place_in_another() -> None:
    run = Ended(None, "checkpoint", 6, 9.0, (0.25, 1.0, 4.0))
    assert [run.place(second) for second in (0.25, 0.75, 1.0, 3.5, 8.0)] == [(1, 0), (1, 0.5), (2, 0), (2, 2.5), (3, 4)]
    assert run.place(0.0) == (1, -0.25)  # a timer takes that for at once


def test_a_point_in_words() -> None:
    killed = Ended("SIGKILL", "sync", 3, 1.5)
    assert str(Point(1.5, killed, 2)) == "SIGKILL at 1.50 s (after step 3, sync); from step 2: EQUAL"
    lost = Point(next(iter(MOMENTS)), killed, None, ["metrics.jsonl has the steps [0], not [0, 1]"])
    assert str(lost).endswith("from the beginning: DIFFERENT: metrics.jsonl has the steps [0], not [0, 1]")
