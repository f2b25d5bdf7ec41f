"""The demo course, on the import path of tests and of the kernels that they start."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parent / "demo"))

from demo_course import new_course

from build_notebooks import main
from nbbuild.course import Course

DEMO = Path(__file__).resolve().parent / "demo"


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Course:
    """The demo course with its notebooks built, and no progress yet."""
    monkeypatch.setenv("PYTHONPATH", str(DEMO))
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    made = new_course(tmp_path / "course")
    assert main([], made) == 0
    return made
