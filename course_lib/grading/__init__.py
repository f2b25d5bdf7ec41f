"""Checks of the exercises and their reports: one grading path for the cell, the command line and CI."""

from course_lib.grading.checking import check

__all__ = ["check"]
