"""A run's folder is whole at any moment, and says what is wrong when it can't be."""

import errno
import json
from pathlib import Path

import pytest

from course_lib.rl import RunError
from course_lib.rl.run_folder import RunFolder, free_folder

CONFIG = {"seed": 0, "steps": 4, "loss": {"clip_low": 0.2}, "betas": (0.9, 0.99)}


def save(folder: Path) -> None:
    (folder / "weights").write_text("whole")


def full(folder: Path) -> None:
    (folder / "weights").write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


def torch_full(folder: Path) -> None:
    raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0")


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", CONFIG)
    with pytest.raises(RunError, match=r"already holds a run: resume it"):
        RunFolder(tmp_path / "run", CONFIG)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run to resume"):
        RunFolder(tmp_path / "run", CONFIG, resume=True)
    assert not (tmp_path / "run").exists()


def test_other_decisions_are_named(tmp_path: Path) -> None:
    RunFolder(tmp_path, CONFIG)
    with pytest.raises(RunError, match=r"seed was 0 and is 1"):
        RunFolder(tmp_path, CONFIG | {"seed": 1}, resume=True)
    with pytest.raises(RunError, match=r"task was None and is 'addition'"):
        RunFolder(tmp_path, CONFIG | {"task": "addition"}, resume=True)


def test_more_steps_are_the_same_run(tmp_path: Path) -> None:
    RunFolder(tmp_path, CONFIG)
    RunFolder(tmp_path, CONFIG | {"steps": 9}, resume=True)
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 9


@pytest.mark.parametrize("text", ["", '{"seed": 0', "[1]"])
def test_a_broken_config(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json can't be read"):
        RunFolder(tmp_path, CONFIG, resume=True)


def test_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match="can't be made"):
        RunFolder(tmp_path / "runs" / "one", CONFIG)


def test_folder_that_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)  # root may write anywhere, so the file system won't refuse for us
    with pytest.raises(RunError, match=r"config\.json can't be written \(Permission denied\)"):
        RunFolder(tmp_path / "run", CONFIG)


def test_folder_that_is_gone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", CONFIG)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"metrics\.jsonl can't be written"):
        folder.append(folder.metrics, {"step": 1})


def test_records_come_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, CONFIG)
    records = [{"step": step, "text": "line\nbreak \u2028 é"} for step in range(4)]
    for record in records:
        folder.append(folder.metrics, record)
    assert folder.read(folder.metrics) == records
    folder.truncate(2)
    assert folder.read(folder.metrics) == records[:3]
    assert folder.read(folder.samples) == []


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path, cut: int) -> None:
    folder = RunFolder(tmp_path, CONFIG)
    for step in range(3):
        folder.append(folder.metrics, {"step": step})
    whole = folder.metrics.read_text()
    folder.metrics.write_text(whole[: -cut - 1])  # without its newline a line is whole, one more and it is not
    assert [record["step"] for record in folder.read(folder.metrics)] == [0, 1]
    folder.truncate(1)
    folder.append(folder.metrics, {"step": 2})
    assert folder.metrics.read_text() == whole


def test_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, CONFIG)
    for step in (1, 2, 10):
        assert folder.checkpoint(step, save).name == f"step_{step:06d}"
    assert [path.name for path in folder.checkpoints()] == ["step_000002", "step_000010"]
    assert folder.newest_checkpoint() == tmp_path / "checkpoints" / "step_000010"


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert RunFolder(tmp_path, CONFIG).newest_checkpoint() is None


@pytest.mark.parametrize("failing", [full, torch_full])
def test_full_disk_leaves_the_checkpoint_before(tmp_path: Path, failing: object) -> None:
    folder = RunFolder(tmp_path, CONFIG)
    folder.checkpoint(1, save)
    with pytest.raises(RunError, match=r"checkpoint of step 2 could not be written.*resume.*step_000001"):
        folder.checkpoint(2, failing)  # type: ignore[arg-type]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000001"]
    assert (tmp_path / "checkpoints" / "step_000001" / "weights").read_text() == "whole"


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    """What a killed process leaves behind: it is ignored, and replaced when that step comes again."""
    folder = RunFolder(tmp_path, CONFIG)
    folder.checkpoint(1, save)
    half = tmp_path / "checkpoints" / "step_000002.partial"
    half.mkdir()
    (half / "leftover").write_text("half")
    assert folder.newest_checkpoint() == tmp_path / "checkpoints" / "step_000001"
    folder.checkpoint(2, save)
    assert [path.name for path in (tmp_path / "checkpoints" / "step_000002").iterdir()] == ["weights"]
    assert not half.exists()


def test_a_checkpoint_can_be_written_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, CONFIG)
    folder.checkpoint(1, lambda path: (path / "old").touch())
    folder.checkpoint(1, save)
    assert [path.name for path in folder.checkpoints()[0].iterdir()] == ["weights"]


def test_a_free_folder_is_new_and_its_parent_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COURSE_RUNS", raising=False)
    assert free_folder(tmp_path, "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    assert free_folder(tmp_path, "run") == tmp_path / "run-3"
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "elsewhere"))
    assert free_folder(tmp_path, "run") == tmp_path / "elsewhere" / "run"
