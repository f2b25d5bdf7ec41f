"""How much memory this process has taken at most."""

import resource

import torch


def peak_memory() -> dict[str, float]:
    """Return the peak so far in GiB: `host` (resident set) and, where there is a GPU, `gpu` (torch's allocator)."""
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}  # Linux counts KiB
    if torch.cuda.is_available():
        peak["gpu"] = torch.cuda.max_memory_reserved() / 2**30
    return peak
