"""What a notebook's outputs may hold when they are committed: no machine's paths, no progress bars, not too much."""

import json
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from nbbuild.convert import describe, render
from nbbuild.course import BuildError

MAX_BYTES = 1_500_000
# Lines that tell about the kernel or the engines' start on one machine, and nothing about the lesson.
NOISE = (
    "Kernel is running over TCP without encryption",
    "cannot find -laio",
    "collect2: error: ld returned 1 exit status",
    "deepspeed_shm_comm_op built successfully",
    "Triton is installed, but doesn't include CPU backend",
    "NUMA binding: Using MEMBIND policy",
    "Capturing CUDA graphs",
    "Guessing device ID based on global rank",
    "barrier(): using the device under current context",
    "return func(*args, **kwargs)",  # the line of torch's that the warning about barrier() quotes
    "The hostname of the client socket cannot be retrieved",
    "Matplotlib is building the font cache",
)
# Text here is base64, where '/' is a digit and not a folder.
BINARY = ("image/png", "image/jpeg", "image/gif", "application/pdf", "buffers")
# The paths that give a machine away wherever the notebook is checked, not only on the machine that ran it.
FOREIGN_PATH = re.compile(r"(?<![\w.~$>-])/(?:home|Users|root|tmp|var/folders)/[\w.-][^\s'\"<>):,]*")

Replacement = tuple[re.Pattern[str], str]


def machine_paths(root: Path) -> list[Replacement]:
    """List what to write for this machine's paths: the repository is `.`, the home folder `~`, `/tmp` is `$TMPDIR`."""
    # IPython names a cell's code after a temporary file that differs at each run; warnings print it.
    temporary = re.escape(tempfile.gettempdir())
    replacements = [(re.compile(rf"{temporary}/ipykernel_\d+/\d+\.py"), "<cell>")]
    places = {Path("/tmp"): "$TMPDIR", Path(tempfile.gettempdir()): "$TMPDIR", Path.home(): "~", root: "."}
    if sys.prefix != sys.base_prefix:  # warnings name the file of the library that gives them
        places.setdefault(Path(sys.prefix), "$VIRTUAL_ENV")
    places |= {place.resolve(): text for place, text in places.items()}
    for place in sorted(places, key=lambda place: len(str(place)), reverse=True):
        if place != Path("/"):  # the home folder of a container's user may be the root
            replacements.append((re.compile(rf"(?<![\w.~-]){re.escape(str(place))}(?![\w-])"), places[place]))
    return replacements


def clean(notebook: NotebookNode, root: Path) -> None:
    """Clean the outputs of a notebook that ran on this machine, in place. Cleaning twice changes nothing more."""
    replacements = machine_paths(root)

    def strip_paths(text: str) -> str:
        for pattern, name in replacements:
            text = pattern.sub(name, text)
        return text

    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = map_text(merge_streams(cell.outputs), strip_paths)
            cell.outputs = [output for output in outputs if output.get("text") != ""]
    if "widgets" in notebook.metadata:
        notebook.metadata.widgets = map_text(notebook.metadata.widgets, strip_paths)


def merge_streams(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring writes to one stream and keep the last state of lines that a progress bar wrote over."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if output.output_type == "stream" and last and last.output_type == "stream" and last.name == output.name:
            merged[-1] = NotebookNode(last, text=last.text + output.text)
        else:
            merged.append(output)
    return [NotebookNode(output, text=final_text(output.text)) if "text" in output else output for output in merged]


def final_text(text: str) -> str:
    """Return the text as a terminal shows it in the end: carriage returns applied, the kernel's own lines dropped."""
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    kept = [line for line in lines if not any(noise in line for noise in NOISE)]
    return "\n".join(kept)


def leaks(notebook: NotebookNode) -> list[str]:
    """List the outputs that still hold a path of somebody's machine."""
    found = []

    def look(place: str) -> Callable[[str], str]:
        def note(text: str) -> str:
            if match := FOREIGN_PATH.search(text):
                found.append(f"{place} shows the path {match[0]}, which exists on one machine only; print less of it")
            return text

        return note

    for index, cell in enumerate(notebook.cells):
        map_text(cell.get("outputs", []), look(describe(notebook, index)))
    map_text(notebook.metadata.get("widgets", {}), look("the saved widget state"))
    return found


def oversize(notebook: NotebookNode, limit: int = MAX_BYTES) -> list[str]:
    """Say which cell is to blame when the notebook has more bytes than `limit`."""
    size = len(render(notebook).encode())
    if size <= limit:
        return []
    sizes = [(len(json.dumps(cell)), describe(notebook, index)) for index, cell in enumerate(notebook.cells)]
    sizes.append((len(json.dumps(notebook.metadata.get("widgets", {}))), "the saved widget state"))
    most, place = max(sizes)
    return [f"{size / 1e6:.2g} MB, expected at most {limit / 1e6:.2g} MB; show less in {place}, {most / 1e6:.2g} MB"]


def refuse_unfit(notebook: NotebookNode, name: str) -> None:
    """Raise where a notebook is not fit to be committed.

    Raises:
        BuildError: an output holds a machine's path, or the notebook is too large.
    """
    if faults := leaks(notebook) + oversize(notebook):
        raise BuildError("\n".join(f"{name} was not saved: {fault}" for fault in faults))


def map_text(node: Any, change: Callable[[str], str]) -> Any:
    """Apply `change` to each string in a tree of outputs, leaving base64 data alone."""
    if isinstance(node, str):
        return change(node)
    if isinstance(node, list):
        return [map_text(item, change) for item in node]
    if isinstance(node, dict):
        return NotebookNode({k: v if k in BINARY else map_text(v, change) for k, v in node.items()})
    return node
