"""A run's folder: its decisions, its metrics and its checkpoints, whole at any moment."""

import errno
import itertools
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from course_lib.rl.durable import append_line, json_lines, replace_text, sync, sync_tree

# A run may resume with another number of steps, and with other settings that decide memory and not what is computed.
_FREE = {"steps"} | {
    f"trainer.{name}" for name in ("micro_batch_tokens", "gradient_checkpointing", "offload_optimizer", "offload_param")
}


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

    What survives: a killed process loses nothing but the step that it was in. Its checkpoint is written under another name
    and renamed when it is complete, so a name that ends in a step number is always whole, and the run has one at any moment
    from the first on. Records after the checkpoint that a run resumes from are dropped, as the resumed run writes them again.
    A power cut may take the newest checkpoint too; it is found to be damaged, and the one before is on the disk: that is
    waited for before the next older one is dropped.

    One process writes. Others may read, and hold a copy of this object.

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
        before = saved_decisions(self.path, resume)
        if before is not None:
            self._require_same(before, config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._tidy()
        except OSError as error:
            raise RunError(
                f"{self.path} can't be made ({error.strerror}): give a folder that you can write to."
            ) from error
        self._replace(self.path / "config.json", json.dumps(config, indent=1))

    @property
    def metrics(self) -> Path:
        """The file of metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """The file of sample tables, one JSON object a line."""
        return self.path / "samples.jsonl"

    def append(self, file: Path, record: dict[str, Any]) -> None:
        """Add a line to one of the folder's files; a process that is killed after this has not lost it.

        Raises:
            RunError: the disk is full, or the folder is gone. The lines before are untouched.
        """
        try:
            append_line(file, json.dumps(record))
        except OSError as error:
            raise RunError(
                f"{file} can't be written ({error.strerror}): {_remedy(error)}, then resume the run."
            ) from error

    def read(self, file: Path) -> list[dict[str, Any]]:
        """Return the records of one of the folder's files; what a crash cut off or a disk damaged is left out."""
        return [record for _, record in json_lines(file) if record is not None] if file.exists() else []

    def truncate(self, step: int) -> None:
        """Drop the records of steps after `step` from all files of records: a resumed run writes them again.

        Of a file with a line that can't be read a copy is kept beside it, unless that is the last line: a killed process
        leaves one cut off.
        """
        for file in sorted({self.metrics, self.samples, *self.path.glob("*.jsonl")}):
            lines = list(json_lines(file)) if file.exists() else []
            if any(record is None for _, record in lines[:-1]):
                copy = shutil.copy2(file, file.with_name(file.name + ".damaged"))
                print(f"{file} has lines that can't be read; a copy of it is {copy}.", file=sys.stderr)
            kept = [line for line, record in lines if record is not None and record.get("step", step) <= step]
            self._replace(file, "".join(f"{line.decode()}\n" for line in kept))

    def checkpoint(self, step: int, save: Callable[[Path], None], keep: int = 2) -> Path:
        """Write a checkpoint by `save(folder)`, give it its name when it is whole, and drop all but the newest `keep`.

        Raises:
            RunError: it can't be written; the checkpoints before it are untouched.
        """
        final = self.path / "checkpoints" / f"step_{step:06d}"
        partial = _named(final, "partial")
        try:
            self._tidy()
            partial.mkdir()
            save(partial)
            for file in (self.metrics, self.samples):
                if file.exists():
                    sync(file)  # the disk never has a checkpoint without the records of its steps
            if final.exists():
                final.rename(_named(final, "replaced"))
            partial.rename(final)
            self._drop(keep)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            shutil.rmtree(partial, ignore_errors=True)
            raise RunError(
                f"the checkpoint of step {step} could not be written: {error}. {_remedy(error).capitalize()} ({self.path}) and"
                f" resume the run from {self.newest_checkpoint() or 'its start'}."
            ) from error
        return final

    def checkpoints(self) -> list[Path]:
        """Return the folders of the whole checkpoints, oldest first."""
        folder = self.path / "checkpoints"
        return sorted(path for path in folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name))

    def newest_checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint, or None."""
        return next(reversed(self.checkpoints()), None)

    def set_aside(self, checkpoint: Path, damage: object) -> None:
        """Rename a checkpoint that is damaged, so that the run goes on from the one before it, and say so.

        Args:
            checkpoint: its folder.
            damage: what is wrong with it.

        Raises:
            RunError: there is none before it.
        """
        aside = _named(checkpoint, "damaged")
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
        before = self.newest_checkpoint()
        if before is None:
            raise RunError(
                f"{damage}\nThe run has no other checkpoint. This one is now {aside}: put a good copy in the place of"
                f" {checkpoint}, or resume once more to start again at step 0 (the same seed gives the same run)."
            )
        print(
            f"{damage}\nThe run goes on from {before.name}. The damaged checkpoint is now {aside}: delete it when you like.",
            file=sys.stderr,
        )

    def __repr__(self) -> str:
        newest = self.newest_checkpoint()
        return f"RunFolder({self.path}, {newest.name if newest else 'no checkpoint'})"

    def _tidy(self) -> None:
        """Remove what a killed process left half written or half removed."""
        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)  # not its parents: a run's folder that is gone is not made again
        for left in (*folder.glob("step_*.partial"), *folder.glob("step_*.dropped")):
            shutil.rmtree(left)
        for replaced in folder.glob("step_*.replaced"):
            if replaced.with_suffix("").exists():
                shutil.rmtree(replaced)
            else:  # the process was killed between the two renames
                replaced.rename(replaced.with_suffix(""))

    def _drop(self, keep: int) -> None:
        """Remove all but the newest checkpoints, each in one step: first it loses its name."""
        kept = self.checkpoints()[-keep:]
        dropped = self.checkpoints()[:-keep]
        if dropped:
            sync_tree(kept[0])
        for old in dropped:
            shutil.rmtree(old.rename(_named(old, "dropped")))
        for replaced in (self.path / "checkpoints").glob("step_*.replaced"):
            shutil.rmtree(replaced)

    def _replace(self, file: Path, text: str) -> None:
        try:
            replace_text(file, text)
        except OSError as error:
            raise RunError(f"{file} can't be written ({error.strerror}): {_remedy(error)}, then try again.") from error

    def _require_same(self, before: dict[str, Any], config: dict[str, Any]) -> None:
        was, now = dict(_flat(before)), dict(_flat(json.loads(json.dumps(config))))
        differ = sorted(key for key in was.keys() | now.keys() if key not in _FREE and was.get(key) != now.get(key))
        if differ:
            changes = ", ".join(f"{key} was {was.get(key)!r} and is {now.get(key)!r}" for key in differ)
            raise RunError(
                f"{self.path} was started with other decisions ({changes}): resume it with the same, or give another name."
            )


def _named(checkpoint: Path, state: str) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.{state}")


def _flat(decisions: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `trainer.zero_stage`, 2 for `{"trainer": {"zero_stage": 2}}`."""
    for key, value in decisions.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _remedy(error: Exception) -> str:
    """Return what to do about a file that can't be written."""
    number = error.errno if isinstance(error, OSError) else errno.ENOSPC  # torch's errors have no number
    return {
        errno.ENOSPC: "free space on its disk",
        errno.EDQUOT: "free space in your quota",
        errno.EFBIG: "raise the limit of a file's size (`ulimit -f`)",
        errno.ENOENT: "the run's folder is gone: bring it back",
        errno.EACCES: "allow writing there",
        errno.EROFS: "allow writing there",
    }.get(number or 0, "free space or restore the folder")
