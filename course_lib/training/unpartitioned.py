"""The optimizer's step of ZeRO stage 0, for all weights at once."""

import math
from functools import partial
from typing import Any

import torch


def step_at_once(optimizer: Any) -> None:
    """Have DeepSpeed's optimizer of stage 0 (`FP16_UnfusedOptimizer`) take its step for all weights at once.

    Its own goes from weight to weight: six launches to see whether a gradient is finite, four for its norm, three to scale it
    in fp32 and to copy the weight back. With the 272 weights of SmolLM2 that was half of a step's launches on a GPU. Here it is
    the same arithmetic, but for the first look: one value that isn't finite makes the norm so, which is refused.
    """
    optimizer.step = partial(_step, optimizer)


@torch.no_grad()
def _step(optimizer: Any) -> bool:
    """Return whether the step was refused (DeepSpeed's "overflow")."""
    weights = [weight for group in optimizer.fp16_groups for weight in group]
    masters = [master for group in optimizer.fp32_groups for master in group]
    gradients = [torch.empty_like(master) for master in masters]
    torch._foreach_copy_(gradients, [torch.zeros_like(each) if each.grad is None else each.grad for each in weights])
    squares = torch.stack(torch._foreach_norm(gradients)).square().cpu().numpy()  # noqa: SLF001  the host waits here alone
    norm = math.sqrt(squares.cumsum()[-1])  # one after another, as DeepSpeed adds them up: the same to the bit
    if not math.isfinite(norm):
        optimizer._skip_invalid_grad_norm()  # noqa: SLF001  it drops the gradients and says so
        return True
    optimizer.overflow, optimizer._global_grad_norm = False, norm  # noqa: SLF001
    optimizer._update_scale(False)  # noqa: SLF001  it counts the steps of a checkpoint
    scale = optimizer.unscale_and_clip_grads(norm, apply_scale=False)
    if scale != 1:
        torch._foreach_mul_(gradients, 1 / scale)
    for master, gradient in zip(masters, gradients, strict=True):
        master.grad = gradient
    optimizer.optimizer.step()
    for master in masters:
        master.grad = None
    torch._foreach_copy_(weights, masters)
    return False
