"""Mixed precision: bf16 weights for the model, an fp32 master copy for the optimizer."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.threads import one_thread
from course_lib.grading.exercises.training.naming import named, several
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

master_weights = Exercise(
    "06.master_weights", "mixed_precision_step", "Changes too small for bf16", difficulty=3, importance=4, minutes=25
)

_BF16, _NUMEL = torch.bfloat16, 5
_Trained = tuple[Tensor, bool]
"""The last weights, and whether there is a master copy that training changed."""
_KEPT = ("master", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class _Run:
    """Weights from 2 to 4, where bf16 numbers are 1/64 apart, and a gradient for each step, more often positive than not.

    Attributes:
        steps: how many.
        rate: the learning rate.
        scale: the gradients' scale.
        seed: for weights and gradients.
    """

    steps: int
    rate: float
    scale: float
    seed: int

    @property
    def weight(self) -> Tensor:
        return (2 + 2 * torch.rand(_NUMEL, generator=torch.Generator().manual_seed(self.seed))).to(_BF16)

    @property
    def gradients(self) -> list[Tensor]:
        drawn = torch.randn(self.steps, _NUMEL, generator=torch.Generator().manual_seed(self.seed + 50))
        return list(((drawn + 1) * self.scale).to(_BF16))

    def __str__(self) -> str:
        return f"{several(self.steps, 'step')} at a learning rate of {self.rate:g}, gradients around {self.scale:g}"


@master_weights.part(3, "a few large steps are Adam's, seen through bf16")
@one_thread()
def _large(answer: Answer) -> None:
    with _named(answer):
        for_all(
            lambda steps, rate, scale, seed: _compare(answer, _Run(steps, rate, scale, seed)),
            examples=30,
            steps=st.integers(1, 4),
            rate=st.sampled_from([0.1, 0.3]),
            scale=st.sampled_from([1.0, 1e-6]),
            seed=st.integers(0, 9),
        )


@master_weights.part(4, "1,000 steps that are each too small for bf16 add up, as they do in fp32")
@one_thread()
def _tiny(answer: Answer) -> None:
    with _named(answer):
        for seed in range(2):
            _compare(answer, _Run(1000, 1e-3, 1e-3, seed))


@master_weights.part(3, "the model's tensor is changed in place and stays bf16; master and moments are fp32")
@one_thread()
def _kept(answer: Answer) -> None:
    run = _Run(3, 0.1, 1.0, 0)
    weight = run.weight
    state: dict[str, Any] = {}
    for number, gradient in enumerate(run.gradients):
        given = gradient.clone()
        call(answer, weight, gradient, state, run.rate)
        if not torch.equal(given, gradient):
            raise WrongAnswer("changes-the-gradient", f"step {number + 1} changed the gradient that it was given")
    if weight.dtype != _BF16:
        raise WrongAnswer("weight-becomes-fp32", f"the weight has dtype {weight.dtype} now; the model computes in bf16")
    missing = [name for name in _KEPT if not isinstance(state.get(name), Tensor)]
    if missing:
        raise WrongAnswer(
            "other-state", f"state has {', '.join(map(repr, state))}; expected a tensor as {missing[0]!r}"
        )
    rough = [name for name in _KEPT if state[name].dtype != torch.float32]
    if rough:
        name = "bf16-master" if "master" in rough else "bf16-moments"
        raise WrongAnswer(name, f"state[{rough[0]!r}] has dtype {state[rough[0]].dtype}; it is to be fp32")


def _fp32(run: _Run) -> Tensor:
    """Let PyTorch train in fp32; return the last weights."""
    weight = torch.nn.Parameter(run.weight.float())
    adam = torch.optim.Adam([weight], lr=run.rate, foreach=False)
    for gradient in run.gradients:
        weight.grad = gradient.float()
        adam.step()
    return weight.detach()


def _train(answer: Answer, run: _Run) -> _Trained:
    weight = run.weight
    state: dict[str, Any] = {}
    for gradient in run.gradients:
        call(answer, weight, gradient.clone(), state, run.rate)
    master = state.get("master")
    return weight, isinstance(master, Tensor) and not torch.equal(master.float(), run.weight.float())


def _close(got: Tensor, right: Tensor) -> bool:
    """Whether bf16 weights are what fp32 ones round to, or a neighbour: one spacing is 2**-8 to 2**-7 of a number."""
    return torch.allclose(got.float(), right.float(), rtol=2**-7 * 1.01, atol=1e-3, equal_nan=True)


def _same(one: _Trained, other: _Trained) -> bool:
    return _close(one[0], other[0]) and one[1] == other[1]


def _compare(answer: Answer, run: _Run) -> None:
    right, (got, _) = _fp32(run), _train(answer, run)
    if _close(got, right):
        return
    rows: list[list[Cell | str]] = [
        ["before", *(f"{number:.4f}" for number in run.weight.tolist())],
        [
            "yours",
            *(
                Cell(f"{mine:.4f}", "right" if _close(torch.tensor(mine), torch.tensor(theirs)) else "wrong")
                for mine, theirs in zip(got.tolist(), right.tolist(), strict=True)
            ),
        ],
        ["fp32 training", *(f"{number:.4f}" for number in right.tolist())],
    ]
    table = Table(f"Weights: {run}", ["", *(f">{place}" for place in range(_NUMEL))], rows)
    far = (got.float() - right).abs().max()
    raise WrongAnswer("wrong-weights", f"{run}: the weights are up to {far:.2g} from fp32 training", table)


@dataclass(frozen=True)
class _Sketch:
    """A step that is right as it is here; each other value is a mistake that people make."""

    master: bool = True
    kept_master: bool = True
    moments: torch.dtype = torch.float32
    correction: bool = True
    counts: bool = True
    eps_inside: bool = False
    root: bool = True
    swapped: bool = False
    writes: bool = True

    def __call__(self, run: _Run) -> _Trained:
        weight, step = run.weight, 0
        master = weight.float()
        mean, square = torch.zeros(2, _NUMEL, dtype=self.moments)
        first, second = (0.999, 0.9) if self.swapped else (0.9, 0.999)
        for gradient in run.gradients:
            step = step + 1 if self.counts else 1
            if not self.kept_master:
                master = weight.float()
            g = gradient.to(self.moments)
            mean = first * mean + (1 - first) * g
            square = second * square + (1 - second) * g * g
            m, v = mean.float(), square.float()
            if self.correction:
                m, v = m / (1 - first**step), v / (1 - second**step)
            under = (v + 1e-8).sqrt() if self.eps_inside else (v.sqrt() if self.root else v) + 1e-8
            change = run.rate * m / under
            if self.master:
                master = master - change
                weight = master.to(_BF16)
            else:
                weight = weight - change.to(_BF16)
        return weight if self.writes else run.weight, self.master


def _named(answer: Answer) -> Any:
    inputs = [
        (_Run(2, 0.1, 1e-6, 3),),
        (_Run(3, 0.3, 1.0, 4),),
        (_Run(600, 1e-3, 1e-3, 1),),
        (_Run(600, 1e-3, 1e-2, 2),),
    ]
    hint = "compare master and moments with torch.optim.Adam's, step by step"
    return named("wrong-weights", partial(_train, answer), _RIGHT, _MISTAKES, inputs, _same, hint)


_RIGHT = _Sketch()
_MISTAKES = [
    Mistake(
        "never-written-back",
        "no weight changed at all; the new values have to get into the model's own tensor",
        replace(_RIGHT, writes=False),
    ),
    Mistake(
        "updates-bf16",
        "the change was subtracted from the bf16 weights: one that is less than half their spacing is rounded away",
        replace(_RIGHT, master=False),
    ),
    Mistake(
        "master-from-bf16",
        "the master was made from the bf16 weights anew: what they can't hold is lost after each step",
        replace(_RIGHT, kept_master=False),
    ),
    Mistake(
        "bf16-moments",
        "in bf16 the second moment soon stands still: a thousandth more or less is below half its spacing",
        replace(_RIGHT, moments=_BF16),
    ),
    Mistake(
        "no-bias-correction",
        "the moments start at zero, and the first ones are too small by what bias correction mends",
        replace(_RIGHT, correction=False),
    ),
    Mistake(
        "always-step-1",
        "each step was corrected as if it were the first one: the number of steps has to be kept",
        replace(_RIGHT, counts=False),
    ),
    Mistake(
        "eps-inside-the-root",
        "eps was added under the root, where it is 1e-4 and swallows small gradients",
        replace(_RIGHT, eps_inside=True),
    ),
    Mistake("no-root", "the mean was divided by the square's moment, and not by its root", replace(_RIGHT, root=False)),
    Mistake(
        "betas-swapped",
        "the two betas were exchanged: the mean forgets faster than the square",
        replace(_RIGHT, swapped=True),
    ),
]
