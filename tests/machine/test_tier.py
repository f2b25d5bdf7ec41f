"""The tier: what the driver says, unless TIER says otherwise."""

import subprocess
from pathlib import Path

import pytest

from course_lib.machine import device, tier
from course_lib.machine.tier import Gpu, gpus, parse_gpus


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIER", raising=False)
    gpus.cache_clear()


def driver(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    smi = folder / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_a_driver_that_answers_makes_the_gpu_tier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver(monkeypatch, tmp_path, "echo 'NVIDIA H100 80GB HBM3, 580.65, 81559'")
    assert (tier(), device()) == ("gpu", "cuda")


@pytest.mark.parametrize(
    "script", ["exit 9", "echo 'NVIDIA-SMI has failed because it could not communicate'; exit 9", "echo 'No devices'"]
)
def test_a_driver_that_fails_makes_the_cpu_tier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    driver(monkeypatch, tmp_path, script)
    assert (tier(), device()) == ("cpu", "cpu")


def test_no_driver_makes_the_cpu_tier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tier() == "cpu"


def test_a_driver_that_hangs_makes_the_cpu_tier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver(monkeypatch, tmp_path, "true")

    def hang(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 20)

    monkeypatch.setattr(subprocess, "run", hang)
    assert tier() == "cpu"


@pytest.mark.parametrize("wanted", ["cpu", "gpu"])
def test_the_override_wins(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setenv("TIER", wanted)
    assert tier() == wanted


@pytest.mark.parametrize("wrong", ["CPU", "cuda", "tpu"])
def test_a_wrong_override_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("TIER", wrong)
    with pytest.raises(ValueError, match=f"^TIER={wrong} is not a tier: use TIER=cpu or TIER=gpu, or unset it"):
        tier()


def test_the_listing_is_read_with_commas_in_names_and_without_memory() -> None:
    assert parse_gpus("NVIDIA H200, 580.1, 143771\nA, B, 570.2, [N/A]\n\nnonsense\n") == (
        Gpu("NVIDIA H200", "580.1", 143771),
        Gpu("A, B", "570.2", None),
    )
