"""`course capstone`: the notebook's loop with a live view in the terminal, in one process or in several."""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from course_lib import machine

RUNS = Path("runs")
_DAYS = 30 * 24 * 3600.0  # a run may take long; a rank that dies ends it at once all the same


@dataclass(frozen=True)
class Memory:
    """What is to be changed of the recipe's use of memory; the recipe's own where None or False.

    Attributes:
        gpu_memory_utilization: vLLM's share of a GPU's memory.
        micro_batch_tokens: of the trainer.
        gradient_checkpointing: of the trainer.
    """

    gpu_memory_utilization: float | None = None
    micro_batch_tokens: int | None = None
    gradient_checkpointing: bool = False

    def apply(self, numbers: Any) -> Any:
        """Return the recipe with these changes."""
        tokens = self.micro_batch_tokens or numbers.trainer.micro_batch_tokens
        checkpointing = self.gradient_checkpointing or numbers.trainer.gradient_checkpointing
        trainer = replace(numbers.trainer, micro_batch_tokens=tokens, gradient_checkpointing=checkpointing)
        share = {"gpu_memory_utilization": self.gpu_memory_utilization} if self.gpu_memory_utilization else {}
        return replace(numbers, trainer=trainer, rollout=numbers.rollout | share)

    def arguments(self) -> list[str]:
        """Return the options of the command line that say the same."""
        given = {
            "--gpu-memory-utilization": self.gpu_memory_utilization,
            "--micro-batch-tokens": self.micro_batch_tokens,
        }
        return [*_options(given), *(["--gradient-checkpointing"] if self.gradient_checkpointing else [])]


@dataclass(frozen=True)
class Order:
    """What is to be run.

    Attributes:
        policy: a name or folder for `load_policy`.
        steps: of the run; the tier's own number where None.
        seed: of problems and samples.
        algorithm: a name of `rl.ALGORITHMS`.
        run: the run's folder; one in `runs/` where None.
        resume: go on from its newest checkpoint.
        reward_model: folder of a reward model that judges instead of the rule.
        ranks: processes on this machine; 1 runs here.
        hostfile: machines, for a run on several.
        node_rank: which line of the hostfile this machine is.
        master_addr: address of the first machine.
        memory: what is to be changed of the recipe's use of memory.
    """

    policy: str = "smollm2"
    steps: int | None = None
    seed: int = 0
    algorithm: str = "dr_grpo"
    run: Path | None = None
    resume: bool = False
    reward_model: Path | None = None
    ranks: int = 1
    hostfile: Path | None = None
    node_rank: int | None = None
    master_addr: str | None = None
    memory: Memory = Memory()

    def arguments(self) -> list[str]:
        """Return the command line of each rank: the same order, without the launching."""
        given = {
            "--policy": self.policy,
            "--steps": self.steps,
            "--seed": self.seed,
            "--algorithm": self.algorithm,
            "--run": self.run,
            "--reward-model": self.reward_model,
        }
        return ["capstone", *_options(given), *self.memory.arguments(), *(["--resume"] if self.resume else [])]


def _options(given: Mapping[str, object]) -> list[str]:
    """Return a command line's options; one without a value is left out."""
    return [part for name, value in given.items() if value is not None for part in (name, str(value))]


def newest_folder() -> Path:
    """Return the run in `runs/` that was written to last, or `runs/capstone` where there is none."""
    from course_lib.grading.report import (
        newest_run,  # with it comes Hypothesis, a second that a fresh run need not wait
    )

    return newest_run(RUNS) or RUNS / "capstone"


def run_capstone(order: Order) -> int:
    """Run the capstone, show it as it goes, and say where everything is. Return the exit status."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched == 1 and (order.ranks > 1 or order.hostfile is not None):
        return _launch(order)
    first = os.environ.get("RANK", "0") == "0"
    console = Console(stderr=True, quiet=not first)
    with console.status("Starting DeepSpeed and vLLM (about half a minute) ..."):
        machine.prepare()  # a launched rank keeps to its own GPU, which has to be said before torch looks at them
        try:
            from course_lib.models import PolicyError
            from course_lib.rl import errors, find_algorithm
            from course_lib.viz import TensorBoardLog, TerminalView, Views

            find_algorithm(order.algorithm)
            folder, loop, room = _start(order, launched, first)
        except (PolicyError, *errors.ALL, ValueError) as error:
            return _failed(error, first)
    console.print(f"{loop!r}\n", markup=False, highlight=False)
    start = time.perf_counter()
    try:
        shown = (TerminalView(history=loop.records()), TensorBoardLog(folder / "tensorboard")) if first else ()
        records = loop.run(Views(*shown))
    except errors.ALL as error:
        return _failed(error, first)
    finished = loop.completed == loop.config.steps
    if finished:
        loop.export()
    if first:
        _report(folder, records, time.perf_counter() - start, room)
        if not finished:
            print(
                f"\nThe run stopped before its end. Go on with: course capstone --policy {order.policy} --run {folder} --resume"
            )
    return 0


def _start(order: Order, ranks: int, first: bool) -> tuple[Path, Any, Any]:
    """Return the run's folder, the loop over both engines, and what memory it was found to need (None without a GPU)."""
    from course_lib.models import load_policy
    from course_lib.rl import capstone, free_folder
    from course_lib.rl.room import find_room
    from course_lib.rl.run_folder import saved_decisions

    folder = order.run or (newest_folder() if order.resume else free_folder(RUNS, "capstone"))
    steps, seed, algorithm = order.steps, order.seed, order.algorithm
    before = saved_decisions(folder, order.resume) if first or order.resume else None  # before the engines start
    if before is not None:
        steps, seed = steps or before["steps"], before["seed"]
        algorithm = before.get("algorithm", {}).get("name", algorithm)
    reward = None
    if order.reward_model is not None and first:
        from course_lib.rl.model_reward import ModelReward
        from course_lib.serving import RewardModel

        reward = ModelReward(RewardModel(order.reward_model))
    numbers = order.memory.apply(capstone.recipe(steps, seed, algorithm, ranks=ranks))
    policy = load_policy(order.policy)
    # make_loop asks too, for whoever calls it alone; this answer is for the report.
    room = find_room(policy, numbers.trainer, numbers.rollout, critic=numbers.algorithm.critic)
    return folder, capstone.make_loop(order.policy, folder, numbers, reward=reward, resume=order.resume), room


def _launch(order: Order) -> int:
    """Start the same order in several processes with DeepSpeed's launcher, and show what the first one says."""
    try:
        from course_lib.rl import free_folder
        from course_lib.rl.run_folder import RunError, saved_decisions
        from course_lib.training import LaunchError, run_deepspeed

        folder = order.run or (newest_folder() if order.resume else free_folder(RUNS, "capstone"))
        saved_decisions(folder, order.resume)
        run_deepspeed(
            "course_lib",
            ranks=order.ranks if order.hostfile is None else None,
            hostfile=order.hostfile,
            node_rank=order.node_rank,
            master_addr=order.master_addr,
            arguments=replace(order, run=folder).arguments(),
            timeout=_DAYS,
            on_line=print,
        )
    except (LaunchError, RunError, ValueError, FileNotFoundError) as error:
        return _failed(error, first=True)
    return 0


def _failed(error: Exception, first: bool) -> int:
    if first:
        print(f"\n{error}", file=sys.stderr)
    return 1


def _report(folder: Path, records: list[dict[str, Any]], seconds: float, room: Any) -> None:
    """Write summary, plot and dashboard into the run's folder, and print where they are."""
    from course_lib.rl.summary import summarize
    from course_lib.viz import dashboard_html, run_figure

    summary = summarize(records, seconds)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    run_figure(records, folder / "plot.png")
    dashboard_html(folder)
    held_out, receipts = summary["held_out"], summary["receipts"]
    print(
        f"\nheld-out accuracy {held_out['first']:.2f} -> {held_out['last']:.2f} in {summary['steps']} steps and"
        f" {seconds:.0f} s; {receipts['clean']} of {receipts['all']} weight syncs with a clean receipt; at most"
        f" {summary['peak_memory']['host']:.1f} GiB of memory"
    )
    if room is not None:
        engines = f"{room.rollout / 2**30:.1f} for the rollout engine, {room.trainer / 2**30:.1f} for the trainer"
        print(f"of the GPU's memory at most {summary['peak_memory']['gpu']:.1f} GiB for tensors; predicted: {engines}")
    print()
    places = {
        "metrics": "metrics.jsonl",
        "samples": "samples.jsonl",
        "plot": "plot.png",
        "summary": "summary.json",
        "dashboard": "dashboard.html",
        "curves": "tensorboard (look at them with: tensorboard --logdir runs)",
    }
    if (folder / "policy").exists():
        places["policy"] = "policy (a Hugging Face model folder: load it in vLLM or transformers)"
    for name, place in places.items():
        print(f"  {name:<9} {folder / place}")
