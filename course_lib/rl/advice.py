"""Out of memory: which setting of which phase to change, from what to what."""

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from course_lib import machine
from course_lib.rl.errors import OutOfMemory
from course_lib.rl.memory import peak_memory
from course_lib.rl.rewards import RewardError

# What torch's allocators, CUDA's libraries, C++ and vLLM say where memory runs out: they have no class in common.
_SIGNS = re.compile(
    r"out of memory|can't allocate memory|not enough memory|bad_alloc|ALLOC_FAILED"
    r"|memory for the cache blocks|KV cache is needed|than desired [CG]PU memory utilization"
)
_NO_ROOM_FOR_KV = re.compile(r"cache blocks|KV cache is needed")
_ASKED = re.compile(r"ried to allocate ([\d.]+) (bytes|[KMG]iB)")


@dataclass(frozen=True)
class Setting:
    """A setting that decides how much memory a phase takes.

    Attributes:
        owner: the class that it is given to.
        name: its name there.
        value: what it is now.
        change: what to try.
        resumes: whether the run may go on with another value; where not, it decides the curve, or how checkpoints are cut.
    """

    owner: str
    name: str
    value: Any
    change: str
    resumes: bool = True

    def __str__(self) -> str:
        shown = f"{self.value >> 20} << 20" if self.name.endswith("bytes") and self.value else repr(self.value)
        return f"{self.owner}.{self.name} is {shown}: {self.change}{'' if self.resumes else ' (a new run)'}"


def advise(phase: str, error: BaseException, trainer: Any, rollout: Any, config: Any) -> OutOfMemory | None:
    """Return the error to raise where memory ran out, or None where `error` has another cause.

    Args:
        phase: of the loop, in which it ran out.
        error: what was raised; its causes are looked at too.
        trainer: the loop's `PolicyTrainer`.
        rollout: its engine, `VLLMRollout` or `EngineRollout`.
        config: its `LoopConfig`.
    """
    shortages = [] if isinstance(error, RewardError) else list(filter(_is_shortage, _causes(error)))
    if not shortages:
        return None
    shortage = shortages[-1]  # the first that was raised
    said = str(shortage)
    generating = _generation(rollout, config, needs_more=bool(_NO_ROOM_FOR_KV.search(said)))
    settings = {
        "generate": generating,
        "evaluate": generating,
        "reward": _reward(config),
        "train": _training(trainer) + _rollout_share(rollout),
        "sync": _rollout_share(rollout) + _micro_batches(trainer),
    }.get(phase, _rollout_share(rollout))
    lines = "".join(f"\n  - {setting}" for setting in settings)
    peak = " and ".join(f"{gib:.1f} GiB of {kind} memory" for kind, gib in peak_memory().items())
    message = (
        f"memory ran out in the phase {phase}: {_what(shortage)}. At most {peak} were taken. In the order to try:{lines}\n"
        "The last checkpoint is intact: start anew with the change and resume the run."
    )
    return OutOfMemory(message, phase, tuple(setting.name for setting in settings))


def _training(trainer: Any) -> list[Setting]:
    now, ranks = trainer.config, trainer.world_size
    settings = _micro_batches(trainer)
    if not now.gradient_checkpointing:
        settings.append(
            _of(now, "gradient_checkpointing", "try True (a third more computing, a layer's activations at a time)")
        )
    on_gpu = machine.tier() == "gpu"  # elsewhere the host's memory is the one that ran out
    if on_gpu and now.zero_stage > 0 and not now.offload_optimizer:
        settings.append(
            _of(now, "offload_optimizer", "try True (12 of 16 bytes a parameter move to the host; slower steps)")
        )
    if ranks > 1 and now.zero_stage < 3:
        settings.append(_of(now, "zero_stage", f"try {now.zero_stage + 1}: {ranks} ranks share more of it", False))
    elif ranks == 1 and now.zero_stage > 0 and not now.offload_optimizer:
        settings.append(_of(now, "zero_stage", "try 0: one rank has nothing to share, and no copies to keep", False))
    return settings


def _micro_batches(trainer: Any) -> list[Setting]:
    tokens = trainer.config.micro_batch_tokens
    return [_of(trainer.config, "micro_batch_tokens", f"try {max(1, tokens // 2)} (the same step in more passes)")]


def _generation(rollout: Any, config: Any, needs_more: bool) -> list[Setting]:
    fewer = [
        _of(config, "samples_per_prompt", f"try {max(2, config.samples_per_prompt // 2)}", False),
        _of(config, "max_new_tokens", f"try {max(1, config.max_new_tokens // 2)}", False),
    ]
    return _rollout_share(rollout, needs_more) + fewer


def _rollout_share(rollout: Any, needs_more: bool = False) -> list[Setting]:
    """Return what decides the engine's own share: its KV cache is taken at the start and never grows."""
    owner, (size, share) = type(rollout).__name__, _kv_settings(rollout)
    settings = []
    if size is not None:
        settings.append(
            Setting(owner, "kv_cache_bytes", size, f"try {(size * 2 if needs_more else size // 2) >> 20} << 20")
        )
    if share is not None and machine.tier() == "gpu" and size is None:
        tried = min(0.95, share + 0.1) if needs_more else share * 0.75
        settings.append(
            Setting(owner, "gpu_memory_utilization", share, f"try {tried:.2f} (the trainer needs the rest)")
        )
    return settings


def _reward(config: Any) -> list[Setting]:
    return [
        _of(config, "samples_per_prompt", f"try {max(2, config.samples_per_prompt // 2)}", False),
        _of(config, "prompts_per_step", f"try {max(1, config.prompts_per_step // 2)}", False),
    ]


def _kv_settings(rollout: Any) -> tuple[int | None, float | None]:
    """Return `kv_cache_bytes` and `gpu_memory_utilization` as the engine has them."""
    engine = getattr(getattr(rollout, "llm", None), "llm_engine", None)
    cache = getattr(getattr(engine, "vllm_config", None), "cache_config", None)
    size = getattr(rollout, "kv_cache_bytes", None) or getattr(cache, "kv_cache_memory_bytes", None)
    return size, getattr(cache, "gpu_memory_utilization", None)


def _of(config: Any, name: str, change: str, resumes: bool = True) -> Setting:
    return Setting(type(config).__name__, name, getattr(config, name), change, resumes)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_shortage(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, (RuntimeError, ValueError)) and _SIGNS.search(str(error)) is not None


def _what(error: BaseException) -> str:
    asked = _ASKED.search(str(error))
    if asked is None:
        return " ".join(str(error).split()).partition(". ")[0].rstrip(".") or type(error).__name__
    amount, unit = asked.groups()
    return (
        f"it tried to take {float(amount) / 2**30:.2f} GiB" if unit == "bytes" else f"it tried to take {amount} {unit}"
    )
