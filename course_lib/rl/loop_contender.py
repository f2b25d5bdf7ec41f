"""One loop of the benchmark, in a process of its own: `python -m course_lib.rl.loop_contender NAME WORKLOAD OUT`."""

import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from course_lib import machine
from course_lib.rl.capstone import recipe
from course_lib.rl.engine_rollout import EngineRollout
from course_lib.rl.loop import RLLoop
from course_lib.rl.problem import Problem
from course_lib.rl.progress import NoView
from course_lib.rl.rewards import number_match
from course_lib.rl.rollout import VLLMRollout
from course_lib.rl.rollout_engine import GPU_MEMORY_UTILIZATION
from course_lib.rl.summary import PHASES
from course_lib.rl.tasks import Addition
from course_lib.training import PolicyTrainer

_NEVER = 1_000_000


class _Steps(NoView):
    """Writes down when each step was over, and what it brought."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.records: list[dict[str, Any]] = []

    def step(self, record: dict[str, Any]) -> None:
        self.ends.append(time.perf_counter())
        if record["step"]:
            self.records.append(record)


def ours(folder: str, work: dict[str, Any], engine: bool = False) -> dict[str, Any]:
    """Run the course's loop: GRPO on addition, with a receipt of every sync; vLLM generates, or our own engine."""
    machine.prepare()
    numbers = recipe(work["steps"], work["seed"], "grpo")
    loop = replace(
        numbers.loop,
        prompts_per_step=work["prompts"],
        samples_per_prompt=work["samples"],
        max_new_tokens=work["max_new_tokens"],
        evaluate_every=_NEVER,
        checkpoint_every=_NEVER,
    )
    trainer = PolicyTrainer(folder, replace(numbers.trainer, learning_rate=work["learning_rate"], decay_steps=0))
    steps = _Steps()
    with tempfile.TemporaryDirectory() as runs:
        rollout = (
            EngineRollout(folder, **numbers.rollout, max_num_seqs=work["prompts"] * work["samples"])
            if engine
            else VLLMRollout(folder, **numbers.rollout)
        )
        run = RLLoop(trainer, rollout, Addition(), Path(runs, "run"), algorithm="grpo", config=loop)
        run.run(steps)
    return {
        "seconds": _between(steps.ends),
        "rewards": [record["reward"] for record in steps.records],
        "phases": {name: [record["seconds"].get(name, 0.0) for record in steps.records] for name in PHASES},
        "clean_receipts": sum(record["receipt"]["ok"] for record in steps.records),
        "version": "",
    }


def trl(folder: str, work: dict[str, Any]) -> dict[str, Any]:
    """Run TRL's GRPOTrainer, with vLLM in the same process where there is a GPU, on the same problems."""
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    gpu = machine.tier() == "gpu"
    steps = work["steps"]
    rows = []
    for number in range(1, steps + 1):  # the problems that our loop draws, step by step
        for problem in Addition().draw(work["prompts"], random.Random(f"{work['seed']}/{number}")):
            rows.append({"prompt": [{"role": "user", "content": problem.question}], "answer": problem.answer})
    # A fingerprint of its own: datasets would pickle the table to make one, which fails with some versions of pyarrow.
    problems = Dataset(InMemoryTable.from_pylist(rows), fingerprint=f"addition-{work['seed']}")
    ends: list[float] = []
    rewards: list[float] = []

    def reward(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
        asked = [Problem("", right) for right in answer]
        found = number_match(asked, [completion[0]["content"] for completion in completions])
        rewards.append(sum(found) / len(found))
        return found

    class Ends(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out,
            per_device_train_batch_size=work["prompts"] * work["samples"],
            num_generations=work["samples"],
            max_completion_length=work["max_new_tokens"],
            learning_rate=work["learning_rate"],
            lr_scheduler_type="constant",
            max_steps=steps,
            shuffle_dataset=False,
            beta=0.0,
            loss_type="grpo",
            temperature=1.0,
            bf16=True,
            use_cpu=not gpu,
            gradient_checkpointing=False,
            # An fp32 copy of the weights, as ours has; TRL's own choice is the bf16 of the checkpoint, which rounds small
            # updates away.
            model_init_kwargs={"dtype": "float32"},
            use_vllm=gpu,
            vllm_mode="colocate",
            vllm_gpu_memory_utilization=GPU_MEMORY_UTILIZATION,
            vllm_max_model_length=512,
            save_strategy="no",
            report_to=[],
            logging_steps=_NEVER,
            disable_tqdm=True,
            seed=work["seed"],
        )
        GRPOTrainer(model=folder, reward_funcs=reward, args=config, train_dataset=problems, callbacks=[Ends()]).train()
    return {"seconds": _between(ends), "rewards": rewards, "version": version("trl")}


LOOPS: dict[str, Callable[[str, dict[str, Any]], dict[str, Any]]] = {
    "ours": ours,
    "engine": partial(ours, engine=True),
    "trl": trl,
}


def _between(ends: list[float]) -> list[float]:
    return [end - start for start, end in itertools.pairwise(ends)]


def main() -> None:
    """Run the loop that the command line names, and write what it took."""
    name, work, out = sys.argv[1:]
    job = json.loads(work)
    found = LOOPS[name](job.pop("folder"), job)
    if machine.tier() == "gpu":
        import torch

        free, total = torch.cuda.mem_get_info()
        found["gpu_gib"] = (total - free) / 2**30
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
