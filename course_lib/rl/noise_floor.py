"""The noise floor: how far two right computations of the same logprob lie apart. Measure it, then choose a clip range."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from unittest.mock import patch

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib import machine
from course_lib.rl.problem import Problem
from course_lib.rl.rollout_batch import SamplingConfig
from course_lib.rl.rollout_engine import PolicyRollout
from course_lib.rl.sample_batch import sample_batch
from course_lib.training import Group, PolicyTrainer, micro_batches
from course_lib.training.policy import Policy, sample_logprobs


@dataclass(frozen=True)
class Disagreement:
    """Two computations of the same tokens' logprobs under the same weights.

    Attributes:
        name: which two, the one whose logprobs are the numerator first.
        log_ratios: difference of the logprobs of each token, in nats: the log of the probabilities' ratio.
    """

    name: str
    log_ratios: Float[Tensor, " tokens"]

    @property
    def mean(self) -> float:
        """Mean |log ratio|, in nats."""
        return float(self.log_ratios.abs().mean())

    @property
    def median(self) -> float:
        """Median |log ratio|, in nats: what a `Receipt` compares."""
        return float(self.log_ratios.abs().median())

    @property
    def largest(self) -> float:
        """Largest |log ratio|, in nats."""
        return float(self.log_ratios.abs().max())

    def outside(self, low: float = 0.9, high: float = 1.1) -> float:
        """Return the share of tokens whose ratio lies outside `[low, high]`: those that clipping there would take for news."""
        ratios = self.log_ratios.exp()
        return float(((ratios < low) | (ratios > high)).float().mean())

    def __str__(self) -> str:
        return (
            f"{self.name}: mean |log ratio| {self.mean:.4f} nats, largest {self.largest:.3f},"
            f" {self.outside():.1%} of ratios outside [0.9, 1.1]"
        )


@dataclass(frozen=True)
class NoiseFloor:
    """What is left between computations of the same logprobs when nothing is wrong.

    Attributes:
        shapes: the trainer against itself, micro-batches of its own size against one response a pass: the sums are the
            same, in another order.
        sampler: the trainer against the engine that drew the tokens.
        trainer_float32: the trainer against the same weights, computed in fp32.
        sampler_float32: the fp32 computation against the engine.
    """

    shapes: Disagreement
    sampler: Disagreement
    trainer_float32: Disagreement
    sampler_float32: Disagreement

    def __iter__(self) -> Iterator[Disagreement]:
        return iter((self.shapes, self.sampler, self.trainer_float32, self.sampler_float32))

    def suggested_clip(
        self, share: float = 0.01, old: Literal["trainer", "sampler"] = "trainer"
    ) -> tuple[float, float]:
        """Return the tightest `(clip_low, clip_high)` that noise alone leaves with a probability of at most `share`.

        A clip range has to tell what a step did to the policy from rounding. How much rounding it sees depends on where the
        old logprobs come from.

        Args:
            share: of tokens that may be clipped for nothing, half of them on either side.
            old: `trainer`: the old logprobs are computed again by the trainer (its noise with itself counts); `sampler`: they
                are the engine's, which saves that pass (the noise between the two implementations counts).

        Raises:
            ValueError: `share` is not between 0 and 1, or `old` is neither of the two.
        """
        if not 0 < share < 1:
            raise ValueError(f"share is {share}; it must be between 0 and 1, for example 0.01.")
        if old not in ("trainer", "sampler"):
            raise ValueError(f"old is {old!r}; it must be 'trainer' or 'sampler'.")
        ratios = (self.shapes if old == "trainer" else self.sampler).log_ratios.double().exp()
        low, high = torch.quantile(ratios, torch.tensor([share / 2, 1 - share / 2], dtype=torch.float64)).tolist()
        return max(0.0, 1 - low), max(0.0, high - 1)

    def __str__(self) -> str:
        return "\n".join(map(str, self))


def noise_floor(
    trainer: PolicyTrainer,
    rollout: PolicyRollout,
    problems: Sequence[Problem],
    *,
    samples_per_prompt: int = 8,
    max_new_tokens: int = 24,
    temperature: float = 1.0,
    seed: int = 0,
) -> NoiseFloor:
    """Sample responses to `problems`, and compute their logprobs in each of the ways that `NoiseFloor` lists.

    Trainer and engine have to hold the same weights: right after both were made from one folder, or after a sync.

    Args:
        trainer: the policy in bf16; under ZeRO-3 a collective call.
        rollout: the engine that samples.
        problems: what to ask; 8 problems with 8 samples each give a few hundred tokens.
        samples_per_prompt: samples of each.
        max_new_tokens: the longest response.
        temperature: of sampling and of all logprobs.
        seed: of the samples.

    Raises:
        RolloutError: the engine can't sample this; the message says why.
        ValueError: there are no problems, or the temperature is not above 0.
    """
    if not problems:
        raise ValueError("noise_floor() got no problems; give some to sample from, for example task.draw(8, rng).")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0, because greedy sampling has no logprobs.")
    batch = sample_batch(
        rollout,
        problems,
        SamplingConfig(
            max_new_tokens=max_new_tokens, temperature=temperature, n_samples_per_prompt=samples_per_prompt, seed=seed
        ),
    )
    groups, mask = batch.groups(), batch.rollout.response_mask

    def flat(logprobs: dict[int, Tensor]) -> Float[Tensor, " tokens"]:
        return batch.padded(logprobs)[mask]

    engine = batch.rollout.logprobs[mask]
    own = flat(trainer.logprobs(groups, temperature))
    with patch.object(trainer, "config", replace(trainer.config, micro_batch_tokens=1)):
        alone = flat(trainer.logprobs(groups, temperature))
    exact = flat(_logprobs_float32(trainer, groups, temperature))
    return NoiseFloor(
        shapes=Disagreement("trainer / itself, one response a pass", own - alone),
        sampler=Disagreement(f"trainer / {rollout.name}", own - engine),
        trainer_float32=Disagreement("trainer / fp32", own - exact),
        sampler_float32=Disagreement(f"fp32 / {rollout.name}", exact - engine),
    )


def _logprobs_float32(trainer: PolicyTrainer, groups: Sequence[Group], temperature: float) -> dict[int, Tensor]:
    """Return the response logprobs of the trainer's weights, with every product and sum in fp32."""
    policy = Policy(trainer.folder, torch.float32)
    copies = dict(policy.model.named_parameters())
    for name, weight in trainer.named_weights():
        copies[name].data.copy_(weight)
    policy.to(machine.device()).eval()
    batches = ((batch, True) for batch in micro_batches(groups, trainer.config.micro_batch_tokens))
    return sample_logprobs(policy, batches, machine.device(), temperature)
