"""Write requirements/<tier>.txt from requirements/<tier>.in: all that the tier installs, each at one exact version.

A lock is resolved for Python 3.11 and then held against 3.12: the same packages, and a wheel for each of them in both.
Versions that are in the lock already are kept where they still fit; `make lock UPGRADE=1` takes the newest.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from course_lib.machine.versions import locked

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
# glibc 2.31 (Debian 11, Ubuntu 20.04) is the oldest that every package has a wheel for.
PLATFORM = "x86_64-manylinux_2_31"
# What ships as source alone: DeepSpeed, and three that reasoning-gym needs (two of plain Python, one of a C file, for which
# the reader has the compiler that DeepSpeed wants). Anything else without a wheel might ask for another language's compiler.
SOURCES = ("deepspeed", "cellpylib", "zss", "pycosat")
WHEELS = ["--only-binary", ":all:", *(option for name in SOURCES for option in ("--no-binary", name))]
WHEELS += ["--no-build-isolation-package", "deepspeed"]
HEADER = "# Made by `make lock` from {name}.in: Python 3.11 and 3.12, Linux x86-64, glibc 2.31 or newer. Do not edit.\n"


def compile_pins(source: Path, output: Path, python: str, *options: str) -> None:
    """Resolve `source` for one Python version with uv, into `output`; where it cannot, uv says why on the terminal."""
    command = [sys.executable, "-m", "uv", "pip", "compile", str(source), "-o", str(output), "--python-version", python]
    command += ["--python-platform", PLATFORM, "--no-annotate", "--no-header", "--quiet", *WHEELS, *options]
    subprocess.run(command, check=True)


def torch_source(tier: str) -> list[str]:
    """Return the options that say where uv finds the tier's torch: the CPU build is not on the main index."""
    if tier == "gpu":
        return []
    local = os.environ.get("PIP_FIND_LINKS")
    return ["--find-links", local] if local else ["--torch-backend", "cpu"]


def lock(tier: str, *, upgrade: bool, scratch: Path) -> None:
    """Resolve one tier and replace its lock, if both Python versions can install it.

    Raises:
        SystemExit: Python 3.12 needs a package that the lock for 3.11 does not have.
        subprocess.CalledProcessError: uv found no solution, or a package without a wheel.
    """
    target = REQUIREMENTS / f"{tier}.txt"
    fresh = scratch / f"{tier}.txt"
    if target.exists() and not upgrade:
        fresh.write_text(target.read_text())
    excludes = REQUIREMENTS / f"{tier}.excludes.txt"
    options = ["--excludes", str(excludes)] if excludes.exists() else []
    compile_pins(REQUIREMENTS / f"{tier}.in", fresh, "3.11", *options, *torch_source(tier))

    # The CPU build of torch may lie on disk for one Python version alone, so it is left out of the second look.
    without_torch = scratch / "without_torch.txt"
    without_torch.write_text("torch\n" + (excludes.read_text() if excludes.exists() else ""))
    second = scratch / f"{tier}-3.12.txt"
    compile_pins(REQUIREMENTS / f"{tier}.in", second, "3.12", "-c", str(fresh), "--excludes", str(without_torch))
    missing = locked(second).keys() - locked(fresh).keys()
    if missing:
        raise SystemExit(
            f"Python 3.12 needs {', '.join(sorted(missing))} beside the lock: add them to requirements/{tier}.in."
        )
    every = scratch / f"{tier}-every.txt"
    every.write_text("".join(f"{name}=={version}\n" for name, version in locked(fresh).items() if name != "torch"))
    compile_pins(every, scratch / "ignored.txt", "3.12", "--no-deps")

    before = locked(target)
    target.write_text(HEADER.format(name=tier) + fresh.read_text())
    changed = dict(before.items() ^ locked(target).items())
    print(f"requirements/{tier}.txt: {len(locked(target))} packages, {len(changed)} changed")


def main() -> None:
    """Lock both tiers; `--upgrade` takes the newest versions that the .in files allow."""
    upgrade = "--upgrade" in sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        for tier in ("cpu", "gpu"):
            try:
                lock(tier, upgrade=upgrade, scratch=Path(scratch))
            except subprocess.CalledProcessError:
                raise SystemExit(
                    f"requirements/{tier}.txt is unchanged: uv found no lock for it (its reason is above)."
                ) from None


if __name__ == "__main__":
    main()
