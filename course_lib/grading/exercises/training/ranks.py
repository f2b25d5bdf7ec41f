"""Ranks in one process: a thread each, and collectives that count what they send."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from course_lib.grading.exercise import WrongAnswer

_T = TypeVar("_T")


@dataclass(frozen=True)
class Sent:
    """A collective that a rank took part in.

    Attributes:
        op: `reduce_scatter`, `all_gather` or `all_reduce`.
        dtype: of the tensor that it was given.
        nbytes: bytes that this rank sends in a ring of all ranks (ZeRO paper, section 7).
    """

    op: str
    dtype: torch.dtype
    nbytes: int


@dataclass(repr=False)
class Communicator:
    """What a rank has of the others: three of torch.distributed's collectives. Each rank has to call them in the same order.

    Attributes:
        rank: this rank's number, from 0.
        size: how many ranks there are.
        sent: the collectives so far.
    """

    rank: int
    size: int
    _meeting: "_Meeting"
    sent: list[Sent] = field(default_factory=list)

    def reduce_scatter(self, tensor: Tensor) -> Tensor:
        """Return slice number `rank` of the mean of all ranks' tensors.

        Raises:
            ValueError: the tensor is not flat, or its length is no multiple of `size`.
        """
        if tensor.ndim != 1 or len(tensor) % self.size:
            raise ValueError(
                f"reduce_scatter cuts a flat tensor into {self.size} equal slices, and this one has shape {list(tensor.shape)}"
            )
        self._count("reduce_scatter", tensor, tensor.nbytes * (self.size - 1) // self.size)
        return _mean(self._meeting.meet(self.rank, "reduce_scatter", tensor)).chunk(self.size)[self.rank].clone()

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return all ranks' tensors, joined in the order of the ranks."""
        self._count("all_gather", tensor, tensor.nbytes * (self.size - 1))
        return torch.cat(self._meeting.meet(self.rank, "all_gather", tensor))

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the mean of all ranks' tensors."""
        self._count("all_reduce", tensor, 2 * tensor.nbytes * (self.size - 1) // self.size)
        return _mean(self._meeting.meet(self.rank, "all_reduce", tensor))

    def _count(self, op: str, tensor: Tensor, nbytes: int) -> None:
        self.sent.append(Sent(op, tensor.dtype, nbytes))

    def __repr__(self) -> str:
        return f"Communicator(rank {self.rank} of {self.size})"


def run_ranks(size: int, body: Callable[[Communicator], _T]) -> list[_T]:
    """Run `body` as that many ranks, a thread each; return what each of them returned.

    Raises:
        WrongAnswer: `hang`, where a rank waits in a collective that another one never calls.
        BaseException: what the first rank that failed raised.
    """
    meeting = _Meeting(size)
    ranks = [_Rank(rank, meeting, body) for rank in range(size)]
    try:
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
    finally:
        meeting.close(_LeftError())  # nobody is left waiting, whatever ended this one
    errors = [rank.error for rank in ranks if rank.error]
    if errors:
        raise next((error for error in errors if not isinstance(error, _LeftError)), meeting.error or errors[0])
    return [rank.result for rank in ranks]


def _mean(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.detach().float() for tensor in tensors]).mean(0).to(tensors[0].dtype)


class _LeftError(BaseException):
    """Another rank ended while this one waited for it. Not an Exception, so that no answer swallows it."""


class _Rank(threading.Thread, Generic[_T]):
    result: _T

    def __init__(self, number: int, meeting: "_Meeting", body: Callable[[Communicator], _T]) -> None:
        super().__init__(daemon=True)
        self.number, self.meeting, self.body = number, meeting, body
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.body(Communicator(self.number, self.meeting.size, self.meeting))
        except BaseException as error:  # noqa: BLE001  it is raised again in the thread that started this one
            self.error = error
        self.meeting.leave(self.number)


class _Meeting:
    """Where the ranks meet: a collective ends when every rank has come to it."""

    def __init__(self, size: int) -> None:
        self.error: BaseException | None = None
        self.size = size
        self._changed = threading.Condition()
        self._came: dict[int, tuple[str, Tensor]] = {}
        self._left: set[int] = set()
        self._results: list[list[Tensor]] = []

    def meet(self, rank: int, op: str, tensor: Tensor) -> list[Tensor]:
        """Wait for the other ranks; return all ranks' tensors."""
        with self._changed:
            number = len(self._results)
            self._came[rank] = (op, tensor.detach().clone())
            self._look()
            self._changed.wait_for(lambda: len(self._results) > number or self.error)
            if len(self._results) > number:
                return self._results[number]
            raise _LeftError

    def leave(self, rank: int) -> None:
        """Count a rank as ended."""
        with self._changed:
            self._left.add(rank)
            self._look()

    def close(self, error: BaseException) -> None:
        """Let everybody who waits raise."""
        with self._changed:
            self.error = self.error or error
            self._changed.notify_all()

    def _look(self) -> None:
        """Once every rank came or ended: end the collective, or say why it never ends."""
        if not self._came or len(self._came) + len(self._left) < self.size:
            return
        ops = {f"{op} of {list(tensor.shape)} {_name(tensor)}" for op, tensor in self._came.values()}
        if self._left:
            waits, gone = min(self._came), min(self._left)
            said = f"rank {waits} waits in {self._came[waits][0]}, and rank {gone} ended without it: a real job hangs"
            self.close(WrongAnswer("hang", said))
        elif len(ops) > 1:
            said = f"at the same time ranks call {' and '.join(sorted(ops))}: a real job hangs here"
            self.close(WrongAnswer("hang", said))
        else:
            self._results.append([self._came[rank][1] for rank in range(self.size)])
            self._came = {}
            self._changed.notify_all()


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
