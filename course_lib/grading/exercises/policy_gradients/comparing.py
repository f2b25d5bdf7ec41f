"""A tensor that an answer returns, and its gradient, beside what the paper's formula gives."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from course_lib.grading.exercise import Answer, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.training.naming import named
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

WRONG_VALUE = "wrong-value"
_TOO_SMALL_TO_SEE = 1e-5


class Case(Protocol):
    """An input, as a message and a picture show it; `str` says it in a few words."""

    def arguments(self) -> tuple[Any, ...]:
        """Return what the answer is called with, the same each time."""

    def places(self) -> tuple[list[str], list[list[str]]]:
        """Return a table's columns and, for each number that the answer returns, its row."""


@dataclass(frozen=True)
class Observed:
    """What a function returned, and the gradient of its sum with respect to one of the arguments, if that was asked for."""

    value: Tensor
    gradient: Tensor | None


@dataclass(frozen=True)
class Comparison:
    """An answer beside the right result and the mistakes that people make.

    Attributes:
        right: the formula in plain loops, which PyTorch can differentiate.
        mistakes: each gives the tensor that the answer with the mistake gives.
        cases: inputs on which the mistakes differ from one another.
        hint: what to say where it is none of them.
        leaf: the number of the argument with a gradient; None where the result needs none.
        rtol: how far from the right result, as a part of it, an answer may be.
        atol: how far it may be besides.
    """

    right: Callable[..., Tensor]
    mistakes: Sequence[Mistake]
    cases: Sequence[Case]
    hint: str
    leaf: int | None = None
    rtol: float = 1e-3
    atol: float = 1e-5

    def for_all(self, answer: Answer, examples: int, cases: SearchStrategy[Any]) -> None:
        """Compare on cases drawn by Hypothesis; name the mistake behind the smallest one that is wrong."""
        with self.named(answer):
            for_all(lambda case: self.compare(answer, case), examples=examples, case=cases)

    def named(self, answer: Answer) -> AbstractContextManager[None]:
        """Give a wrong value, or a crash, in the `with` block the name of the mistake behind it."""
        observe = partial(_observe, leaf=self.leaf)
        mistakes = [Mistake(one.name, one.why, partial(observe, one.gives)) for one in self.mistakes]
        inputs = [case.arguments() for case in self.cases]
        return named(
            WRONG_VALUE, partial(observe, answer), partial(observe, self.right), mistakes, inputs, self.same, self.hint
        )

    def compare(self, answer: Answer, case: Case) -> None:
        """Raise WrongAnswer where the answer's result on this case is not the right one."""
        arguments = case.arguments()
        right = _observe(self.right, *arguments, leaf=self.leaf)
        got = _observe(partial(call, answer), *arguments, leaf=self.leaf, case=case)
        if got.value.shape != right.value.shape:
            said = f"a tensor of shape {list(right.value.shape)} was expected, and {list(got.value.shape)} came"
            raise WrongAnswer(WRONG_VALUE, f"{case}: {said}")
        if not self.close(got.value, right.value):
            self._raise("the result", case, got.value, right.value)
        if right.gradient is None or got.gradient is None:
            return
        if not got.value.requires_grad and bool(right.gradient.any()):
            said = "the numbers are right, but no gradient flows back from them: the policy would not learn from this"
            raise WrongAnswer("no-gradient", f"{case}: {said}")
        if not self.close(got.gradient, right.gradient):
            self._raise("the gradient of its sum", case, got.gradient, right.gradient)

    def close(self, one: Tensor, other: Tensor) -> bool:
        """Whether two tensors are the same, a little rounding apart."""
        return one.shape == other.shape and torch.allclose(
            one.double(), other.double(), rtol=self.rtol, atol=self.atol, equal_nan=True
        )

    def same(self, one: Observed, other: Observed) -> bool:
        """Whether two functions gave the same, in value and in gradient."""
        if not self.close(one.value, other.value):
            return False
        return one.gradient is None or other.gradient is None or self.close(one.gradient, other.gradient)

    def _raise(self, what: str, case: Case, got: Tensor, right: Tensor) -> None:
        """Say where the first wrong number is, and draw all."""
        wrong = [not self.close(mine, theirs) for mine, theirs in zip(got.flatten(), right.flatten(), strict=True)]
        columns, places = case.places()
        rows: list[list[Cell | str]] = []
        if len(places) == len(wrong):
            for place, bad, mine, theirs in zip(places, wrong, got.flatten(), right.flatten(), strict=True):
                rows.append([*place, Cell(_number(mine), "wrong" if bad else "right"), _number(theirs)])
        first = wrong.index(True)
        index = [int(number) for number in torch.unravel_index(torch.tensor(first), got.shape)]
        where = f" at {index}" if index else ""
        mine, theirs = _number(got.flatten()[first]), _number(right.flatten()[first])
        table = Table(f"Where {what} goes wrong", [*columns, ">yours", ">expected"], rows) if rows else None
        raise WrongAnswer(WRONG_VALUE, f"{case}: {what} is {mine}{where}, expected {theirs}", table)


def _observe(
    function: Callable[..., Any], *arguments: Any, leaf: int | None = None, case: Case | None = None
) -> Observed:
    """Call a function on copies of the arguments; look at what it returned, and what it did to them."""
    given = deepcopy(arguments)
    if leaf is not None:
        given[leaf].requires_grad_()
    value = function(*given)
    said = f"{case}: " if case else ""
    if not isinstance(value, Tensor):
        raise WrongAnswer("no-tensor", f"{said}a tensor was expected, and {type(value).__name__} came: {value!r}"[:300])
    for mine, before in zip(given, arguments, strict=True):
        if isinstance(before, Tensor) and not torch.equal(mine, before):
            raise WrongAnswer("changes-its-input", f"{said}an argument was changed in place; others still need it")
    if leaf is None:
        return Observed(value.detach(), None)
    gradient = torch.zeros_like(given[leaf])
    if value.requires_grad:
        [found] = torch.autograd.grad(value.sum(), given[leaf], allow_unused=True)
        gradient = gradient if found is None else found
    return Observed(value, gradient)


def _number(value: Tensor) -> str:
    number = float(value.detach())
    return f"{number:.4f}" if abs(number) >= _TOO_SMALL_TO_SEE or number == 0 else f"{number:.2e}"
