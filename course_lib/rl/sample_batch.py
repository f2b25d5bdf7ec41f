"""Samples of some problems, as a batch that nobody has judged yet."""

from collections.abc import Sequence
from typing import Any

import torch

from course_lib.rl.batch import Batch
from course_lib.rl.problem import Problem
from course_lib.rl.rollout_batch import SamplingConfig, request
from course_lib.rl.rollout_engine import PolicyRollout


def sample_batch(rollout: PolicyRollout, problems: Sequence[Problem], sampling: SamplingConfig) -> Batch:
    """Ask the engine's policy each problem as a user's message, and return its samples; rewards and advantages are 0.

    Raises:
        RolloutError: the engine can't sample this; the message says why.
    """
    encode: Any = rollout.tokenizer.apply_chat_template
    messages = ([{"role": "user", "content": problem.question}] for problem in problems)
    asked = request(
        [encode(message, add_generation_prompt=True, tokenize=True, return_dict=False) for message in messages]
    )
    sampled = rollout.generate(asked, sampling)
    texts = [rollout.tokenizer.decode(response, skip_special_tokens=True) for response in sampled.responses()]
    asked_for = [problem for problem in problems for _ in range(sampling.n_samples_per_prompt)]
    nothing = torch.zeros(len(asked_for))
    return Batch(asked_for, texts, sampled, nothing, nothing, sampling.n_samples_per_prompt)
