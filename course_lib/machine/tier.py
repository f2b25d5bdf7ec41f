"""Which engines this machine runs: the CPU builds, or the GPU builds where an NVIDIA driver answers."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import Literal

Tier = Literal["cpu", "gpu"]


def tier() -> Tier:
    """Return `"gpu"` where an NVIDIA driver answers, else `"cpu"`; the environment variable `TIER` overrides.

    Raises:
        ValueError: `TIER` is set to anything but `cpu` or `gpu`.
    """
    override = os.environ.get("TIER")
    if not override:
        return "gpu" if gpus() else "cpu"
    if override == "cpu":
        return "cpu"
    if override == "gpu":
        return "gpu"
    raise ValueError(f"TIER={override} is not a tier: use TIER=cpu or TIER=gpu, or unset it for the machine's own.")


def device() -> str:
    """Return the torch device of this tier, `"cpu"` or `"cuda"`."""
    return "cuda" if tier() == "gpu" else "cpu"


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver describes it; `memory_mib` is its memory in MiB, None where the driver does not say."""

    name: str
    driver: str
    memory_mib: int | None


@cache
def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that the NVIDIA driver lists: none without a driver, or with one that does not answer in 20 s."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return ()
    query = [smi, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_gpus(answer.stdout) if answer.returncode == 0 else ()


def named_gpus() -> list[str] | None:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names, the only ones that this process may use; None where it is not set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if named is None else [gpu for gpu in named.split(",") if gpu]


def parse_gpus(listing: str) -> tuple[Gpu, ...]:
    """Read the lines `name, driver, memory in MiB` that nvidia-smi prints; a line of any other form is not a GPU."""
    rows = [[field.strip() for field in line.rsplit(",", 2)] for line in listing.splitlines()]
    # A GPU that shares its memory with the host reports "[N/A]" there.
    return tuple(Gpu(row[0], row[1], int(row[2]) if row[2].isdigit() else None) for row in rows if len(row) == 3)
