"""What a learner has solved so far, in a file that each check and each grading writes to."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from course_lib.grading.saving import save_bytes

ROOT = Path(__file__).resolve().parents[2]
FORMAT = 1


@dataclass(frozen=True)
class Record:
    """What is known of one exercise.

    Attributes:
        earned: the points of the newest attempt.
        best: the most points so far.
        points: what there was to get.
        attempts: how often it was judged since the stub was replaced.
        when: the newest attempt, in ISO 8601.
    """

    earned: int
    best: int
    points: int
    attempts: int
    when: str

    @property
    def solved(self) -> bool:
        """Whether all points were earned at some time."""
        return self.best >= self.points > 0


def progress_file() -> Path:
    """Return the file: `$COURSE_PROGRESS`, else `progress.json` in the checkout."""
    override = os.environ.get("COURSE_PROGRESS")
    return Path(override).expanduser() if override else ROOT / "progress.json"


def read_progress(path: Path | None = None) -> dict[str, Record]:
    """Return the records by exercise; none where there is no file, or one that cannot be read."""
    path = path or progress_file()
    try:
        return _parse(path.read_bytes())
    except (OSError, ValueError):
        return {}


def record(results: Mapping[str, tuple[int, int]], path: Path | None = None) -> None:
    """Add one attempt at each of these exercises; a file that cannot be read is kept beside the new one.

    Args:
        results: points earned and points that there are, by exercise.
        path: the file; `progress_file()` without it.

    Raises:
        OSError: the file cannot be written.
    """
    path = path or progress_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        records = _read_or_set_aside(path)
        when = datetime.now().astimezone().isoformat(timespec="seconds")
        for name, (earned, points) in results.items():
            before = records.get(name, Record(0, 0, points, 0, when))
            best = min(max(earned, before.best), points)
            records[name] = Record(earned, best, points, before.attempts + 1, when)
        content = {"format": FORMAT, "exercises": {name: asdict(records[name]) for name in sorted(records)}}
        save_bytes((json.dumps(content, indent=1) + "\n").encode(), path)


def _read_or_set_aside(path: Path) -> dict[str, Record]:
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        names = (path.with_name(f"{path.stem}.broken{n}{path.suffix}") for n in range(10_000))
        path.replace(next(name for name in names if not name.exists()))
        return {}


def _parse(content: bytes) -> dict[str, Record]:
    try:
        found: Any = json.loads(content)
        records = {str(name): Record(**values) for name, values in found["exercises"].items()}
        numbers = [
            n for record in records.values() for n in (record.earned, record.best, record.points, record.attempts)
        ]
        if found["format"] != FORMAT or not all(isinstance(number, int) for number in numbers):
            raise ValueError("another format")
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("not a progress file") from error
    return records


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder, so that two notebooks that are checked at once don't forget each other's points."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
