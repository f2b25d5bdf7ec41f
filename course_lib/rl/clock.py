"""When each phase of a step ran, and how full the KV cache was meanwhile."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from course_lib.rl.progress import LoopView

_POINTS = 64  # of KV use in a step: more than a picture can show


class Clock:
    """Measures the phases of a loop's steps, in seconds since the run began.

    Args:
        before: seconds that the run took in earlier starts; a resumed run's timeline goes on there.
        view: is told of each phase as it begins.

    Attributes:
        current: the phase that runs, or ran last.
    """

    def __init__(self, before: float = 0.0, view: LoopView | None = None):
        self.view = view
        self._origin = time.perf_counter() - before
        self.current = "generate"
        self.timeline: list[tuple[str, float, float]] = []
        self._kv: list[tuple[float, float, int, int]] = []

    def now(self) -> float:
        """Return the seconds since the run began."""
        return time.perf_counter() - self._origin

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what runs inside as a phase, until the GPU is done with it."""
        if self.view is not None:
            self.view.phase(name)
        self.current = name
        start = self.now()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.timeline.append((name, start, self.now()))

    def engine_step(self, running: int, waiting: int, kv_usage: float) -> None:
        """Note what the engine holds between two of its steps: requests, and the used share of its KV cache."""
        self._kv.append((self.now(), kv_usage, running, waiting))

    def take(self) -> dict[str, Any]:
        """Return what was measured since the last call, JSON-ready: seconds by phase, the timeline, and the KV cache's use."""
        timeline, kv = self.timeline, self._kv
        self.timeline, self._kv = [], []
        seconds: dict[str, float] = {}
        for name, start, end in timeline:
            seconds[name] = seconds.get(name, 0.0) + end - start
        every = -(-len(kv) // _POINTS) or 1
        return {
            "seconds": seconds,
            "timeline": [[name, round(start, 4), round(end, 4)] for name, start, end in timeline],
            "kv": [[round(at, 4), round(used, 4), running, waiting] for at, used, running, waiting in kv[::every]],
        }
