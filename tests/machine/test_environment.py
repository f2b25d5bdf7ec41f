"""The process environment, the cache, the versions, and the word before DeepSpeed compiles."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from course_lib.machine import announce_first_build, cache_dir, first_build, prepare, versions
from course_lib.machine.first_build import comm_op_missing, comm_op_path
from course_lib.machine.tier import Gpu


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment of its own, which `prepare` may fill."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.update(TIER="cpu")
    return monkeypatch


def test_prepare_keeps_what_is_set_and_can_be_called_twice(environment: pytest.MonkeyPatch) -> None:
    os.environ.update(RANK="3", WORLD_SIZE="4", VLLM_LOGGING_LEVEL="DEBUG")
    os.environ.pop("MASTER_PORT", None)
    prepare()
    once = dict(os.environ)
    prepare()
    assert dict(os.environ) == once
    assert (once["RANK"], once["WORLD_SIZE"], once["VLLM_LOGGING_LEVEL"]) == ("3", "4", "DEBUG")
    assert once["DS_ACCELERATOR"] == "cpu"
    assert str(Path(sys.executable).parent) in once["PATH"].split(os.pathsep)


@pytest.mark.parametrize(
    ("ranks", "local_rank", "visible", "own"),
    [
        ("2", "1", "0,1", "1"),
        ("4", "2", "4,5,6,7", "6"),
        ("2", "0", "3,5", "3"),
        ("2", "0", "5", "5"),
        ("1", "0", "0,1", "0,1"),
    ],
)
def test_a_rank_of_several_sees_its_own_gpu_alone(
    environment: pytest.MonkeyPatch, ranks: str, local_rank: str, visible: str, own: str
) -> None:
    os.environ.update(WORLD_SIZE=ranks, RANK=local_rank, LOCAL_RANK=local_rank, CUDA_VISIBLE_DEVICES=visible)
    prepare()
    prepare()  # a second look must not take the first one's GPU for the machine's first
    assert os.environ["CUDA_VISIBLE_DEVICES"] == own
    assert os.environ["LOCAL_RANK"] == "0"
    assert os.environ["RANK"] == local_rank


def test_a_child_of_a_process_with_a_process_group_can_form_its_own() -> None:
    # A notebook's kernel inherits the environment of whoever started it: of a test that trains, for example.
    form = "import torch.distributed as d; d.init_process_group('gloo'); "
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    script = f"from course_lib.machine import prepare; prepare(); {form}{child}"
    bare = {name: value for name, value in os.environ.items() if name not in {"MASTER_PORT", "RANK", "WORLD_SIZE"}}
    subprocess.run(
        [sys.executable, "-c", script, f"from course_lib.machine import prepare; prepare(); {form}"],
        check=True,
        env=bare,
    )


def test_prepare_puts_no_empty_entry_on_the_path(environment: pytest.MonkeyPatch) -> None:
    # An empty entry means the current folder, where anything may lie.
    os.environ["PATH"] = ""
    prepare()
    assert "" not in os.environ["PATH"].split(os.pathsep)


def test_the_cache_follows_its_variables(environment: pytest.MonkeyPatch) -> None:
    os.environ.update(COURSE_CACHE="", XDG_CACHE_HOME="/elsewhere")
    assert cache_dir() == Path("/elsewhere/llm-rl-course")
    os.environ["COURSE_CACHE"] = "~/mine"
    assert cache_dir() == Path("~/mine").expanduser()


def test_versions_name_the_machine_and_what_is_installed(environment: pytest.MonkeyPatch) -> None:
    found = versions()
    assert list(found)[:3] == ["machine", "tier", "python"]
    assert found["tier"] == "cpu"
    assert "CPU cores" in found["machine"]
    assert ("deepspeed" in found) == (find_spec("deepspeed") is not None)


@pytest.mark.parametrize(("named", "count"), [(None, 2), ("1", 1), ("0,1", 2), ("GPU-5f,", 1)])
def test_a_machine_has_the_gpus_that_this_process_may_use(
    environment: pytest.MonkeyPatch, named: str | None, count: int
) -> None:
    module = sys.modules[versions.__module__]
    environment.setattr(module, "gpus", lambda: (Gpu("NVIDIA H200", "580", 143771),) * 2)
    environment.setattr(module, "tier", lambda: "gpu")
    environment.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        environment.setenv("CUDA_VISIBLE_DEVICES", named)
    assert versions()["machine"] == f"{count} x NVIDIA H200"


def test_the_build_is_announced_until_the_op_is_there(
    environment: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.environ["TORCH_EXTENSIONS_DIR"] = str(tmp_path)
    assert comm_op_path() == tmp_path / "deepspeed_shm_comm" / "deepspeed_shm_comm.so"
    announce_first_build()
    assert capsys.readouterr().out == (
        "DeepSpeed compiles its communication op now: about 20 s, once on this machine.\n"
    )
    comm_op_path().parent.mkdir()
    comm_op_path().touch()
    announce_first_build()
    assert capsys.readouterr().out == ""


def test_the_lock_of_a_killed_build_is_removed_and_a_living_one_stays(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    baton = pytest.importorskip("torch.utils.file_baton").FileBaton
    os.environ["TORCH_EXTENSIONS_DIR"] = str(tmp_path)
    lock = comm_op_path().with_name("lock")
    lock.parent.mkdir()
    living = baton(str(lock))
    assert living.try_acquire()
    announce_first_build()
    assert lock.exists()
    os.close(living.fd)  # what a kill does
    announce_first_build()
    assert not lock.exists()


def test_the_gpu_tier_has_no_op_to_build(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.environ.update(TIER="gpu", TORCH_EXTENSIONS_DIR=str(tmp_path))
    assert not comm_op_missing()


@pytest.mark.parametrize(("cuda", "folder"), [(None, "cpu"), ("13.0", "cu130")])
def test_the_default_folder_names_python_and_cuda(
    environment: pytest.MonkeyPatch, cuda: str | None, folder: str
) -> None:
    os.environ.pop("TORCH_EXTENSIONS_DIR", None)
    os.environ["XDG_CACHE_HOME"] = "/elsewhere"
    environment.setattr(first_build, "_torch_cuda", lambda: cuda)
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    assert str(comm_op_path()).startswith(f"/elsewhere/torch_extensions/{python}_{folder}/deepspeed_shm_comm/")


def test_the_path_is_the_one_that_torch_uses(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpp_extension = pytest.importorskip("torch.utils.cpp_extension")
    os.environ.pop("TORCH_EXTENSIONS_DIR", None)
    os.environ["XDG_CACHE_HOME"] = str(tmp_path)
    assert cpp_extension._get_build_directory("deepspeed_shm_comm", verbose=False) == str(comm_op_path().parent)
