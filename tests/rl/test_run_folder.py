"""A run's folder is whole at any moment, and says what is wrong when it can't be."""

import errno
import itertools
import json
import pickle
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from course_lib.rl import RunError
from course_lib.rl.durable import append_line, json_lines
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


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may outgrow this: a disk that is full in the middle of a write, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("fits", [0, 1, 7, 30])
def test_a_line_that_does_not_fit_leaves_no_part_of_it(tmp_path: Path, fits: int) -> None:
    """Else the next line, once there is space, would be glued to it, and both be lost."""
    folder = RunFolder(tmp_path, CONFIG)
    folder.append(folder.metrics, {"step": 0})
    before = folder.metrics.read_bytes()
    with (
        largest_file(len(before) + fits),
        pytest.raises(
            RunError, match=r"metrics\.jsonl can't be written \(File too large\): raise the limit.*then resume"
        ),
    ):
        folder.append(folder.metrics, {"step": 1, "text": "x" * 40})
    assert folder.metrics.read_bytes() == before
    folder.append(folder.metrics, {"step": 1})
    assert [record["step"] for record in folder.read(folder.metrics)] == [0, 1]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, CONFIG)
    folder.metrics.symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"No space left on device\): free space on its disk, then resume"):
        folder.append(folder.metrics, {"step": 1})


def test_a_config_that_does_not_fit_leaves_the_one_before(tmp_path: Path) -> None:
    RunFolder(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    with largest_file(20), pytest.raises(RunError, match=r"config\.json can't be written"):
        RunFolder(tmp_path, CONFIG | {"steps": 9}, resume=True)
    assert (tmp_path / "config.json").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", CONFIG)
    folder.checkpoint(1, save)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"step 2 could not be written.*The run's folder is gone: bring it back"):
        folder.checkpoint(2, save)
    assert not (tmp_path / "run").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "run")
    assert folder.checkpoint(2, save).name == "step_000002"


def test_records_of_every_file_are_dropped_up_to_a_step(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, CONFIG)
    files = [folder.metrics, folder.samples, tmp_path / "faults.jsonl"]
    for file, step in itertools.product(files, range(4)):
        folder.append(file, {"step": step, "nan": float("nan")})
    before = [file.read_text().splitlines()[:3] for file in files]
    folder.truncate(2)
    assert [file.read_text().splitlines() for file in files] == before


@pytest.mark.parametrize("damage", [b"\x00", b"\xff", b"\n", b"\r"])
def test_a_damaged_line_costs_no_other(tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path, CONFIG)
    for step in range(5):
        folder.append(folder.metrics, {"step": step})
    text = folder.metrics.read_bytes()
    place = text.index(b'p": 2')
    folder.metrics.write_bytes(text[:place] + damage + text[place + 1 :])
    folder.truncate(3)
    assert [record["step"] for record in folder.read(folder.metrics)] == [0, 1, 3]
    assert damage in (tmp_path / "metrics.jsonl.damaged").read_bytes()
    assert "metrics.jsonl has lines that can't be read; a copy of it is" in capsys.readouterr().err


def test_settings_that_only_decide_memory_may_change(tmp_path: Path) -> None:
    config = CONFIG | {"trainer": {"micro_batch_tokens": 512, "offload_optimizer": False, "zero_stage": 2}}
    RunFolder(tmp_path, config)
    lower = {"micro_batch_tokens": 256, "offload_optimizer": True, "zero_stage": 2}
    RunFolder(tmp_path, config | {"trainer": lower}, resume=True)
    with pytest.raises(RunError, match=r"\(trainer\.zero_stage was 2 and is 3\)"):
        RunFolder(tmp_path, config | {"trainer": lower | {"zero_stage": 3}}, resume=True)


def test_a_damaged_checkpoint_makes_way_for_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path, CONFIG)
    for step in (1, 2):
        folder.checkpoint(step, save)
    folder.set_aside(folder.checkpoints()[-1], "two bits are wrong.")
    assert [path.name for path in folder.checkpoints()] == ["step_000001"]
    said = capsys.readouterr().err
    assert "two bits are wrong.\nThe run goes on from step_000001." in said
    assert "step_000002.damaged: delete it" in said
    folder.checkpoint(2, save)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step_000001",
        "step_000002",
        "step_000002.damaged",
    ]
    for _ in range(2):
        shutil.rmtree(tmp_path / "checkpoints" / "step_000002.damaged", ignore_errors=True)
        newest = folder.newest_checkpoint()
        assert newest is not None
        if len(folder.checkpoints()) == 2:
            folder.set_aside(newest, "worn out.")
    with pytest.raises(RunError, match=r"(?s)worn out\..*no other checkpoint.*put a good copy.*or resume once more"):
        folder.set_aside(folder.checkpoints()[0], "worn out.")


def test_it_travels_to_other_ranks(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, CONFIG)
    folder.checkpoint(3, save)
    assert repr(pickle.loads(pickle.dumps(folder))) == f"RunFolder({tmp_path}, step_000003)"


def test_lines_that_are_no_objects_are_none(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    for line in ('{"step": 1}', "5", "nothing", "{}"):
        append_line(file, line)
    assert [record for _, record in json_lines(file)] == [{"step": 1}, None, None, {}]
