"""Build the notebooks from the lessons: `python tools/build_notebooks.py [--execute [NAME ...] [--gpu] | --check]`.

Without an option, each `lessons/NN_topic.py` becomes `notebooks/NN_topic.ipynb`, and each `lessons/NN_topic_exercises.py`
becomes `exercises/NN_topic.ipynb` and `solutions/NN_topic.ipynb`, and docs/wrong_answers.md says which wrong answers the
checks recognise. Outputs of cells that did not change are kept, so the outputs of a real run survive. What a learner
wrote in an exercise notebook is carried over into its new build, after a copy was made in exercises/.backup/.
`--execute` runs lessons and solutions and stores their outputs, in this process's environment
(`COURSE_POLICY=tiny python tools/build_notebooks.py --execute 08`). `--execute --gpu` runs lessons on this machine's GPU and
stores them in notebooks_gpu/. `--check` writes nothing and exits with 1 when a file is not what its source and a clean run
would give; a GPU's run that is older than its lesson is no fault, and notebooks_gpu/README.md says so.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nbbuild import gpu_runs, wrong_page
from nbbuild.check import check
from nbbuild.convert import assemble, load, save
from nbbuild.course import BuildError, Course, Lesson
from nbbuild.execute import execute
from nbbuild.keep import build_exercises
from nbbuild.outputs import clean, refuse_unfit

ROOT = Path(__file__).resolve().parent.parent


def build(course: Course, lesson: Lesson) -> None:
    """Build one notebook, keeping the outputs of cells that did not change, and all of a learner's work in exercises."""
    if lesson.kind == "exercise":
        print(f"{course.relative(lesson.notebook)}: {build_exercises(lesson)}")
    else:
        _finish(course, lesson, run=None)


def build_and_execute(course: Course, lesson: Lesson, timeout: float) -> None:
    """Build one notebook, run it and store its outputs. The notebook on disk stays as it was when a cell fails."""
    if lesson.kind == "exercise":
        build(course, lesson)
    else:
        _finish(course, lesson, run=timeout)


def main(argv: Sequence[str] | None = None, root: Path | Course = ROOT) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Build, run or check the notebooks.", epilog=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--execute", nargs="*", metavar="NAME", help="run these (no NAME: all) and store outputs")
    what.add_argument("--check", action="store_true", help="exit with 1 when a notebook is not current; write nothing")
    parser.add_argument("--gpu", action="store_true", help="with --execute: lessons only, stored in notebooks_gpu/")
    parser.add_argument(
        "--timeout", type=float, default=1800, metavar="S", help="seconds a cell may take (%(default)g)"
    )
    options = parser.parse_args(argv)
    course = root if isinstance(root, Course) else Course(root)
    if options.gpu and options.execute is None:
        parser.error("--gpu goes with --execute")
    if options.check:
        faults = check(course) + gpu_runs.faults(course)
        print("\n".join(faults) or f"{len(course.pick([]))} notebooks are current.")
        return 1 if faults else 0
    failed = False
    try:
        lessons = course.pick(options.execute or [])
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    if options.gpu:
        picked = {lesson.name for lesson in lessons}
        lessons = [lesson for lesson in gpu_runs.gpu_lessons(course) if lesson.name in picked]
    for lesson in lessons:
        try:
            if options.gpu:
                gpu_runs.run_on_gpu(course, lesson, options.timeout)
            elif options.execute is None:
                build(course, lesson)
            else:
                build_and_execute(course, lesson, options.timeout)
        except BuildError as error:
            failed = True
            print(f"{course.relative(lesson.notebook)}: {error}", file=sys.stderr)
    if options.execute is None or options.gpu:
        print(f"{gpu_runs.PAGE}: {'written' if gpu_runs.refresh(course) else 'unchanged'}")
    if options.execute is None and wrong_page.wanted(course):
        print(f"{wrong_page.PAGE}: {'written' if wrong_page.write(course) else 'unchanged'}")
    return 1 if failed else 0


def _finish(course: Course, lesson: Lesson, run: float | None) -> None:
    notebook = assemble(lesson, load(lesson.notebook))
    target = course.relative(lesson.notebook)
    if run is not None:
        print(f"{target}: running", flush=True)
        lesson.notebook.parent.mkdir(exist_ok=True)
        execute(notebook, course, run, folder=lesson.notebook.parent.name)
    clean(notebook, course.root)
    refuse_unfit(notebook, target)
    print(f"{target}: {'written' if save(notebook, lesson.notebook) else 'unchanged'}")


if __name__ == "__main__":
    sys.exit(main())
