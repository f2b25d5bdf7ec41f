"""What a committed measurement says of itself, so that somebody else can repeat it."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from course_lib.machine.versions import versions

RESULTS = Path(__file__).resolve().parents[2] / "results"
"""Where the measurements are that the course shows."""


def provenance(command: str, commit: str = "") -> dict[str, Any]:
    """Return `command`, `commit`, `date` and `machine` (with the versions of the engines) of a measurement made now.

    Args:
        command: what repeats it.
        commit: the commit to name, where git is not there to be asked.
    """
    date = datetime.now(UTC).date().isoformat()
    return {"command": command, "commit": commit or _commit(), "date": date, "machine": versions()}


def read_record(path: str | Path, command: str, what: str = "measurement") -> dict[str, Any]:
    """Return a measurement that was written.

    Args:
        path: its file.
        command: what makes one, for who has none.
        what: what the message calls it.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {path}; make one with `{command} --out {path.name}`")
    return dict(json.loads(path.read_text()))


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, cwd=RESULTS.parent, check=False)
    except OSError:
        return ""
    return answer.stdout.strip()
