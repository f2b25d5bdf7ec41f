"""The progress file: what was reached stays reached, whatever happens to the file."""

import json
import multiprocessing
from pathlib import Path

import pytest

from course_lib.grading.progress import Record, read_progress, record


def test_the_best_attempt_counts(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "progress.json"
    for earned in (4, 10, 0):
        record({"01.x": (earned, 10)}, path)
    found = read_progress(path)["01.x"]
    assert (found.earned, found.best, found.points, found.attempts, found.solved) == (0, 10, 10, 3, True)


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "none.json") == {}


BROKEN = [
    b"",
    b"{",
    b"[]",
    b'{"format": 2, "exercises": {}}',
    b'{"format": 1, "exercises": {"01.x": {}}}',
    b'{"format": 1, "exercises": {"01.x": 3}}',
    b'{"format": 1, "exercises": []}',
    b"\xff\xfe",
    b"[" * 100_000,
    json.dumps({"format": 1, "exercises": {"x": vars(Record(1, 1, 1, 1, "")) | {"best": "many"}}}).encode(),
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_file_is_kept_aside(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    for number in range(2):
        path.write_bytes(content)
        assert read_progress(path) == {}
        record({"01.x": (1, 2)}, path)
        assert read_progress(path)["01.x"].best == 1
        assert (tmp_path / f"progress.broken{number}.json").read_bytes() == content


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "progress.json"
    record({"01.x": (1, 2)}, path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        record({"01.x": (2, 2)}, path)
    assert read_progress(path)["01.x"].best == 1
    assert len(list(tmp_path.iterdir())) == 1


def add(path: Path, name: str) -> None:
    for _ in range(20):
        record({name: (1, 1)}, path)


def test_notebooks_that_are_checked_at_once_forget_nothing(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    processes = [multiprocessing.get_context("fork").Process(target=add, args=(path, f"01.{n}")) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert {name: found.attempts for name, found in read_progress(path).items()} == {f"01.{n}": 20 for n in range(4)}
