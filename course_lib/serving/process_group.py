"""A child process with all its children, which end together: when told to, with an exception, and with this process."""

import atexit
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import psutil

_GRACE = 10.0  # seconds for a polite end
_GUARD = "read line; kill -s KILL -- -$0"


class ProcessGroup:
    """A command in a session of its own: Ctrl-C in the terminal does not reach it, and its children are found by their group.

    What it and its children print is kept in a file that has no name, so that nothing is left behind.

    Args:
        command: the program and its arguments.
        environment: its environment variables, all of them.

    Attributes:
        pid: of the command, and of its process group.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  the children write to it as long as they live
        self._said = ""
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid
        atexit.register(self.end)
        # atexit does not run where this process is killed. The guard does: its input ends with us, whatever ends us.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, str(self.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def exit_code(self) -> int | None:
        """Return the command's exit code, negative for a signal; None while it runs."""
        if self._process.returncode is None:
            # Looked at, not reaped: as long as the dead command has its number, no other group can get it.
            state = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if state is not None:
                return state.si_status if state.si_code == os.CLD_EXITED else -state.si_status
        return self._process.returncode

    def ending(self) -> str:
        """Return in words how the command ended."""
        code = self.exit_code()
        if code is None:
            return "runs"
        if code >= 0:
            return f"ended with status {code}"
        name = signal.Signals(-code).name
        return f"was killed by {name}{' (out of memory?)' if -code == signal.SIGKILL else ''}"

    def wait(self, seconds: float) -> bool:
        """Return whether the command is over, after waiting for that for so long at most."""
        return _eventually(lambda: self.exit_code() is not None, seconds)

    def log(self) -> str:
        """Return what the command and its children have printed."""
        if not self._log.closed:
            # pread leaves the offset alone, at which the children write.
            size = os.fstat(self._log.fileno()).st_size
            self._said = os.pread(self._log.fileno(), size, 0).decode(errors="replace")
        return self._said

    def members(self) -> list[psutil.Process]:
        """Return the group's living processes, whoever has inherited them from a dead parent."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if os.getpgid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def end(self) -> None:
        """End all of them, politely first; calling it twice is harmless."""
        atexit.unregister(self.end)
        if self._process.returncode is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            if _eventually(lambda: self.exit_code() is not None and not self.members(), _GRACE):
                break
        self.log()
        self._log.close()
        self._guard.kill()
        self._guard.communicate()
        self._process.wait()

    def __repr__(self) -> str:
        return f"ProcessGroup({self.pid}, {self.ending()})"


def _eventually(holds: Callable[[], bool], seconds: float) -> bool:
    """Return whether something holds, after waiting for it for so long at most."""
    patience = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > patience:
            return False
        time.sleep(0.05)
    return True
