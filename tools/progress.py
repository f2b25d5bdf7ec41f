"""Steps that a reader can watch: numbered lines, the seconds while one runs, and a log of what the tools said."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_LAST_LINES = 12
# pip says this of each configured location that has no page for a package: it is not why anything failed.
_NOISE = ("is ignored: it is neither a file nor a directory", "[notice]")


class StepFailedError(Exception):
    """A command failed; the message ends with the last lines that it wrote and the name of the log."""


class Log:
    """The log file of one set-up, and the lines on the terminal."""

    def __init__(self, path: Path) -> None:
        """Log to `path`; the file is begun anew by `steps`."""
        self.path = path
        self._label = ""

    def __repr__(self) -> str:
        """Name the file."""
        return f"Log({self.path})"

    def steps(self, steps: list[tuple[str, Callable[[], None]]]) -> None:
        """Run the steps in order, each with a line on the terminal that ends with the seconds it took.

        Raises:
            StepFailedError: from the step that failed; the steps after it do not run.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("")
        for number, (title, step) in enumerate(steps, 1):
            self._label = f"[{number}/{len(steps)}] {title}"
            self._show(" ...", end="" if sys.stdout.isatty() else "\n")
            start = time.monotonic()
            step()
            self._show(f": done in {time.monotonic() - start:.0f} s")

    def call(self, command: list[str]) -> None:
        """Run a command with its output in the log, and the seconds on the terminal while it runs.

        Raises:
            StepFailedError: the command did not exit with 0.
        """
        with self.path.open("a") as log:
            log.write("$ " + " ".join(command) + "\n")
            log.flush()
            begin = log.tell()
            start = time.monotonic()
            with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL) as process:
                while process.poll() is None:
                    try:
                        process.wait(timeout=1 if sys.stdout.isatty() else 30)
                    except subprocess.TimeoutExpired:
                        self._show(f" ... {time.monotonic() - start:.0f} s", end="" if sys.stdout.isatty() else "\n")
        if process.returncode:
            raise StepFailedError(self._failure(command, process.returncode, begin))

    def note(self, text: str) -> None:
        """Print a line under the step that runs."""
        print(f"\n      {text}" if sys.stdout.isatty() else f"      {text}", flush=True)

    def last_line(self) -> str:
        """Return the last line that is not empty in the log, `""` where there is none."""
        lines = [line for line in self.path.read_text().splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""

    def _show(self, text: str, end: str = "\n") -> None:
        # On a terminal the line is written over; in a pipe each is a line of its own.
        print(("\r\033[K" if sys.stdout.isatty() else "") + self._label + text, end=end, flush=True)

    def _failure(self, command: list[str], status: int, begin: int) -> str:
        with self.path.open(errors="replace") as log:
            log.seek(begin)
            lines = [line.rstrip() for line in log if line.strip() and not any(noise in line for noise in _NOISE)]
        said = "\n".join(f"    {line}" for line in lines[-_LAST_LINES:])
        return (
            f"\n{self._label}: failed\n  `{' '.join(command)}` exited with {status} after saying:\n{said}\n"
            f"  The whole log: {self.path}\n  Mend the cause and run the same command again: it goes on from here."
        )
