"""A problem: what is asked, and what is right."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A question in plain English and its right answer."""

    question: str
    answer: str
