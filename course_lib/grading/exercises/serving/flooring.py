"""The least time in which a machine can serve some requests: the yardstick of a benchmark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake, recognise
from course_lib.grading.judge import call, for_all
from course_lib.kv_cache import MODELS, Hardware, ModelShape, kv_bytes_per_token
from course_lib.serving.benchmark import floor
from course_lib.viz.tables import Cell, Table

least_seconds = Exercise(
    "05.floor", "least_seconds", "How fast could it be at all?", difficulty=4, importance=4, minutes=25
)

Requests = list[tuple[int, int]]
_SHAPE = MODELS["SmolLM2-135M"]
_STARVED = Hardware("slow at reading memory", 1e25, 1e11)
_SLOW = Hardware("slow at arithmetic", 1e11, 1e12)
_LENGTHS = st.tuples(st.integers(1, 200), st.integers(1, 60))


@least_seconds.part(3, "one request: weights read in each step, keys and values written and read")
def _alone(answer: Answer) -> None:
    _judge(answer, st.lists(_LENGTHS, min_size=1, max_size=1), st.just(1), _STARVED)


@least_seconds.part(3, "many at once: a step reads the weights for all of them together")
def _together(answer: Answer) -> None:
    _judge(answer, st.lists(_LENGTHS, min_size=2, max_size=5), st.just(8), _STARVED)


@least_seconds.part(2, "few places: no step makes more tokens than requests may run at once")
def _places(answer: Answer) -> None:
    _judge(answer, st.lists(_LENGTHS, min_size=2, max_size=6), st.integers(1, 4), _STARVED)


@least_seconds.part(2, "a machine that is slow at arithmetic, which goes on while memory is read")
def _arithmetic(answer: Answer) -> None:
    _judge(answer, st.lists(_LENGTHS, min_size=1, max_size=5), st.integers(1, 8), _SLOW)


def _judge(
    answer: Answer, requests: st.SearchStrategy[Requests], places: st.SearchStrategy[int], hardware: Hardware
) -> None:
    for_all(
        lambda requests, places: _compare(answer, hardware, requests, places),
        examples=60,
        requests=requests,
        places=places,
    )


def _right(hardware: Hardware, requests: Requests, places: int) -> float:
    """Return the floor of `course bench serve`, with as many steps as the places make necessary."""
    least, outputs = floor(_SHAPE, hardware, requests), [output for _, output in requests]
    steps = max(*outputs, math.ceil(sum(outputs) / places))
    return max(least.flop_seconds, least.weight_seconds / max(outputs) * steps + least.kv_seconds)


def _same(one: object, other: object) -> bool:
    return isinstance(one, int | float) and isinstance(other, int | float) and math.isclose(one, other, rel_tol=1e-9)


def _compare(answer: Answer, hardware: Hardware, requests: Requests, places: int) -> None:
    def ask(hardware: Hardware, requests: Requests, places: int) -> object:
        return answer(_SHAPE, hardware, requests, places)

    right = _right(hardware, requests, places)
    got = call(answer, _SHAPE, hardware, list(requests), places)
    if not isinstance(got, int | float) or isinstance(got, bool):
        raise WrongAnswer("no-seconds", f"a number of seconds was expected, and {got!r:.80} came")
    if _same(got, right):
        return
    inputs = [(hardware, one, many) for one, many in _INPUTS]
    mistake = recognise(ask, _MISTAKES, [*inputs, (hardware, requests, places)], _same)
    name, why = (mistake.name, mistake.why) if mistake else ("wrong-seconds", "compare with the table, line by line")
    said = f"places={places}, requests={requests}, a machine that is {hardware.name}: {why}"
    raise WrongAnswer(
        name, f"{said}. Expected {right:.6g} s, and {got:.6g} came", _table(hardware, requests, places, got)
    )


def _table(hardware: Hardware, requests: Requests, places: int, got: float) -> Table:
    least, outputs = floor(_SHAPE, hardware, requests), [output for _, output in requests]
    steps = max(*outputs, math.ceil(sum(outputs) / places))
    rows: list[list[Cell | str]] = [
        ["steps", str(steps)],
        ["weights read", f"{least.weight_seconds / max(outputs) * steps:.6g} s"],
        ["keys and values read and written", f"{least.kv_seconds:.6g} s"],
        ["arithmetic", f"{least.flop_seconds:.6g} s"],
        ["expected", Cell(f"{_right(hardware, requests, places):.6g} s", "right")],
        ["yours", Cell(f"{got:.6g} s", "wrong")],
    ]
    return Table(f"{_SHAPE.name}, {hardware.flops:g} FLOP/s, {hardware.bandwidth:g} bytes/s", ["what", ">least"], rows)


@dataclass(frozen=True)
class _Sketch:
    """The floor; each default is right, each other value is a mistake that people make."""

    steps: Callable[[Sequence[int], int], float] = lambda outputs, places: max(
        *outputs, math.ceil(sum(outputs) / places)
    )
    reads: Callable[[int, int], int] = lambda prompt, output: sum(range(prompt + 1, prompt + output))
    written: Callable[[int, int], int] = lambda prompt, output: prompt + output - 1
    computed: Callable[[int, int], int] = lambda prompt, output: prompt + output - 1
    pairs: Callable[[int, int], int] = lambda prompt, output: sum(range(1, prompt + output))
    head: Callable[[int, int], int] = lambda prompt, output: output  # noqa: ARG005
    combine: Callable[[float, float], float] = max
    per_number: int = 2

    def __call__(self, hardware: Hardware, requests: Requests, places: int) -> float:
        shape: ModelShape = _SHAPE
        kv = sum(self.reads(*one) + self.written(*one) for one in requests) * kv_bytes_per_token(shape)
        weights = self.steps([output for _, output in requests], places) * shape.parameters * self.per_number
        flops = sum(
            2 * (shape.layer_weights * self.computed(*one) + shape.head_weights * self.head(*one))
            + 4 * shape.layers * shape.heads * shape.head_dim * self.pairs(*one)
            for one in requests
        )
        return self.combine(flops / hardware.flops, (weights + kv) / hardware.bandwidth)


def _static(outputs: Sequence[int], places: int) -> int:
    return sum(max(outputs[start : start + places]) for start in range(0, len(outputs), places))


_INPUTS: list[tuple[Requests, int]] = [
    ([(30, 20)], 1),
    ([(50, 7), (9, 30), (120, 16)], 3),
    ([(50, 8), (9, 30), (120, 17), (3, 24)], 2),
    ([(11, 13), (70, 14), (12, 16), (40, 5), (60, 13)], 4),
]
_MISTAKES = [
    Mistake(
        "weights-for-each",
        "the weights were read once for each request and step; the requests of a step share one reading",
        _Sketch(steps=lambda outputs, _: sum(outputs)),
    ),
    Mistake(
        "forgets-places",
        "so few steps can't make so many tokens: a step makes at most one for each place",
        _Sketch(steps=lambda outputs, _: max(outputs)),
    ),
    Mistake(
        "half-a-step",
        "steps are whole, and one that is not full reads all weights, too",
        _Sketch(steps=lambda outputs, places: max(*outputs, sum(outputs) / places)),
    ),
    Mistake(
        "forgets-the-longest",
        "a request makes one token a step: the longest answer needs as many steps as it has tokens",
        _Sketch(steps=lambda outputs, places: math.ceil(sum(outputs) / places)),
    ),
    Mistake(
        "static-batches",
        "groups were served one after the other, each until its longest ended; a floor may fill a place when it gets free",
        _Sketch(steps=_static),
    ),
    Mistake(
        "no-kv",
        "keys and values are missing: each token reads those of its whole request",
        _Sketch(reads=lambda *_: 0, written=lambda *_: 0),
    ),
    Mistake(
        "never-grows",
        "each step read the prompt's keys and values; those of the new tokens are read, too",
        _Sketch(reads=lambda prompt, output: prompt * (output - 1)),
    ),
    Mistake(
        "forgets-the-writes",
        "keys and values that are read had to be written first",
        _Sketch(written=lambda *_: 0),
    ),
    Mistake(
        "computes-the-last-token",
        "the last token of an answer is made and never computed: no keys and values of it, no step after it",
        _Sketch(
            reads=lambda prompt, output: sum(range(prompt + 1, prompt + output + 1)),
            written=lambda prompt, output: prompt + output,
            computed=lambda prompt, output: prompt + output,
            pairs=lambda prompt, output: sum(range(1, prompt + output + 1)),
        ),
    ),
    Mistake(
        "adds-both",
        "arithmetic and memory were added; at best they overlap, and the slower one decides",
        _Sketch(combine=lambda one, other: one + other),
    ),
    Mistake(
        "memory-only",
        "only memory was looked at; where arithmetic is slow, it decides",
        _Sketch(combine=lambda _, other: other),
    ),
    Mistake(
        "prompt-for-free",
        "the prompt's tokens have to be computed, too",
        _Sketch(
            computed=lambda _, output: output - 1,
            pairs=lambda prompt, output: sum(range(prompt + 1, prompt + output)),
        ),
    ),
    Mistake(
        "sees-the-future",
        "each token was paired with the whole prompt; it sees itself and those before it, and a floor counts no more",
        _Sketch(pairs=lambda prompt, output: prompt * prompt + sum(range(prompt + 1, prompt + output))),
    ),
    Mistake(
        "head-for-all",
        "the LM head is needed for the tokens that are made, and not for each token of the prompt",
        _Sketch(head=lambda prompt, output: prompt + output - 1),
    ),
]
