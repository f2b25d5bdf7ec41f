"""What the pictures' tests share: their JavaScript run by node, their pages shown by chromium, and made-up stories."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import strategies as st

from course_lib.fragmentation.memory_map import Segment, Snapshot
from course_lib.paged_attention import PagedKVManager
from course_lib.paged_attention.snapshot import PoolSnapshot
from course_lib.viz.picture import ASSETS

STATES = ("used", "reserved", "internal", "free")


@pytest.fixture(scope="session")
def node() -> Callable[[str, str, Any], Any]:
    """Run an expression of `data` and an asset's exported functions in node; return its value."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed; the pictures' formulas in JavaScript are not tested")

    def run(asset: str, expression: str, data: Any) -> Any:
        script = (
            f'import * as asset from "{(ASSETS / asset).as_uri()}";'
            'import { readFileSync } from "node:fs";'
            'const data = JSON.parse(readFileSync(0, "utf8"));'
            f"console.log(JSON.stringify({expression}));"
        )
        command = [program, "--input-type=module", "--eval", script]
        done = subprocess.run(command, input=json.dumps(data), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[str, list[str]]]:
    """Show a page in chromium; return its DOM after scripts ran, and what the console complained of."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("chromium is not installed; the pictures' pages are not shown")
    profile = tmp_path_factory.mktemp("chromium")

    def show(page: Path) -> tuple[str, list[str]]:
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,800"]
        command += ["--virtual-time-budget=1500", f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom"]
        done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return show


@st.composite
def memories(draw: st.DrawFn) -> list[Snapshot]:
    """Some snapshots of one memory, with any segments."""
    size = draw(st.integers(1, 3000))
    shots = []
    for number in range(draw(st.integers(1, 6))):
        cuts = sorted(draw(st.sets(st.integers(1, size - 1), max_size=12)) if size > 1 else [])
        segments = []
        for start, end in zip([0, *cuts], [*cuts, size], strict=True):
            state = draw(st.sampled_from(STATES))
            owner = "" if state == "free" else draw(st.sampled_from("ABCDEFGH"))
            segments.append(Segment(start, end - start, state, owner))
        event, refused = draw(st.text(max_size=20)), draw(st.booleans())
        shots.append(Snapshot(number * 0.5, event, size, tuple(segments), refused))
    return shots


@st.composite
def pools(draw: st.DrawFn) -> list[PoolSnapshot]:
    """A real pool's snapshots, while requests come, grow and go; few kinds of tokens, so that prefixes are shared."""
    manager = PagedKVManager(draw(st.integers(4, 12)), draw(st.sampled_from([1, 2, 4, 16])))
    tokens = st.lists(st.integers(0, 1), min_size=1, max_size=12)
    shots = [manager.snapshot("empty")]
    held: list[str] = []
    for number in range(draw(st.integers(0, 8))):
        act = draw(st.sampled_from(["allocate", "append", "free"]))
        if act == "allocate" or not held:
            if manager.allocate(f"r{number}", draw(tokens)) is not None:
                held.append(f"r{number}")
        elif act == "append":
            manager.append(draw(st.sampled_from(held)), draw(tokens))
        else:
            manager.free(held.pop(draw(st.integers(0, len(held) - 1))))
        shots.append(manager.snapshot(f"{act} {number}", chr))
    return shots


def full_memory() -> list[Snapshot]:
    """Room for D in all, and no hole that is large enough."""
    before = (
        Segment(0, 50, "used", "A"),
        Segment(50, 30, "used", "B"),
        Segment(80, 80, "used", "C"),
        Segment(160, 40, "free"),
    )
    after = (Segment(0, 40, "used", "A"), Segment(40, 10, "reserved", "A"), Segment(50, 30, "free"), *before[2:])
    return [
        Snapshot(0.0, "A, B and C start", 200, before),
        Snapshot(1.0, "B (30 tokens) ends", 200, after),
        Snapshot(2.0, "D (60 tokens) does not fit", 200, after, refused=True),
    ]


def shared_prefix() -> list[PoolSnapshot]:
    """B finds A's first block in the cache; then A ends."""
    manager = PagedKVManager(8, 4)
    shots = []
    for event, act in (
        ("A arrives", lambda: manager.allocate("A", [1, 2, 3, 4, 5, 6])),
        ("B arrives", lambda: manager.allocate("B", [1, 2, 3, 4, 7])),
        ("A ends", lambda: manager.free("A")),
    ):
        act()
        shots.append(manager.snapshot(event))
    return shots


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    return SimpleNamespace(
        memories=memories, pools=pools, full_memory=full_memory(), shared_prefix=shared_prefix(), states=STATES
    )
