"""Is there room for the loop on this GPU? Asked before anything starts, and answered with numbers and settings."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from course_lib import machine
from course_lib.kv_cache.cost import ModelShape, weight_bytes
from course_lib.rl.errors import OutOfMemory
from course_lib.rl.rollout_engine import GPU_MEMORY_UTILIZATION
from course_lib.training import TrainerConfig, ZeroPlan, training_memory

_ROW = 256
"""Tokens of a packed row, for the estimate: a prompt and eight short responses."""
_CONTEXT = 2 * 2**30
"""What CUDA, its libraries, NCCL's buffers and graphs take beside the tensors, and what has to stay free for them to grow."""
_FRAGMENTS = 1.2
"""What torch's allocator reserves over what tensors need: the capstone's trainer took 18 GiB on an H200, of 15 computed."""
_LEAST_KV = 2**30
_WORKING = 2**30
"""What vLLM computes in beside weights and KV cache: it measures that with a step of its largest size."""
_OPTIONS = {
    "VLLMRollout.gpu_memory_utilization": "--gpu-memory-utilization {}",
    "TrainerConfig.micro_batch_tokens": "--micro-batch-tokens {}",
    "TrainerConfig.gradient_checkpointing": "--gradient-checkpointing",
}
"""Where `course capstone` takes a setting."""


@dataclass(frozen=True)
class Room:
    """What the loop would take of a GPU, in bytes.

    Attributes:
        rollout: weights, KV cache and working memory of the rollout engine.
        trainer: weights, optimizer, gradients and activations, at the fullest moment of a step.
        free: what nobody has taken yet.
        total: the GPU's memory.
    """

    rollout: int
    trainer: int
    free: int
    total: int

    @property
    def needed(self) -> int:
        """What the loop takes in all."""
        return self.rollout + self.trainer + _CONTEXT

    @property
    def fits(self) -> bool:
        """Whether it is there."""
        return self.needed <= self.free

    def __repr__(self) -> str:
        engines = f"rollout {_gib(self.rollout)}, trainer {_gib(self.trainer)}"
        return f"Room({_gib(self.needed)} needed: {engines}; {_gib(self.free)} free of {_gib(self.total)})"


def trainer_bytes(shape: ModelShape, config: TrainerConfig, ranks: int = 1) -> int:
    """Return what a rank's trainer takes of its GPU at the fullest moment."""
    plan = ZeroPlan(
        config.zero_stage, ranks, config.offload_optimizer, config.offload_param, config.gradient_checkpointing
    )
    rows = max(1, config.micro_batch_tokens // _ROW)
    return int(training_memory(shape, plan, rows * _ROW, _ROW).device_bytes * _FRAGMENTS)


def find_room(folder: Path, config: TrainerConfig, rollout: Mapping[str, Any], *, critic: bool = False) -> Room | None:
    """Ask this machine's GPU for room for the loop, before either engine starts; return None on the CPU tier.

    Args:
        folder: of the policy.
        config: the trainer's.
        rollout: options of `VLLMRollout`.
        critic: as for `check_room`.

    Raises:
        OutOfMemory: it is not there.
    """
    machine.prepare()  # which GPU is ours
    if machine.tier() != "gpu":
        return None
    import torch

    free, total = torch.cuda.mem_get_info()
    share = ("gpu_memory_utilization", "kv_cache_bytes")
    return check_room(
        ModelShape.from_config(folder),
        config,
        free=free,
        total=total,
        ranks=int(os.environ["WORLD_SIZE"]),
        critic=critic,
        **{name: value for name, value in rollout.items() if name in share},
    )


def check_room(
    shape: ModelShape,
    config: TrainerConfig,
    *,
    free: int,
    total: int,
    gpu_memory_utilization: float = GPU_MEMORY_UTILIZATION,
    kv_cache_bytes: int | None = None,
    ranks: int = 1,
    critic: bool = False,
) -> Room:
    """Return what the loop takes of a GPU with so much memory.

    Args:
        shape: the policy's.
        config: the trainer's.
        free: bytes that nobody has taken, before either engine starts.
        total: bytes of the GPU.
        gpu_memory_utilization: the share that vLLM takes, unless `kv_cache_bytes` is given.
        kv_cache_bytes: of the rollout engine.
        ranks: that share the training.
        critic: a value model is trained beside the policy; it counts as much as the policy, which is a little too much.

    Raises:
        OutOfMemory: it is not there; the message has what each engine needs, and the settings that would make it fit.
    """
    fixed, models = weight_bytes(shape) + _WORKING, 2 if critic else 1
    rollout = int(total * gpu_memory_utilization) if kv_cache_bytes is None else fixed + kv_cache_bytes
    room = Room(rollout, models * trainer_bytes(shape, config, ranks), free, total)
    if room.fits:
        return room
    said = (
        f"the loop needs {_gib(room.needed)} of GPU memory ({_gib(room.rollout)} for the rollout engine, {_gib(room.trainer)} for"
        f" the trainer), and {_gib(free)} of {_gib(total)} are free."
    )
    if total - free > _CONTEXT:
        said += f" Other programs hold {_gib(total - free)} (nvidia-smi lists them)."
    for smaller in _smaller(config):
        left = free - _CONTEXT - models * trainer_bytes(shape, smaller, ranks)
        if left >= fixed + _LEAST_KV:
            changes = _differences(config, smaller)
            if kv_cache_bytes is None:
                share = math.floor(1000 * min(left / total, 0.95)) / 1000
                changes["VLLMRollout.gpu_memory_utilization"] = min(share, gpu_memory_utilization)
            else:
                changes["VLLMRollout.kv_cache_bytes"] = min(kv_cache_bytes, left - fixed)
            names = tuple(name.split(".")[1] for name in changes)
            raise OutOfMemory(f"{said} It fits with {_listed(changes)}.", "start", names)
    raise OutOfMemory(
        f"{said} No setting makes it fit: take a smaller policy, a larger GPU or the CPU (TIER=cpu).", "start"
    )


def _smaller(config: TrainerConfig) -> Iterator[TrainerConfig]:
    """Yield the configuration, then ones that take less and less, and change nothing of what is learned."""
    for checkpointing in sorted({config.gradient_checkpointing, True}):
        tokens = config.micro_batch_tokens
        while tokens >= min(_ROW, config.micro_batch_tokens):
            yield replace(config, micro_batch_tokens=tokens, gradient_checkpointing=checkpointing)
            tokens //= 2


def _differences(config: TrainerConfig, smaller: TrainerConfig) -> dict[str, object]:
    names = ("micro_batch_tokens", "gradient_checkpointing")
    return {
        f"TrainerConfig.{name}": getattr(smaller, name)
        for name in names
        if getattr(smaller, name) != getattr(config, name)
    }


def _listed(changes: Mapping[str, object]) -> str:
    listed = " and ".join(f"{name}={value}" for name, value in changes.items())
    if not changes.keys() <= _OPTIONS.keys():
        return listed
    return f"{listed}; of `course capstone`: " + " ".join(
        _OPTIONS[name].format(value) for name, value in changes.items()
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
