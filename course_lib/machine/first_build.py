"""DeepSpeed's communication op: where it is cached, and a word to the reader before it is compiled."""

import os
import re
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from course_lib.machine.tier import tier

_OP = "deepspeed_shm_comm"


def comm_op_path() -> Path:
    """Return the file that torch compiles DeepSpeed's shared-memory op into.

    It lies in `$TORCH_EXTENSIONS_DIR`, else in the user's cache. The rule is torch's own (`torch.utils.cpp_extension`),
    restated here because asking torch imports it and makes the folder.
    """
    override = os.environ.get("TORCH_EXTENSIONS_DIR")
    if override is not None:
        return Path(override) / _OP / f"{_OP}.so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "torch_extensions"
    cuda = _torch_cuda()
    python = f"py{sys.version_info.major}{sys.version_info.minor}{sys.abiflags}"
    built_for = f"cu{cuda.replace('.', '')}" if cuda else "cpu"
    return cache / f"{python}_{built_for}" / _OP / f"{_OP}.so"


def comm_op_missing() -> bool:
    """Return True where the next start of DeepSpeed compiles the op. Only the CPU accelerator has it."""
    return tier() == "cpu" and not comm_op_path().is_file()


def announce_first_build() -> None:
    """Print one line where DeepSpeed is about to compile its communication op, a wait that would look like a hang.

    A compilation that was killed leaves torch's lock behind, for which every later one would wait for ever: it is removed.
    """
    lock = comm_op_path().with_name("lock")
    if lock.exists() and not _held(lock):
        lock.unlink(missing_ok=True)
    if comm_op_missing():
        print("DeepSpeed compiles its communication op now: about 20 s, once on this machine.", flush=True)


def _held(lock: Path) -> bool:
    """Return whether a process has the lock's file open, as its owner does until it is done; True where nobody can say."""
    if not Path("/proc/self/fd").exists():
        return True
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # another user's, or gone meanwhile
            if descriptor.readlink() == lock.resolve():
                return True
    return False


def _torch_cuda() -> str | None:
    """Return the CUDA version that the installed torch was built for, such as `"13.0"`, without importing torch."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    found = re.search(r"^cuda\b.*= '([\d.]+)'", Path(spec.origin).with_name("version.py").read_text(), re.MULTILINE)
    return found.group(1) if found else None
