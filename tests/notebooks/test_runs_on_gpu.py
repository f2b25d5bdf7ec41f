"""Runs on a GPU: they say where they ran, their prose follows the lesson, and one that is out of date is marked, not failed."""

import shutil
from pathlib import Path

import pytest
from nbformat import NotebookNode

from build_notebooks import main
from nbbuild import gpu_runs
from nbbuild.convert import WIDGET_VIEW, load, save
from nbbuild.course import Course

from .conftest import Workshop

COURSE = Course(Path(__file__).resolve().parents[2])
GPU = {"machine": "1 x NVIDIA H200", "tier": "gpu", "python": "3.12.3", "vllm": "0.26.0"}
WIDGET = """from IPython.display import display
display({"text/plain": "a widget", "image/png": "aGk=", "application/vnd.jupyter.widget-view+json": {"model_id": "1"}}, raw=True)"""


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_runs, "versions", lambda: GPU)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a course whose lesson ran on a CPU and on a GPU, which each test gets a copy of."""
    course = Course(tmp_path_factory.mktemp("course"))
    course.lessons_dir.mkdir()
    course.notebooks_dir.mkdir()
    Workshop(course).write("a = 1", f"{WIDGET}\nprint(a)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_runs, "versions", lambda: GPU)
        assert main(["--execute"], course.root) == 0
        assert main(["--execute", "01", "--gpu"], course.root) == 0
    return course.root


@pytest.fixture
def ran(once: Path, on_gpu: None, tmp_path: Path) -> Workshop:
    workshop = Workshop(Course(shutil.copytree(once, tmp_path / "course")))
    assert main(["--check"], workshop.course.root) == 0
    return workshop


def of_gpu(workshop: Workshop) -> NotebookNode:
    notebook = load(workshop.course.root / "notebooks_gpu" / "01_demo.ipynb")
    assert notebook is not None
    return notebook


def page(workshop: Workshop) -> str:
    return (workshop.course.root / "notebooks_gpu" / "README.md").read_text()


def test_a_run_says_where_and_when_it_was_and_holds_no_widget(ran: Workshop) -> None:
    cells = of_gpu(ran).cells
    assert cells[0].source.startswith("# A title")
    assert cells[1].source.startswith("> **As run on 1 x NVIDIA H200** on 20")
    assert "python 3.12.3, vllm 0.26.0" in cells[1].source
    assert [cell.source for cell in (cells[0], *cells[2:])] == [cell.source for cell in ran.notebook.cells]
    picture, said = cells[3].outputs
    assert picture.data.keys() == {"text/plain", "image/png"}
    assert said.text == "1\n"
    assert WIDGET_VIEW in ran.notebook.cells[2].outputs[0].data  # the CPU's run keeps its widgets
    assert "| [01_demo](01_demo.ipynb) | 1 x NVIDIA H200 | python 3.12.3, vllm 0.26.0 | 20" in page(ran)
    assert page(ran).count("| current |") == 1


def test_prose_follows_the_lesson(ran: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    ran.write("a = 1", f"{WIDGET}\nprint(a)", intro=("md", "# A title\n\nAnother sentence."))
    assert main(["--check"], ran.course.root) == 1
    assert (
        "notebooks_gpu/01_demo.ipynb: its text differs from lessons/01_demo.py; run: python" in capsys.readouterr().out
    )
    assert main([], ran.course.root) == 0
    assert main(["--check"], ran.course.root) == 0
    cells = of_gpu(ran).cells
    assert "Another sentence" in cells[0].source and "As run on" in cells[1].source and cells[3].outputs


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (["a = 2", f"{WIDGET}\nprint(a)"], "out of date: 1 of 2 code cells are new"),
        (["a = 1", f"{WIDGET}\nprint(a)", "b = 3"], "out of date: 1 of 3 code cells are new"),
        ([f"{WIDGET}\nprint(a)"], "out of date: 1 code cells were taken out or moved"),
        ([f"{WIDGET}\nprint(a)", "a = 1"], "out of date: some code cells were taken out or moved"),
    ],
)
def test_a_run_that_its_lesson_has_outgrown_is_kept_and_marked(
    ran: Workshop, capsys: pytest.CaptureFixture[str], code: list[str], state: str
) -> None:
    before = (ran.course.root / "notebooks_gpu" / "01_demo.ipynb").read_bytes()
    ran.write(*code)
    main([], ran.course.root)
    ran.pretend_run()
    assert main(["--check"], ran.course.root) == 0
    assert state in page(ran)
    assert (ran.course.root / "notebooks_gpu" / "01_demo.ipynb").read_bytes() == before


@pytest.mark.parametrize("missing", ["README.md", "01_demo.ipynb"])
def test_a_page_that_is_not_true_is_a_fault(ran: Workshop, capsys: pytest.CaptureFixture[str], missing: str) -> None:
    (ran.course.root / "notebooks_gpu" / missing).unlink()
    assert main(["--check"], ran.course.root) == 1
    assert "notebooks_gpu/README.md: does not say which runs are out of date; run: python" in capsys.readouterr().out
    main([], ran.course.root)
    assert main(["--check"], ran.course.root) == 0


def test_what_no_gpu_ran_is_a_fault(ran: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    place = ran.course.root / "notebooks_gpu"
    save(ran.notebook, place / "01_demo.ipynb")
    save(ran.notebook, place / "02_nothing.ipynb")
    assert main(["--check"], ran.course.root) == 1
    said = capsys.readouterr().out
    assert "notebooks_gpu/01_demo.ipynb: does not say where it was run" in said
    assert "notebooks_gpu/02_nothing.ipynb: no lesson builds it; write lessons/02_nothing.py or delete it" in said


def test_without_a_gpu_nothing_is_run(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_runs, "versions", lambda: GPU | {"tier": "cpu"})
    assert main(["--execute", "01", "--gpu"], workshop.course.root) == 1
    assert "this is the cpu tier" in capsys.readouterr().err
    assert not (workshop.course.root / "notebooks_gpu").exists()
    with pytest.raises(SystemExit):
        main(["--gpu"], workshop.course.root)


def test_a_cell_that_fails_leaves_the_old_run(ran: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    before = of_gpu(ran)
    ran.write("1 / 0")
    assert main(["--execute", "01", "--gpu"], ran.course.root) == 1
    assert "notebooks_gpu/01_demo.ipynb: cell 2 ('1 / 0') failed" in capsys.readouterr().err
    assert of_gpu(ran) == before


def test_the_courses_own_runs_are_marked_rightly() -> None:
    assert gpu_runs.faults(COURSE) == []
