# ruff: noqa: D103  (what each gets wrong stands in its decorator)
"""A step in mixed precision."""

import torch

from wrong_answers import wrong

_BETAS = (0.9, 0.999)


def _start(weight, state, moments=torch.float32):
    if not state:
        zeros = torch.zeros_like(weight, dtype=moments)
        state |= {"step": 0, "master": weight.float(), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
    state["step"] += 1


def _change(gradient, state, lr, betas=_BETAS, eps=1e-8, step=None):
    """Update the moments, and return what to subtract."""
    g = gradient.to(state["exp_avg"].dtype)
    step = step or state["step"]
    for name, beta, new in zip(("exp_avg", "exp_avg_sq"), betas, (g, g * g), strict=True):
        state[name] = beta * state[name] + (1 - beta) * new
    mean = state["exp_avg"].float() / (1 - betas[0] ** step)
    square = state["exp_avg_sq"].float() / (1 - betas[1] ** step)
    return lr * mean / (square.sqrt() + eps)


@wrong("06.master_weights", "updates-bf16", "Subtracts the change from the bf16 weights.")
def no_master(weight, gradient, state, lr, betas=_BETAS, eps=1e-8):
    _start(weight, state)
    weight.sub_(_change(gradient, state, lr, betas, eps).bfloat16())


@wrong("06.master_weights", "master-from-bf16", "Makes a new master of the bf16 weights in each step.")
def new_master(weight, gradient, state, lr, betas=_BETAS, eps=1e-8):
    _start(weight, state)
    state["master"] = weight.float() - _change(gradient, state, lr, betas, eps)
    weight.copy_(state["master"])


@wrong("06.master_weights", "bf16-moments", "Keeps the moments in the weights' dtype.")
def rough_moments(weight, gradient, state, lr, betas=_BETAS, eps=1e-8):
    _start(weight, state, torch.bfloat16)
    state["master"] -= _change(gradient, state, lr, betas, eps)
    weight.copy_(state["master"])


@wrong("06.master_weights", "no-bias-correction", "Uses the moments as they are.")
def no_correction(weight, gradient, state, lr, betas=_BETAS, eps=1e-8):
    _start(weight, state)
    state["master"] -= _change(gradient, state, lr, betas, eps, step=10**6)
    weight.copy_(state["master"])


@wrong("06.master_weights", "always-step-1", "Corrects each step as the first one.")
def first_step(weight, gradient, state, lr, betas=_BETAS, eps=1e-8):
    _start(weight, state)
    state["master"] -= _change(gradient, state, lr, betas, eps, step=1)
    weight.copy_(state["master"])


@wrong("06.master_weights", "eps-inside-the-root", "Adds eps before the root is taken.")
def eps_inside(weight, gradient, state, lr, betas=_BETAS, eps=1e-8):
    _start(weight, state)
    _change(gradient, state, lr, betas)
    mean = state["exp_avg"] / (1 - betas[0] ** state["step"])
    square = state["exp_avg_sq"] / (1 - betas[1] ** state["step"])
    state["master"] -= lr * mean / (square + eps).sqrt()
    weight.copy_(state["master"])


@wrong("06.master_weights", "betas-swapped", "Exchanges the two betas.")
def swapped(weight, gradient, state, lr, betas=_BETAS, eps=1e-8):
    _start(weight, state)
    state["master"] -= _change(gradient, state, lr, betas[::-1], eps)
    weight.copy_(state["master"])


@wrong("06.master_weights", "never-written-back", "Gives its own name another tensor, and leaves the model's as it is.")
def never_back(weight, gradient, state, lr, betas=_BETAS, eps=1e-8):
    _start(weight, state)
    state["master"] -= _change(gradient, state, lr, betas, eps)
    weight = state["master"].bfloat16()


@wrong("06.master_weights", "weight-becomes-fp32", "Puts the master itself into the model.")
def becomes_fp32(weight, gradient, state, lr, betas=_BETAS, eps=1e-8):
    _start(weight, state)
    state["master"] -= _change(gradient, state, lr, betas, eps)
    weight.data = state["master"].clone()


@wrong("06.master_weights", "changes-the-gradient", "Squares the gradient in place.")
def squares_in_place(weight, gradient, state, lr, betas=_BETAS, eps=1e-8):
    _start(weight, state)
    state["master"] -= _change(gradient, state, lr, betas, eps)
    weight.copy_(state["master"])
    gradient.mul_(gradient)
