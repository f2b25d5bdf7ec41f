"""The loop's speed side by side: ours and TRL's GRPOTrainer, on the same problems, model and machine.

`course bench loop` runs it. Each loop lives in a process of its own (see `loop_contender`), one after the other.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from course_lib.training.launch_errors import last_lines

LOOPS = ("ours", "engine", "trl")
"""The course's loop with vLLM as rollout engine, the same with our own engine in its place, and TRL's GRPOTrainer."""
_WARM_UP = 3


@dataclass(frozen=True)
class LoopWork:
    """What each loop does.

    Attributes:
        steps: optimizer steps; the first three warm up and are not counted.
        prompts: of a step.
        samples: of each prompt.
        max_new_tokens: longest response.
        learning_rate: constant.
        seed: of problems and samples.

    Raises:
        ValueError: there is no step to count.
    """

    steps: int = 60
    prompts: int = 64
    samples: int = 8
    max_new_tokens: int = 24
    learning_rate: float = 2e-5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps <= _WARM_UP + 1:
            raise ValueError(
                f"steps is {self.steps}; {_WARM_UP} warm up and the last is not counted: give {_WARM_UP + 2} or more."
            )


CPU_WORK = LoopWork(steps=6, prompts=4)
GPU_WORK = LoopWork()


def bench_loop(
    folder: Path,
    work: LoopWork,
    loops: Sequence[str] = LOOPS,
    limit: float = 600,
    on_event: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Run each loop and return what it took; a loop that can't run has an `error` instead.

    Raises:
        ValueError: there is no loop of that name.
    """
    unknown = [name for name in loops if name not in LOOPS]
    if unknown:
        raise ValueError(f"no loop {unknown[0]!r}; choose from {', '.join(LOOPS)}.")
    found: dict[str, Any] = {}
    for name in loops:
        on_event(f"{name}: {work.steps} steps")
        found[name] = _measure(name, folder, work, limit)
        on_event(f"{name}: {found[name].get('error') or format(found[name]['step'], '.2f') + ' s a step'}")
    record: dict[str, Any] = {"model": folder.name, "work": asdict(work), "loops": found}
    steps = {name: result["step"] for name, result in found.items() if "step" in result}
    if "ours" in steps and "trl" in steps:
        record["ratio"] = steps["ours"] / steps["trl"]
    return record


def rows(record: dict[str, Any]) -> list[list[str]]:
    """Return a table's row of each loop: name, seconds a step, first and last reward, step at which it passed 0.9."""
    found = []
    for name, result in record["loops"].items():
        if "error" in result:
            found.append([name, "failed", "", "", ""])
            continue
        rewards = result["rewards"]
        passed = next((str(step) for step, reward in enumerate(rewards, 1) if reward >= 0.9), "never")
        found.append([name, f"{result['step']:.2f}", f"{rewards[0]:.2f}", f"{rewards[-1]:.2f}", passed])
    return found


COLUMNS = ("loop", ">s a step", ">first reward", ">last reward", ">0.9 at step")


def _measure(name: str, folder: Path, work: LoopWork, limit: float) -> dict[str, Any]:
    if name == "trl" and find_spec("trl") is None:
        return {"error": "TRL is not installed, and the course does not need it; to compare: pip install trl"}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "found.json")
        job = json.dumps(asdict(work) | {"folder": str(folder)})
        command = [sys.executable, "-m", "course_lib.rl.loop_contender", name, job, str(out)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return {"error": f"was not done after {limit:g} s, and was ended"}
        if done.returncode or not out.is_file():
            said = last_lines(done.stdout + done.stderr)
            return {"error": f"ended with status {done.returncode}. Its last lines:\n" + "\n".join(said)}
        found: dict[str, Any] = json.loads(out.read_text())
    # The last step of ours measures accuracy and writes a checkpoint.
    counted = found["seconds"][_WARM_UP:-1]
    return found | {"step": statistics.median(counted)}
