# ruff: noqa: D103  (what each gets wrong stands in its decorator)
"""A rank's bytes."""

from wrong_answers import wrong

_SIZES = {"weights": 2, "gradients": 2, "master": 4, "exp_avg": 4, "exp_avg_sq": 4}
_FIRST = {"weights": 3, "gradients": 2, "master": 1, "exp_avg": 1, "exp_avg_sq": 1}


def _memory(numel, ranks, stage, offload, sizes=_SIZES, first=_FIRST, to_host=("weights",)):
    """Count as the solution does, with one thing changed. `to_host` names what stays."""
    share = -(-numel // ranks)
    held = {name: size * (share if stage >= first[name] else numel) for name, size in sizes.items()}
    host = {name: held[name] for name in held if offload and name not in to_host}
    return {name: held[name] for name in held if name not in host}, host


@wrong("06.zero_memory", "no-master", "Forgets the fp32 copy of the weights: 12 bytes.")
def no_master(numel, ranks, stage, offload_optimizer=False):
    sizes = {name: size for name, size in _SIZES.items() if name != "master"}
    return _memory(numel, ranks, stage, offload_optimizer, sizes)


@wrong("06.zero_memory", "bf16-state", "Takes 2 bytes for every number: 10 bytes.")
def all_bf16(numel, ranks, stage, offload_optimizer=False):
    return _memory(numel, ranks, stage, offload_optimizer, dict.fromkeys(_SIZES, 2))


@wrong("06.zero_memory", "gradients-at-stage-1", "Partitions the gradients one stage too early.")
def gradients_early(numel, ranks, stage, offload_optimizer=False):
    return _memory(numel, ranks, stage, offload_optimizer, first=_FIRST | {"gradients": 1})


@wrong("06.zero_memory", "weights-at-stage-2", "Partitions the weights one stage too early.")
def weights_early(numel, ranks, stage, offload_optimizer=False):
    return _memory(numel, ranks, stage, offload_optimizer, first=_FIRST | {"weights": 2})


@wrong("06.zero_memory", "everything-partitioned", "Divides 16 bytes by the ranks at every stage from 1 on.")
def everything(numel, ranks, stage, offload_optimizer=False):
    return _memory(numel, ranks, stage, offload_optimizer, first=dict.fromkeys(_FIRST, 1))


@wrong("06.zero_memory", "always-sliced", "Divides by the ranks at stage 0, too.")
def always(numel, ranks, stage, offload_optimizer=False):
    return _memory(numel, ranks, stage, offload_optimizer, first=dict.fromkeys(_FIRST, 0))


@wrong("06.zero_memory", "drops-the-rest", "Rounds down where the ranks do not divide the model.")
def rounds_down(numel, ranks, stage, offload_optimizer=False):
    held = {name: size * (numel // ranks if stage >= _FIRST[name] else numel) for name, size in _SIZES.items()}
    if not offload_optimizer:
        return held, {}
    return {"weights": held.pop("weights")}, held


@wrong("06.zero_memory", "not-an-integer", "Divides with /, and gets fractions of a byte.")
def fractions(numel, ranks, stage, offload_optimizer=False):
    held = {name: size * (numel / ranks if stage >= _FIRST[name] else numel) for name, size in _SIZES.items()}
    if not offload_optimizer:
        return held, {}
    return {"weights": held.pop("weights")}, held


@wrong("06.zero_memory", "gradients-stay", "Offloads master and moments, and keeps the gradients on the device.")
def gradients_stay(numel, ranks, stage, offload_optimizer=False):
    return _memory(numel, ranks, stage, offload_optimizer, to_host=("weights", "gradients"))


@wrong("06.zero_memory", "counted-twice", "Counts on the device what is on the host, too.")
def twice(numel, ranks, stage, offload_optimizer=False):
    device, _ = _memory(numel, ranks, stage, offload=False)
    return device, _memory(numel, ranks, stage, offload_optimizer)[1]


@wrong("06.zero_memory", "whole-on-the-host", "Takes the host for a place that all ranks fill with everything.")
def whole_host(numel, ranks, stage, offload_optimizer=False):
    device, host = _memory(numel, ranks, stage, offload_optimizer)
    return device, {name: numel * _SIZES[name] for name in host}
