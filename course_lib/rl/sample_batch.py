"""Samples of some problems, as a batch that nobody has judged yet."""

from collections.abc import Sequence
from typing import Any

import torch

from course_lib.rl.batch import Batch
from course_lib.rl.problem import Problem
from course_lib.rl.rollout_batch import Rollout, RolloutRequest, SamplingConfig, request
from course_lib.rl.rollout_engine import PolicyRollout


def sample_batch(rollout: PolicyRollout, problems: Sequence[Problem], sampling: SamplingConfig) -> Batch:
    """Ask the engine's policy each problem as a user's message, and return its samples; rewards and advantages are 0.

    Raises:
        RolloutError: the engine can't sample this; the message says why.
    """
    sampled = rollout.generate(as_request(rollout.tokenizer, problems), sampling)
    asked_for = [problem for problem in problems for _ in range(sampling.n_samples_per_prompt)]
    nothing = torch.zeros(len(asked_for))
    texts = as_texts(rollout.tokenizer, sampled)
    return Batch(asked_for, texts, sampled, nothing, nothing, sampling.n_samples_per_prompt)


def as_request(tokenizer: Any, problems: Sequence[Problem]) -> RolloutRequest:
    """Return each problem's question as a user's message in the chat template, ready for the engine."""
    messages = ([{"role": "user", "content": problem.question}] for problem in problems)
    encode: Any = tokenizer.apply_chat_template
    return request(
        [encode(message, add_generation_prompt=True, tokenize=True, return_dict=False) for message in messages]
    )


def as_texts(tokenizer: Any, rollout: Rollout) -> list[str]:
    """Return the responses as texts, without special tokens."""
    return [tokenizer.decode(response, skip_special_tokens=True) for response in rollout.responses()]
