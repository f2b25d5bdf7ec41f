"""A rank as a running process: how it ended, what it wrote, and where in the program it stands."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from course_lib.training.rank_main import SHOW_STACKS

POLL_SECONDS = 0.05
_STACK_POLLS = 40
_CALLS = 4  # of a stack: so many of the innermost, and as many of the course's or the reader's own
_LIBRARY = re.compile(r"/site-packages/|/lib/python3\.")
_RUNNER = re.compile(r'"<frozen runpy>"|/rank_main\.py"')
# The innermost calls of a thread that waits for other ranks; `wait` is that of a collective which was started before.
_COLLECTIVE = re.compile(r'File ".*/(torch/distributed|deepspeed/comm)/|File ".*/deepspeed/.* in wait$')


@dataclass(frozen=True)
class RankOutput:
    """What one rank left: everything that it wrote to stdout and stderr, and the seconds that it ran."""

    rank: int
    text: str
    seconds: float

    def __repr__(self) -> str:
        return f"RankOutput(rank {self.rank}, {len(self.text.splitlines())} lines, {self.seconds:.1f} s)"


@dataclass(eq=False)
class Rank:
    """One running rank: its process, the leader of a process group of its own, its log and its file of stacks."""

    rank: int
    process: subprocess.Popen[bytes]
    log: Path
    stacks: Path
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while the rank runs."""
        if self.code is None:
            self.code = self._look()
            self.ended = None if self.code is None else time.monotonic()
        return self.code

    def _look(self) -> int | None:
        return self.process.poll()

    @property
    def seconds(self) -> float:
        """Seconds from the start to the end, or to now."""
        return (self.ended or time.monotonic()) - self.started

    def output(self) -> RankOutput:
        """Return what the rank has written so far."""
        return RankOutput(self.rank, self.log.read_text(errors="replace"), self.seconds)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the rank and to whatever it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End the rank and whatever it has started, now."""
        self.send(signal.SIGKILL)
        self.process.wait()

    def stack(self) -> str:
        """Return the Python stacks of the rank's threads now, innermost call first; empty while it starts."""
        if not self.stacks.exists():
            return ""
        before = size = self.stacks.stat().st_size
        self.process.send_signal(SHOW_STACKS)
        for _ in range(_STACK_POLLS):
            time.sleep(POLL_SECONDS)
            size, last = self.stacks.stat().st_size, size
            if before < size == last:  # it came, and no more of it comes
                break
        return self.stacks.read_text(errors="replace")[before:]


def in_collective(stacks: str) -> bool:
    """Return whether one of a process's threads waits for other ranks, by the stacks that faulthandler writes."""
    threads = stacks.split("(most recent call first):\n")[1:]
    return any(_COLLECTIVE.search(line) for thread in threads for line in thread.splitlines()[:2])


def innermost_calls(stacks: str) -> list[str]:
    """Return the innermost calls of the thread that says most: one that waits for other ranks, else the main thread."""
    threads = [thread.splitlines() for thread in stacks.split("(most recent call first):\n")[1:]]
    waiting = [thread for thread in threads if any(map(_COLLECTIVE.search, thread[:2]))]
    calls = [
        line for line in (waiting or threads or [[]])[-1] if line.startswith("  File ") and not _RUNNER.search(line)
    ]
    own = [line for line in calls[_CALLS:] if not _LIBRARY.search(line)]
    return calls[:_CALLS] + own[:_CALLS]
