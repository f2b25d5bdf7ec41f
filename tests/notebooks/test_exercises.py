"""One source, two notebooks: stubs and solutions; faults in the source are refused; a learner's work is kept."""

import subprocess
import sys
from pathlib import Path

import pytest
from nbformat import validate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "grading" / "demo"))

from demo_course import ANSWERS, edit, find, new_course, read

from build_notebooks import main
from nbbuild.check import check
from nbbuild.course import BuildError, Course
from nbbuild.exercises import solution, solution_lines, stub

pytestmark = pytest.mark.timeout(120)
SOURCE = "def f():\n    # SOLUTION\n    return 1\n    # END SOLUTION\n"


@pytest.fixture
def course(tmp_path: Path) -> Course:
    return new_course(tmp_path)


@pytest.fixture
def built(course: Course) -> Course:
    assert main([], course) == 0
    return course


def exercises(course: Course) -> Path:
    return course.root / "exercises" / "91_demo.ipynb"


def source(course: Course) -> Path:
    return course.lessons_dir / "91_demo_exercises.py"


def change(course: Course, old: str, new: str) -> None:
    text = source(course).read_text()
    assert old in text
    source(course).write_text(text.replace(old, new))


def test_the_solution_becomes_a_stub_or_loses_its_marks() -> None:
    assert stub(SOURCE) == 'def f():\n    raise NotImplementedError("your turn")'
    assert solution(SOURCE) == "def f():\n    return 1"
    assert solution_lines(SOURCE) == ["return 1"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("# SOLUTION\na\n# SOLUTION\n# END SOLUTION", "a second '# SOLUTION'"),
        ("# SOLUTION\na", "without '# END SOLUTION' after it"),
        ("a\n# END SOLUTION", "without '# SOLUTION' before it"),
        ("# SOLUTION\n# END SOLUTION", "nothing between"),
    ],
)
def test_marks_without_a_partner_are_refused(broken: str, said: str) -> None:
    for read_it in (stub, solution):
        with pytest.raises(BuildError, match=f"cell 4: .*{said}"):
            read_it(broken, 4)


def test_both_notebooks_have_the_same_cells_and_the_stubs_none_of_the_solution(built: Course) -> None:
    stubs, solved = (read(built.root / folder / "91_demo.ipynb") for folder in ("exercises", "solutions"))
    validate(stubs)
    assert [cell.metadata["course"] for cell in stubs.cells] == [cell.metadata["course"] for cell in solved.cells]
    assert "NotImplementedError" in find(stubs, "91.double", "answer").source
    assert find(solved, "91.double", "answer").source.endswith("times = 2\n    return number * times")
    for line in solution_lines(source(built).read_text()):
        assert line not in exercises(built).read_text()
    assert "SOLUTION" not in str(stubs) + str(solved)


def test_the_facts_stand_under_the_heading(built: Course) -> None:
    heading, empty, facts, *_ = find(read(exercises(built)), "91.stack", "task").source.splitlines()
    assert (heading, empty) == ("## A stack", "")
    assert facts == "> **Difficulty** ●●○○○ · **Importance** ●●●●● · **10 minutes** · **10 points**"


def test_two_builds_give_the_same_bytes(built: Course) -> None:
    first = exercises(built).read_bytes()
    exercises(built).unlink()
    assert main([], built) == 0
    assert exercises(built).read_bytes() == first


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# SOLUTION\n    times", "times", "'# END SOLUTION' without"),
        (
            'exercise="91.double"',
            'exercise="91.twice"',
            "the catalogue has no exercise '91.twice'; it has: 91.double, 91.",
        ),
        ('check("91.total", total)', "print(total)", "exercise 91.total lacks a code cell with check"),
        ("<summary>Hint 2: a builtin?", "<summary>By the way", "exercise 91.total lacks 2 hints that unfold"),
        ("**Expected**: `total", "So `total", "exercise 91.total lacks an **Expected** result"),
        ("## The sum", "### The sum", "cell 11: an exercise starts with '## <title>'"),
        (
            "    # SOLUTION\n    return sum(number for number in numbers)\n    # END SOLUTION\n",
            "    return 0\n",
            "a stub",
        ),
        ('# %% exercise="91.double"\ndef', "# %%\ndef", "cell 4 holds a solution and says of which exercise not"),
    ],
)
def test_a_fault_in_the_source_is_named_and_nothing_is_written(
    built: Course, old: str, new: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = exercises(built).read_bytes()
    change(built, old, new)
    assert main([], built) == 1
    assert said in capsys.readouterr().err
    assert exercises(built).read_bytes() == before
    assert any(said in fault for fault in check(built))


def test_an_exercise_of_the_catalogue_that_is_not_there_is_refused(
    built: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    text = source(built).read_text()
    source(built).write_text(text[: text.index('# %% [markdown] exercise="91.total"')])
    assert main([], built) == 1
    assert "exercise 91.total of the catalogue has no cells here" in capsys.readouterr().err


def test_a_build_keeps_an_answer_and_brings_what_is_new(built: Course, capsys: pytest.CaptureFixture[str]) -> None:
    edit(exercises(built), double=ANSWERS["double"])
    before = exercises(built).read_bytes()
    assert main([], built) == 0
    assert exercises(built).read_bytes() == before
    assert "holds your work, and nothing is new" in capsys.readouterr().out
    change(built, "Write `Stack`.", "Write `Stack`, please.")
    change(built, '"""Return twice the number."""', '"""Return the double."""')
    assert main([], built) == 0
    said = capsys.readouterr().out
    assert "brought up to date around your work" in said
    assert "the stub of 91.double has changed, yours is kept" in said
    now = read(exercises(built))
    assert find(now, "91.double", "answer").source == ANSWERS["double"]
    assert "please" in find(now, "91.stack", "task").source
    [copy] = (built.root / "exercises" / ".backup").iterdir()
    assert copy.read_bytes() == before


def test_an_untouched_notebook_is_simply_rebuilt(built: Course) -> None:
    change(built, "Write `Stack`.", "Write `Stack`, please.")
    assert main([], built) == 0
    assert "please" in exercises(built).read_text()
    assert not (built.root / "exercises" / ".backup").exists()


def test_a_broken_exercise_notebook_is_left_alone(built: Course, capsys: pytest.CaptureFixture[str]) -> None:
    exercises(built).write_text("<<<<<<< HEAD\n{")
    assert main([], built) == 1
    assert "91_demo.ipynb is not a notebook" in capsys.readouterr().err
    assert exercises(built).read_text() == "<<<<<<< HEAD\n{"


def test_solutions_run_in_their_own_folder(built: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1] / "grading" / "demo"))
    change(built, "print(double)", "import os; print(os.path.basename(os.getcwd()))")
    for lesson in ("double", "stack", "total"):  # the course's own `check` does not know the demo's exercises
        change(
            built, f'check("91.{lesson}", {"Stack" if lesson == "stack" else lesson})', f'check("91.{lesson}", print)'
        )
    change(built, "from course_lib.grading import check", "check = print")
    assert main(["--execute", "91"], built) == 0
    solved = read(built.root / "solutions" / "91_demo.ipynb")
    assert find(solved, "91.double", "try").outputs[0].text == "solutions\n"
    assert check(built) == []


def git(course: Course, *arguments: str) -> None:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
    subprocess.run(command, cwd=course.root, check=True, capture_output=True)


@pytest.fixture
def committed(built: Course) -> Course:
    (built.root / "solutions" / "91_demo.ipynb").unlink()  # never run here, so never current
    git(built, "init", "-q")
    git(built, "add", "-A")
    git(built, "commit", "-qm", "course")
    return built


def faults(course: Course) -> list[str]:
    return [fault for fault in check(course) if fault.startswith("exercises/")]


def test_a_learners_work_is_no_fault(committed: Course) -> None:
    edit(exercises(committed), double=ANSWERS["double"])
    assert faults(committed) == []


def test_work_that_was_committed_is_a_fault_in_ci_alone(committed: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(exercises(committed), double=ANSWERS["double"])
    git(committed, "commit", "-qam", "mine")
    monkeypatch.delenv("CI", raising=False)
    assert faults(committed) == []
    monkeypatch.setenv("CI", "true")
    assert "exercises/91_demo.ipynb: differs; it is built from lessons/91_demo_exercises.py" in faults(committed)[0]


def test_a_stale_notebook_is_a_fault_with_and_without_work_in_it(committed: Course) -> None:
    change(committed, "Write `Stack`.", "Write `Stack`, please.")
    assert "exercises/91_demo.ipynb: differs" in faults(committed)[0]
    edit(exercises(committed), double=ANSWERS["double"])
    assert "the committed one differs" in faults(committed)[0]
    exercises(committed).unlink()
    assert "exercises/91_demo.ipynb: not built" in faults(committed)[0]


def test_a_path_picks_one_notebook_and_a_number_all(built: Course) -> None:
    picked = {
        name: [lesson.kind for lesson in built.pick([name])] for name in ("91", "91_demo", "exercises/91_demo.ipynb")
    }
    assert picked == {
        "91": ["exercise", "solution"],
        "91_demo": ["exercise", "solution"],
        "exercises/91_demo.ipynb": ["exercise"],
    }
    assert [lesson.kind for lesson in built.pick(["lessons/91_demo_exercises.py"])] == ["exercise", "solution"]
