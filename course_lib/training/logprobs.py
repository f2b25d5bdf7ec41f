"""Log-probabilities of given tokens without ever holding a whole row of logits."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

VOCABULARY_CHUNK = 4096


def token_logprobs(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    targets: Int[Tensor, " tokens"],
    temperature: float = 1.0,
    chunk: int = VOCABULARY_CHUNK,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """Return `log softmax(hidden @ weight.T / temperature)[targets]` and the entropy of that softmax, in nats and fp32.

    The logits are made a chunk of the vocabulary at a time with a running maximum and sum (the online softmax of Milakov
    and Gimelshein, arXiv 1805.02867), and made again in the backward pass (as in Cut Your Losses, arXiv 2411.09009), so
    peak memory grows with `tokens * chunk` and not with `tokens * vocabulary`. Only the logprobs carry a gradient.

    Raises:
        ValueError: the temperature is not above zero.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, but logprobs are defined for a temperature above 0 only.")
    logprobs, entropy = _TokenLogprobs.apply(hidden, weight, targets, temperature, chunk)
    return logprobs, entropy


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        largest = hidden.new_full((len(hidden),), -torch.inf, dtype=torch.float32)
        total = torch.zeros_like(largest)  # sum of exp(logit - largest)
        moment = torch.zeros_like(largest)  # sum of exp(logit - largest) * logit
        chosen = torch.zeros_like(largest)
        for start, rows in _chunks(weight, chunk):
            logits = _logits(hidden, rows, temperature)
            peak = torch.maximum(largest, logits.amax(dim=1))
            shrink = torch.exp(largest - peak)
            weights = torch.exp(logits - peak[:, None])
            total = total * shrink + weights.sum(dim=1)
            moment = moment * shrink + torch.linalg.vecdot(weights, logits)
            largest = peak
            inside, column = _locate(targets, start, len(rows))
            chosen = torch.where(inside, logits.gather(1, column[:, None])[:, 0], chosen)
        log_total = largest + total.log()
        ctx.save_for_backward(hidden, weight, targets, log_total)
        ctx.temperature, ctx.chunk = temperature, chunk
        entropy = log_total - moment / total
        ctx.mark_non_differentiable(entropy)
        return chosen - log_total, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, weight, targets, log_total = ctx.saved_tensors
        grad_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        grad_weight = torch.empty_like(weight)
        for start, rows in _chunks(weight, ctx.chunk):
            # d logprob / d logit = onehot(target) - softmax
            slope = torch.exp(_logits(hidden, rows, ctx.temperature) - log_total[:, None]).neg_()
            inside, column = _locate(targets, start, len(rows))
            slope.scatter_add_(1, column[:, None], inside[:, None].to(slope.dtype))
            slope *= (grad / ctx.temperature)[:, None]
            low = slope.to(hidden.dtype)
            grad_hidden += low @ rows
            grad_weight[start : start + len(rows)] = low.T @ hidden
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None


def _chunks(weight: Tensor, chunk: int) -> list[tuple[int, Tensor]]:
    return [(start, weight[start : start + chunk]) for start in range(0, len(weight), chunk)]


def _logits(hidden: Tensor, rows: Tensor, temperature: float) -> Tensor:
    logits = (hidden @ rows.T).float()
    return logits if temperature == 1.0 else logits / temperature


def _locate(targets: Tensor, start: int, size: int) -> tuple[Tensor, Tensor]:
    """Return which targets lie in this chunk, and each target's column in it (0 where it lies elsewhere)."""
    column = targets - start
    inside = (column >= 0) & (column < size)
    return inside, torch.where(inside, column, 0)
