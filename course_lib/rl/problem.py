"""A problem: what is asked, and what is right."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """A question in plain English and its right answer.

    Attributes:
        question: what the policy is asked.
        answer: a right answer; the only one, where the task says so.
        metadata: what else the task needs to grade a completion, such as the numbers of a countdown. It goes into the run's
            files, so it is JSON: keys are text.

    Raises:
        TypeError: `metadata` is not JSON-ready.
    """

    question: str
    answer: str
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.metadata:
            try:
                same = json.loads(json.dumps(self.metadata)) == self.metadata
            except (TypeError, ValueError):
                same = False
            if not same:
                raise TypeError(
                    f"metadata {self.metadata!r} is not JSON-ready: use text for keys, lists for tuples, and plain numbers."
                )
