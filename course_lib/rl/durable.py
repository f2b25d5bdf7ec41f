"""Files that are whole after a crash: the old text or the new one, and lines that are there or not.

A process that is killed loses nothing that it has written: the kernel has it, and brings it to the disk. A power cut takes
what is not on the disk yet, which on Linux may be the last half minute; only `sync` waits for the disk.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Return when a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that does not know this for a folder
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Return when a folder and all in it is on the disk. What was written half a minute ago mostly is, and costs nothing."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        sync(path)


def replace_text(file: Path, text: str) -> None:
    """Replace a file's text in one step; the disk has it when this returns. A crash leaves the old text or the new."""
    draft = file.with_name(file.name + ".partial")
    try:
        draft.write_text(text)
        sync(draft)
        draft.replace(file)
        sync(file.parent)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def append_line(file: Path, line: str) -> None:
    """Add a line to a file, all of it or, where the disk is full, nothing. Only a killed process leaves a part of it."""
    with file.open("ab", buffering=0) as lines:
        end, rest = lines.seek(0, os.SEEK_END), memoryview(f"{line}\n".encode())
        try:
            while rest:
                rest = rest[os.write(lines.fileno(), rest) :]
        except OSError:
            # The part that fitted would spoil the next line too.
            with contextlib.suppress(OSError):
                lines.truncate(end)
            raise


def json_lines(file: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yield each line of a file with its JSON object, or with None where it is none: cut off by a crash, or damaged."""
    for line in file.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        yield line, record if isinstance(record, dict) else None
