"""A run's folder, killed before each of the times that it touches the disk, is a run that resumes."""

import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from course_lib.rl.run_folder import RunFolder

CONFIG = {"seed": 0, "steps": 4}
EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"}


def write(folder: Path, number: int) -> None:
    for name in ("one", "two"):
        (folder / name).write_text(str(number))


def a_life(run: RunFolder, first: int, told: int) -> None:
    """Four steps with a checkpoint each, the last one written twice; `told` gets a byte for each that is done."""
    run.truncate(first - 1)
    for step in range(first, 5):
        for file in (run.samples, run.metrics):
            run.append(file, {"step": step, "filling": "x" * 50})
        for _ in range(1 + (step == 4)):
            run.checkpoint(step, lambda folder, step=step: write(folder, step))
            os.write(told, bytes([step]))


def killed_before(event_number: int, path: Path) -> tuple[bool, int]:
    """Live a life that gets SIGKILL before it touches the disk for the n-th time. Return if it did, and the last checkpoint
    that it was told to be there."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            count += event in EVENTS
            if event in EVENTS and count == event_number:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(watch)
            a_life(RunFolder(path, CONFIG), 1, writer)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    return os.waitpid(child, 0)[1] == signal.SIGKILL, told[-1] if told else 0


@pytest.mark.slow  # 100 processes and some hundred waits for the disk
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # the child calls no thread's work
def test_killed_before_any_touch_of_the_disk(tmp_path: Path) -> None:
    """Every crash point of the folder's whole life: the checkpoint that was there is there, whole, with its records."""
    for number in itertools.count(1):
        path = tmp_path / str(number)
        killed, told = killed_before(number, path)
        if not killed:
            break
        if not (path / "config.json").exists():
            assert told == 0
            continue
        run = RunFolder(path, CONFIG, resume=True)
        newest = run.newest_checkpoint()
        step = int(newest.name[5:]) if newest else 0
        assert step >= told, number
        for checkpoint in run.checkpoints():
            assert [(checkpoint / name).read_text() for name in ("one", "two")] == [str(int(checkpoint.name[5:]))] * 2
        for file in (run.metrics, run.samples):
            assert [record["step"] for record in run.read(file)][:step] == list(range(1, step + 1))
        a_life(run, step + 1, os.open(os.devnull, os.O_WRONLY))
        assert [record["step"] for record in run.read(run.metrics)] == [1, 2, 3, 4]
        if step < 4:
            assert [entry.name for entry in sorted((path / "checkpoints").iterdir())] == ["step_000003", "step_000004"]
    assert number > 60
