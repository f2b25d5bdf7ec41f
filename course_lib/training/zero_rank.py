"""One rank of a ZeRO study: trains by one plan after the other, and writes down what it held, moved and took.

`zero_study` launches it: `python -m course_lib.training.zero_rank TASK`, with a launcher's variables set.
"""

import gc
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor

from course_lib import machine
from course_lib.kv_cache.cost import ModelShape
from course_lib.training.communication import CommunicationLog, Traffic
from course_lib.training.config import TrainerConfig
from course_lib.training.holdings import Holdings, before_each_step, holdings
from course_lib.training.memory import PeakMemory, SavedActivations
from course_lib.training.packing import Group, PackedBatch
from course_lib.training.trainer import PolicyTrainer
from course_lib.training.zero_memory import ZeroPlan

_LEARNING_RATE = 1e-4
_RESERVED = 3  # token ids of the tiny policy that mean something


@dataclass(frozen=True)
class Task:
    """What every rank of a study does.

    Attributes:
        folder: the policy's.
        out: where a rank leaves `rank-N.json`, its `RankRun` of each plan.
        plans: one after the other, in the same processes.
        steps: timed optimizer steps; one before them, which warms up, and one after, which is watched, are not timed.
        micro_batches: passes of a step.
        rows: sequences of a pass.
        length: tokens of a sequence.
    """

    folder: Path
    out: Path
    plans: tuple[ZeroPlan, ...]
    steps: int
    micro_batches: int
    rows: int
    length: int


@dataclass(frozen=True)
class RankRun:
    """What one rank did by one plan.

    Attributes:
        holdings: what it held while gradients added up: after the first backward pass of a step.
        losses: of each timed step, over all ranks.
        seconds: of each timed step.
        first_traffic: what the first step moved; stage 3 moves more in it.
        traffic: what a later step moves.
        activation_bytes: the most that autograd saved at one moment, without what checkpointing makes again.
        peak_bytes: the most that a step held at one moment; on the cpu tier device and host together.
    """

    holdings: Holdings
    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    first_traffic: tuple[Traffic, ...]
    traffic: tuple[Traffic, ...]
    activation_bytes: int
    peak_bytes: int


def main() -> None:
    """Do the task whose file the command line names."""
    machine.prepare()
    import deepspeed  # noqa: F401  # it belongs to what is set aside below

    # What the imports made, a million objects, holds no tensor that matters here; each look at all tensors would go over it.
    gc.collect()
    gc.freeze()
    if machine.tier() == "gpu":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # memory is looked at before DeepSpeed sets it
    rank = int(os.environ["RANK"])
    task = TypeAdapter(Task).validate_json(Path(sys.argv[1]).read_bytes())
    runs = []
    for number, plan in enumerate(task.plans, 1):
        runs.append(measure(task, plan, rank))
        if rank == 0:
            seconds = statistics.median(runs[-1].seconds)
            said = (
                f"loss {runs[-1].losses[-1]:.4f}, {seconds:.2f} s a step, {runs[-1].peak_bytes / 2**30:.2f} GiB at most"
            )
            print(f"{number}/{len(task.plans)} {plan}: {said}", flush=True)
    (task.out / f"rank-{rank}.json").write_bytes(TypeAdapter(list[RankRun]).dump_json(runs))


def measure(task: Task, plan: ZeroPlan, rank: int) -> RankRun:
    """Train by one plan and return what this rank saw. Every rank has to call it."""
    before = _memory_now()
    trainer = PolicyTrainer(task.folder, _config(plan, task.rows * task.length))
    groups = _groups(task, rank)
    tokens = plan.ranks * sum(len(group.responses[0]) for group in groups)

    def loss(_batch: PackedBatch, logprobs: Tensor, _entropy: Tensor) -> Tensor:
        return -logprobs.sum() / tokens

    with CommunicationLog() as first:
        trainer.step(groups, loss)
    losses, seconds = [], []
    for _ in range(task.steps):
        start = time.perf_counter()
        losses.append(trainer.step(groups, loss).loss)  # a number, so whatever the GPU had to do for it is done
        seconds.append(time.perf_counter() - start)
    held: list[Holdings] = []
    with (
        PeakMemory() as peak,
        CommunicationLog() as log,
        SavedActivations(trainer.engine.module) as saved,
        before_each_step(trainer, lambda pass_: held.append(holdings(trainer)) if pass_ == 0 else None),
    ):
        trainer.step(groups, loss)
    run = RankRun(
        held[0], tuple(losses), tuple(seconds), tuple(first), tuple(log), saved.storages.peak, peak.bytes - before
    )
    # DeepSpeed's hooks hold one another and the model: without this the next plan would find the memory taken. Stage 3 keeps
    # its share even so.
    trainer.engine.destroy()
    return run


def _config(plan: ZeroPlan, micro_batch_tokens: int) -> TrainerConfig:
    return TrainerConfig(
        learning_rate=_LEARNING_RATE,
        zero_stage=plan.stage,
        micro_batch_tokens=micro_batch_tokens,
        gradient_checkpointing=plan.gradient_checkpointing,
        offload_optimizer=plan.offload_optimizer,
        offload_param=plan.offload_param,
    )


def _groups(task: Task, rank: int) -> list[Group]:
    """Return this rank's data: random tokens, a prompt of an eighth and a response of the rest in each row."""
    chance = torch.Generator().manual_seed(rank)
    vocabulary = ModelShape.from_config(task.folder).vocab
    rows = torch.randint(
        _RESERVED, vocabulary, (task.micro_batches * task.rows, task.length), generator=chance
    ).tolist()
    prompt = max(1, task.length // 8)
    return [Group(row[:prompt], [row[prompt:]], [number]) for number, row in enumerate(rows)]


def _memory_now() -> int:
    """Return the bytes of all tensors at this moment."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with PeakMemory() as now:
        return now.bytes


if __name__ == "__main__":
    main()
