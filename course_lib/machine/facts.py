"""What `course doctor` looks at, gathered in one place, so that its checks are functions of plain values."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from course_lib.machine.environment import cache_dir
from course_lib.machine.first_build import comm_op_missing, comm_op_path
from course_lib.machine.prerequisites import Basics, basics
from course_lib.machine.tier import Gpu, Tier, gpus, tier
from course_lib.machine.versions import installed, locked

ENGINES = ("torch", "ninja", "transformers", "vllm", "deepspeed")
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ("notebooks", "exercises", "solutions")
_MEMINFO = Path("/proc/meminfo")
_IMPORT_SECONDS = 300


@dataclass(frozen=True)
class Import:
    """How `import module` went in a process of its own; `error` is its last line, empty where it worked."""

    module: str
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class Facts:
    """The machine and the set-up as found. Memory and disk are in GiB.

    `locked` and `installed` map package names, in the locks' spelling, to versions; `locked` is empty where the course
    is installed without its repository. `op_path` is None where the tier has no communication op to compile.
    """

    basics: Basics
    tier: Tier
    tier_override: str
    gpus: tuple[Gpu, ...]
    cores: int
    ram_gib: float
    disk_gib: float
    disk_path: str
    locked: Mapping[str, str]
    installed: Mapping[str, str]
    imports: tuple[Import, ...]
    op_path: str | None
    op_missing: bool
    policies: tuple[str, ...]
    notebooks: tuple[str, ...]
    unsigned: tuple[str, ...]


def gather(imports: tuple[Import, ...] = ()) -> Facts:
    """Look at this machine; `imports` are passed in, since they take most of a minute (see `try_import`).

    Raises:
        ValueError: `TIER` is neither `cpu` nor `gpu`.
    """
    here = tier()
    disk = _existing(cache_dir())
    paths = [path for folder in NOTEBOOKS for path in sorted((ROOT / folder).glob("*.ipynb"))]
    notebooks = tuple(str(path.relative_to(ROOT)) for path in paths)
    return Facts(
        basics=basics(),
        tier=here,
        tier_override=os.environ.get("TIER", ""),
        gpus=gpus(),
        cores=len(os.sched_getaffinity(0)),
        ram_gib=ram_gib(_MEMINFO.read_text()) if _MEMINFO.exists() else 0.0,
        disk_gib=shutil.disk_usage(disk).free / 2**30,
        disk_path=str(disk),
        locked=locked(ROOT / "requirements" / f"{here}.txt"),
        installed=installed(),
        imports=imports,
        op_path=str(comm_op_path()) if here == "cpu" else None,
        op_missing=comm_op_missing(),
        policies=tuple(sorted(path.parent.name for path in cache_dir().glob("policies/[!.]*/config.json"))),
        notebooks=notebooks,
        unsigned=unsigned(ROOT, notebooks),
    )


def try_import(module: str) -> Import:
    """Import a module in a new process with the course's environment, and time it.

    Engines load compiled code, which can end a process without an exception: so each gets its own.
    """
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"from course_lib.machine import prepare; prepare(); import {module}"],
            capture_output=True,
            text=True,
            timeout=_IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Import(module, time.perf_counter() - start, f"did not end in {_IMPORT_SECONDS} s")
    seconds = time.perf_counter() - start
    if done.returncode == 0:
        return Import(module, seconds)
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return Import(module, seconds, said[-1].strip() if said else f"ended with status {done.returncode} without a word")


def unsigned(root: Path, notebooks: Iterable[str]) -> tuple[str, ...]:
    """Return the notebooks that Jupyter does not trust, whose widgets therefore stay hidden until they are run."""
    import nbformat
    from nbformat.sign import NotebookNotary

    notary = NotebookNotary()
    return tuple(name for name in notebooks if not notary.check_signature(nbformat.read(root / name, as_version=4)))


def ram_gib(meminfo: str) -> float:
    """Return the total memory in GiB that the text of /proc/meminfo gives, 0.0 where it gives none."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(found.group(1)) / 2**20 if found else 0.0


def _existing(path: Path) -> Path:
    """Return the nearest folder at or above `path` that exists: the cache is not there before its first use."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
