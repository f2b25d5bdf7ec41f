"""kill -9 in the middle of a step: the next start goes on as if nothing had happened."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from course_lib.rl import RLLoop

RUN = textwrap.dedent("""
    import os, signal, sys
    from course_lib.models import load_policy
    from course_lib.rl import Addition, LoopConfig, RLLoop, VLLMRollout
    from course_lib.training import PolicyTrainer, TrainerConfig

    def letters(problems, completions):
        return [sum(c.lower() in "abcdefghijklm" for c in text) / max(1, len(text)) for text in completions]

    class Killer:
        number = 1
        def started(self, steps, completed): ...
        def phase(self, name):
            if (self.number, name) == (3, "sync"):
                os.kill(os.getpid(), signal.SIGKILL)
        def step(self, record):
            self.number = record["step"] + 1
        def finished(self): ...

    folder = load_policy("tiny")
    trainer = PolicyTrainer(folder, TrainerConfig(learning_rate=3e-4))
    rollout = VLLMRollout(folder, kv_cache_bytes=64 << 20)
    config = LoopConfig(steps=3, prompts_per_step=4, samples_per_prompt=4, max_new_tokens=8, checkpoint_every=2)
    RLLoop(trainer, rollout, Addition(), sys.argv[1], reward=letters, config=config).run(Killer())
""")


@pytest.mark.slow
def test_killed_run_resumes(make_loop: Callable[..., RLLoop], quiet: Any, curve: Any, tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "run")], capture_output=True, text=True, timeout=280
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    resumed = make_loop(tmp_path / "run", resume=True, steps=3, checkpoint_every=2)
    assert resumed.completed == 2
    undisturbed = make_loop(tmp_path / "other", steps=3, checkpoint_every=2)
    wanted = curve(undisturbed.run(quiet()))
    resumed = make_loop(tmp_path / "run", resume=True, steps=3, checkpoint_every=2)
    assert curve(resumed.run(quiet())) == wanted
