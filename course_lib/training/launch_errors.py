"""Why a job of several ranks did not finish, in words: which rank is to blame, how it ended, where the others stand."""

import re
import signal
from collections.abc import Sequence
from pathlib import Path

from course_lib.training.ranks import Rank, RankOutput, innermost_calls

_LINES = 15  # of a rank's output in an error
_MARKERS = re.compile(r"(\[rank\d+\]:)?[\s^~]*")  # empty, or the line of a traceback that points at the one above
# What a rank says whose only fault is that another one is gone.
_LOST_PEER = re.compile(r"closed by peer|reset by peer|Broken pipe|remote process exit|ncclRemoteError", re.IGNORECASE)


class LaunchError(RuntimeError):
    """A job of several ranks did not finish. The message says which rank is to blame, why, and its last lines.

    Attributes:
        rank: the rank to blame, None where the launcher itself failed.
        outputs: what every rank had written by then.
    """

    def __init__(self, message: str, rank: int | None, outputs: list[RankOutput]):
        super().__init__(message)
        self.rank = rank
        self.outputs = outputs


def failure(ranks: Sequence[Rank], failed: Sequence[Rank]) -> LaunchError:
    """Return the error for ranks that failed, the one to blame first."""
    culprit = failed[0]
    text = culprit.output().text
    how = f"rank {culprit.rank} of {len(ranks)} {in_words(culprit.code or 0)} after {culprit.seconds:.1f} s"
    done = [rank for rank in ranks if rank.poll() == 0]
    if done and _LOST_PEER.search(text):
        how += f", when {_names(done)} had finished: every rank has to make the same collective calls as the others"
    return _error(f"{how}. The job was ended.", culprit.rank, ranks, {"Its last lines": last_lines(text)})


def stuck(ranks: Sequence[Rank], waiting: Sequence[Rank]) -> LaunchError:
    """Return the error for ranks that wait in a collective which those that have finished can no longer join."""
    done = [rank for rank in ranks if rank not in waiting]
    message = (
        f"{_names(done)} of {len(ranks)} finished, and {_names(waiting)} waits in a collective that can't complete without it:"
        " every rank has to make the same collective calls as the others. The job was ended."
    )
    return _error(message, done[0].rank, ranks, _stacks(waiting))


def timed_out(ranks: Sequence[Rank], running: Sequence[Rank], timeout: float) -> LaunchError:
    """Return the error for ranks that took too long."""
    message = f"{_names(running)} of {len(ranks)} did not finish in {timeout:g} s, and the job was ended."
    message += " Give it a longer timeout if it was only slow."
    return _error(message, running[0].rank, ranks, _stacks(running))


def in_words(code: int) -> str:
    """Say how a process ended: `-9` -> `was killed by SIGKILL (...)`, `1` -> `ended with exit code 1`."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hints: dict[int, str] = {
        signal.SIGKILL: " (the kernel does this where memory runs out: look into `dmesg`, lower micro_batch_tokens)",
        signal.SIGSEGV: " (a fault in compiled code)",
        signal.SIGABRT: " (compiled code gave up)",
        signal.SIGTERM: " (somebody asked it to end)",
    }
    return f"was killed by {name}{hints.get(-code, '')}"


def blame(rank: Rank) -> tuple[bool, float]:
    """Order failed ranks: who was told to end, or only lost its peer, comes after the one that began it."""
    consequence = rank.code == -signal.SIGTERM or _LOST_PEER.search(rank.output().text) is not None
    return consequence, rank.ended or 0.0


def _names(ranks: Sequence[Rank]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(str(rank.rank) for rank in ranks)


def last_lines(text: str) -> list[str]:
    """Return the end of an output, without the marks under a traceback's lines."""
    return [line for line in text.splitlines() if not _MARKERS.fullmatch(line)][-_LINES:]


def _stacks(ranks: Sequence[Rank]) -> dict[str, list[str]]:
    stacks = {f"Rank {rank.rank} is here": innermost_calls(rank.stack()) for rank in ranks}
    return {title: calls for title, calls in stacks.items() if calls}


def _error(message: str, culprit: int, ranks: Sequence[Rank], lines: dict[str, list[str]]) -> LaunchError:
    somewhere = re.compile(
        rf'"([^"]*/site-packages|{re.escape(str(Path.cwd()))})/'
    )  # where this machine keeps its files
    for title, shown in lines.items():
        message += f"\n\n{title}:\n" + "\n".join(somewhere.sub('"', line) for line in shown)
    return LaunchError(message, culprit, [rank.output() for rank in ranks])
