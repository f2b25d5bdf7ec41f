"""`course grade` and `course progress` as a whole: what is picked, what is shown, what is written."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from demo_course import ANSWERS, CATALOGUE, edit
from typer.testing import CliRunner

from course_lib.cli import app
from course_lib.grading.cli import main, show_progress
from course_lib.grading.course import Checkout
from course_lib.grading.exercises import Catalogue
from course_lib.grading.report import grade_run, read_records
from nbbuild.course import Course

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def checkout(course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    monkeypatch.chdir(tmp_path)  # runs of this working folder would be graded, too
    return Checkout(course.root, CATALOGUE)


def capstone(root: Path, tail: str = "") -> Path:
    run = root / "runs" / "one"
    (run / "policy").mkdir(parents=True)
    (run / "policy" / "model.safetensors").touch()
    (run / "config.json").write_text('{"steps": 1}')
    step = {"step": 1, "receipt": {"ok": True}, "applied": True, "groups_with_signal": 0.5, "held_out": 0.9}
    step["timeline"] = [["train", 0.0, 9.0]]
    lines = [json.dumps({"step": 0, "held_out": 0.4}), json.dumps(step)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n" + tail)
    return run


def test_a_grading_is_shown_written_and_remembered(
    checkout: Checkout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(checkout.notebook("91"), double=ANSWERS["double"], stack="class Stack: ...\n1 / 0")
    assert main(["91"], checkout=checkout, out=tmp_path) == 1
    said = capsys.readouterr().out
    assert "10 of 10" in said and "10 of 30 points" in said and "not started" in said
    found = json.loads((tmp_path / "grade_report.json").read_text())
    assert (found["earned"], found["points"]) == (10, 30)
    assert [(line["id"], line["status"]) for line in found["exercises"]] == [
        ("91.double", "solved"),
        ("91.stack", "not solved yet"),
        ("91.total", "not started"),
    ]
    assert found["machine"]["tier"] in ("cpu", "gpu") and found["exercises"][0]["notebook"] == "exercises/91_demo.ipynb"
    assert "cell 8 (`class Stack: ...`) raised ZeroDivisionError" in found["exercises"][1]["parts"][0]["message"]
    text, page = ((tmp_path / f"grade_report.{ending}").read_text() for ending in ("md", "html"))
    assert "| 91.double | Twice a number | solved | 10 of 10 |" in text and "## 91.stack A stack" in text
    assert page.count("<section") == 3 and "10 of 30 points" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # it needs no other file
    assert show_progress(checkout) == 0
    said = capsys.readouterr().out
    assert "1 of 3 exercises solved." in said
    assert "Next: A stack, about 10 minutes" in said and "91_demo.ipynb#A-stack" in said


def test_solutions_get_all_points_and_are_not_the_learners(
    checkout: Checkout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([], checkout=checkout, solutions=True, out=tmp_path) == 0
    assert "30 of 30 points" in capsys.readouterr().out
    assert show_progress(checkout) == 0
    assert "0 of 3 exercises solved." in capsys.readouterr().out


def test_one_exercise_can_be_graded_alone(checkout: Checkout, tmp_path: Path) -> None:
    edit(checkout.notebook("91"), total=ANSWERS["total"], stack="import os\nos._exit(1)")
    assert main(["91.total"], checkout=checkout, out=tmp_path) == 0
    assert len(json.loads((tmp_path / "grade_report.json").read_text())["exercises"]) == 1


def test_names_pick_in_the_courses_order(checkout: Checkout) -> None:
    def ids(*names: str) -> list[str]:
        return [exercise.id for exercise in checkout.pick(names)]

    assert ids() == ids("91") == ids("91_demo") == ids("91.total", "91") == ["91.double", "91.stack", "91.total"]
    assert ids("91.total", "91.double") == ["91.double", "91.total"]
    with pytest.raises(ValueError, match=r"nothing to grade is called '92'; give lessons \(91, 08\) or exercises"):
        checkout.pick(["92"])


def test_a_learners_copy_is_not_taken_for_the_notebook(checkout: Checkout) -> None:
    (checkout.root / "exercises" / "91_a_copy.ipynb").touch()
    assert checkout.notebook("91").name == "91_demo.ipynb"


def test_the_capstone_is_graded_with_everything_and_alone(
    checkout: Checkout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["08"], checkout=checkout, out=tmp_path) == 1
    assert "There is no capstone run in runs/ yet" in capsys.readouterr().out
    capstone(checkout.root)
    assert main(["08"], checkout=checkout, out=tmp_path) == 0
    assert "100 of 100 points" in capsys.readouterr().out
    assert main([], checkout=checkout, out=tmp_path) == 1
    found: dict[str, Any] = json.loads((tmp_path / "grade_report.json").read_text())
    assert (found["earned"], found["points"], found["capstone"]["run"]) == (100, 130, "runs/one")
    assert "Capstone: runs/one" in (tmp_path / "grade_report.html").read_text()


def test_lesson_08_is_its_milestones_and_the_run(
    checkout: Checkout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout = Checkout(checkout.root, Catalogue({"08": "demo_capstone"}))
    assert [exercise.id for exercise in checkout.pick(["08_capstone"])] == ["08.double", "08.stack", "08.total"]
    assert main(["08"], checkout=checkout, out=tmp_path) == 1
    said = capsys.readouterr().out
    assert "There is no capstone run in runs/ yet" in said and "0 of 30 points" in said
    capstone(checkout.root)
    assert main(["08"], checkout=checkout, out=tmp_path) == 1
    assert "100 of 130 points" in capsys.readouterr().out
    assert main(["08.double"], checkout=checkout, out=tmp_path) == 1  # a milestone alone: no run is graded
    assert "0 of 10 points" in capsys.readouterr().out


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    run = capstone(tmp_path, tail='{"step": 2, "rec')
    assert [record["step"] for record in read_records(run / "metrics.jsonl")] == [0, 1]
    assert sum(line.earned for line in grade_run(run)) == 100


@pytest.mark.parametrize("broken", ['{"step": 2, "rec\n{"step": 3}\n', '{"step": 2}\n'])
def test_a_run_with_other_faults_is_named(broken: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="runs/one can't be graded"):
        grade_run(capstone(tmp_path, tail=broken))


def test_the_commands_explain_themselves() -> None:
    runner = CliRunner()
    said = runner.invoke(app, ["--help"]).output
    for command in ("grade", "progress", "update"):
        assert command in said
        assert runner.invoke(app, [command, "--help"]).exit_code == 0
    assert runner.invoke(app, ["grade", "nonsense"]).exit_code == 1
