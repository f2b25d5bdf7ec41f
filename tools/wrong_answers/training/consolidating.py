# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""A model out of slices."""

import math

import torch

from wrong_answers import wrong


def _pieces(shards, shapes, stage):
    """Yield each parameter's name, shape and numbers, as the solution finds them."""
    start, whole = 0, torch.cat(shards)
    for name, shape in shapes.items():
        numel = math.prod(shape)
        share = -(-numel // len(shards)) if stage == 3 else numel
        if stage == 3:
            yield name, shape, torch.cat([shard[start : start + share] for shard in shards])[:numel]
        else:
            yield name, shape, whole[start : start + numel]
        start += share


def _model(shards, shapes, stage, tied):
    state = {name: flat.view(shape) for name, shape, flat in _pieces(shards, shapes, stage)}
    return state | {name: state[other] for name, other in tied.items()}


@wrong("06.checkpoint", "joined-as-stage-1", "Joins the slices at every stage.")
def as_stage_1(shards, shapes, stage, tied):
    return _model(shards, shapes, 1, tied)


@wrong("06.checkpoint", "joined-as-stage-3", "Takes a piece of each rank at every stage.")
def as_stage_3(shards, shapes, stage, tied):
    return _model(shards, shapes, 3, tied)


@wrong("06.checkpoint", "ranks-backwards", "Joins the slices from the last rank on.")
def backwards(shards, shapes, stage, tied):
    return _model(shards[::-1], shapes, stage, tied)


@wrong("06.checkpoint", "sorts-the-names", "Goes through the parameters by name.")
def by_name(shards, shapes, stage, tied):
    return _model(shards, dict(sorted(shapes.items())), stage, tied)


@wrong("06.checkpoint", "always-from-the-start", "Reads each parameter from the start of the slices.")
def from_start(shards, shapes, stage, tied):
    state = {name: _model(shards, {name: shape}, stage, {})[name] for name, shape in shapes.items()}
    return state | {name: state[other] for name, other in tied.items()}


@wrong("06.checkpoint", "forgets-the-padding-between", "Moves on by numel // ranks, and reads the padding after it.")
def no_padding_between(shards, shapes, stage, tied):
    if stage < 3:
        return _model(shards, shapes, stage, tied)
    state, start = {}, 0
    for name, shape in shapes.items():
        numel = math.prod(shape)
        share = -(-numel // len(shards))
        state[name] = torch.cat([shard[start : start + share] for shard in shards])[:numel].view(shape)
        start += numel // len(shards)
    return state | {name: state[other] for name, other in tied.items()}


@wrong("06.checkpoint", "keeps-the-padding", "Keeps stage 3's padding, which fits into no shape.")
def keeps_padding(shards, shapes, stage, tied):
    if stage < 3:
        return _model(shards, shapes, stage, tied)
    state, start = {}, 0
    for name, shape in shapes.items():
        share = -(-math.prod(shape) // len(shards))
        state[name] = torch.cat([shard[start : start + share] for shard in shards]).view(shape)
        start += share
    return state | {name: state[other] for name, other in tied.items()}


@wrong("06.checkpoint", "stays-flat", "Leaves the parameters flat.")
def flat(shards, shapes, stage, tied):
    state = {name: numbers for name, _, numbers in _pieces(shards, shapes, stage)}
    return state | {name: state[other] for name, other in tied.items()}


@wrong("06.checkpoint", "rounded", "Rounds to bf16 at once.")
def rounded(shards, shapes, stage, tied):
    return {name: tensor.bfloat16() for name, tensor in _model(shards, shapes, stage, tied).items()}


@wrong("06.checkpoint", "forgets-tied", "Returns what was saved, and no second names.")
def no_tied(shards, shapes, stage, tied):
    return _model(shards, shapes, stage, {})


@wrong("06.checkpoint", "copies-tied", "Makes a tensor of its own of each tied weight.")
def copies(shards, shapes, stage, tied):
    state = _model(shards, shapes, stage, {})
    return state | {name: state[other].clone() for name, other in tied.items()}
