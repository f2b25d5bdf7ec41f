"""`--check` passes on a current course and names each way of not being current."""

from collections.abc import Callable

import pytest
from nbformat import NotebookNode

from build_notebooks import main
from nbbuild.check import check
from nbbuild.convert import save

from .conftest import Workshop, stream


@pytest.fixture
def current(workshop: Workshop) -> Workshop:
    """A course whose notebook is current; each test breaks one thing."""
    main([], workshop.course.root)
    workshop.pretend_run()
    assert check(workshop.course) == []
    return workshop


def edit(workshop: Workshop, change: Callable[[NotebookNode], None]) -> None:
    notebook = workshop.notebook
    change(notebook)
    save(notebook, workshop.lesson.notebook)


def edit_source(workshop: Workshop) -> None:
    workshop.write("a = 1", "print(a, a)")


def edit_prose(workshop: Workshop) -> None:
    workshop.write("a = 1", "print(a)", intro=("md", "# A title\n\nAnother sentence."))


def edit_notebook(workshop: Workshop) -> None:
    edit(workshop, lambda notebook: notebook.cells[1].update(source="a = 3"))


def delete_notebook(workshop: Workshop) -> None:
    workshop.lesson.notebook.unlink()


def break_notebook(workshop: Workshop) -> None:
    workshop.lesson.notebook.write_text("not json")


def delete_lesson(workshop: Workshop) -> None:
    workshop.lesson.source.unlink()


def forget_run(workshop: Workshop) -> None:
    edit(workshop, lambda notebook: notebook.cells[2].update(execution_count=None, outputs=[]))


def delete_cell_and_rebuild(workshop: Workshop) -> None:
    workshop.write("print(a)")
    main([], workshop.course.root)


def store_error(workshop: Workshop) -> None:
    error = NotebookNode(output_type="error", ename="E", evalue="e", traceback=["E: e"])
    edit(workshop, lambda notebook: notebook.cells[2].update(outputs=[error]))


def store_foreign_path(workshop: Workshop) -> None:
    edit(workshop, lambda notebook: notebook.cells[2].update(outputs=[stream("/home/ada/model")]))


def write_bad_lesson(workshop: Workshop) -> None:
    workshop.write("class Machine: ...")


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (edit_source, "notebooks/01_demo.ipynb: differs from lessons/01_demo.py; run: python tools/build_notebooks.py"),
        (
            edit_source,
            "cell 3 ('print(a, a)') has not been run; run: python tools/build_notebooks.py --execute 01_demo",
        ),
        (edit_prose, "differs from lessons/01_demo.py"),
        (edit_notebook, "differs from lessons/01_demo.py"),
        (delete_notebook, "notebooks/01_demo.ipynb: not built from lessons/01_demo.py; run: python"),
        (break_notebook, "notebooks/01_demo.ipynb is not a notebook"),
        (delete_lesson, "notebooks/01_demo.ipynb: no lesson builds it; write lessons/01_demo.py or delete it"),
        (forget_run, "cell 3 ('print(a)') has not been run"),
        (delete_cell_and_rebuild, "were not run once each, from first to last"),
        (store_error, "cell 3 ('print(a)') holds an error"),
        (store_foreign_path, "cell 3 ('print(a)') shows the path /home/ada/model"),
        (write_bad_lesson, "lessons/01_demo.py: cell 2: defines the class Machine"),
    ],
)
def test_check_names_what_is_stale(
    current: Workshop, break_it: Callable[[Workshop], None], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it(current)
    files = {path: path.read_bytes() for path in current.course.root.rglob("*.ipynb")}
    capsys.readouterr()
    assert main(["--check"], current.course.root) == 1
    assert expected in capsys.readouterr().out
    assert {path: path.read_bytes() for path in current.course.root.rglob("*.ipynb")} == files  # check writes nothing


def test_a_cell_marked_as_not_to_run_or_as_failing_is_current(workshop: Workshop) -> None:
    text = workshop.lesson.source.read_text()
    text += '\n# %% tags=["skip-execution"]\nneeds_a_gpu()\n\n# %% tags=["raises-exception"]\n1 / 0\n'
    workshop.lesson.source.write_text(text)
    assert main(["--execute"], workshop.course.root) == 0
    assert check(workshop.course) == []
