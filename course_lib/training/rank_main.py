"""What every rank of `launch` runs first: it dies with its launcher, and shows where it stands when asked.

Run by its path, `python -P rank_main.py LAUNCHER STACKS TARGET [ARGUMENT ...]`, and of the standard library only, so that a
rank starts as fast as its target does.
"""

import ctypes
import faulthandler
import os
import runpy
import signal
import sys
from pathlib import Path

SHOW_STACKS = signal.SIGUSR1
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Set this process up as a rank, then run the target as `python -m module` or `python script.py` would."""
    launcher, stacks, target, *arguments = sys.argv[1:]
    _die_with(int(launcher))
    _show_stacks_in(Path(stacks))
    sys.argv = [target, *arguments]
    if target.endswith(".py"):
        sys.path.insert(0, str(Path(target).resolve().parent))
        runpy.run_path(target, run_name="__main__")
    else:
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(target, run_name="__main__", alter_sys=True)


def _die_with(launcher: int) -> None:
    """Have the kernel kill this process when its launcher is gone, even where a signal took the launcher."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:  # gone before the line above
        sys.exit("the launcher of this rank is gone.")


def _show_stacks_in(path: Path) -> None:
    """Append every thread's stack to the file at each SHOW_STACKS, even while a rank hangs in C++.

    The file gets its name when the handler is there: until then the signal would end the process.
    """
    signal.signal(SHOW_STACKS, signal.SIG_IGN)  # what faulthandler goes back to when the interpreter ends
    draft = path.with_suffix(".draft")
    file = draft.open("w")  # open as long as the process lives
    faulthandler.register(SHOW_STACKS, file=file, all_threads=True)
    draft.rename(path)


if __name__ == "__main__":
    main()
