"""An optimizer whose state is cut into slices, one for each rank: ZeRO stage 1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its name everywhere

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.training.held import Held, held_tensors
from course_lib.grading.exercises.training.jobs import BF16, LR, Job, adamw
from course_lib.grading.exercises.training.naming import named
from course_lib.grading.exercises.training.ranks import Communicator, Sent, run_ranks
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

partition = Exercise("06.partition", "ShardedAdamW", "An optimizer in slices", difficulty=4, importance=5, minutes=30)


_STEPS = st.integers(1, 3)


@partition.part(2, "after each step every rank has the weights that AdamW gives on the mean gradient")
def _equal(answer: Answer) -> None:
    with _named(answer):
        for_all(
            lambda share, ranks, steps, seed: _check(answer, Job.draw(share * ranks, ranks, steps, seed)),
            examples=25,
            share=st.integers(1, 3),
            ranks=st.integers(2, 4),
            steps=_STEPS,
            seed=st.integers(0, 9),
        )


@partition.part(2, "any number of weights on any number of ranks: what does not divide is padded")
def _uneven(answer: Answer) -> None:
    with _named(answer):
        for_all(
            lambda numel, ranks, steps, seed: _check(answer, Job.draw(numel, ranks, steps, seed)),
            examples=40,
            numel=st.integers(1, 10),
            ranks=st.integers(1, 4),
            steps=_STEPS,
            seed=st.integers(0, 9),
        )


@partition.part(4, "a rank holds master and moments of its own slice, and of nothing else")
def _holds(answer: Answer) -> None:
    job = Job.draw(4096, 4, 2, 0)
    with _named(answer):
        outcomes = _compare(answer, job)
    share = len(job.weights) // job.ranks
    for rank, held in enumerate(one.held for one in outcomes):
        total = sum(one.nbytes for one in held)
        if total <= 16 * share + 256:  # three fp32 tensors, a gradient of one step, and counters
            continue
        given = f"{job}: rank {rank} holds {total:,} bytes after two steps"
        name, why = _too_much(held, len(job.weights))
        rows: list[list[Cell | str]] = [
            [one.path, one.dtype, f"{one.numel:,}", Cell(f"{one.nbytes:,}", "wrong" if one.nbytes > 4 * share else "")]
            for one in sorted(held, key=lambda one: -one.nbytes)[:8]
        ]
        table = Table(
            f"What rank {rank} holds; a slice has {share:,} elements", ["where", "dtype", ">elements", ">bytes"], rows
        )
        raise WrongAnswer(name, f"{given}, and its slice needs {12 * share:,}: {why}", table)


@partition.part(
    2, "a step sends no more than it must: the gradient of each slice to its rank, and the new bf16 weights"
)
def _sends(answer: Answer) -> None:
    job = Job.draw(4096, 4, 1, 0)
    with _named(answer):
        outcomes = _compare(answer, job)
    enough = 2 * 2 * len(job.weights) * (job.ranks - 1) // job.ranks
    for rank, sent in enumerate(one.sent for one in outcomes):
        total = sum(one.nbytes for one in sent)
        if total <= enough:
            continue
        rows: list[list[Cell | str]] = [
            [one.op, str(one.dtype).removeprefix("torch."), f"{one.nbytes:,}"] for one in sent
        ]
        table = Table(f"What rank {rank} sends in a step", ["collective", "dtype", ">bytes sent"], rows)
        name, why = _sends_more(sent)
        given = f"{job}: rank {rank} sends {total:,} bytes in a step"
        raise WrongAnswer(name, f"{given}, and {enough:,} are enough: {why}", table)


def _too_much(held: Sequence[Held], numel: int) -> tuple[str, str]:
    if views := [one for one in held if one.numel * one.itemsize < one.nbytes]:
        said = f"{views[0].path} is a view of a longer tensor, and keeps all of its memory; clone the slice"
        return "view-keeps-all", said
    whole = [one for one in held if one.numel >= numel and one.dtype == "float32"]
    if len(whole) >= 3:
        return "shards-nothing", "it keeps master and moments of all weights, as every other rank does"
    if len(whole) == 2:
        return "moments-not-sharded", "only the master copy is cut; both moments of all weights are there"
    if len(whole) == 1:
        return "master-not-sharded", f"{whole[0].path} has as many elements as the model"
    return "holds-too-much", "more is there after a step than master, moments and a slice's gradient"


def _sends_more(sent: Sequence[Sent]) -> tuple[str, str]:
    ops = {one.op for one in sent}
    if "all_reduce" in ops:
        return "all-reduce", "all_reduce brings every rank the whole mean; a rank needs only that of its slice"
    if any(one.op == "all_gather" and one.dtype == torch.float32 for one in sent):
        return "gathers-fp32", "the weights that the others need are bf16, and fp32 was gathered"
    if any(one.op == "reduce_scatter" and one.dtype == torch.float32 for one in sent):
        return "reduces-fp32", "the gradients came as bf16, and were sent as fp32"
    return "sends-too-much", "a step needs one reduce_scatter and one all_gather"


@dataclass(frozen=True)
class _Outcome:
    """What a rank came to."""

    weights: list[Tensor]
    held: list[Held]
    sent: list[Sent]


def _run(answer: Answer, job: Job) -> list[_Outcome]:
    def body(communicator: Communicator) -> _Outcome:
        optimizer = call(answer, job.weights.clone(), communicator, LR)
        weights = []
        for gradients in job.gradients:
            got = call(optimizer.step, gradients[communicator.rank].clone())
            weights.append(got.detach().clone() if isinstance(got, Tensor) else got)
        return _Outcome(weights, held_tensors(optimizer), communicator.sent)

    return run_ranks(job.ranks, body)


def _close(got: Any, right: Tensor) -> bool:
    """Whether two bf16 tensors are equal, or neighbours where a last bit of the master differs."""
    return isinstance(got, Tensor) and got.shape == right.shape and torch.allclose(got, right, rtol=2**-7, atol=1e-4)


def _check(answer: Answer, job: Job) -> None:
    _compare(answer, job)


def _compare(answer: Answer, job: Job) -> list[_Outcome]:
    """Return what the ranks came to, once all of them have AdamW's weights after each step."""
    outcomes, right = _run(answer, job), adamw(job)
    for step, everyone in enumerate(zip(*(one.weights for one in outcomes), strict=True)):
        for rank, got in enumerate(everyone):
            _look(got, right[step], f"{job}, step {step + 1}: rank {rank}", job.ranks)
        if any(not torch.equal(one, other) for one, other in pairwise(everyone)):
            raise WrongAnswer("ranks-disagree", f"{job}, step {step + 1}: the ranks have different weights")
    return outcomes


def _look(got: Any, right: Tensor, who: str, ranks: int) -> None:
    share = -(-len(right) // ranks)
    if not isinstance(got, Tensor) or got.ndim != 1:
        raise WrongAnswer(
            "no-weights", f"{who} returned {type(got).__name__}; step() returns all weights, flat, in bf16"
        )
    if got.dtype != BF16:
        raise WrongAnswer("other-dtype", f"{who} returned {got.dtype}; the weights that the model runs on are bf16")
    if len(got) == share * ranks != len(right):
        raise WrongAnswer("returns-the-padding", f"{who} returned {len(got)} weights, and the model has {len(right)}")
    if len(got) == share != len(right):
        raise WrongAnswer(
            "own-slice-only", f"{who} returned its slice of {share}, and the model has {len(right)} weights"
        )
    if len(got) != len(right):
        raise WrongAnswer("other-length", f"{who} returned {len(got)} weights, and the model has {len(right)}")
    if _close(got, right):
        return
    far = (got.float() - right.float()).abs().max()
    raise WrongAnswer("wrong-weights", f"{who} is up to {far:.2g} from AdamW on all weights", _picture(who, got, right))


def _picture(who: str, got: Tensor, right: Tensor) -> Table:
    """Draw the first weights."""
    pairs = list(zip(got.float().tolist(), right.float().tolist(), strict=True))[:12]
    right_ones = [_close(one, other) for one, other in zip(got, right, strict=True)]
    rows: list[list[Cell | str]] = [
        [
            "yours",
            *(
                Cell(f"{mine:.3g}", "right" if ok else "wrong")
                for (mine, _), ok in zip(pairs, right_ones, strict=False)
            ),
        ],
        ["AdamW's", *(f"{theirs:.3g}" for _, theirs in pairs)],
    ]
    return Table(f"{who}: weights", ["", *(f">{place}" for place in range(len(pairs)))], rows)


@dataclass(frozen=True)
class _Sketch:
    """The ranks' steps in one loop, right as it is here; each other value is a mistake that people make."""

    averages: bool = True
    remembers: bool = True
    keeps_master: bool = True
    rest: bool = True
    slice_of: Callable[[int, int], int] = lambda rank, _ranks: rank
    strided: bool = False

    def __call__(self, job: Job) -> list[Tensor]:
        """Return the weights after each step."""
        numel, ranks = len(job.weights), job.ranks
        padded = F.pad(job.weights, (0, -numel % ranks)).float()
        masters = [torch.nn.Parameter(part.clone()) for part in self._cut(padded, ranks)]
        adams = [torch.optim.AdamW([master], lr=LR) for master in masters]
        found = []
        for gradients in job.gradients:
            mean = torch.stack([one.float() for one in gradients]).mean(0).to(BF16)
            for rank, master in enumerate(masters):
                source = F.pad(mean if self.averages else gradients[rank], (0, -numel % ranks))
                master.grad = source.chunk(ranks)[self.slice_of(rank, ranks)].float().clone()
                if not self.remembers:
                    adams[rank] = torch.optim.AdamW([master], lr=LR)
                adams[rank].step()
            gathered = torch.cat([master.detach() for master in masters]).to(BF16)[:numel]
            if not self.rest:
                kept = numel // ranks * ranks
                gathered = torch.cat([gathered[:kept], job.weights[kept:]])
            if not self.keeps_master:
                for master, part in zip(masters, self._cut(F.pad(gathered, (0, -numel % ranks)), ranks), strict=True):
                    master.data.copy_(part)
            found.append(gathered)
        return found

    def _cut(self, flat: Tensor, ranks: int) -> list[Tensor]:
        return [flat[rank::ranks] for rank in range(ranks)] if self.strided else list(flat.chunk(ranks))


def _named(answer: Answer) -> Any:
    def first_rank(job: Job) -> list[Tensor]:
        return _run(answer, job)[0].weights

    def same(got: list[Any], mistaken: list[Tensor]) -> bool:
        return all(_close(one, other) for one, other in zip(got, mistaken, strict=True))

    inputs = [(Job.draw(numel, ranks, 3, 7),) for numel, ranks in ((8, 2), (11, 2), (7, 3))]
    hint = "go through one rank by hand: which slice of the gradient came, and which weights did it change?"
    return named("wrong-weights", first_rank, _RIGHT, _MISTAKES, inputs, same, hint)


_RIGHT = _Sketch()
_MISTAKES = [
    Mistake(
        "own-gradient",
        "the other ranks' gradients took no part: a rank saw only its own samples, and the step is that of the mean",
        replace(_RIGHT, averages=False),
    ),
    Mistake(
        "forgets-the-moments",
        "every step was a first step: the moments of the step before are gone",
        replace(_RIGHT, remembers=False),
    ),
    Mistake(
        "rounds-the-master",
        "the master copy was made from bf16 weights anew: what a step changed by less than their spacing is lost",
        replace(_RIGHT, keeps_master=False),
    ),
    Mistake("drops-the-rest", "the weights after the last full slice were never updated", replace(_RIGHT, rest=False)),
    Mistake(
        "somebody-elses-gradient",
        "master and gradient are of different slices",
        replace(_RIGHT, slice_of=lambda _rank, _ranks: 0),
    ),
    Mistake(
        "strided-slices",
        "a slice was taken with a stride, and the slices were joined one after another; ranks hold contiguous ones",
        replace(_RIGHT, strided=True),
    ),
]
