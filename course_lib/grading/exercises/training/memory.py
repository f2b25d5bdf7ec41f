"""What a rank of a ZeRO run holds, in bytes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.training.naming import named, several
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

zero_memory = Exercise(
    "06.zero_memory", "zero_memory", "Who pays for 16 bytes?", difficulty=2, importance=5, minutes=15
)

_DTYPES = {
    "weights": torch.bfloat16,
    "gradients": torch.bfloat16,
    "master": torch.float32,
    "exp_avg": torch.float32,
    "exp_avg_sq": torch.float32,
}
_STATE = ("master", "exp_avg", "exp_avg_sq")
_FROM = dict.fromkeys(_STATE, 1) | {"gradients": 2, "weights": 3}
Bytes = dict[str, int]
Memory = tuple[Bytes, Bytes]
_NUMEL, _RANKS = st.integers(1, 400), st.integers(1, 9)


@zero_memory.part(3, "stage 0: 16 bytes for each parameter on every rank")
def _whole(answer: Answer) -> None:
    with _named(answer, stages=(0,)):
        for_all(lambda numel, ranks: _compare(answer, numel, ranks, 0, False), examples=40, numel=_NUMEL, ranks=_RANKS)


@zero_memory.part(4, "stages 1, 2 and 3: optimizer state, then gradients, then weights are cut into equal slices")
def _stages(answer: Answer) -> None:
    with _named(answer, stages=(1, 2, 3)):
        for_all(
            lambda numel, ranks, stage: _compare(answer, numel, ranks, stage, False),
            examples=120,
            numel=_NUMEL,
            ranks=_RANKS,
            stage=st.integers(1, 3),
        )


@zero_memory.part(3, "`offload_optimizer`: what moves to the host is the rank's own slice, and it is off the device")
def _offload(answer: Answer) -> None:
    with _named(answer, stages=(2, 3), offload=True):
        for_all(
            lambda numel, ranks, stage: _compare(answer, numel, ranks, stage, True),
            examples=80,
            numel=_NUMEL,
            ranks=_RANKS,
            stage=st.integers(2, 3),
        )


def _right(numel: int, ranks: int, stage: int, offload: bool) -> Memory:
    """Let PyTorch pad, cut and measure: tensors on the device `meta` have a size, and take no memory."""
    device: Bytes = {}
    host: Bytes = {}
    for what, dtype in _DTYPES.items():
        flat = torch.empty(numel, dtype=dtype, device="meta")
        if stage >= _FROM[what]:
            flat = torch.nn.functional.pad(flat, (0, -numel % ranks)).chunk(ranks)[0]
        (host if offload and what != "weights" else device)[what] = flat.nbytes
    return device, host


@dataclass(frozen=True)
class _Rules:
    """Rules for who holds what; each default is right, each other value is a mistake that people make."""

    size: Mapping[str, int] = field(default_factory=lambda: {what: dtype.itemsize for what, dtype in _DTYPES.items()})
    first_stage: Mapping[str, int] = field(default_factory=lambda: _FROM)
    cut: Callable[[int, int], int] = lambda numel, ranks: -(-numel // ranks)
    to_host: tuple[str, ...] = ("gradients", *_STATE)
    host_copies: bool = False
    host_whole: bool = False

    def __call__(self, numel: int, ranks: int, stage: int, offload: bool) -> Memory:
        held = {
            what: size * (self.cut(numel, ranks) if stage >= self.first_stage[what] else numel)
            for what, size in self.size.items()
        }
        moved = self.to_host if offload else ()
        host = {what: self.size[what] * numel if self.host_whole else held[what] for what in held if what in moved}
        return {what: number for what, number in held.items() if what not in host or self.host_copies}, host


def _compare(answer: Answer, numel: int, ranks: int, stage: int, offload: bool) -> None:
    right = _right(numel, ranks, stage, offload)
    got = call(answer, numel, ranks, stage, offload)
    if not isinstance(got, tuple) or len(got) != 2 or not all(isinstance(place, dict) for place in got):
        raise WrongAnswer("no-pair", f"two dicts were expected, the device's and the host's bytes, and {got!r} came")
    if unknown := [what for place in got for what in place if what not in _DTYPES]:
        raise WrongAnswer("other-keys", f"the dicts have the keys {', '.join(_DTYPES)}, and {unknown[0]!r} came")
    if any(not isinstance(number, int) for place in got for number in place.values()):
        raise WrongAnswer("not-an-integer", "bytes are whole: use // where / makes a float, and round up, not down")
    if _same(got, right):
        return
    offloaded = ", optimizer offloaded" if offload else ""
    given = f"{several(numel, 'parameter')}, {several(ranks, 'rank')}, stage {stage}{offloaded}"
    wrong = [
        f"{theirs.get(what, 0)} bytes of {what} expected on the {place}, {mine.get(what, 0)} came"
        for place, mine, theirs in zip(("device", "host"), got, right, strict=True)
        for what in _DTYPES
        if mine.get(what, 0) != theirs.get(what, 0)
    ]
    raise WrongAnswer("wrong-bytes", f"{given}: {wrong[0]}", _picture(given, got, right))


def _same(one: Any, other: Any) -> bool:
    """Whether two answers say the same; what is 0 bytes need not be named."""
    return isinstance(one, tuple) and [{k: v for k, v in d.items() if v} for d in one] == [
        {k: v for k, v in d.items() if v} for d in other
    ]


def _picture(given: str, got: Memory, right: Memory) -> Table:
    rows: list[list[Cell | str]] = []
    for what in _DTYPES:
        cells: list[Cell | str] = [what]
        for mine, theirs in zip(got, right, strict=True):
            came, expected = mine.get(what, 0), theirs.get(what, 0)
            cells += [Cell(str(came), "right" if came == expected else "wrong"), str(expected)]
        rows.append(cells)
    columns = ["bytes of", ">yours, device", ">expected", ">yours, host", ">expected"]
    return Table(f"A rank's bytes: {given}", columns, rows)


def _named(answer: Answer, stages: tuple[int, ...], offload: bool = False) -> Any:
    inputs = [(numel, ranks, stage, offload) for numel, ranks in ((100, 4), (103, 8), (35, 3)) for stage in stages]
    hint = "write the five tensors down, and who holds which"
    return named("wrong-bytes", answer, _right, _MISTAKES, inputs, _same, hint)


def _sizes(**changed: int) -> _Rules:
    return _Rules(size={**_Rules().size, **changed})


def _first(**stages: int) -> _Rules:
    return _Rules(first_stage=_FROM | stages)


_MISTAKES = [
    Mistake("no-master", "bf16 weights need an fp32 copy that the optimizer updates", _sizes(master=0)),
    Mistake("one-moment", "Adam keeps two moments of each parameter, the mean and the square", _sizes(exp_avg_sq=0)),
    Mistake(
        "bf16-state",
        "master and moments are fp32: in 2 bytes small changes are rounded away",
        _sizes(master=2, exp_avg=2, exp_avg_sq=2),
    ),
    Mistake("fp32-gradients", "the gradients have the weights' dtype, which is bf16 here", _sizes(gradients=4)),
    Mistake(
        "nothing-partitioned", "the number of ranks changes nothing here", _Rules(first_stage=dict.fromkeys(_DTYPES, 9))
    ),
    Mistake(
        "master-stays-whole", "the fp32 copy is a part of the optimizer's state, and is cut with it", _first(master=9)
    ),
    Mistake("gradients-at-stage-1", "stage 1 partitions the optimizer's state alone", _first(gradients=1)),
    Mistake("gradients-at-stage-3", "the gradients are partitioned one stage before the weights", _first(gradients=3)),
    Mistake("weights-at-stage-2", "at stage 2 every rank still has all weights", _first(weights=2)),
    Mistake(
        "everything-partitioned",
        "stage 1 and 2 partition less than stage 3",
        _Rules(first_stage=dict.fromkeys(_DTYPES, 1)),
    ),
    Mistake(
        "always-sliced",
        "stage 0 partitions nothing: every rank has everything",
        _Rules(first_stage=dict.fromkeys(_DTYPES, 0)),
    ),
    Mistake(
        "drops-the-rest",
        "what does not divide was rounded away: the ranks' slices together have fewer elements than the model",
        _Rules(cut=lambda numel, ranks: numel // ranks),
    ),
    Mistake(
        "one-too-many",
        "padding is only for what does not divide: here an element was added where it does",
        _Rules(cut=lambda numel, ranks: numel // ranks + 1),
    ),
    Mistake("ignores-offload", "nothing moved to the host", _Rules(to_host=())),
    Mistake("gradients-stay", "the host updates, so it needs the gradients, too", _Rules(to_host=_STATE)),
    Mistake(
        "offloads-the-weights",
        "the weights stay: forward and backward run on the device",
        _Rules(to_host=tuple(_DTYPES)),
    ),
    Mistake("counted-twice", "what is on the host is no longer on the device", _Rules(host_copies=True)),
    Mistake("whole-on-the-host", "a rank brings its own slice to the host, and not all of it", _Rules(host_whole=True)),
]
