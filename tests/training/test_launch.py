"""Ranks from a notebook: they get what they need, and what cannot run is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from course_lib.training import launch
from course_lib.training.launch import cores

CORES = cores()
needs_two = pytest.mark.skipif(CORES < 2, reason="two ranks want two cores")
Script = Callable[[str], Path]


@needs_two
def test_each_rank_gets_its_place_and_nothing_of_this_kernels(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "LOCAL_SIZE", "CROSS_RANK"):
        monkeypatch.setenv(name, "77")  # what another launcher, or this kernel's own rank 0 of 1, left behind
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    job = script("""
        names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR OMP_NUM_THREADS LOCAL_SIZE CROSS_RANK".split()
        print(*(os.environ.get(name, "-") for name in names), sys.argv[1:], __name__, sys.path[0] == os.path.dirname(__file__))
        print(os.environ["MASTER_PORT"])
    """)
    outputs = launch(job, ranks=2, arguments=["--a", "b c"])
    assert [output.rank for output in outputs] == [0, 1]
    assert all(output.seconds > 0 for output in outputs)
    places, ports = zip(*(output.text.splitlines() for output in outputs), strict=True)
    threads = max(1, CORES // 2)
    assert places == tuple(f"{r} {r} 2 2 127.0.0.1 {threads} - - ['--a', 'b c'] __main__ True" for r in (0, 1))
    assert ports[0] == ports[1] != "77"
    assert os.environ["RANK"] == "77"


def test_a_module_runs_as_python_runs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_job.py").write_text("import sys\nprint(__name__, __spec__.name, sys.argv[1:])")
    (output,) = launch("my_job", ranks=1, arguments=["x"])
    assert output.text == "__main__ my_job ['x']\n"
    assert repr(output).startswith("RankOutput(rank 0, 1 lines, ")


@needs_two
def test_lines_of_rank_0_come_while_it_runs(script: Script, tmp_path: Path) -> None:
    job = script(f"""
        print("é" * 3 if rank == 0 else "not this")
        while rank == 0 and not os.path.exists({str(tmp_path / "seen")!r}): time.sleep(0.01)
        print("last", end="")
    """)
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        (tmp_path / "seen").touch()  # else rank 0 never ends

    outputs = launch(job, ranks=2, on_line=on_line, timeout=30)
    assert lines == ["ééé", "last"]
    assert [output.text for output in outputs] == ["ééé\nlast", "not this\nlast"]


@pytest.mark.parametrize(
    ("target", "ranks", "message"),
    [
        ("no_script.py", 1, r"there is no script no_script\.py"),
        ("no.such.module", 1, "there is no module 'no.such.module'"),
        ("course_lib", 0, "ranks is 0; a job has 1 rank or more"),
        ("course_lib", CORES + 1, rf"{CORES + 1} ranks on {CORES} CPU core.*Use ranks={CORES} or fewer"),
    ],
)
def test_what_cannot_run_is_refused(target: str, ranks: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIER", "cpu")
    with pytest.raises(ValueError, match=message):
        launch(target, ranks=ranks)


def test_devices_are_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIER", "cpu")
    with pytest.raises(ValueError, match=r"devices=\[0\] names GPUs, and the cpu tier has none"):
        launch("course_lib", ranks=1, devices=[0])


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIER", "gpu")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"2 ranks on 1 visible GPU\(s\).*Use ranks=1 or fewer"):
        launch("course_lib", ranks=2)
    with pytest.raises(ValueError, match=r"3 ranks on 2 visible GPU\(s\)"):
        launch("course_lib", ranks=3, devices=[4, 5])
