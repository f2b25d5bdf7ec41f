"""The choice of a Python: by running each candidate, since one on PATH may be a pyenv shim that fails."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "find_python.sh"
BROKEN = "echo 'pyenv: command not found' >&2; exit 127"


class Machine:
    """A machine whose PATH holds only the Pythons that a test puts there."""

    def __init__(self, root: Path) -> None:
        self.root, self.bin = root, root / "bin"
        (root / "tools").mkdir()
        self.bin.mkdir()
        shutil.copy(SCRIPT, root / "tools")
        for tool in ("sh", "cat", "dirname"):
            (self.bin / tool).symlink_to(shutil.which(tool))

    def python(self, path: str, script: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    def find(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / "sh", "tools/find_python.sh"],
            cwd=self.root,
            env={"PATH": str(self.bin), **environment},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_shim_that_fails_is_passed_over(machine: Machine) -> None:
    machine.python("bin/python3.11", BROKEN)
    good = machine.python("bin/python3.12", "echo 3.12")
    assert machine.find().stdout.strip() == str(good)


def test_plain_python3_counts_by_its_version(machine: Machine) -> None:
    machine.python("bin/python3.12", BROKEN)
    good = machine.python("bin/python3", "echo 3.11")
    assert machine.find().stdout.strip() == str(good)


def test_the_environment_made_before_comes_first_while_it_runs(machine: Machine) -> None:
    other = machine.python("bin/python3.11", "echo 3.11")
    mine = machine.python(".venv/bin/python", "echo 3.12")
    assert machine.find().stdout.strip() == ".venv/bin/python"
    mine.write_text(f"#!/bin/sh\n{BROKEN}\n")
    assert machine.find().stdout.strip() == str(other)


@pytest.mark.parametrize("script", ["echo 3.13", "echo 3.9", BROKEN])
def test_no_python_at_all_is_explained(machine: Machine, script: str) -> None:
    machine.python("bin/python3", script)
    answer = machine.find()
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert "needs Python 3.11 or 3.12, and found none" in answer.stderr
    assert "sudo apt-get install python3.11 python3.11-venv python3.11-dev" in answer.stderr
    assert "make PYTHON=/path/to/python3.12" in answer.stderr


def test_the_override_wins_and_a_wrong_one_is_named(machine: Machine) -> None:
    machine.python("bin/python3.11", "echo 3.11")
    good = machine.python("mine/python", "echo 3.12")
    assert machine.find(PYTHON=str(good)).stdout.strip() == str(good)
    machine.python("bin/python3.9", "echo 3.9")
    answer = machine.find(PYTHON="python3.9")
    assert answer.returncode == 1
    assert answer.stderr.startswith("PYTHON=python3.9 is Python 3.9: the course needs Python 3.11 or 3.12.")
    assert machine.find(PYTHON="nowhere").stderr.startswith("PYTHON=nowhere does not run:")


def test_the_courses_conda_environment_is_used_and_another_is_not(machine: Machine) -> None:
    plain = machine.python("bin/python3.11", "echo 3.11")
    conda = machine.python("conda/bin/python", "echo 3.12")
    prefix = str(machine.root / "conda")
    assert machine.find(CONDA_DEFAULT_ENV="llm-rl-course", CONDA_PREFIX=prefix).stdout.strip() == str(conda)
    assert machine.find(CONDA_DEFAULT_ENV="base", CONDA_PREFIX=prefix).stdout.strip() == str(plain)
    conda.unlink()
    answer = machine.find(CONDA_DEFAULT_ENV="llm-rl-course", CONDA_PREFIX=prefix)
    assert answer.returncode == 1
    assert "conda env create -f environment.yml" in answer.stderr


def test_the_script_is_plain_sh() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert subprocess.run(["sh", "-n", SCRIPT], check=False).returncode == 0
