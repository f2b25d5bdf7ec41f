"""Watching the ranks of a job until all have finished; they are gone afterwards whatever happens."""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from course_lib.training.launch_errors import blame, failure, stuck, timed_out
from course_lib.training.ranks import POLL_SECONDS, Rank, RankOutput, in_collective

GRACE_SECONDS = 3.0  # from the first failure on, for the other ranks to say what they know of it
STOP_SECONDS = 5.0  # from SIGTERM to SIGKILL
STUCK_SECONDS = 10.0  # in a collective that a rank which has finished can no longer join


def watch(ranks: Sequence[Rank], timeout: float, on_line: Callable[[str], None] | None = None) -> list[RankOutput]:
    """Wait until every rank has ended with exit code 0; whatever else happens, none of them is running afterwards.

    Args:
        ranks: the running ranks, in their order.
        timeout: seconds that the job may take.
        on_line: gets each line of rank 0 as it comes.

    Raises:
        LaunchError: a rank failed, or hangs in a collective that a rank which has finished can't join, or time ran out.
    """
    lines = _Lines(ranks[0].log)
    deadline = time.monotonic() + timeout
    deadlock = _Deadlock()
    try:
        while _running(ranks):
            time.sleep(POLL_SECONDS)
            lines.pass_on(on_line)
            if any(rank.poll() for rank in ranks):
                break
            if deadlock.look(ranks):
                raise stuck(ranks, _running(ranks))
            if time.monotonic() > deadline:
                raise timed_out(ranks, _running(ranks), timeout)
        failed = _failed(ranks)
        lines.pass_on(on_line, last=True)
        if failed:
            raise failure(ranks, failed)
        return [rank.output() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


class _Lines:
    """The lines of a growing file, each once."""

    def __init__(self, path: Path):
        self._path = path
        self._read = 0  # bytes

    def pass_on(self, on_line: Callable[[str], None] | None, last: bool = False) -> None:
        """Hand out the lines that are complete by now; `last` also hands out what has no end yet."""
        if on_line is None:
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        text = text if last else text[: text.rfind(b"\n") + 1]
        self._read += len(text)
        for line in text.splitlines():
            on_line(line.decode(errors="replace"))


class _Deadlock:
    """Whether ranks wait for one that will never come: it has finished, and each of the others is in a collective.

    Ranks may finish at different times, and one may work alone for long, on an export for example. So time alone proves
    nothing; but a collective needs every rank.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._next = 0.0

    def look(self, ranks: Sequence[Rank]) -> bool:
        now = time.monotonic()
        running = _running(ranks)
        if len(running) == len(ranks) or not running or now < self._next:
            return False
        self._next = now + STUCK_SECONDS / 5
        if not all(in_collective(rank.stack()) for rank in running):
            self._since = None
            return False
        self._since = self._since or now
        return now - self._since >= STUCK_SECONDS


def _running(ranks: Sequence[Rank]) -> list[Rank]:
    return [rank for rank in ranks if rank.poll() is None]  # all are polled: it notes when each ended


def _failed(ranks: Sequence[Rank]) -> list[Rank]:
    """Return the ranks that failed on their own, the one to blame first, and end the others."""
    if not any(rank.poll() for rank in ranks):
        return []
    _wait(ranks, GRACE_SECONDS)
    failed = [rank for rank in ranks if rank.poll()]
    for rank in _running(ranks):
        rank.send(signal.SIGTERM)
    _wait(ranks, STOP_SECONDS)
    return sorted(failed, key=blame)


def _wait(ranks: Sequence[Rank], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while _running(ranks) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
