"""A run that dies at a chosen moment: the process that `kill_points` starts. Its argument is a `Life` as JSON."""

import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from course_lib.models import load_policy
from course_lib.rl.config import LoopConfig
from course_lib.rl.loop import RLLoop
from course_lib.rl.problem import Problem
from course_lib.rl.progress import NoView
from course_lib.rl.rollout import VLLMRollout
from course_lib.rl.tasks import Addition
from course_lib.training import PolicyTrainer, TrainerConfig


@dataclass(frozen=True)
class Moment:
    """A moment of a run that leaves something half done: when the process is about to do something to a file.

    Attributes:
        event: Python's audit event: os.rename, os.remove, os.mkdir or open.
        path: how the path ends.
        times: which time it happens.
        cut: None kills at once. A number lets the process go on until it has written that many more bytes to a file than this
            one has, so that it dies in the middle of a write.
    """

    event: str
    path: str
    times: int
    cut: int | None = None


MOMENTS = {
    "before the first step": Moment("os.rename", "samples.jsonl", 1),
    "in the middle of a line of metrics": Moment("open", "metrics.jsonl", 5, cut=40),
    "in the middle of a line of samples": Moment("open", "samples.jsonl", 3, cut=40),
    "in the middle of a checkpoint's first file": Moment("os.mkdir", "step_000004.partial", 1, cut=1 << 20),
    "after a checkpoint's last file": Moment("open", "layout.json", 2),
    "before a checkpoint gets its name": Moment("os.rename", "step_000004", 1),
    "before an old checkpoint loses its name": Moment("os.rename", "step_000002", 2),
    "in the middle of removing an old checkpoint": Moment("os.remove", "model_states.pt", 1),
}
"""What goes wrong most easily, in a run of 6 steps with a checkpoint every 2. Naming step 2 is the first rename with that name."""


@dataclass(frozen=True)
class Life:
    """A run's numbers.

    Attributes:
        run: its folder.
        policy: a name for `load_policy`.
        steps: of the run.
        checkpoint_every: steps between two checkpoints.
        seed: of problems and samples.
        resume: go on with what is there.
        moment: a name of `MOMENTS` to die at; None lives on.
    """

    run: str
    policy: str = "tiny"
    steps: int = 6
    checkpoint_every: int = 2
    seed: int = 0
    resume: bool = False
    moment: str | None = None

    @property
    def loop(self) -> LoopConfig:
        """The loop's numbers: small steps."""
        return LoopConfig(
            steps=self.steps,
            prompts_per_step=4,
            samples_per_prompt=4,
            max_new_tokens=8,
            evaluate_every=3,
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
        )

    def to_json(self) -> str:
        """Return what the process takes as its argument."""
        return json.dumps(asdict(self))


def early_letters(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:  # noqa: ARG001  a Reward's
    """Return the share of characters in the first half of the alphabet: a reward that a random model gets too."""
    return [sum(character.lower() in "abcdefghijklm" for character in text) / max(1, len(text)) for text in completions]


def make_loop(life: Life) -> RLLoop:
    """Start both engines and make the loop."""
    folder = load_policy(life.policy)
    rate = 3e-4 if life.policy == "tiny" else 3e-5
    trainer = PolicyTrainer(folder, TrainerConfig(learning_rate=rate))
    rollout = VLLMRollout(folder, kv_cache_bytes=64 << 20)
    return RLLoop(trainer, rollout, Addition(), life.run, reward=early_letters, config=life.loop, resume=life.resume)


class Told(NoView):
    """Tells the parent process what the run is doing, a word a line."""

    def started(self, steps: int, completed: int) -> None:  # noqa: ARG002  a LoopView's
        """Say that the engines are there, and the run begins."""
        print("started", flush=True)

    def phase(self, name: str) -> None:
        """Say in which phase the run is."""
        print("phase", name, flush=True)

    def step(self, record: dict[str, Any]) -> None:
        """Say which step is done."""
        print("step", record["step"], flush=True)

    def finished(self) -> None:
        """Say that the run ended."""
        print("finished", flush=True)


def die_at(moment: Moment) -> None:
    """Let this process die at a moment, by a signal that it can't handle."""
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event != moment.event or not isinstance(arguments[0], (str, os.PathLike)):
            return
        paths = [os.fspath(path) for path in arguments[:2] if isinstance(path, (str, os.PathLike))]
        reads = event == "open" and not set(arguments[1] or "").intersection("wax+")
        if reads or not any(path.endswith(moment.path) for path in paths):
            return
        count += 1
        if count != moment.times:
            return
        if moment.cut is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            _die_in_mid_write(Path(paths[0]), moment.cut)

    sys.addaudithook(watch)


def _die_in_mid_write(path: Path, cut: int) -> None:
    """Let the kernel end this process where a file outgrows `path` by `cut` bytes: what is below the limit gets written."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = cut + (path.stat().st_size if path.is_file() else 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def main() -> None:
    """Live, and die where that was asked for."""
    life = Life(**json.loads(sys.argv[1]))
    if life.moment is not None:
        die_at(MOMENTS[life.moment])
    make_loop(life).run(Told())


if __name__ == "__main__":
    main()
