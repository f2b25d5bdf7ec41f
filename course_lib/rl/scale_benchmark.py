"""The loop on one rank and on several, by ZeRO stage: seconds of a step, memory, and what a weight sync moves.

`course bench scale` runs it. Each combination has processes of its own (see `scale_rank`), started as the capstone's ranks are.
Two things are called scaling, and a row says which of them it is:

    strong   all ranks share the work of one: the same prompts a step.     efficiency = t1 / (n * tn)
    weak     each rank has the work of one: n times the prompts a step.    efficiency = t1 / tn
"""

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from course_lib.training import LaunchError, TrainerConfig, run_deepspeed

Scaling = Literal["strong", "weak"]
_WARM_UP = 3


@dataclass(frozen=True)
class ScaleWork:
    """What one rank alone does.

    Attributes:
        steps: of the loop; the first three warm up and are not counted.
        prompts: of a step; with weak scaling each rank has so many.
        samples: of each prompt.
        max_new_tokens: longest response.
        micro_batch_tokens: tokens of one forward and backward pass.
        sleep: the rollout engine sleeps while the policy is trained, and the optimizer's state goes to the host meanwhile.
        offload: the optimizer's state stays on the host, and steps there.
        seed: of problems and samples.

    Raises:
        ValueError: there is no step to count.
    """

    steps: int = 12
    prompts: int = 64
    samples: int = 8
    max_new_tokens: int = 24
    micro_batch_tokens: int = 16384
    sleep: bool = False
    offload: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps <= _WARM_UP:
            raise ValueError(f"steps is {self.steps}; {_WARM_UP} warm up and are not counted: give more.")


CPU_WORK = ScaleWork(steps=6, prompts=8, max_new_tokens=16, micro_batch_tokens=1024)
GPU_WORK = ScaleWork()


@dataclass(frozen=True)
class ScaleCase:
    """One combination.

    Attributes:
        ranks: processes, each with an engine and a trainer; one GPU each.
        zero_stage: of the training.
        scaling: what more ranks do: share the work of one, or have as much each.
    """

    ranks: int
    zero_stage: int
    scaling: Scaling = "strong"

    def prompts(self, work: ScaleWork) -> int:
        """Return the prompts of a step, over all ranks."""
        return work.prompts * (self.ranks if self.scaling == "weak" else 1)

    def __str__(self) -> str:
        return f"{self.ranks} x ZeRO-{self.zero_stage}" + ("" if self.ranks == 1 else f" {self.scaling}")


def bench_scale(
    folder: Path,
    work: ScaleWork,
    ranks: Sequence[int] = (1, 2),
    stages: Sequence[int] = (2, 3),
    *,
    weak: bool = False,
    limit: float = 600,
    on_event: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Run each combination and return what it took; one that can't run has an `error` instead.

    Args:
        folder: the policy's.
        work: of one rank.
        ranks: numbers of ranks; the efficiency of more than one is known where 1 is among them.
        stages: ZeRO's.
        weak: measure weak scaling too.
        limit: seconds that a combination may take, its start included.
        on_event: told in words what happens.

    Raises:
        ValueError: no ranks or stages, fewer than one rank, no such stage, or fewer prompts than ranks.
    """
    if not ranks or not stages or min(ranks) < 1 or max(ranks) > work.prompts:
        raise ValueError(
            f"ranks {list(ranks)}, ZeRO stages {list(stages)}, {work.prompts} prompts; expected at least one of each, and from 1"
            " rank up to as many as there are prompts."
        )
    for stage in stages:
        TrainerConfig(zero_stage=stage, offload_optimizer=work.offload)  # says what is wrong before anything starts
    rows = []
    for case in _cases(ranks, stages, weak):
        on_event(f"{case}: {work.steps} steps")
        found = _measure(folder, work, case, limit)
        rows.append(asdict(case) | {"prompts": case.prompts(work)} | found)
        on_event(f"{case}: {found.get('error') or format(found['step'], '.2f') + ' s a step'}")
    add_efficiency(rows)
    return {
        "what": "whole steps of the loop by number of ranks and ZeRO stage, each combination in processes of its own",
        "model": folder.name,
        "work": asdict(work),
        "rows": rows,
    }


def add_efficiency(rows: Sequence[dict[str, Any]]) -> None:
    """Give each measured row its `efficiency`, where its stage was measured on one rank too."""
    alone = {row["zero_stage"]: row["step"] for row in rows if row["ranks"] == 1 and "step" in row}
    for row in rows:
        if "step" in row and row["zero_stage"] in alone:
            times = row["ranks"] if row["scaling"] == "strong" else 1
            row["efficiency"] = alone[row["zero_stage"]] / (times * row["step"])


def row_of(ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a row's figures from what each rank wrote (see `scale_rank`).

    Keys: `step` (median seconds), `phases` (of each, median seconds), `tokens_per_second` (responses' tokens over the step's
    seconds, median), `sync` (`reload` and `check`, median seconds; `bytes` that an engine is given; `bytes_per_second`;
    `copy_bandwidth`, bytes read and written a second by a copy on the device; `of_copy`, how much of it the reload reaches),
    `memory` (GiB, the most on any rank: `generate`, `train`, `sync` at the end of each phase, `most` of them, and `trainer`,
    the peak of its tensors on a GPU), `trained` and `clean_receipts` (steps), `seconds` and `rewards` of each step.

    Seconds are the first rank's: a step ends for all ranks at once.
    """
    first = ranks[0]
    counted = first["steps"][_WARM_UP:]

    def median(*path: str) -> float:
        return statistics.median(_at(step, path) for step in counted)

    reload, moved, bandwidth = median("reload"), first["bytes"], first["copy_bandwidth"]
    phases = {phase: max(rank["held"][phase] for rank in ranks) / 2**30 for phase in first["held"]}
    memory = phases | {"most": max(phases.values())}
    if "trainer" in first:
        memory["trainer"] = max(rank["trainer"] for rank in ranks) / 2**30
    return {
        "step": median("seconds"),
        "phases": {phase: median("phases", phase) for phase in first["steps"][0]["phases"]},
        "tokens_per_second": statistics.median(step["tokens"] / step["seconds"] for step in counted),
        "sync": {
            "reload": reload,
            "check": median("check"),
            "bytes": moved,
            "bytes_per_second": moved / reload,
            "copy_bandwidth": bandwidth,
            "of_copy": 2 * moved / reload / bandwidth,  # a byte that is copied is read and written
        },
        "memory": memory,
        "trained": sum(step["trained"] for step in first["steps"]),
        "clean_receipts": sum(step["clean"] for step in first["steps"]),
        "seconds": [step["seconds"] for step in first["steps"]],
        "rewards": [step["reward"] for step in first["steps"]],
    }


COLUMNS = ("", ">s a step", ">generate train sync", ">tokens/s", ">scaling", ">GiB (training)", ">sync GB/s")


def rows(record: dict[str, Any]) -> list[list[str]]:
    """Return a record as rows of text under `COLUMNS`."""
    found = []
    for row in record["rows"]:
        name = str(ScaleCase(row["ranks"], row["zero_stage"], row["scaling"]))
        if "error" in row:
            found.append([name, "failed", *[""] * (len(COLUMNS) - 2)])
            continue
        phases, memory, sync = row["phases"], row["memory"], row["sync"]
        parts = " ".join(f"{phases[phase]:.2f}" for phase in ("generate", "train", "sync"))
        scaling = "" if row["ranks"] == 1 or "efficiency" not in row else f"{row['efficiency']:.0%}"
        held = f"{memory['most']:.1f} ({memory['train']:.1f})"
        moved = f"{sync['bytes_per_second'] / 1e9:.1f}"
        found.append([name, f"{row['step']:.2f}", parts, f"{row['tokens_per_second']:,.0f}", scaling, held, moved])
    return found


def _cases(ranks: Sequence[int], stages: Sequence[int], weak: bool) -> Iterator[ScaleCase]:
    """Yield each combination once; with one rank, weak and strong are the same."""
    for stage in dict.fromkeys(stages):
        for number in sorted(set(ranks)):
            yield ScaleCase(number, stage)
            if weak and number > 1:
                yield ScaleCase(number, stage, "weak")


def _measure(folder: Path, work: ScaleWork, case: ScaleCase, limit: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="scale-") as scratch:
        job = Path(scratch, "job.json")
        job.write_text(json.dumps({"folder": str(folder.resolve()), "work": asdict(work), "case": asdict(case)}))
        try:
            run_deepspeed("course_lib.rl.scale_rank", ranks=case.ranks, arguments=[str(job)], timeout=limit)
        except (LaunchError, ValueError) as error:  # ValueError: more ranks than this machine has GPUs or cores
            return {"error": str(error)}
        return row_of([json.loads(Path(scratch, f"rank-{rank}.json").read_text()) for rank in range(case.ranks)])


def _at(step: dict[str, Any], path: Sequence[str]) -> float:
    found: Any = step
    for name in path:
        found = found[name]
    return float(found)
