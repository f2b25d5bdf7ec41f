"""An advantage of the learner's own choice: what every one of them must hold to."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.policy_gradients.rewards import reward_groups
from course_lib.grading.exercises.threads import one_thread
from course_lib.grading.exercises.training.naming import several
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

my_advantage = Exercise("08.advantage", "my_advantage", "Your own advantage", difficulty=2, importance=5, minutes=20)

_NOT_CENTRED = "what is to be expected of this prompt has to be taken off, or every sample is praised"
Rows = tuple[tuple[float, ...], ...]

_NOISE = 0.3
"""How far from 0 the advantages of equal rewards may be: what rounding leaves, over an epsilon of 1e-6."""


@my_advantage.part(4, "in each group better rewards have larger advantages, and the group's advantages add up to 0")
@one_thread()
def _groups(answer: Answer) -> None:
    for_all(lambda rows: _check(answer, rows), examples=80, rows=reward_groups(4))


@my_advantage.part(3, "no group notices another one, and the size of an advantage stays below the number of samples")
@one_thread()
def _alone(answer: Answer) -> None:
    for_all(lambda rows: _check_alone(answer, rows), examples=80, rows=reward_groups(3))
    for_all(
        lambda better, samples: _check_size(answer, better, samples),
        examples=30,
        better=st.sampled_from([0.5, 0.1, 0.02]),
        samples=st.integers(2, 8),
    )


@my_advantage.part(3, "a group of equal rewards says nothing: advantage 0, and no NaN")
@one_thread()
def _equal(answer: Answer) -> None:
    for reward in (1.0, 0.0, 0.7, 0.1, -0.3):
        for samples in (2, 3, 6, 7, 11):
            _check_equal(answer, reward, samples)


def _advantages(answer: Answer, rewards: Tensor) -> Tensor:
    """Return what the answer gives: a tensor like the rewards, of finite numbers."""
    given = rewards.clone()
    got = call(answer, given)
    said = f"rewards {_short(rewards)}"
    if not torch.equal(given, rewards):
        raise WrongAnswer("changes-its-input", f"{said} are {_short(given)} after the call; the run records them still")
    if not isinstance(got, Tensor) or got.shape != rewards.shape:
        came = f"shape {list(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
        raise WrongAnswer("other-shape", f"{said}: a tensor of shape {list(rewards.shape)} was expected, {came} came")
    if not bool(got.isfinite().all()):
        why = (
            "after one step with them every weight of the policy is NaN. What is divided by, if all rewards are equal?"
        )
        raise WrongAnswer("nan", f"{said}: the advantages are {_short(got)}; {why}", _picture(rewards, got))
    return got.double()


def _check(answer: Answer, rows: Rows) -> None:
    rewards = torch.tensor(rows)
    got = _advantages(answer, rewards)
    if not _near(got.sum(1), 0.0):
        name, why = _why(answer) or ("not-centred", _NOT_CENTRED)
        said = f"the advantages {_short(got)} of {_short(rewards)} add up to {_short(got.sum(1))}, not to 0"
        raise WrongAnswer(name, f"{said}; {why}", _picture(rewards, got))
    for of_group, advantages in zip(rewards.double(), got, strict=True):
        steps = of_group[:, None] - of_group
        signs = (advantages[:, None] - advantages)[steps > 0]
        said = f"rewards {_short(of_group)} have advantages {_short(advantages)}"
        if bool((signs < 0).all()):
            raise WrongAnswer("wrong-sign", f"{said}: the better sample is made less likely", _picture(rewards, got))
        why = "a better reward has no larger one" if bool((signs <= 0).any()) else "equal rewards have different ones"
        if bool((signs <= 0).any()) or not _near((advantages[:, None] - advantages)[steps == 0], 0.0):
            name, why = _why(answer) or ("wrong-order", why)
            raise WrongAnswer(name, f"{said}; {why}", _picture(rewards, got))


def _why(answer: Answer) -> tuple[str, str] | None:
    """Say over what the answer takes its mean where it is not the group, by two groups that tell."""
    got = _advantages(answer, torch.tensor([[0.0, 1.0, 3.0], [5.0, 6.0, 10.0]]))
    if _near(got.sum(1), 0.0):
        return None
    if _near(got.sum(0), 0.0):
        return "across-groups", "samples are compared with those of other prompts, down the columns: a row is a group"
    if _near(got.sum(), 0.0):
        return "batch-mean", "the whole batch's do: every answer to an easy prompt looks good, right or wrong"
    return None


def _check_alone(answer: Answer, rows: Rows) -> None:
    """Compare a group's advantages beside other groups with those beside one that was changed."""
    rewards = torch.tensor(rows)
    other = torch.cat([rewards[:1], 3 * rewards[1:] - 1, torch.arange(rewards.shape[1])[None] * 10.0])
    one, two = _advantages(answer, rewards)[0], _advantages(answer, other)[0]
    if not _near(one, two):
        said = f"rewards {_short(rewards[0])} have advantages {_short(one)} beside {_short(rewards[1:])}"
        why = "mean or deviation are the whole batch's: other prompts' luck decides how much is learned from this one"
        raise WrongAnswer("notices-others", f"{said}, and {_short(two)} beside {_short(other[1:])}; {why}")


def _check_size(answer: Answer, better: float, samples: int) -> None:
    rewards = torch.tensor([[0.0] * (samples - 1) + [better]])
    largest = float(_advantages(answer, rewards).abs().max())
    if largest > samples:
        said = f"rewards {_short(rewards[0])}: an advantage of {largest:.1f} among {samples} samples"
        why = "the less the rewards differ the larger it gets. Was the variance divided by, and not its root?"
        raise WrongAnswer("explodes", f"{said}; {why}")


def _check_equal(answer: Answer, reward: float, samples: int) -> None:
    rewards = torch.tensor([[reward] * samples, [0.0] * (samples - 1) + [1.0]])
    got = _advantages(answer, rewards)
    if bool((got[0].abs() <= _NOISE).all()):
        return
    said = f"{several(samples, 'sample')} that all got {reward:g}: the advantages are {_short(got[0])}, expected 0"
    if float(rewards[0].mean()) == reward:
        name, why = _why(answer) or ("not-centred", _NOT_CENTRED)
        raise WrongAnswer(name, f"{said}; {why}")
    why = (
        f"in float32 their mean is {float(rewards[0].mean()):.9f}: rounding, over next to nothing, looks like a signal"
    )
    raise WrongAnswer("rounding-as-signal", f"{said}; {why}")


def _near(one: Tensor, other: Tensor | float) -> bool:
    return torch.allclose(one, torch.as_tensor(other, dtype=one.dtype).expand_as(one), rtol=1e-3, atol=1e-4)


def _short(numbers: Tensor) -> str:
    return str([[round(x, 3) for x in row] if isinstance(row, list) else round(row, 3) for row in numbers.tolist()])


def _picture(rewards: Tensor, got: Tensor) -> Table:
    rows: list[list[Cell | str]] = []
    for number, (of_group, advantages) in enumerate(zip(rewards, got.double(), strict=True)):
        total = float(advantages.sum())
        mark = Cell(f"{total:.3f}", "right" if abs(total) < 1e-3 else "wrong")
        rows.append([str(number), _short(of_group), _short(advantages), mark])
    return Table("Groups, and the sum of their advantages", [">group", "rewards", "your advantages", ">sum"], rows)
