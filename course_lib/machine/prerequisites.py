"""What has to be on the machine before anything can be installed. Standard library only: the set-up runs this first."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

PYTHONS = ((3, 11), (3, 12))
GLIBC = (2, 31)  # the newest glibc that a wheel in the locks asks for

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found and, unless it is ok, what to do."""

    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Basics:
    """The facts that decide whether a set-up can start. `glibc` is (0, 0) where the C library is another one."""

    system: str
    machine: str
    glibc: tuple[int, ...]
    python: tuple[int, int]
    executable: str
    has_venv: bool
    has_headers: bool
    compiler: str | None


def basics() -> Basics:
    """Look at this machine and at the Python that runs this."""
    return Basics(
        system=platform.system(),
        machine=platform.machine(),
        glibc=_glibc(),
        python=sys.version_info[:2],
        executable=sys.executable,
        has_venv=find_spec("venv") is not None and find_spec("ensurepip") is not None,
        has_headers=Path(sysconfig.get_path("include"), "Python.h").is_file(),
        compiler=_compiler(),
    )


def check_basics(facts: Basics, *, needs_venv: bool = True) -> list[Check]:
    """Return the checks of the platform, Python and the compiler; `needs_venv` is False where an environment exists."""
    checks = [_check_platform(facts), _check_python(facts), _check_compiler(facts)]
    if needs_venv:
        checks.append(_check_venv(facts))
    return checks


def _check_platform(facts: Basics) -> Check:
    found = f"{facts.system} {facts.machine}"
    if (facts.system, facts.machine) != ("Linux", "x86_64"):
        advice = "The engines are built for Linux on x86-64: use such a machine or container, or WSL2 on Windows."
        return Check("platform", "failed", found, advice)
    if facts.glibc < GLIBC:
        libc = f"glibc {_dotted(facts.glibc)}" if any(facts.glibc) else "no glibc"
        advice = f"The engines need glibc {_dotted(GLIBC)} or newer: use Debian 11, Ubuntu 20.04 or a newer system."
        return Check("platform", "failed", f"{found}, {libc}", advice)
    return Check("platform", "ok", f"{found}, glibc {_dotted(facts.glibc)}")


def _check_python(facts: Basics) -> Check:
    version = _dotted(facts.python)
    if facts.python not in PYTHONS:
        return Check(
            "Python",
            "failed",
            f"Python {version} ({facts.executable})",
            "The course needs Python 3.11 or 3.12. Debian 12: sudo apt-get install python3.11 python3.11-venv "
            "python3.11-dev; Ubuntu 24.04: the same with 3.12; elsewhere install one of the two (python.org, pyenv, "
            "conda) and pass it: make PYTHON=/path/to/python3.12",
        )
    if not facts.has_headers:
        # DeepSpeed compiles its communication op against Python.h when it first starts.
        return Check(
            "Python",
            "failed",
            f"Python {version} without its C headers (Python.h)",
            f"DeepSpeed compiles against them. Debian/Ubuntu: sudo apt-get install python{version}-dev; "
            f"elsewhere install the development package of Python {version}.",
        )
    return Check("Python", "ok", f"Python {version} ({facts.executable})")


def _check_compiler(facts: Basics) -> Check:
    if facts.compiler is None:
        wanted = os.environ.get("CXX") or "c++"
        return Check(
            "C++ compiler",
            "failed",
            f"`{wanted} --version` does not run",
            "DeepSpeed and torch compile with it. Debian/Ubuntu: sudo apt-get install g++; "
            "elsewhere install GCC's or Clang's C++ compiler, or name yours in CXX.",
        )
    return Check("C++ compiler", "ok", facts.compiler)


def _check_venv(facts: Basics) -> Check:
    if not facts.has_venv:
        version = _dotted(facts.python)
        return Check(
            "venv",
            "failed",
            f"{facts.executable} has no venv or no ensurepip module",
            f"Debian/Ubuntu: sudo apt-get install python{version}-venv; "
            "elsewhere use a Python that has both, for instance one from python.org, pyenv or conda.",
        )
    return Check("venv", "ok", "venv and ensurepip")


def _glibc() -> tuple[int, ...]:
    try:
        version = ctypes.CDLL(None).gnu_get_libc_version
    except (AttributeError, OSError, TypeError):
        return (0, 0)
    version.restype = ctypes.c_char_p
    return tuple(int(part) for part in version().decode().split(".")[:2])


def _compiler() -> str | None:
    """Return the first line of the compiler's `--version`; torch takes `CXX`, else `c++`, so this does too."""
    path = shutil.which(os.environ.get("CXX") or "c++")
    if path is None:
        return None
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (answer.stdout.splitlines() or [path])[0] if answer.returncode == 0 else None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
