"""A run's folder: its decisions, its metrics and its checkpoints, whole at any moment."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class RunError(RuntimeError):
    """The run's folder does not allow what was asked; the message says what to do."""


def free_folder(runs: str | Path, name: str) -> Path:
    """Return `runs/<name>`, or the first of `runs/<name>-2`, `-3`, ... that is not taken; `$COURSE_RUNS` overrides `runs`."""
    parent = Path(os.environ.get("COURSE_RUNS") or runs)
    candidates = (parent / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(path for path in candidates if not path.exists())


def saved_decisions(path: str | Path, resume: bool) -> dict[str, Any] | None:
    """Return the decisions of the run in a folder that is to be resumed, or None for a new run.

    Raises:
        RunError: there is a run already and `resume` is False, or none that can be read and `resume` is True.
    """
    saved = Path(path) / "config.json"
    if not resume:
        if saved.exists():
            raise RunError(f"{path} already holds a run: resume it (resume=True, or --resume), or give another name.")
        return None
    if not saved.exists():
        raise RunError(f"{path} holds no run to resume: start it without resume, or check the name.")
    try:
        return dict(json.loads(saved.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{saved} can't be read ({error}): restore it, or give another name.") from error


class RunFolder:
    """`runs/<name>/`: config.json, metrics.jsonl (a line a step), samples.jsonl, checkpoints/, policy/.

    A checkpoint is written under another name and renamed when it is complete, so a name that ends in a step number is
    always whole; a line of metrics is only believed up to the checkpoint that a run resumes from.

    Args:
        path: the folder.
        config: JSON-ready decisions of the run, checked when it resumes.
        resume: go on with what is there. False refuses a folder that already holds a run.

    Raises:
        RunError: there is a run already and `resume` is False, or none and `resume` is True, or the run in the folder was
            made with other decisions, or the folder can't be written.
    """

    def __init__(self, path: str | Path, config: dict[str, Any], resume: bool = False):
        self.path = Path(path)
        saved = self.path / "config.json"
        before = saved_decisions(self.path, resume)
        if before is not None:
            self._require_same(before, config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.path} can't be made ({error.strerror}): give a folder that you can write to."
            ) from error
        _write(saved, json.dumps(config, indent=1))

    @property
    def metrics(self) -> Path:
        """The file of metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """The file of sample tables, one JSON object a line."""
        return self.path / "samples.jsonl"

    def append(self, file: Path, record: dict[str, Any]) -> None:
        """Add a line to one of the folder's files; it is on its way to the disk when this returns.

        Raises:
            RunError: the disk is full, or the folder is gone.
        """
        try:
            with file.open("a") as lines:
                lines.write(json.dumps(record) + "\n")
        except OSError as error:
            raise RunError(
                f"{file} can't be written ({error.strerror}): free space or restore the folder, then resume the run."
            ) from error

    def read(self, file: Path) -> list[dict[str, Any]]:
        """Return the records of one of the folder's files; a last line that was cut off by a crash is left out."""
        return list(_records(file)) if file.exists() else []

    def truncate(self, step: int) -> None:
        """Drop records of steps after `step`: a resumed run writes them again."""
        for file in (self.metrics, self.samples):
            kept = [record for record in self.read(file) if record["step"] <= step]
            _write(file, "".join(json.dumps(record) + "\n" for record in kept))

    def checkpoint(self, step: int, save: Callable[[Path], None], keep: int = 2) -> Path:
        """Write a checkpoint by `save(folder)`, give it its name when it is whole, and drop all but the newest `keep`.

        Raises:
            RunError: it can't be written; the checkpoints before it are untouched.
        """
        final = self.path / "checkpoints" / f"step_{step:06d}"
        partial = final.with_name(final.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            save(partial)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            shutil.rmtree(partial, ignore_errors=True)
            raise RunError(
                f"the checkpoint of step {step} could not be written: {error}. Free space on the disk of {self.path} and resume"
                f" the run from {self.newest_checkpoint() or 'its start'}."
            ) from error
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old)
        return final

    def checkpoints(self) -> list[Path]:
        """Return the folders of the whole checkpoints, oldest first."""
        return sorted(path for path in (self.path / "checkpoints").glob("step_*") if path.suffix != ".partial")

    def newest_checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint, or None."""
        return next(reversed(self.checkpoints()), None)

    def _require_same(self, before: dict[str, Any], config: dict[str, Any]) -> None:
        now = json.loads(json.dumps(config))
        differ = sorted(key for key in before.keys() | now.keys() if key != "steps" and before.get(key) != now.get(key))
        if differ:
            changes = ", ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in differ)
            raise RunError(
                f"{self.path} was started with other decisions ({changes}): resume it with the same, or give another name."
            )


def _records(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def _write(file: Path, text: str) -> None:
    """Replace a file's text in one step, so that a crash leaves the old text or the new."""
    draft = file.with_name(file.name + ".partial")
    try:
        draft.write_text(text)
        draft.replace(file)
    except OSError as error:
        raise RunError(
            f"{file} can't be written ({error.strerror}): free space or allow writing there, then try again."
        ) from error
