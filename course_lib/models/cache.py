"""A folder that is made once, and is either whole or not there.

    policies/.smollm2-1.lock             one builder at a time, over processes
    policies/.smollm2-1.new-x7a2/        the builder writes here ...
    policies/smollm2-1/                  ... and renames it to this
    policies/smollm2-1/manifest.json     bytes and SHA-256 of each file, checked on each load

A crash leaves at most a `.new-` folder behind, which the next builder removes.
"""

import errno
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from course_lib.machine import cache_dir
from course_lib.models.errors import PolicyError

MANIFEST = "manifest.json"
_LOCK_SECONDS = 600.0
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Recipe:
    """How a cached folder is made.

    Attributes:
        name: The folder's name. It ends in the recipe's version: two checkouts of the course can share one cache.
        build: Returns `{file name: content}`; called only where the folder is missing or broken.
        doing: One line for the reader who waits while `build` runs; empty where it takes no time to speak of.
    """

    name: str
    build: Callable[[], Mapping[str, bytes]]
    doing: str = ""


def materialise(recipe: Recipe) -> Path:
    """Return the recipe's folder: the cached one where each byte of it is as it was made, else a new one.

    Raises:
        PolicyError: The cache can't be written (full, read-only), or another process holds it for ten minutes.
    """
    root = cache_dir() / "policies"
    folder = root / recipe.name
    if fault(folder) is None:
        return folder
    with _explained(root):
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f".{recipe.name}.lock"):
            _remove_leftovers(root, recipe.name)
            wrong = fault(folder)  # asked again: another rank may have built it while this one waited
            if wrong is not None:
                if folder.exists():
                    _say(f"{folder} is broken ({wrong}): building it again.")
                _build(recipe, folder)
    return folder


def fault(folder: Path) -> str | None:
    """Return what is wrong with a cached folder, or None where every file has the size and SHA-256 of its manifest.

    Sizes come first, as they cost nothing; hashing the 270 MB of `smollm2` then takes about 0.2 s.
    """
    if not folder.is_dir():
        return "it is missing"
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        wanted = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        wanted = {}
    if not wanted:
        return f"{MANIFEST} is missing or unreadable"
    for name, (size, _) in wanted.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
    for name, (_, digest) in wanted.items():
        if sha256(folder / name) != digest:
            return f"{name} does not have the SHA-256 that {MANIFEST} gives"
    return None


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(recipe: Recipe, folder: Path) -> None:
    if recipe.doing:
        _say(recipe.doing)
    content = recipe.build()
    fresh = Path(tempfile.mkdtemp(prefix=f".{recipe.name}.new-", dir=folder.parent))
    try:
        fresh.chmod(0o755)  # mkdtemp's 0700 would keep a shared cache from the other users
        for name, data in content.items():
            (fresh / name).write_bytes(data)
        files = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in content.items()
        }
        (fresh / MANIFEST).write_text(json.dumps({"recipe": recipe.name, "files": files}, indent=2) + "\n")
        if folder.exists():
            # A folder can't be renamed onto a full one; the broken one steps aside under a name that is swept up.
            folder.rename(fresh.with_name(fresh.name + "-old"))
        fresh.rename(folder)
    finally:
        _remove_leftovers(folder.parent, recipe.name)


def _remove_leftovers(root: Path, name: str) -> None:
    """Remove what a crashed builder left. Whoever calls this holds the lock, so nobody is at work in them."""
    for leftover in root.glob(f".{name}.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        with FileLock(path, timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        raise PolicyError(
            f"Another process has held {path} for {_LOCK_SECONDS:.0f} s, where building takes seconds. "
            "End that process, or set COURSE_CACHE to another folder, and run this again."
        ) from error


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Turn the file system's errors into one message that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise PolicyError(
                f"The disk of the course's cache, {root}, is full ({error.strerror}); nothing half-made was left. "
                "A policy needs up to 300 MB. Free some space, or set COURSE_CACHE to a folder on another disk, "
                "and run this again."
            ) from error
        raise PolicyError(
            f"The course's cache, {root}, can't be written ({error}). "
            "Set COURSE_CACHE to a folder that you can write to, and run this again."
        ) from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
