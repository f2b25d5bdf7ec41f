"""A run as the dashboard reads it: only from the files in its folder, and only what is new since it last looked."""

import json
from pathlib import Path
from typing import Any

FILES = CONFIG, METRICS, SAMPLES = ("config.json", "metrics.jsonl", "samples.jsonl")


class RunFiles:
    """The records and samples of a run's folder; of a run that goes on, `refresh` reads what has come since.

    Args:
        folder: usually `runs/<name>`; None for a run that is only known by the records that it is given.

    Attributes:
        folder: where the run is.
        name: the folder's name.
        config: the run's decisions; empty where there is no config.json yet.
        samples: lines of samples.jsonl by their step.

    Raises:
        ValueError: `folder` is there and is no folder of a run.
    """

    def __init__(self, folder: str | Path | None):
        self.folder = None if folder is None else Path(folder)
        self.name = "this run" if self.folder is None else self.folder.resolve().name
        if self.folder and self.folder.exists() and not any((self.folder / file).exists() for file in FILES):
            raise ValueError(
                f"{folder} holds no run: expected a folder with {' and '.join(FILES)}, as RLLoop writes it"
            )
        self.config: dict[str, Any] = {}
        self.samples: dict[int, dict[str, Any]] = {}
        self._records: dict[int, dict[str, Any]] = {}
        self._offsets = dict.fromkeys(FILES, 0)
        self.refresh()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one a step."""
        return list(self._records.values())

    def add(self, record: dict[str, Any]) -> None:
        """Take in a record that the loop gave, whether or not it is in the folder yet."""
        self._records[record["step"]] = record
        self.refresh()

    def refresh(self) -> None:
        """Read the lines that were added since the last time."""
        if self.folder is None:
            return
        if not self.config:
            self.config = _decisions(self.folder / CONFIG)
        self._records |= {line["step"]: line for line in self._new(self.folder / METRICS)}
        self.samples |= {line["step"]: line for line in self._new(self.folder / SAMPLES)}

    def _new(self, file: Path) -> list[dict[str, Any]]:
        """Return a file's new whole lines; a line that a crash cut off, or that is being written, is not taken yet."""
        try:
            if file.stat().st_size < self._offsets[file.name]:
                self._offsets[file.name] = 0  # a resumed run dropped the steps after its checkpoint
            with file.open("rb") as lines:
                lines.seek(self._offsets[file.name])
                text, newline, _ = lines.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offsets[file.name] += len(text) + len(newline)
        found = []
        for line in text.splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # a crash cut it, and what was written next stands behind it
        return found

    def __repr__(self) -> str:
        return f"RunFiles({self.name}, {len(self._records)} records, samples of {len(self.samples)} steps)"


def _decisions(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}  # a run is shown without its decisions too
