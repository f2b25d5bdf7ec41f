"""Building the notebooks that learners write in: their work comes first."""

import os
import subprocess
from pathlib import Path

from course_lib.grading import notebook as files
from course_lib.grading.carry_over import back_up, carry_over, changed_stubs
from course_lib.grading.saving import save_bytes
from nbbuild.convert import assemble, render
from nbbuild.course import BuildError, Lesson


def build_exercises(lesson: Lesson) -> str:
    """Build an exercise notebook, or carry the learner's work over into the new build. Return what was done.

    Raises:
        BuildError: the source is faulty, or the file on disk is not a notebook; it is left as it is.
    """
    newer = assemble(lesson)
    path = lesson.notebook
    if not path.exists():
        save_bytes(render(newer).encode(), path)
        return "written"
    content = path.read_bytes()
    if content == render(newer).encode():
        return "unchanged"
    try:
        mine = files.read(content, path.name)
    except ValueError as error:
        raise BuildError(str(error)) from error
    if files.untouched(mine):
        save_bytes(render(newer).encode(), path)
        return "written"
    merged = carry_over(mine, newer)
    if merged is mine:
        return "holds your work, and nothing is new"
    kept = back_up(content, path).relative_to(path.parent.parent)
    files.save(merged, path)
    stubs = "".join(f"; the stub of {name} has changed, yours is kept" for name in changed_stubs(mine, newer))
    return f"brought up to date around your work; as it was, it is in {kept.as_posix()}{stubs}"


def exercise_fault(lesson: Lesson, root: Path) -> tuple[str, str]:
    """Compare the exercise notebook with its source; return a fault and a notice, each empty where there is none.

    A learner's own work is no fault: then the committed notebook is the one that has to be current.

    Raises:
        BuildError: the source is faulty.
    """
    built = render(assemble(lesson)).encode()
    if not lesson.notebook.exists():
        return "not built", ""
    content = lesson.notebook.read_bytes()
    if content == built:
        return "", ""
    committed = _committed(lesson.notebook, root)
    if committed is None or (committed == content and (os.environ.get("CI") or _holds_no_work(content))):
        return "differs", ""
    if committed == content:
        return "", "holds work that was committed; it was not compared with its source"
    if committed == built:
        return "", "holds your work; the committed one is current"
    return "the committed one differs (this one holds work, which a build carries over)", ""


def _holds_no_work(content: bytes) -> bool:
    try:
        return files.untouched(files.read(content, ""))
    except ValueError:
        return True


def _committed(path: Path, root: Path) -> bytes | None:
    """Return the file as it is in the last commit, None where there is none."""
    command = ["git", "-C", str(root), "show", f"HEAD:./{path.relative_to(root).as_posix()}"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
