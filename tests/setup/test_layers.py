"""The layers: the contract holds as the course stands, and is refused when a room imports a later one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(root)})


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "course_lib", tmp_path / "course_lib", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_course_keeps_its_layers(copy: Path) -> None:
    answer = lint(copy)
    assert answer.returncode == 0, answer.stdout
    assert "1 kept, 0 broken" in answer.stdout


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("machine", "models"),
        ("models", "training"),
        ("training", "rl"),
        ("rl", "viz"),
        ("rl", "grading"),
        ("viz", "cli"),
        ("kv_cache", "fragmentation"),
        ("fragmentation", "paged_attention"),
    ],
)
def test_an_import_of_a_later_layer_is_refused(copy: Path, importer: str, imported: str) -> None:
    for name in (importer, imported):
        if not (copy / "course_lib" / f"{name}.py").is_file():
            (copy / "course_lib" / name).mkdir(exist_ok=True)
            (copy / "course_lib" / name / "__init__.py").touch()
    (copy / "course_lib" / importer / "guilty.py").write_text(f"import course_lib.{imported}\n")
    answer = lint(copy)
    assert answer.returncode == 1
    assert f"course_lib.{importer} is not allowed to import course_lib.{imported}" in answer.stdout


def test_a_room_that_no_layer_names_is_refused(copy: Path) -> None:
    (copy / "course_lib" / "attic").mkdir()
    (copy / "course_lib" / "attic" / "__init__.py").write_text('"""A room."""\n')
    answer = lint(copy)
    assert answer.returncode == 1
    assert "attic" in answer.stdout
