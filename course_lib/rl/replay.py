"""Replay: one saved batch under every algorithm's loss, side by side. No weight moves, and the numbers are the same each time."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib import machine
from course_lib.models import load_policy
from course_lib.rl.algorithms import ALGORITHMS, Algorithm, find_algorithm
from course_lib.rl.batch import Batch, by_token
from course_lib.rl.gae import generalized_advantages, whiten
from course_lib.rl.losses import ResponseTokens, TokenLoss, policy_gradient_loss, token_weights
from course_lib.rl.problem import Problem
from course_lib.rl.rewards import RewardFault
from course_lib.rl.rollout import Rollout
from course_lib.training import PackedBatch, Policy, PolicyTrainer, micro_batches, pack


def save_batch(batch: Batch, path: str | Path) -> None:
    """Write a batch to a file, whole or not at all; `load_batch` gives it back. What the trainer saw of it is left out."""
    path = Path(path)
    content: dict[str, Any] = {item.name: getattr(batch, item.name) for item in fields(Batch) if item.init}
    content["problems"] = [asdict(problem) for problem in batch.problems]
    content["completions"] = list(batch.completions)
    content["faults"] = [asdict(fault) for fault in batch.faults]
    content["rollout"] = vars(batch.rollout)
    unfinished = path.with_name(path.name + ".unfinished")
    torch.save(content, unfinished)
    unfinished.replace(path)


def load_batch(path: str | Path) -> Batch:
    """Return the batch that `save_batch` wrote. Nothing in the file is run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no batch.
    """
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        content["problems"] = [Problem(**problem) for problem in content["problems"]]
        content["faults"] = [RewardFault(**fault) for fault in content["faults"]]
        content["rollout"] = Rollout(**content["rollout"])
        return Batch(**content)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch.load has a dozen of its own
        raise ValueError(
            f"{path} holds no batch ({type(error).__name__}); give a file that save_batch() of this version wrote."
        ) from error


@dataclass(frozen=True)
class Replayed:
    """What one algorithm's loss makes of a batch.

    Attributes:
        name: of the algorithm.
        loss: of the step.
        grad_norm: 2-norm of its gradient by all weights.
        clipped: share of the tokens with a signal whose gradient the clip took away.
        truncated: share of them whose importance weight was cut.
        masked: share of them in sequences that were left out.
        cosine: of the angle between its gradient and the first algorithm's; NaN where one of them is zero.
        advantages: of each response token, 0 after the response's end.
        token_gradient: of the step's loss by each response token's logprob: below 0 where the token is made likelier.
    """

    name: str
    loss: float
    grad_norm: float
    clipped: float
    truncated: float
    masked: float
    cosine: float
    advantages: Float[Tensor, "samples longest"] = field(repr=False)
    token_gradient: Float[Tensor, "samples longest"] = field(repr=False)


def replay(
    source: str | Path | PolicyTrainer,
    batch: Batch,
    algorithms: Sequence[str | Algorithm] = tuple(ALGORITHMS),
    *,
    temperature: float = 1.0,
    max_new_tokens: int | None = None,
    dtype: torch.dtype | None = None,
    micro_batch_tokens: int = 4096,
) -> list[Replayed]:
    """Put one judged batch through the loss of each algorithm, and return what each would do, in their order.

    Rewards are the batch's, advantages each algorithm's own: with its overlong penalty, and without the groups that its
    dynamic sampling would have replaced. PPO's come from the critic's values in the batch; where it has none, from a critic
    that says 0 everywhere, as at the beginning of a run.

    Ratios are those to the batch's `old_logprobs`. Without them, and on the weights that drew the samples, every ratio is 1:
    algorithms differ in their advantages and averages, and no clip acts. To see the clips, keep `old_logprobs` and give a
    trainer that has moved on. Mind the noise: logprobs in bf16 differ from those in fp32 by more than GSPO's whole range.

    Args:
        source: the policy's folder or name, or a trainer, whose weights are copied: replay has a model of its own.
        batch: judged samples; rewards of samples that failed have no advantage.
        algorithms: names or algorithms; the cosines are to the first.
        temperature: that the samples were drawn with.
        max_new_tokens: the longest response that could have been drawn; the longest in the batch where None is given.
        dtype: of the copy; where None is given bf16 for a trainer, as it trains, and fp32 for a folder.
        micro_batch_tokens: tokens (padding counted) of one forward and backward pass.

    Raises:
        ValueError: there is no algorithm of a name, or a KL term lacks its `reference_logprobs`.
    """
    chosen = [find_algorithm(algorithm) for algorithm in algorithms]
    policy, limit = _policy(source, dtype), max_new_tokens or batch.rollout.logprobs.shape[1]
    found: list[Replayed] = []
    first: list[Tensor] = []
    for algorithm in chosen:
        policy.zero_grad(set_to_none=True)
        tables = _Tables(batch, algorithm, limit)
        loss = sum(_passes(policy, tables, temperature, micro_batch_tokens), 0.0)
        gradient = [torch.zeros_like(w) if w.grad is None else w.grad for w in policy.parameters()]
        first = first or gradient
        norm, own = _dot(first, first) ** 0.5, _dot(gradient, gradient) ** 0.5
        cosine = _dot(first, gradient) / (norm * own) if norm * own else float("nan")
        shares = {name: float(mark.sum()) / max(1, tables.seen) for name, mark in tables.marks.items()}
        found.append(
            Replayed(
                algorithm.name,
                loss,
                own,
                **shares,
                cosine=cosine,
                advantages=tables.advantages,
                token_gradient=tables.gradient,
            )
        )
    return found


class _Tables:
    """What one algorithm makes of the batch, per response token; filled in as the micro-batches pass."""

    def __init__(self, batch: Batch, algorithm: Algorithm, max_new_tokens: int):
        self.batch, self.algorithm = batch, algorithm
        self.advantages = _advantages(batch, algorithm, max_new_tokens)
        n = batch.samples_per_prompt
        signal = self.advantages.view(-1, n * self.advantages.shape[1]).any(dim=1).repeat_interleave(n)
        everything = torch.ones_like(signal)
        kept = signal if algorithm.dynamic_sampling else everything
        self.weights = torch.zeros(len(kept))
        self.weights[kept] = token_weights(batch.rollout.response_lengths[kept], algorithm.loss.average, max_new_tokens)
        # Where all advantages of a group are 0 its gradient is exactly 0, but for a KL term's.
        wanted = kept if algorithm.loss.kl_coefficient else signal
        self.groups = [group for group in batch.groups() if bool(wanted[group.samples].all())]
        reference, some = batch.reference_logprobs, [row for group in self.groups for row in group.samples]
        if algorithm.loss.kl_coefficient and reference is not None and not bool(reference[some].any(dim=1).all()):
            raise ValueError(
                f"{algorithm.name} has a KL term, but reference_logprobs of some samples are missing: fill them in with"
                " batch.padded(reference.logprobs(batch.groups()))."
            )
        self.gradient = torch.zeros_like(self.advantages)
        self.marks = {name: torch.zeros_like(self.advantages) for name in ("clipped", "truncated", "masked")}
        self.seen = 0

    def tokens(self, packed: PackedBatch, logprobs: Tensor) -> ResponseTokens:
        batch, reference = self.batch, None
        old = logprobs.detach()
        if batch.old_logprobs is not None:  # a row of zeros is a sample that the run's own algorithm had no use for
            known = by_token(batch.old_logprobs.any(dim=1), packed)
            old = torch.where(known, by_token(batch.old_logprobs, packed), old)
        if batch.reference_logprobs is not None:
            reference = by_token(batch.reference_logprobs, packed)
        sampler, advantages = by_token(batch.rollout.logprobs, packed), by_token(self.advantages, packed)
        return ResponseTokens(logprobs, old, sampler, advantages, packed.samples, reference)

    def record(self, packed: PackedBatch, token: TokenLoss, gradient: Tensor) -> None:
        place = (packed.samples.cpu(), packed.offsets.cpu())
        self.gradient[place] = gradient.cpu()
        self.seen += len(gradient)
        for name, mark in self.marks.items():
            mark[place] = getattr(token, name).cpu()


def _passes(policy: Policy, tables: _Tables, temperature: float, micro_batch_tokens: int) -> Iterator[float]:
    """Run each micro-batch forward and backward, and yield its part of the step's loss."""
    for groups in micro_batches(tables.groups, micro_batch_tokens):
        packed = pack(groups).to(machine.device())
        logprobs, _ = policy(packed, temperature)
        logprobs.retain_grad()
        token = policy_gradient_loss(tables.tokens(packed, logprobs), tables.algorithm.loss)
        part = (token.loss * tables.weights.to(logprobs.device)[packed.samples]).sum()
        part.backward()
        tables.record(packed, token, logprobs.grad)
        yield float(part.detach())


def _advantages(batch: Batch, algorithm: Algorithm, max_new_tokens: int) -> Float[Tensor, "samples longest"]:
    """Return the algorithm's advantages of the batch's response tokens."""
    mask, lengths = batch.rollout.response_mask, batch.rollout.response_lengths
    plain = batch.rewards - batch.reward_parts.get("overlong", torch.zeros(()))  # the run's own algorithm's penalty
    rewards = algorithm.shape_rewards(plain, lengths, max_new_tokens)
    if algorithm.advantage is None:
        values = torch.zeros_like(batch.rollout.logprobs) if batch.values is None else batch.values
        found = whiten(generalized_advantages(rewards, values, mask, algorithm.gamma, algorithm.lam)[0], mask)
    else:
        by_sample = algorithm.advantage(rewards.view(-1, batch.samples_per_prompt)).flatten()
        found = torch.where(mask, by_sample[:, None], 0.0)
    found[[fault.index for fault in batch.faults]] = 0.0
    return found


def _policy(source: str | Path | PolicyTrainer, dtype: torch.dtype | None) -> Policy:
    """Return a model of its own with the weights of the source."""
    if not isinstance(source, PolicyTrainer):
        return Policy(load_policy(source), dtype or torch.float32).to(machine.device()).eval()
    policy = Policy(source.folder, dtype or torch.bfloat16).to(machine.device()).eval()
    weights = dict(policy.model.named_parameters())
    with torch.no_grad():
        for name, weight in source.named_weights():
            weights[name].copy_(weight)
    return policy


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return sum(float(torch.sum(a * b, dtype=torch.float64)) for a, b in zip(one, other, strict=True))
