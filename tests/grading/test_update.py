"""`course update`: the newer course comes, the learner's work stays; and when anything fails, all is as it was."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from demo_course import ANSWERS, edit, find, read

from build_notebooks import main
from course_lib.grading import update as update_module
from course_lib.grading.update import UpdateError, update
from nbbuild.course import Course

NOTEBOOK = "exercises/91_demo.ipynb"


def git(root: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *settings, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def learner(course: Course, tmp_path: Path) -> Path:
    """A clone of a course, in which a learner has solved an exercise and noted something."""
    (course.root / ".gitignore").write_text("/exercises/.backup/\n")
    (course.root / "README.md").write_text("A course.\n")
    git(course.root, "init", "-q")
    git(course.root, "add", "-A")
    git(course.root, "commit", "-qm", "first")
    git(tmp_path, "clone", "-q", "course", "learner")
    root = tmp_path / "learner"
    edit(root / NOTEBOOK, double=ANSWERS["double"])
    (root / "notes.txt").write_text("mine")
    return root


def publish(course: Course, change: Callable[[Path], object]) -> None:
    """Commit a newer course."""
    change(course.root)
    assert main([], course) == 0
    git(course.root, "add", "-A")
    git(course.root, "commit", "-qm", "second")


def say_please(root: Path) -> None:
    source = root / "lessons" / "91_demo_exercises.py"
    source.write_text(source.read_text().replace("Write `Stack`.", "Write `Stack`, please."))


def state(root: Path) -> dict[str, bytes]:
    """All that the learner has, copies and git's own files apart, and what git says of it."""
    paths = [
        path for path in root.rglob("*") if path.is_file() and ".git" not in path.parts and ".backup" not in path.parts
    ]
    status = git(root, "status", "--porcelain", "--branch").splitlines()[1:]
    return (
        {str(path.relative_to(root)): path.read_bytes() for path in paths}
        | {"head": git(root, "rev-parse", "HEAD").encode()}
        | {"status": "\n".join(status).encode()}
    )


def test_the_newer_course_comes_and_the_work_stays(course: Course, learner: Path) -> None:
    before = (learner / NOTEBOOK).read_bytes()
    publish(course, say_please)
    said: list[str] = []
    update(learner, said.append)
    now = read(learner / NOTEBOOK)
    assert find(now, "91.double", "answer").source == ANSWERS["double"]
    assert "please" in find(now, "91.stack", "task").source
    assert git(learner, "log", "--format=%s").split() == ["second", "first"]
    assert (learner / "notes.txt").read_text() == "mine"
    [copy] = (learner / "exercises" / ".backup").iterdir()
    assert copy.read_bytes() == before
    assert f"{NOTEBOOK}: brought up to date around your work" in said


def test_without_work_it_is_a_plain_pull(course: Course, learner: Path) -> None:
    git(learner, "checkout", "--", NOTEBOOK)
    publish(course, say_please)
    update(learner, lambda _: None)
    assert (learner / NOTEBOOK).read_bytes() == (course.root / NOTEBOOK).read_bytes()
    assert not (learner / "exercises" / ".backup").exists()


def test_with_nothing_new_nothing_is_touched(learner: Path) -> None:
    before = state(learner)
    said: list[str] = []
    update(learner, said.append)
    assert said == ["The course is up to date."]
    assert state(learner) == before
    assert not (learner / "exercises" / ".backup").exists()


def test_a_notebook_that_the_course_no_longer_has_is_kept(course: Course, learner: Path) -> None:
    before = (learner / NOTEBOOK).read_bytes()

    def drop(root: Path) -> None:
        for path in (NOTEBOOK, "solutions/91_demo.ipynb", "lessons/91_demo_exercises.py"):
            (root / path).unlink()

    publish(course, drop)
    update(learner, lambda _: None)
    assert (learner / NOTEBOOK).read_bytes() == before


def test_a_notebook_that_is_not_json_is_kept(course: Course, learner: Path) -> None:
    (learner / NOTEBOOK).write_text("half a noteb")
    publish(course, say_please)
    said: list[str] = []
    update(learner, said.append)
    assert (learner / NOTEBOOK).read_text() == "half a noteb"
    assert any("kept as it was, without what is new" in line for line in said)


def edit_readme(course: Course, learner: Path) -> None:
    publish(course, lambda root: (root / "README.md").write_text("A newer course.\n"))
    (learner / "README.md").write_text("My own words.\n")


def commit_own(course: Course, learner: Path) -> None:
    publish(course, say_please)
    git(learner, "commit", "-qam", "mine")


def lose_the_course(course: Course, learner: Path) -> None:
    course.root.rename(course.root.with_name("elsewhere"))


def leave_git(course: Course, learner: Path) -> None:
    publish(course, say_please)
    git(learner, "checkout", "-q", "--detach")


def stage_and_edit_readme(course: Course, learner: Path) -> None:
    edit_readme(course, learner)
    git(learner, "add", NOTEBOOK)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (edit_readme, "the newer course could not be merged:\n.*README.md"),
        (stage_and_edit_readme, "the newer course could not be merged:\n.*README.md"),
        (commit_own, "has commits that origin/main has not"),
        (lose_the_course, "the newer course could not be fetched"),
        (leave_git, "this branch follows no other one"),
    ],
)
def test_when_it_fails_all_is_as_it_was(
    trouble: Callable[[Course, Path], None], said: str, course: Course, learner: Path
) -> None:
    trouble(course, learner)
    before = state(learner)
    with pytest.raises(UpdateError, match=f"(?s){said}"):
        update(learner, lambda _: None)
    assert state(learner) == before


@pytest.mark.parametrize("step", ["checkout", "merge"])
def test_an_interrupt_leaves_all_as_it_was(
    step: str, course: Course, learner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(course, say_please)
    before = state(learner)
    original = update_module._Git.__call__

    def interrupted(self: update_module._Git, *arguments: str, why: str = "") -> str:
        said = original(self, *arguments, why=why) if arguments[0] != "merge" else ""
        if arguments[0] == step:
            raise KeyboardInterrupt
        return said

    monkeypatch.setattr(update_module._Git, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        update(learner, lambda _: None)
    monkeypatch.undo()
    assert state(learner) == before


def test_an_interrupt_while_work_is_carried_over_loses_no_work(
    course: Course, learner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (learner / NOTEBOOK).read_bytes()
    publish(course, say_please)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(update_module, "carry_over", interrupted)
    with pytest.raises(KeyboardInterrupt):
        update(learner, lambda _: None)
    assert (learner / NOTEBOOK).read_bytes() == before


def test_outside_of_git_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(UpdateError, match="not a git checkout"):
        update(tmp_path)
