"""Running: the right kernel, the reader's folder, a failure that costs nothing but the run."""

import json
import sys
from pathlib import Path

import pytest

from build_notebooks import main
from nbbuild.convert import assemble
from nbbuild.course import BuildError
from nbbuild.execute import execute

from .conftest import Workshop

pytestmark = pytest.mark.timeout(120)


def test_a_run_stores_outputs_and_is_current(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = workshop.course.root / "course_lib"
    package.mkdir()
    (package / "__init__.py").write_text("answer = 42\n")
    show = "import json, os, sys, course_lib\nprint(json.dumps([os.path.basename(os.getcwd()), course_lib.answer]))"
    workshop.write(show, f"print(sys.executable == '{sys.executable}', os.environ['COURSE_POLICY'])")
    monkeypatch.setenv("COURSE_POLICY", "tiny")
    assert main(["--execute", "01"], workshop.course.root) == 0
    shown = capsys.readouterr().out
    assert "[  1/2] import json" in shown and "[  2/2] print(sys" in shown and " s\n" in shown
    first, second = (cell.outputs[0].text for cell in workshop.notebook.cells[1:])
    assert json.loads(first) == ["notebooks", 42]
    assert second == "True tiny\n"
    assert main(["--check"], workshop.course.root) == 0
    assert [path.name for path in workshop.course.notebooks_dir.iterdir()] == ["01_demo.ipynb"]


def test_a_failing_cell_is_shown_and_leaves_the_old_notebook(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    main([], workshop.course.root)
    before = workshop.lesson.notebook.read_bytes()
    workshop.write("a = 1", "b = 0\nprint(a / b)")
    assert main(["--execute"], workshop.course.root) == 1
    error = capsys.readouterr().err
    assert "notebooks/01_demo.ipynb: cell 3 ('b = 0') failed:\n    b = 0\n    print(a / b)\n" in error
    assert error.rstrip().endswith("| ZeroDivisionError: division by zero")
    assert "\x1b" not in error
    assert workshop.lesson.notebook.read_bytes() == before


@pytest.mark.parametrize(
    ("source", "expected"),
    [("import time\ntime.sleep(60)", "took more than 2 s"), ("import os\nos.abort()", "lost its kernel")],
)
def test_a_slow_or_deadly_cell_is_named(workshop: Workshop, source: str, expected: str) -> None:
    workshop.write(source)
    with pytest.raises(BuildError, match=expected) as error:
        execute(assemble(workshop.lesson), workshop.course, timeout=2)
    assert source.splitlines()[1] in str(error.value)


def test_the_kernel_is_this_interpreters(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoy = tmp_path / "jupyter" / "kernels" / "python3"
    decoy.mkdir(parents=True)
    (decoy / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = assemble(workshop.lesson)
    execute(notebook, workshop.course, timeout=30, env={"COURSE_STEPS": "2"})
    assert notebook.cells[2].outputs[0].text == "1\n"
