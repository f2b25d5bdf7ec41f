"""The milestones of lesson 08 against the loop that their answers go into: same names, same loss, same gradient."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_lib.grading.exercises.capstone import loss as milestone
from course_lib.rl import Addition, LossConfig, ResponseTokens, policy_gradient_loss
from course_lib.rl.rewards import compute_rewards
from course_lib.rl.update import as_token_loss
from nbbuild.convert import assemble
from nbbuild.course import Course

numbers = st.lists(st.floats(-1.5, 1.5, width=32), min_size=12, max_size=12).map(torch.tensor)


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """The course's own answers."""
    [solution] = [one for one in Course(Path(__file__).resolve().parents[2]).pick(["08"]) if one.kind == "solution"]
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in assemble(solution).cells:
        if cell.cell_type == "code" and "check(" not in cell.source:
            exec(compile(cell.source, "<08>", "exec"), names)
    return names


@pytest.mark.parametrize("name", ["ResponseTokens", "LossConfig"])
def test_what_the_checks_hand_to_a_loss_is_what_the_loop_does(name: str) -> None:
    real = {"ResponseTokens": ResponseTokens, "LossConfig": LossConfig}[name]
    assert [(one.name, one.default) for one in fields(getattr(milestone, name))] == [
        (one.name, one.default) for one in fields(real)
    ]


@settings(max_examples=60, deadline=None)
@given(
    moved=numbers, apart=numbers, worth=numbers, low=st.sampled_from([0.2, 1.0]), high=st.sampled_from([0.28, math.inf])
)
def test_loss_and_gradient_are_those_of_the_loop(
    parts: dict[str, Any], moved: Tensor, apart: Tensor, worth: Tensor, low: float, high: float
) -> None:
    old, samples = torch.linspace(-3, -0.1, 12), torch.arange(12) // 4
    for truncate_at in (0.0, 2.0):
        config = LossConfig(clip_low=low, clip_high=high, truncate_at=truncate_at)
        found = []
        for loss in (policy_gradient_loss, parts["my_loss"], _reference):
            logprobs = (old + moved).requires_grad_()
            tokens = ResponseTokens(logprobs, old, old - apart, worth, samples)
            token = as_token_loss(loss(tokens, config), tokens).loss
            token.sum().backward()
            found.append((token.detach(), logprobs.grad))
        for other in found[1:]:
            torch.testing.assert_close(found[0], other)


def _reference(tokens: ResponseTokens, config: Any) -> Tensor:
    return milestone.right(
        tokens.logprobs, tokens.old_logprobs, tokens.sampler_logprobs, tokens.advantages, tokens.samples, config
    )


def test_the_loop_takes_the_reward_and_it_agrees_with_the_tasks_own(parts: dict[str, Any]) -> None:
    task = Addition()
    problems = list(task.held_out[:3])
    texts = [f"It is {problems[0].answer}.", "It is 99", "no idea"]
    assert compute_rewards(parts["my_reward"], problems, texts).rewards == [1.0, 0.1, 0.0]
    assert task.grade(problems, texts) == [1.0, 0.0, 0.0]
