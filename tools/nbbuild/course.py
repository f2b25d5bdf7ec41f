"""Where lessons and notebooks live in a checkout."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from course_lib.grading.exercises import COURSE, Catalogue

EXERCISES_SUFFIX = "_exercises"
Kind = Literal["lesson", "exercise", "solution"]
FOLDERS: dict[Kind, str] = {"lesson": "notebooks", "exercise": "exercises", "solution": "solutions"}
GPU_FOLDER = "notebooks_gpu"
"""The lessons' notebooks as run on a GPU; beside `notebooks/`, so that a link in a lesson leads to the same place from both."""


class BuildError(Exception):
    """A lesson or notebook that cannot be built; the message says what was wrong and what to do."""


@dataclass(frozen=True)
class Lesson:
    """A source and one notebook that is built from it: a lesson's, or one of the two that its exercises make.

    Attributes:
        name: the lesson's name, `01_kv_cache`.
        source: the file that people edit.
        notebook: the file that is built.
        kind: a lesson, its exercises with stubs, or the same with solutions.
        catalogue: the exercises that there are.
    """

    name: str
    source: Path
    notebook: Path
    kind: Kind = "lesson"
    catalogue: Catalogue = COURSE


@dataclass(frozen=True)
class Course:
    """A checkout of the course, with sources in `lessons/` and notebooks in `notebooks/`, `exercises/` and `solutions/`."""

    root: Path
    catalogue: Catalogue = COURSE

    @property
    def lessons_dir(self) -> Path:
        """The folder with the sources that people edit."""
        return self.root / "lessons"

    @property
    def notebooks_dir(self) -> Path:
        """The folder with the lessons' notebooks, which is also the folder that they are executed in."""
        return self.root / "notebooks"

    def lessons(self) -> list[Lesson]:
        """List the lessons in order. Sources named `NN_topic_exercises.py` build other files and are not among them."""
        return [self._notebook(source, "lesson") for source in self._sources() if not _of_exercises(source)]

    def exercises(self) -> list[Lesson]:
        """List the notebooks of exercises, each followed by that of its solutions."""
        kinds: tuple[Kind, ...] = ("exercise", "solution")
        return [self._notebook(source, kind) for source in self._sources() if _of_exercises(source) for kind in kinds]

    def pick(self, names: Sequence[str]) -> list[Lesson]:
        """Return what these names build; no names means everything.

        Args:
            names: a lesson's name (`08_capstone`) or number (`08`), with all that is built under that name; or the path of
                a source or of a notebook, with what is built there.

        Raises:
            BuildError: a name fits nothing.
        """
        everything = self.lessons() + self.exercises()
        if not names:
            return everything
        picked = []
        for name in names:
            found = [lesson for lesson in everything if _fits(lesson, name)]
            if not found:
                known = ", ".join(lesson.name for lesson in self.lessons()) or "none yet"
                raise BuildError(f"no lesson is called {name!r}; expected one of: {known}")
            picked += [lesson for lesson in found if lesson not in picked]
        return picked

    def orphans(self) -> list[Path]:
        """List the notebooks that nothing in `lessons/` builds. In `exercises/` a learner may have notebooks of their own."""
        built = {lesson.notebook for lesson in self.lessons() + self.exercises()}
        built |= {self.root / GPU_FOLDER / lesson.notebook.name for lesson in self.lessons()}
        folders = (self.root / FOLDERS["lesson"], self.root / FOLDERS["solution"], self.root / GPU_FOLDER)
        return [path for folder in folders for path in sorted(folder.glob("*.ipynb")) if path not in built]

    def relative(self, path: Path) -> str:
        """Name a file as a person in the repository's root would."""
        return path.relative_to(self.root).as_posix()

    def _sources(self) -> list[Path]:
        return sorted(self.lessons_dir.glob("*.py"))

    def _notebook(self, source: Path, kind: Kind) -> Lesson:
        name = source.stem.removesuffix(EXERCISES_SUFFIX)
        return Lesson(name, source, self.root / FOLDERS[kind] / f"{name}.ipynb", kind, self.catalogue)


def _of_exercises(source: Path) -> bool:
    return source.stem.endswith(EXERCISES_SUFFIX)


def _fits(lesson: Lesson, name: str) -> bool:
    path = Path(name)
    if path.parent.name in FOLDERS.values():
        return path.stem == lesson.name and path.parent.name == lesson.notebook.parent.name
    if path.stem == lesson.source.stem:
        return path.parent.name != "lessons" or path.suffix in ("", ".py")
    return lesson.name in (path.stem, name) or lesson.name.startswith(f"{path.stem}_")
