"""A hostfile: which machines a job runs on, and how many ranks each has room for."""

import os
import re
from pathlib import Path

_ENTRY = re.compile(r"(\S+)\s+slots=(\d+)\s*(#.*)?")


def read_hostfile(path: str | os.PathLike[str]) -> dict[str, int]:
    """Return `{host: slots}` in the file's order, which is the order of the ranks: the first host has rank 0.

    A line is `worker-0 slots=4`; a line that is empty or starts with `#` is left out. DeepSpeed's own reader
    (`deepspeed/launcher/runner.py`, fetch_hostfile) starts on this machine alone, with a warning, where there is no file.

    Raises:
        ValueError: there is no such file, it names no host, or a line is unreadable, names a host again or has no slots.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"the hostfile {path} can't be read ({error}); give a file of lines like 'worker-0 slots=4'."
        ) from error
    hosts: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        entry = _ENTRY.fullmatch(line)
        if entry is None:
            raise ValueError(f"{path}, line {number}: {line!r} is not like 'worker-0 slots=4'.")
        host, slots = entry[1], int(entry[2])
        if host in hosts:
            raise ValueError(
                f"{path}, line {number}: {host} was named before; give each host one line with all its slots."
            )
        if slots == 0:
            raise ValueError(f"{path}, line {number}: {host} has 0 slots; give it one or more, or leave it out.")
        hosts[host] = slots
    if not hosts:
        raise ValueError(f"{path} names no host; give a line like 'worker-0 slots=4' for each.")
    return hosts
