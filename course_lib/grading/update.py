"""`course update`: fetch a newer course into a checkout whose exercise notebooks the learner has written in.

git refuses to pull over edited files. So the edited notebooks are put aside, the course's own put back, the newer course is
merged, and the learner's work is carried over into the newer notebooks. Until the merge is done, nothing is changed that a
failure would not undo, and a copy of every edited notebook is in exercises/.backup/ before anything is.
"""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from course_lib.grading.carry_over import back_up, carry_over, changed_stubs
from course_lib.grading.notebook import load, read, save
from course_lib.grading.saving import save_bytes

FOLDER = "exercises"


class UpdateError(Exception):
    """The course was not brought up to date; everything is as it was. The message says why and what to do."""


def update(root: Path, say: Callable[[str], None] = print) -> None:
    """Bring a checkout up to date with its upstream branch, keeping the learner's work in the exercise notebooks.

    Args:
        root: the checkout.
        say: is told each thing that was done.

    Raises:
        UpdateError: no git checkout, no upstream, commits of the learner's own, or other edits in the way.
    """
    git = _Git(root)
    git("rev-parse", "--git-dir", why="this folder is not a git checkout, so there is nothing to pull from")
    upstream = git("rev-parse", "--abbrev-ref", "@{upstream}", why="this branch follows no other one").strip()
    git("fetch", "--quiet", why="the newer course could not be fetched")
    if not git("rev-list", "HEAD..@{upstream}").strip():
        say("The course is up to date.")
        return
    if git("rev-list", "@{upstream}..HEAD").strip():
        raise UpdateError(f"this branch has commits that {upstream} has not: merge them yourself, with `git pull`")
    mine = _edited(git, root)
    for path, content in mine.items():
        say(f"{path.relative_to(root)}: your work is copied to {back_up(content, path).relative_to(root)}")
    _merge(git, root, mine)
    for path, content in mine.items():
        say(f"{path.relative_to(root)}: {_bring_back(path, content)}")
    say(f"The course is now {git('log', '-1', '--format=%h %s').strip()}")


class _Git:
    """git in a checkout: returns what it prints, raises `UpdateError` with what it complains of."""

    def __init__(self, root: Path):
        self.root = root

    def __call__(self, *arguments: str, why: str = "git failed") -> str:
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=self.root,
                capture_output=True,
                text=True,
                check=False,
                errors="surrogateescape",
            )
        except OSError as error:
            raise UpdateError(f"git can't be run: {error}") from error
        if done.returncode:
            raise UpdateError(f"{why}:\n{done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def _edited(git: _Git, root: Path) -> dict[Path, bytes]:
    """Return the tracked exercise notebooks that differ from the last commit, with their content."""
    names = git("diff", "--name-only", "--relative", "-z", "HEAD", "--", FOLDER).split("\0")
    paths = [root / name for name in names if name.endswith(".ipynb")]
    return {path: path.read_bytes() for path in paths if path.exists()}


def _merge(git: _Git, root: Path, mine: Mapping[Path, bytes]) -> None:
    """Put the course's own notebooks back and merge; on any failure put the learner's and the index back."""
    index = root / git("rev-parse", "--git-path", "index").strip()
    before = index.read_bytes()
    head = git("rev-parse", "HEAD")
    try:
        if mine:
            git("checkout", "--quiet", "HEAD", "--", *(path.relative_to(root).as_posix() for path in mine))
        git("merge", "--ff-only", "--quiet", "@{upstream}", why="the newer course could not be merged")
    except BaseException:
        for path, content in mine.items():
            save_bytes(content, path)
        if git("rev-parse", "HEAD") == head:
            index.write_bytes(before)
        raise


def _bring_back(path: Path, content: bytes) -> str:
    """Carry the learner's work over into the newer notebook; where that fails, their file stays what it was."""
    try:
        if not path.exists():
            save_bytes(content, path)
            return "the newer course no longer has it; yours is kept"
        mine, newer = read(content, path.name), load(path)
        merged = carry_over(mine, newer)
        if merged is mine:
            save_bytes(content, path)
            return "your work is kept, and nothing is new"
        save(merged, path)
    except BaseException as error:
        save_bytes(content, path)
        if not isinstance(error, ValueError | OSError):
            raise
        return f"kept as it was, without what is new: {error}"
    stubs = "".join(f"; the stub of {name} has changed, yours is kept" for name in changed_stubs(mine, newer))
    return f"brought up to date around your work{stubs}"
