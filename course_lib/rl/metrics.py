"""What a step is judged by."""

from typing import Any

import torch

from course_lib.rl.batch import Batch
from course_lib.rl.losses import k3
from course_lib.training import StepStats


def step_metrics(batch: Batch, stats: StepStats | None) -> dict[str, Any]:
    """Return the step's metrics; token averages are over the tokens that the trainer saw.

    Keys: `reward`, `reward_std`, `length`, `finished`,
    `groups_with_signal`, `tokens`; of the trainer `loss`, `grad_norm`, `applied`, `learning_rate`; of the tokens `entropy`
    (nats), `clipped`, `truncated` (shares), and of trainer against sampler `mismatch` (mean |difference of logprobs|),
    `mismatch_kl` (k3 estimate of KL(sampler || trainer)), `ratio_mean`, `ratio_min`, `ratio_max`, `ratio_outside` (share
    of ratios outside [0.9, 1.1]); `kl_reference` where there is a reference policy.
    """
    rewards, advantages = batch.rewards, batch.advantages.view(-1, batch.samples_per_prompt)
    found: dict[str, Any] = {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std(unbiased=False)),
        "length": float(batch.rollout.response_lengths.float().mean()),
        "finished": float(batch.rollout.finished.float().mean()),
        "groups_with_signal": float(advantages.any(dim=1).float().mean()),
        "tokens": batch.tokens,
        "applied": stats is not None and stats.applied,
    }
    if stats is not None:
        found |= {"loss": stats.loss, "grad_norm": stats.grad_norm, "learning_rate": stats.learning_rate}
    return found | _token_metrics(batch)


def _token_metrics(batch: Batch) -> dict[str, float]:
    seen = batch.trained["seen"].bool()
    if not bool(seen.any()):
        return {}
    sampler = batch.rollout.logprobs[seen]
    trained = batch.trained["logprobs"][seen]
    # Trainer and sampler are compared at equal weights: where a batch is used for several updates, before the first.
    equal = trained if batch.old_logprobs is None else batch.old_logprobs[seen]
    ratio = torch.exp(equal - sampler)
    found = {
        "entropy": float(batch.trained["entropy"][seen].mean()),
        "clipped": float(batch.trained["clipped"][seen].mean()),
        "truncated": float(batch.trained["truncated"][seen].mean()),
        "mismatch": float((equal - sampler).abs().mean()),
        "mismatch_kl": float(k3(sampler, equal).mean()),
        "ratio_mean": float(ratio.mean()),
        "ratio_min": float(ratio.min()),
        "ratio_max": float(ratio.max()),
        "ratio_outside": float(((ratio < 0.9) | (ratio > 1.1)).float().mean()),
    }
    if batch.reference_logprobs is not None:
        found["kl_reference"] = float(k3(trained, batch.reference_logprobs[seen]).mean())
    return found
