"""Rollouts cut into rows and put together again: a step's samples may come from several ranks and several calls."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from course_lib.rl.rollout import Rollout


def take_rows(rollout: Rollout, rows: Sequence[int]) -> Rollout:
    """Return the rollout of some rows, in the order given."""
    return replace(rollout, **{name: value[list(rows)] for name, value in vars(rollout).items()})


def join_rows(rollouts: Sequence[Rollout]) -> Rollout:
    """Return several rollouts as one: prompts are padded on the left to the longest, responses on the right.

    Raises:
        ValueError: there is none.
    """
    if not rollouts:
        raise ValueError("there are no rollouts to join; give at least one.")
    starts = [int(rollout.response_start_idx[0]) for rollout in rollouts]
    start, longest = max(starts), max(rollout.logprobs.shape[1] for rollout in rollouts)

    def whole(name: str) -> Tensor:
        parts = [getattr(rollout, name) for rollout in rollouts]
        if name == "logprobs":
            parts = [_padded(part, 0, longest) for part in parts]
        if name in ("input_ids", "attention_mask"):
            parts = [_padded(part, start - own, start + longest) for part, own in zip(parts, starts, strict=True)]
        return torch.cat(parts)

    joined = {name: whole(name) for name in vars(rollouts[0])}
    return replace(rollouts[0], **joined | {"response_start_idx": torch.full_like(joined["response_start_idx"], start)})


def _padded(table: Shaped[Tensor, "rows columns"], left: int, width: int) -> Shaped[Tensor, "rows width"]:
    return torch.nn.functional.pad(table, (left, width - left - table.shape[1]))
