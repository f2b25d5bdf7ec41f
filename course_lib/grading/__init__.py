"""Checks of the exercises and their reports: one grading path for the cell, the command line and CI."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from course_lib.grading.checking import check

if TYPE_CHECKING:
    from course_lib.grading.learner import learners_parts
    from course_lib.grading.report import report_run

__all__ = ["check", "learners_parts", "report_run"]

_HOMES = {"learners_parts": "learner", "report_run": "report"}


def __getattr__(name: str) -> Any:
    """Import what only the capstone needs when it is asked for: an exercise's first cell should not wait for it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
