"""The requests that wait, in the order in which they will be looked at."""

from bisect import insort
from collections.abc import Iterator
from typing import Literal

from course_lib.scheduling.request import Request


class WaitingQueue:
    """First come first served, or by priority.

    Args:
        policy: `fcfs`, or `priority`: then by `Request.__lt__`.
    """

    def __init__(self, policy: Literal["fcfs", "priority"] = "fcfs"):
        self.policy = policy
        self._requests: list[Request] = []

    def add(self, request: Request) -> None:
        """Add a new request: at the end, or at its priority's place."""
        if self.policy == "priority":
            insort(self._requests, request)
        else:
            self._requests.append(request)

    def put_back(self, request: Request) -> None:
        """Add a preempted request: at the front, so that it loses its turn once, or at its priority's place."""
        if self.policy == "priority":
            insort(self._requests, request)
        else:
            self._requests.insert(0, request)

    def first(self) -> Request:
        """Return the next request, which stays."""
        return self._requests[0]

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it is."""
        self._requests.remove(request)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    def __repr__(self) -> str:
        return f"WaitingQueue({self.policy}: {', '.join(request.request_id for request in self) or 'empty'})"
