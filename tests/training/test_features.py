"""What else DeepSpeed offers: each feature says what it is for, and a trial gives an outcome, whatever happens to it."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from course_lib import machine
from course_lib.training import feature_runs, features
from course_lib.training.features import FEATURES, Outcome, recorded, try_feature, write_outcomes
from course_lib.training.launch import LaunchError

NAMES = [feature.name for feature in FEATURES]


def test_every_feature_is_told_in_two_sentences_and_can_be_tried() -> None:
    assert sorted(NAMES) == sorted(feature_runs.RUNS)
    for feature in FEATURES:
        assert feature.what.count(". ") == 1 and feature.what.endswith(".")
        assert feature.when.startswith(("When", "On")) and feature.when.endswith(".")
        assert "arXiv" in feature.source or "https://" in feature.source
        assert not feature.live or "cpu" in feature.tiers


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """Trials of what runs live, and of one feature that needs a GPU, two at a time: they mostly start processes."""
    names = [feature.name for feature in FEATURES if feature.live] + ["superoffload"]
    with ThreadPoolExecutor(2) as pool:
        tried = pool.map(lambda name: try_feature(name, timeout=280), names)  # a hang is a failure
        return dict(zip(names, tried, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["offload_states", "autotp", "muon"])
def test_what_runs_live_works_on_this_machine(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[name].worked, outcomes[name]
    assert outcomes[name].name == name and outcomes[name].seconds > 0


@pytest.mark.slow
@pytest.mark.skipif(machine.tier() == "gpu", reason="a GPU has it")
def test_what_this_machine_can_not_do_is_told_with_deepspeed_s_reason(outcomes: dict[str, Outcome]) -> None:
    told = "superoffload: not here; DeepSpeed says: SuperOffload only supports NVIDIA CUDA GPUs"
    assert not outcomes["superoffload"].worked
    assert str(outcomes["superoffload"]).startswith(told)


def test_an_unknown_feature_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"there is no feature 'muom'; there are .*muon"):
        try_feature("muom")


def test_a_trial_that_dies_is_an_outcome(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    locks = {name: tmp_path / name / "lock" for name in ("before", "during")}

    def die(*_: object, **__: object) -> None:
        locks["during"].parent.mkdir()
        locks["during"].touch()
        raise LaunchError("rank 0 of 1 was killed by SIGKILL\nmore", 0, [])

    locks["before"].parent.mkdir()
    locks["before"].touch()
    os.utime(locks["before"], (0, 0))
    monkeypatch.setattr(features, "launch", die)
    assert try_feature("zenflow") == Outcome("zenflow", False, "rank 0 of 1 was killed by SIGKILL", 0.0)
    assert {name: lock.exists() for name, lock in locks.items()} == {"before": True, "during": False}


def test_an_error_in_a_trial_is_its_outcome_and_only_rank_0_writes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail() -> str:
        raise RuntimeError(
            "Error building 'dc':\nc++ -c z1.cpp\nATen.h:4:10: fatal error: cuda.h: No such file\nstopped"
        )

    monkeypatch.setitem(feature_runs.RUNS, "muon", fail)
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "0")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setattr(sys, "argv", ["feature_runs", "muon", str(tmp_path / "out.json")])
        feature_runs.main()
        assert (tmp_path / "out.json").exists() == (rank == "0")
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["worked"], found["text"]) == (False, "DeepSpeed says: error: cuda.h: No such file")


def test_outcomes_are_written_with_their_machine_and_read_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = [Outcome(name, name != "zenflow", "a sentence.", 1.5) for name in NAMES]
    path = tmp_path / "features.json"
    write_outcomes(path, outcomes, "a command")
    assert recorded(path) == outcomes
    assert {"command", "commit", "date", "machine"} <= json.loads(path.read_text()).keys()
    with pytest.raises(FileNotFoundError, match=r"features --out nowhere\.json"):
        recorded(tmp_path / "nowhere.json")

    monkeypatch.setattr(sys, "argv", ["features", "--out", str(path), "--timeout", "7"])
    monkeypatch.setattr(features, "try_feature", lambda name, timeout: Outcome(name, True, f"in {timeout} s.", 0.0))
    features.main()
    assert [outcome.text for outcome in recorded(path)] == ["in 7.0 s."] * len(NAMES)
    assert capsys.readouterr().out.splitlines()[0] == "offload_states: in 7.0 s."
