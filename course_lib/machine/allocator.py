"""The C library's allocator, told to keep what a training step frees for the next step."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_MIB = 1 << 20


def keep_freed_memory() -> None:
    """Let the heap keep freed memory, and serve tensors of up to 32 MiB from it.

    By default glibc hands the activations of every step back to the kernel, which then clears the same pages again for the
    next step: on the CPU tier that was a third of a step's time. Where the C library has no `mallopt`, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 2047 * _MIB)  # an int is the largest that mallopt takes
        mallopt(_MMAP_THRESHOLD, 32 * _MIB)  # and 32 MiB the largest of this one
