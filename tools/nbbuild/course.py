"""Where lessons and notebooks live in a checkout."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EXERCISES_SUFFIX = "_exercises"


class BuildError(Exception):
    """A lesson or notebook that cannot be built; the message says what was wrong and what to do."""


@dataclass(frozen=True)
class Lesson:
    """One lesson's source and the notebook that is built from it."""

    name: str
    source: Path
    notebook: Path


@dataclass(frozen=True)
class Course:
    """A checkout of the course, with lessons in `lessons/` and notebooks in `notebooks/`."""

    root: Path

    @property
    def lessons_dir(self) -> Path:
        """The folder with the sources that people edit."""
        return self.root / "lessons"

    @property
    def notebooks_dir(self) -> Path:
        """The folder with the built notebooks, which is also the folder that they are executed in."""
        return self.root / "notebooks"

    def lessons(self) -> list[Lesson]:
        """List the lessons in order. Sources named `NN_topic_exercises.py` build other files and are not among them."""
        sources = sorted(self.lessons_dir.glob("*.py"))
        return [self._lesson(source) for source in sources if not source.stem.endswith(EXERCISES_SUFFIX)]

    def pick(self, names: Sequence[str]) -> list[Lesson]:
        """Return the lessons with these names; no names means all of them.

        Args:
            names: a lesson's name (`08_capstone`), its number (`08`), or the path of its source or notebook.

        Raises:
            BuildError: a name fits no lesson.
        """
        lessons = self.lessons()
        if not names:
            return lessons
        picked = []
        for name in names:
            stem = Path(name).stem
            found = [lesson for lesson in lessons if lesson.name == stem or lesson.name.startswith(f"{stem}_")]
            if not found:
                known = ", ".join(lesson.name for lesson in lessons) or "none yet"
                raise BuildError(f"no lesson is called {name!r}; expected one of: {known}")
            picked += [lesson for lesson in found if lesson not in picked]
        return picked

    def orphans(self) -> list[Path]:
        """List the notebooks that no lesson builds."""
        built = {lesson.notebook for lesson in self.lessons()}
        return [path for path in sorted(self.notebooks_dir.glob("*.ipynb")) if path not in built]

    def relative(self, path: Path) -> str:
        """Name a file as a person in the repository's root would."""
        return path.relative_to(self.root).as_posix()

    def _lesson(self, source: Path) -> Lesson:
        return Lesson(source.stem, source, self.notebooks_dir / f"{source.stem}.ipynb")
