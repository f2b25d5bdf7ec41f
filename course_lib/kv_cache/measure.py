"""Measured, to be set beside what `cost` says: FLOPs as PyTorch counts them, seconds of a step, the speeds of this machine."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from course_lib.kv_cache.cache import ContiguousCache, LockstepCache
from course_lib.kv_cache.cost import Hardware
from course_lib.kv_cache.probes import Stopwatch, now
from course_lib.kv_cache.transformer import Transformer


@dataclass(frozen=True)
class StepTime:
    """How long a step took.

    Attributes:
        new_tokens: tokens that each sequence computed.
        context: tokens of each sequence after the step.
        batch: sequences.
        seconds: of the whole step.
        attention_seconds: of storing keys and values and attending, over all layers.
    """

    new_tokens: int
    context: int
    batch: int
    seconds: float
    attention_seconds: float

    @property
    def other_seconds(self) -> float:
        """What each token costs alone: projections, MLP, norms, LM head."""
        return self.seconds - self.attention_seconds


def time_step(model: Transformer, new_tokens: int, context: int, batch: int = 1, repeats: int = 3) -> StepTime:
    """Time a step of the model on meaningless tokens: the arithmetic is the same for all.

    Args:
        model: what computes.
        new_tokens: tokens that each sequence computes; as many as `context` for a prefill, or for a step without a cache.
        context: tokens of each sequence after the step.
        batch: sequences.
        repeats: the fastest one counts, since other programs only ever make a step slower.
    """
    times = []
    for _ in range(1 + repeats):  # the first one warms caches and kernels
        step, stopwatch = _step(model, new_tokens, context, batch)
        start = now(model.device)
        step()
        times.append((now(model.device) - start, stopwatch.seconds))
    seconds, attention_seconds = min(times[1:])
    return StepTime(new_tokens, context, batch, seconds, attention_seconds)


def count_step(model: Transformer, new_tokens: int, context: int, batch: int = 1) -> tuple[int, int]:
    """Return the FLOPs of a step's projections and of its attention, counted by PyTorch operation by operation."""
    step, _ = _step(model, new_tokens, context, batch)
    with FlopCounterMode(display=False) as counter:
        step()
    found = {str(operation): flops for operation, flops in counter.get_flop_counts()["Global"].items()}
    attention = found.pop("aten.bmm", 0)  # attention multiplies head by head, in batches; a projection is one product
    return sum(found.values()), attention


def measure_hardware(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Hardware:
    """Measure this machine: matrix times matrix for FLOP/s, matrix times vector for bytes/s. Takes about a second."""
    device = torch.device(device)
    size = 8192 if device.type == "cuda" else 2048
    square = torch.randn(size, size, device=device, dtype=dtype)
    # Large enough that no cache holds it.
    tall = torch.ones(2**17 if device.type == "cuda" else 2**15, 4096, device=device, dtype=dtype)
    vector = torch.ones(1, 4096, device=device, dtype=dtype)
    flops = 2 * size**3 / _fastest(lambda: square @ square, device)
    bandwidth = tall.nbytes / _fastest(lambda: torch.nn.functional.linear(vector, tall), device)
    return Hardware(f"this machine's {device.type.upper()}, {str(dtype).removeprefix('torch.')}", flops, bandwidth)


def _step(model: Transformer, new_tokens: int, context: int, batch: int) -> tuple[Callable[[], object], Stopwatch]:
    """Return a step to run once, and the stopwatch in it."""
    memory = ContiguousCache.for_model(model, context, sequences=batch)
    memory.length = context - new_tokens  # as if they had been computed: zeros are keys like any others
    cache = Stopwatch(LockstepCache(batch, memory))
    tokens = torch.zeros(batch * new_tokens, dtype=torch.long, device=model.device)
    positions = torch.arange(context - new_tokens, context, device=model.device).repeat(batch)

    def step() -> object:
        hidden = model.hidden_states(tokens, positions, cache)
        return model.logits(hidden.view(batch, new_tokens, -1)[:, -1])

    return step, cache


def _fastest(work: Callable[[], object], device: torch.device, repeats: int = 8) -> float:
    """Return the seconds of the fastest of some runs."""
    work()
    seconds = []
    for _ in range(repeats):
        start = now(device)
        work()
        seconds.append(now(device) - start)
    return min(seconds)
