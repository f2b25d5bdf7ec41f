"""ZeRO's stages side by side: real ranks train the same steps at each, and report what they held, moved and took.

`python -m course_lib.training.zero_study --ranks 2 --policy smollm2 --out FILE` makes the record of a machine; on GPUs the ranks
talk through NCCL. `recorded(path)` is a record that the course carries.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from course_lib import machine
from course_lib.kv_cache.cost import ModelShape
from course_lib.machine.record import provenance, read_record
from course_lib.models import load_policy
from course_lib.training.launch import launch
from course_lib.training.zero_memory import MemoryBudget, ZeroPlan, training_memory
from course_lib.training.zero_rank import RankRun, Task

_RANK = "course_lib.training.zero_rank"
_SIZES = {"cpu": (1, 64), "gpu": (16, 512)}
"""Rows and length of a micro-batch, by tier: small enough for a minute, large enough that activations show."""


@dataclass(frozen=True)
class StageRun:
    """One plan's run.

    Attributes:
        plan: the stage, and what else was on.
        ranks: what each rank saw, in order.
    """

    plan: ZeroPlan
    ranks: tuple[RankRun, ...]

    @property
    def losses(self) -> tuple[float, ...]:
        """The loss of each timed step, over all ranks."""
        return self.ranks[0].losses

    @property
    def seconds(self) -> float:
        """Seconds of a step: the median over the timed ones."""
        return statistics.median(self.ranks[0].seconds)

    @property
    def moved_bytes(self) -> int:
        """Bytes that a step moves through a rank, as `communication.Traffic` counts them."""
        return sum(traffic.bytes for traffic in self.ranks[0].traffic)

    @property
    def peak_bytes(self) -> int:
        """The most that a rank held at one moment."""
        return max(run.peak_bytes for run in self.ranks)

    def __repr__(self) -> str:
        return (
            f"StageRun({self.plan}: loss {self.losses[-1]:.4f}, {self.seconds:.2f} s a step, "
            f"{self.peak_bytes / 2**30:.2f} GiB at most)"
        )


@dataclass(frozen=True)
class ZeroStudy:
    """A study: the same training by several plans.

    Attributes:
        policy: the model's name.
        shape: its sizes.
        rows: sequences of a micro-batch.
        length: tokens of a sequence.
        micro_batches: passes of a step.
        runs: one a plan.
        command: what repeats it.
        commit: the code that ran.
        date: when.
        machine: where, and the versions of the engines.
    """

    policy: str
    shape: ModelShape
    rows: int
    length: int
    micro_batches: int
    runs: tuple[StageRun, ...]
    command: str
    commit: str
    date: str
    machine: dict[str, str]

    def __getitem__(self, stage: int) -> StageRun:
        """Return the first run of a stage.

        Raises:
            KeyError: the study has none.
        """
        found = next((run for run in self.runs if run.plan.stage == stage), None)
        if found is None:
            raise KeyError(f"no stage {stage} in this study of {', '.join(str(run.plan) for run in self.runs)}")
        return found

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch on one rank."""
        return self.rows * self.length

    @property
    def parameters(self) -> int:
        """Numbers in the model."""
        return self.runs[0].ranks[0].holdings.parameters

    @property
    def loss_spread(self) -> float:
        """The largest difference between two plans' losses at the same step: the noise of bf16 sums in another order."""
        return max(max(step) - min(step) for step in zip(*(run.losses for run in self.runs), strict=True))

    def predicted(self, run: StageRun) -> MemoryBudget:
        """Return what `training_memory` says of one of its runs."""
        return training_memory(self.shape, run.plan, self.tokens, self.length)

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_bytes(TypeAdapter(ZeroStudy).dump_json(self, indent=1) + b"\n")

    def __repr__(self) -> str:
        runs = "\n  ".join(map(repr, self.runs))
        return f"ZeroStudy({self.policy} on {self.machine['machine']}, {self.date}:\n  {runs})"


def zero_study(
    policy: str | Path,
    ranks: int = 2,
    stages: Sequence[int] = (0, 1, 2, 3),
    steps: int = 2,
    record: str | Path | None = None,
    *,
    plans: Sequence[ZeroPlan] | None = None,
    micro_batches: int = 2,
    rows: int | None = None,
    length: int | None = None,
    timeout: float = 600,
    on_line: Callable[[str], None] | None = None,
    commit: str = "",
) -> ZeroStudy:
    """Train a policy with DeepSpeed at each stage on real ranks of this machine, and return what they report.

    One launch does all stages one after the other: starting a rank takes longer than its steps on a small model. Every rank
    trains on random tokens of its own, the same at every stage.

    Args:
        policy: what `load_policy` takes.
        ranks: processes; on the gpu tier one a GPU, over NCCL, else over gloo.
        stages: ZeRO's, in order; 3 belongs last, because DeepSpeed does not give its memory back.
        steps: that are timed; one before them, which warms up, and one after, which is watched, come on top.
        record: a file to write the study to, as JSON.
        plans: instead of `stages`, for what else a plan can say; each is taken with `ranks` ranks.
        micro_batches: passes of a step, at least 2, so that gradients add up.
        rows: sequences of a micro-batch; None takes what suits the tier.
        length: tokens of a sequence; None takes what suits the tier.
        timeout: seconds until it counts as hanging.
        on_line: gets the progress, a line a stage.
        commit: the commit to name in the record, where git is not there to be asked.

    Raises:
        ValueError: fewer than 2 micro-batches, no step, more ranks than cores or GPUs, or a plan that does not exist.
        LaunchError: a rank failed or hung; none is left behind.
    """
    usual = _SIZES[machine.tier()]
    rows, length = rows or usual[0], length or usual[1]
    if micro_batches < 2 or steps < 1 or length < 2:
        raise ValueError(
            f"micro_batches={micro_batches}, steps={steps}, length={length}: expected at least 2 micro-batches, so that"
            " gradients add up, 1 step, and 2 tokens in a row."
        )
    given = plans if plans is not None else [ZeroPlan(stage) for stage in stages]
    laid_out = tuple(ZeroPlan(**asdict(plan) | {"ranks": ranks}) for plan in given)
    if not laid_out:
        raise ValueError("no stages to study; give at least one.")
    folder = load_policy(policy)
    with tempfile.TemporaryDirectory(prefix="zero-study-") as out:
        task = Task(folder.resolve(), Path(out), laid_out, steps, micro_batches, rows, length)
        file = Path(out) / "task.json"
        file.write_bytes(TypeAdapter(Task).dump_json(task))
        launch(_RANK, ranks=ranks, arguments=[str(file)], timeout=timeout, on_line=_progress(on_line))
        read = TypeAdapter(list[RankRun]).validate_json
        found = [read((Path(out) / f"rank-{rank}.json").read_bytes()) for rank in range(ranks)]
    runs = tuple(StageRun(plan, per_rank) for plan, per_rank in zip(laid_out, zip(*found, strict=True), strict=True))
    name = Path(policy).name
    study = ZeroStudy(
        policy=name,
        shape=ModelShape.from_config(folder, name),
        rows=rows,
        length=length,
        micro_batches=micro_batches,
        runs=runs,
        **_provenance(name, ranks, commit),
    )
    if record is not None:
        study.save(record)
    return study


def recorded(path: str | Path) -> ZeroStudy:
    """Return a study that was saved.

    Raises:
        FileNotFoundError: there is none.
    """
    found = read_record(path, "python -m course_lib.training.zero_study --ranks 2", "study")
    return TypeAdapter(ZeroStudy).validate_python(found)


def _progress(on_line: Callable[[str], None] | None) -> Callable[[str], None] | None:
    """Let the lines of `zero_rank` through, and nothing of what libraries say as a process ends."""
    return on_line and (lambda line: on_line(line) if " ZeRO-" in line else None)


def _provenance(policy: str, ranks: int, commit: str) -> dict[str, Any]:
    command = f"python -m course_lib.training.zero_study --ranks {ranks} --policy {policy}"
    if Path(sys.argv[0]).stem == Path(__file__).stem:
        command = " ".join(["python -m course_lib.training.zero_study", *(Path(part).name for part in sys.argv[1:])])
    return provenance(command, commit)


def main() -> None:
    """Study this machine, print what came out, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--policy", default="smollm2")
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--rows", type=int, help="sequences of a micro-batch")
    parser.add_argument("--length", type=int, help="tokens of a sequence")
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--out", type=Path, help="write the record there, as JSON")
    parser.add_argument("--commit", default="", help="the commit to name, where git is not there to be asked")
    options = vars(parser.parse_args())
    record = options.pop("out")
    study = zero_study(**options, record=record, on_line=lambda line: print(line, flush=True))
    print(f"losses differ by {study.loss_spread:.4f} at most")
    for run in study.runs:
        held, budget = run.ranks[0].holdings, study.predicted(run)
        print(
            f"{run.plan}: {run.seconds:.3f} s, {run.moved_bytes / 2**20:,.0f} MiB moved, optimizer elements "
            f"{held.elements('exp_avg'):,} of {study.parameters:,}; peak {run.peak_bytes / 2**30:.3f} GiB, predicted "
            f"{(budget.device_bytes + (machine.tier() == 'cpu') * budget.host_bytes) / 2**30:.3f}"
        )


if __name__ == "__main__":
    main()
