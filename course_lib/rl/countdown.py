"""Countdown: make a number from others. Many answers are right, so the rule has to work an answer out."""

import ast
import operator
import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from course_lib.rl.problem import Problem
from course_lib.rl.shaping import tagged_answer

_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_ARITHMETIC = re.compile(
    r"[\d ()+\-*/]+"
)  # runs of its characters; one pattern for a whole expression could take cubic time
_OTHER_SIGNS = str.maketrans("×÷−", "*/-")  # noqa: RUF001
_LONGEST = 200  # characters: deeper brackets than that can exhaust the parser's stack
_TRIES = 20  # for each problem that is wanted, before all of them are taken to be found


def evaluate(expression: str) -> tuple[Fraction, list[int]]:
    """Return the value of an arithmetic expression, and the numbers in it from left to right.

    A policy's text is never run: it is parsed, and only whole numbers, brackets, and `+ - * /` are worked out. Python's `eval`
    would run whatever the policy comes up with. There is no power: `9**9**9` would not end.

    Raises:
        ValueError: it is something else, divides by zero, or is longer than 200 characters.
    """
    if len(expression) > _LONGEST:
        raise ValueError(f"an expression of {len(expression)} characters; expected at most {_LONGEST}")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"{expression!r} is no arithmetic: {error.msg}") from error
    used: list[int] = []
    return _value(tree.body, used), used


def _value(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, used)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _value(node.left, used), _value(node.right, used)
        try:
            return _BINARY[type(node.op)](left, right)
        except ZeroDivisionError as error:
            raise ValueError(f"{ast.unparse(node)} divides by zero") from error
    raise ValueError(f"{ast.unparse(node)!r} is no whole number and no + - * / of such")


def last_expression(text: str) -> str | None:
    """Return the last arithmetic expression in a completion's answer tags, or in all of it where it has none; None for none.

    The signs that people write for `*` and `/` are understood, and what comes after an equals sign is a result and no part.
    """
    answer = tagged_answer(text)
    runs = _ARITHMETIC.findall((text if answer is None else answer).translate(_OTHER_SIGNS))
    # What is left of a list's dash, or of a sentence's hyphen, is no sign.
    found = [run.lstrip(" )*/+").removeprefix("- ").rstrip(" (+-*/") for run in runs]
    return next((run for run in reversed(found) if any(sign in run[1:] for sign in _SIGNS)), None)


def countdown_match(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    """Return 1.0 where the last expression uses each number once and makes the target, else 0.0.

    Raises:
        ValueError: a problem is none of `Countdown`: its metadata lacks `numbers` or `target`.
    """
    given, found = map(_given, problems), map(_read, completions)
    return [float((value, used) == wanted) for wanted, (value, used) in zip(given, found, strict=True)]


def countdown_numbers(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    """Return 1.0 where the last expression uses each number once, whatever it makes, else 0.0: a first step, to mix in.

    Raises:
        ValueError: a problem is none of `Countdown`: its metadata lacks `numbers` or `target`.
    """
    given, found = map(_given, problems), map(_read, completions)
    return [float(used == numbers) for (_, numbers), (_, used) in zip(given, found, strict=True)]


def _read(completion: str) -> tuple[Fraction | None, list[int]]:
    """Return the last expression's value and its numbers in ascending order; None and none where there is none."""
    expression = last_expression(completion)
    try:
        value, used = evaluate(expression or "")
    except ValueError:
        return None, []
    return value, sorted(used)


def _given(problem: Problem) -> tuple[Fraction, list[int]]:
    try:
        return Fraction(problem.metadata["target"]), sorted(problem.metadata["numbers"])
    except KeyError as error:
        raise ValueError(f"{problem.question!r} is no countdown: its metadata has no {error}") from error


class Countdown:
    """Make the target from the numbers, each used once, with `+ - * /`.

    The default, two numbers up to 10, is a small model's game: of six samples at temperature 1, SmolLM2-135M has right and wrong
    ones for about half of the prompts, which is a signal to learn from; with three numbers for hardly any. Mixing in a little of
    `countdown_numbers` gives a signal on more prompts.

    The target is always a whole number above 0, and so is every result on one of the ways to it.

    Args:
        numbers: how many numbers a problem has.
        largest: the largest of them; the smallest is 1.
        operators: which signs the hidden solution may use; an answer may use all four.
        size: problems in all, or as many as there are.
        held_out: how many of them are held out. No training problem has the same numbers and target as one of them.
        seed: decides which problems there are; it is not the loop's seed, so that every run is measured on the same.

    Raises:
        ValueError: a number that makes no sense, an unknown sign, or fewer problems than are to be held out.
    """

    name = "countdown"

    def __init__(
        self,
        numbers: int = 2,
        largest: int = 10,
        operators: str = "+-*",
        size: int = 500,
        held_out: int = 32,
        seed: int = 0,
    ):
        if numbers < 2 or largest < 1:
            raise ValueError(f"numbers is {numbers} and largest {largest}; expected at least 2 and 1")
        unknown = sorted(set(operators) - set(_SIGNS))
        if unknown or not operators:
            raise ValueError(f"operators is {operators!r}; expected some of {''.join(_SIGNS)!r}")
        rng = random.Random(f"countdown {seed}")
        found: dict[tuple[int, ...], Problem] = {}
        for _ in range(_TRIES * size):
            if len(found) == size:
                break
            drawn = [rng.randint(1, largest) for _ in range(numbers)]
            solved = _solve(drawn, operators, rng)
            if solved is not None:
                found.setdefault((*sorted(drawn), solved[0]), _problem(drawn, *solved))
        if not 0 < held_out < len(found):
            raise ValueError(
                f"held_out is {held_out}, but there are {len(found)} problems with {numbers} numbers up to {largest}: hold out"
                f" between 1 and {len(found) - 1}, or raise size, numbers or largest."
            )
        problems = list(found.values())
        self.held_out: Sequence[Problem] = problems[:held_out]
        self.training = problems[held_out:]

    def draw(self, count: int, rng: random.Random) -> list[Problem]:
        """Return `count` training problems, all different as far as there are enough."""
        rounds, rest = divmod(count, len(self.training))
        return self.training * rounds + rng.sample(self.training, rest)

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        """Return 1.0 where the last expression uses each number once and makes the target, else 0.0."""
        return countdown_match(problems, completions)

    def __repr__(self) -> str:
        return f"Countdown({len(self.training)} training problems, {len(self.held_out)} held out)"


def _solve(numbers: Sequence[int], operators: str, rng: random.Random) -> tuple[int, str] | None:
    """Join numbers two by two, at random, until one is left; return it and how it was made, or None where a step fails."""
    left = [(Fraction(number), str(number)) for number in numbers]
    while len(left) > 1:
        (a, first), (b, second) = (left.pop(rng.randrange(len(left))) for _ in range(2))
        sign = rng.choice(operators)
        value = _SIGNS[sign](a, b)
        if value < 1 or value.denominator != 1:
            return None
        left.append((value, f"({first} {sign} {second})"))
    ((value, text),) = left
    return int(value), text[1:-1]


def _problem(numbers: list[int], target: int, solution: str) -> Problem:
    listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    # Of three ways to ask that were tried, SmolLM2-135M answers this one rightly most often.
    question = f"Write an expression that equals {target}, with the numbers {listed}, each once."
    return Problem(question, solution, {"numbers": numbers, "target": target})
