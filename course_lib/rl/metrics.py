"""What a step is judged by."""

from typing import Any

import torch

from course_lib.rl.batch import Batch
from course_lib.rl.collect import Collected
from course_lib.rl.kl import k3
from course_lib.rl.update import UpdateStats


def step_metrics(collected: Collected, stats: UpdateStats | None) -> dict[str, Any]:
    """Return the step's metrics; token averages are over the tokens that the trainer saw.

    Keys: of all samples `reward`, `reward_std`, `sampled_groups`, `reward_faults`; of the batch `length`, `finished`,
    `groups_with_signal`, `tokens`, `reward_parts` (mean of each part, where there are any); of the trainer `loss`,
    `grad_norm`, `applied`, `learning_rate`; of the critic `value_loss`, `explained_variance`; of the tokens `entropy`
    (nats), `clipped`, `truncated`, `masked` (shares), and of trainer against sampler `mismatch` (mean |difference of logprobs|),
    `mismatch_kl` (k3 estimate of KL(sampler || trainer)), `ratio_mean`, `ratio_min`, `ratio_max`, `ratio_outside` (share
    of ratios outside [0.9, 1.1]); `kl_reference` where there is a reference policy.
    """
    batch, rewards = collected.batch, collected.rewards
    groups = len(batch.problems) // batch.samples_per_prompt
    found: dict[str, Any] = {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std(unbiased=False)),
        "sampled_groups": len(rewards) // batch.samples_per_prompt,
        "reward_faults": len(collected.faults),
        "length": float(batch.rollout.response_lengths.float().mean()),
        "finished": float(batch.rollout.finished.float().mean()),
        "groups_with_signal": len(batch.signal()) / groups,
        "tokens": batch.tokens,
        "applied": stats is not None and stats.policy.applied,
    }
    if batch.reward_parts:
        found["reward_parts"] = {name: float(values.nanmean()) for name, values in batch.reward_parts.items()}
    if stats is not None:
        policy = stats.policy
        found |= {"loss": policy.loss, "grad_norm": policy.grad_norm, "learning_rate": policy.learning_rate}
        if stats.critic is not None:
            found |= {"value_loss": stats.critic.loss, "explained_variance": stats.critic.explained_variance}
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
        "masked": float(batch.trained["masked"][seen].mean()),
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
