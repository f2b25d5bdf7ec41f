"""Who holds what: the share of weights, gradients and optimizer that a rank has, read off DeepSpeed's own tensors.

Ranges count numbers of the flat model: all weights one behind the other, in the order of `named_parameters()`. Stages 1 and 2 cut
that line once into as many pieces as there are ranks. Stage 3 cuts each weight by itself, so that a rank has a piece of every one.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from course_lib.training.engine import DeepSpeedTrainer
from course_lib.training.memory import SavedActivations

STATES = ("weights", "gradients", "master", "exp_avg", "exp_avg_sq")
"""What a rank holds from one micro-batch to the next, by the names of `zero_memory.CATEGORIES`."""

Range = tuple[int, int]


@dataclass(frozen=True)
class Holding:
    """One state in one precision on one rank.

    Attributes:
        state: one of `STATES`.
        dtype: torch's name of the precision.
        elements: numbers held, padding included.
        bytes: the memory of it, each piece once.
        host: whether it lies in host memory by design (offloading); on the cpu tier everything does.
        ranges: which numbers of the flat model, as half-open ranges in order.
    """

    state: str
    dtype: str
    elements: int
    bytes: int
    host: bool
    ranges: tuple[Range, ...]


@dataclass(frozen=True)
class Holdings:
    """All that one rank holds.

    Attributes:
        rank: whose.
        parameters: numbers in the whole model.
        parts: what it holds; a state may come in two precisions.
    """

    rank: int
    parameters: int
    parts: tuple[Holding, ...]

    def elements(self, state: str) -> int:
        """Return the numbers of a state that this rank holds, counted once where it has them in two precisions."""
        return max((part.elements for part in self.parts if part.state == state), default=0)

    def bytes(self, state: str | None = None, *, host: bool | None = None) -> int:
        """Return the bytes of a state, or of all, on the host, on the device, or on both."""
        return sum(part.bytes for part in self.parts if state in (None, part.state) and host in (None, part.host))

    def ranges(self, state: str) -> list[Range]:
        """Return which numbers of the flat model this rank has of a state."""
        return merged(pair for part in self.parts if part.state == state for pair in part.ranges)

    def __repr__(self) -> str:
        listed = ", ".join(f"{state} {self.bytes(state) / 2**20:.1f} MiB" for state in STATES)
        return f"Holdings(rank {self.rank} of a model of {self.parameters:,}: {listed})"


def holdings(trainer: DeepSpeedTrainer) -> Holdings:
    """Return what this rank holds now. Gradients are there between a backward pass and its step only: see `before_each_step`."""
    model = _FlatModel(trainer)
    return Holdings(trainer.engine.global_rank, model.size, tuple(_READERS[trainer.config.zero_stage](trainer, model)))


@contextmanager
def before_each_step(trainer: DeepSpeedTrainer, look: Callable[[int], None]) -> Iterator[None]:
    """Call `look(micro_batch)` after each backward pass of the `with` block, while its gradients are there.

    Before the last micro-batch of a step they are what adds up: whole in stages 0 and 1, this rank's part in stages 2 and 3.
    At the last one DeepSpeed has reduced them, and stage 1 too has thrown the others' parts away.
    """
    step, count = trainer.engine.step, 0

    def looked(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        look(count)
        count += 1
        return step(*args, **kwargs)

    trainer.engine.step = looked
    try:
        yield
    finally:
        del trainer.engine.step  # the class's own is there again


def activation_bytes(work: Callable[[], object], trainer: DeepSpeedTrainer) -> int:
    """Return the most bytes that autograd saves for a backward pass at one moment of `work()`; no weight counts.

    Args:
        work: a forward pass, or a whole step.
        trainer: whose weights not to count.
    """
    with SavedActivations(trainer.engine.module) as saved:
        work()
    return saved.storages.peak


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return the same numbers as few ranges in order."""
    joined: list[Range] = []
    for start, end in sorted(pair for pair in ranges if pair[0] < pair[1]):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


class _FlatModel:
    """Where each weight of a model lies on the line of all."""

    def __init__(self, trainer: DeepSpeedTrainer):
        self.weights: list[Any] = list(trainer.engine.module.parameters())
        self.size = 0
        self._start: dict[int, int] = {}
        for weight in self.weights:
            self._start[id(weight)] = self.size
            self.size += getattr(weight, "ds_numel", weight.numel())  # under ZeRO-3 the tensor itself is empty

    def whole(self, weights: Iterable[Any]) -> list[Range]:
        """Return the ranges of whole weights."""
        return [self.piece(weight, 0, getattr(weight, "ds_numel", weight.numel())) for weight in weights]

    def piece(self, weight: Any, start: int, length: int) -> Range:
        """Return the range of a part of one weight."""
        first = self._start[id(weight)]
        end = min(start + length, getattr(weight, "ds_numel", weight.numel()))  # the last rank's part may be padded
        return first + start, first + max(start, end)


def _holding(
    state: str, tensors: Iterable[Tensor | None], ranges: Iterable[Range], *, host: bool = False
) -> list[Holding]:
    """Return what these tensors hold together; nothing where there are none."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor for tensor in tensors if tensor is not None and tensor.numel()
    }
    if not storages:
        return []
    one = next(iter(storages.values()))
    size = sum(tensor.untyped_storage().nbytes() for tensor in storages.values())
    name = str(one.dtype).removeprefix("torch.")
    return [Holding(state, name, size // one.element_size(), size, host, tuple(merged(ranges)))]


def _optimizer(masters: list[Tensor], state: Any, ranges: list[Range], *, host: bool) -> Iterator[Holding]:
    yield from _holding("master", masters, ranges, host=host)
    for moment in ("exp_avg", "exp_avg_sq"):
        yield from _holding(
            moment, (state[master].get(moment) for master in masters if master in state), ranges, host=host
        )


def _replicated(trainer: DeepSpeedTrainer, model: _FlatModel) -> Iterator[Holding]:
    """Read stage 0: each rank has all of everything."""
    optimizer, whole = trainer.engine.optimizer, model.whole(model.weights)
    yield from _holding("weights", model.weights, whole)
    yield from _holding("gradients", (weight.grad for weight in model.weights), whole)
    masters = [master for group in optimizer.fp32_groups for master in group]
    yield from _optimizer(masters, optimizer.optimizer.state, whole, host=False)


def _partitioned(trainer: DeepSpeedTrainer, model: _FlatModel) -> Iterator[Holding]:
    """Read stages 1 and 2: `_hp_mapping` of a weight says which part of it this rank's master copy has."""
    optimizer, host = trainer.engine.optimizer, trainer.config.offload_optimizer
    mine = [
        model.piece(weight, mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel)
        for weight in model.weights
        if (mapping := weight._hp_mapping) is not None  # noqa: SLF001  # DeepSpeed's own way to find it
    ]
    yield from _holding("weights", model.weights, model.whole(model.weights))
    with_gradient = [weight for weight in model.weights if weight.grad is not None]
    yield from _holding("gradients", (weight.grad for weight in with_gradient), model.whole(with_gradient))
    for group, owned in enumerate(optimizer.params_in_partition):
        # A weight that the cut between two ranks goes through adds up whole on both.
        adding_up = None if host else optimizer.all_grad_tensors.get(group)
        reduced = None if host else optimizer.averaged_gradients.get(group)
        yield from _holding("gradients", adding_up or [], model.whole(owned))
        yield from _holding("gradients", [] if adding_up else reduced or [], mine)
        if host:
            yield from _holding("gradients", optimizer.accumulated_grads_in_cpu.values(), model.whole(owned), host=True)
    masters = optimizer.single_partition_of_fp32_groups
    yield from _holding("gradients", (master.grad for master in masters), mine, host=host)
    yield from _optimizer(masters, optimizer.optimizer.state, mine, host=host)


def _cut(trainer: DeepSpeedTrainer, model: _FlatModel) -> Iterator[Holding]:
    """Read stage 3: `ds_tensor` of a weight is this rank's part of it; the weight itself is empty unless it is gathered."""
    optimizer, config = trainer.engine.optimizer, trainer.config
    host, weights_host = config.offload_optimizer, config.offload_param
    rank = trainer.engine.global_rank
    mine = [
        model.piece(weight, rank * weight.ds_tensor.ds_numel, weight.ds_tensor.ds_numel) for weight in model.weights
    ]
    parts = [weight.ds_tensor for weight in model.weights]
    yield from _holding("weights", parts, mine, host=weights_host)
    cut = {part.untyped_storage().data_ptr() for part in parts}
    gathered = [weight for weight in model.weights if weight.numel() and weight.untyped_storage().data_ptr() not in cut]
    yield from _holding("weights", gathered, model.whole(gathered))
    yield from _holding("gradients", [optimizer.grad_partitions_flat_buffer], mine, host=host)
    masters = optimizer.fp32_partitioned_groups_flat
    yield from _holding("gradients", (master.grad for master in masters), mine, host=host)
    yield from _optimizer(masters, optimizer.optimizer.state, mine, host=host)


_READERS = {0: _replicated, 1: _partitioned, 2: _partitioned, 3: _cut}
