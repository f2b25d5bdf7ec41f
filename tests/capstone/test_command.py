"""`course capstone` as a reader calls it, on the tiny policy: the files, the words, the exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from course_lib.cli import app
from course_lib.rl import capstone


def course(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "course_lib", *arguments]
    environment = os.environ | {"TIER": "cpu", "COLUMNS": "200"}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)  # another test's engines may have set them in this process
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("course")
    return folder, course(folder, "capstone", "--policy", "tiny", "--steps", "2")


def test_a_run_ends_well_and_says_where_everything_is(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, ran = finished
    assert ran.returncode == 0, ran.stderr[-2000:]
    run = folder / "runs" / "capstone"
    for place in ("metrics.jsonl", "samples.jsonl", "plot.png", "summary.json", "policy"):
        assert (run / place).exists()
        assert f"runs/capstone/{place}" in ran.stdout
    assert "step 2/2" in ran.stdout
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["receipts"] == {"clean": 2, "all": 2}
    assert summary["machine"]["tier"] == "cpu"


def test_the_exported_policy_loads_in_transformers(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = finished[0] / "runs" / "capstone" / "policy"
    assert AutoTokenizer.from_pretrained(policy).chat_template
    assert AutoModelForCausalLM.from_pretrained(policy).config.tie_word_embeddings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "tinny"), "tiny"),
        (("--policy", "tiny", "--run", "runs/capstone"), "already holds a run"),
        (("--policy", "tiny", "--run", "runs/none", "--resume"), "holds no run to resume"),
    ],
)
def test_a_wrong_call_is_one_message_before_the_engines_start(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this process: it has imported the engines already, and can see to it that none is started."""
    monkeypatch.chdir(finished[0])
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(capstone, "make_loop", None)
    ran = CliRunner().invoke(app, ["capstone", *arguments])
    assert isinstance(ran.exception, SystemExit)
    assert ran.exit_code == 1
    assert message in ran.stderr


def test_the_grade_of_a_run_that_learned_nothing_is_not_full(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    ran = course(finished[0], "grade", "08")
    assert ran.returncode == 1
    assert "2 of 2 steps" in ran.stdout
