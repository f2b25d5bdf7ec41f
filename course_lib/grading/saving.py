"""Files that are there whole or not at all; apart from `notebook`, whose nbformat takes a second to import."""

import os
from pathlib import Path


def save_bytes(content: bytes, path: Path) -> None:
    """Write a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
