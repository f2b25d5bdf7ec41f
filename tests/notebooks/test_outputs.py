"""What is committed holds no machine's paths, no progress-bar noise and not too many bytes."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat import NotebookNode

from build_notebooks import main
from nbbuild.convert import save
from nbbuild.course import BuildError
from nbbuild.outputs import clean, final_text, leaks, merge_streams, oversize, refuse_unfit

from .conftest import Workshop, cells_of, stream

ROOT = Path(__file__).resolve().parents[2]


def notebook_with(*outputs: NotebookNode) -> NotebookNode:
    cells = cells_of(("md", "# Title"), ("code", "show()"))
    cells[1].outputs = list(outputs)
    return NotebookNode(cells=cells, metadata=NotebookNode(), nbformat=4, nbformat_minor=5)


def cleaned(text: str) -> str:
    notebook = notebook_with(stream(text))
    clean(notebook, ROOT)
    return "".join(output.text for output in notebook.cells[1].outputs)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (f"saved to {ROOT}/results/a.json\n", "saved to ./results/a.json\n"),
        (f"in {ROOT}.\n", "in ..\n"),
        (f"{Path.home()}/.cache/model\n", "~/.cache/model\n"),
        (f"('{Path.home()}/x')\n", "('~/x')\n"),
        (f"{tempfile.gettempdir()}/run1\n", "$TMPDIR/run1\n"),
        (f"{tempfile.gettempdir()}/ipykernel_12/345.py:3: UserWarning: look\n", "<cell>:3: UserWarning: look\n"),
        (f"file://{ROOT}/a\n", "file://./a\n"),
        ("a/tmp/b and https://x.org/home/y\n", "a/tmp/b and https://x.org/home/y\n"),
    ],
)
def test_paths_of_this_machine_are_replaced(raw: str, expected: str) -> None:
    assert cleaned(raw) == expected
    assert cleaned(expected) == expected


def test_paths_in_rich_outputs_and_widgets_are_replaced_but_not_in_pictures() -> None:
    data = {"text/html": f"<b>{ROOT}/a</b>", "image/png": "AAA/tmp/BBB=", "application/json": {"at": [f"{ROOT}/b"]}}
    notebook = notebook_with(NotebookNode(output_type="display_data", data=NotebookNode(data), metadata={}))
    notebook.metadata.widgets = {"state": {"m": {"value": f"{ROOT}/c", "buffers": [{"data": "/tmp/AA=="}]}}}
    clean(notebook, ROOT)
    shown = notebook.cells[1].outputs[0].data
    assert shown == {"text/html": "<b>./a</b>", "image/png": "AAA/tmp/BBB=", "application/json": {"at": ["./b"]}}
    assert notebook.metadata.widgets["state"]["m"] == {"value": "./c", "buffers": [{"data": "/tmp/AA=="}]}


@pytest.mark.parametrize("path", ["/home/ada/model", "/Users/ada/model", "/root/model", "/tmp/model"])
def test_a_path_that_remains_is_refused(path: str) -> None:
    for output in [stream(f"loaded '{path}'"), NotebookNode(output_type="error", traceback=[f"File {path}"])]:
        notebook = notebook_with(output)
        assert len(leaks(notebook)) == 1
        with pytest.raises(BuildError, match=rf"cell 2 \('show\(\)'\) shows the path {path}"):
            refuse_unfit(notebook, "01_demo.ipynb")


def test_streams_are_merged_and_progress_bars_end_in_their_last_state() -> None:
    bar = [stream(f"\r{step * 10}%|##  |", "stderr") for step in range(11)]
    merged = merge_streams([stream("a\n"), stream("b\n"), *bar, stream("\n", "stderr"), stream("end\r\n")])
    assert [(output.name, output.text) for output in merged] == [
        ("stdout", "a\nb\n"),
        ("stderr", "100%|##  |\n"),
        ("stdout", "end\n"),
    ]


def test_the_kernels_own_warning_is_dropped_with_its_output() -> None:
    warning = "[IPKernelApp] WARNING | Kernel is running over TCP without encryption. All communication ...\n"
    notebook = notebook_with(stream(warning, "stderr"), stream("kept\n"))
    clean(notebook, ROOT)
    assert notebook.cells[1].outputs == [stream("kept\n")]


@given(st.text(alphabet="ab\r\n", max_size=30))
def test_final_text_is_final(text: str) -> None:
    final = final_text(text)
    assert "\r" not in final and final_text(final) == final
    assert final.count("\n") == text.count("\n")


def test_a_large_notebook_is_refused_and_the_cell_named(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    main([], workshop.course.root)
    before = workshop.lesson.notebook.read_bytes()
    notebook = workshop.notebook
    notebook.cells[2].outputs = [stream("x" * 1_600_000)]
    assert oversize(notebook, limit=2_000_000) == []
    save(notebook, workshop.lesson.notebook)
    assert main([], workshop.course.root) == 1
    assert "1.6 MB, expected at most 1.5 MB; show less in cell 3 ('print(a)'), 1.6 MB" in capsys.readouterr().err
    assert main(["--check"], workshop.course.root) == 1
    assert len(before) < 10_000
