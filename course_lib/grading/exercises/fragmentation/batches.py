"""A batch that is refilled at every iteration, against a play step by step."""

from typing import Any

from hypothesis import strategies as st

from course_lib.fragmentation.batching import static_batches
from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.fragmentation.mistakes import Mistakes, named
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

end_steps = Exercise(
    "02.batching", "end_steps", "A batch that is refilled at every iteration", difficulty=2, importance=4, minutes=20
)


@end_steps.part(3, "as many requests as there are rows run from the first step on")
def _together(answer: Answer) -> None:
    _judged(answer, lambda outputs, rows: _compare(answer, outputs[:rows], rows))


@end_steps.part(4, "a row that gets free goes to the next request in the very next step")
def _refilled(answer: Answer) -> None:
    _judged(answer, lambda outputs, rows: _compare(answer, outputs, rows))


@end_steps.part(3, "no place idles while somebody waits")
def _busy(answer: Answer) -> None:
    def look(outputs: list[int], rows: int) -> None:
        ends = _ends(answer, outputs, rows)
        starts = [end - length for end, length in zip(ends, outputs, strict=True)]
        for step in range(max(starts)):
            running = sum(start <= step < end for start, end in zip(starts, ends, strict=True))
            if running != rows:
                said = (
                    f"end_steps({outputs}, {rows}) gave {ends}: in step {step + 1}, {running} of {rows} rows are busy"
                )
                raise WrongAnswer("idle-places" if running < rows else "too-many-rows", f"{said}, and somebody waits")

    _judged(answer, look)


def _judged(answer: Answer, look: Any) -> None:
    outputs = st.lists(st.integers(1, 9), min_size=1, max_size=10)
    try:
        for_all(look, examples=150, outputs=outputs, rows=st.integers(1, 4))
    except WrongAnswer as wrong:
        raise named(answer, wrong, _MISTAKES, _INPUTS) from None


def _ends(answer: Answer, outputs: list[int], rows: int) -> list[int]:
    got = call(answer, list(outputs), rows)
    if not isinstance(got, list) or len(got) != len(outputs) or not all(isinstance(end, int) for end in got):
        said = f"end_steps({outputs}, {rows}) gave {got!r}; expected a list of {len(outputs)} whole numbers"
        raise WrongAnswer("no-step-for-each", said)
    return got


def _compare(answer: Answer, outputs: list[int], rows: int) -> None:
    got, right = _ends(answer, outputs, rows), _right(outputs, rows)
    if got != right:
        said = f"end_steps({outputs}, {rows}) gave {got}, expected {right}"
        raise WrongAnswer("wrong-ends", said, _table(outputs, rows, got, right))


def _right(outputs: list[int], rows: int) -> list[int]:
    """Played step by step, the slow way."""
    left, ends, waiting, running, step = list(outputs), [0] * len(outputs), list(range(len(outputs))), list[int](), 0
    while waiting or running:
        step += 1
        while waiting and len(running) < rows:
            running.append(waiting.pop(0))
        for request in running:
            left[request] -= 1
            ends[request] = step
        running = [request for request in running if left[request]]
    return ends


def _table(outputs: list[int], rows: int, got: list[int], right: list[int]) -> Table:
    lines: list[list[Cell | str]] = [
        [str(number), str(outputs[number]), Cell(str(end), "right" if end == wanted else "wrong"), str(wanted)]
        for number, (end, wanted) in enumerate(zip(got, right, strict=True))
    ]
    return Table(f"{rows} rows", [">request", ">tokens", ">your last step", ">expected"], lines)


def _one_row_each(outputs: list[int], rows: int) -> list[int]:
    """The i-th request goes to row i modulo rows, free or not."""
    ends, free = [], [0] * rows
    for number, length in enumerate(outputs):
        free[number % rows] += length
        ends.append(free[number % rows])
    return ends


def _paused(outputs: list[int], rows: int) -> list[int]:
    ends, free = [], [0] * rows
    for length in outputs:
        start = min(free)
        free[free.index(start)] = start + length + 1
        ends.append(start + length)
    return ends


def _sorted(outputs: list[int], rows: int, reverse: bool) -> list[int]:
    order = sorted(range(len(outputs)), key=lambda number: outputs[number], reverse=reverse)
    ends = dict(zip(order, _right([outputs[number] for number in order], rows), strict=True))
    return [ends[number] for number in range(len(outputs))]


_INPUTS: list[tuple[list[int], int]] = [
    ([5, 2, 7, 3, 1, 4], 2),
    ([3, 9, 1, 6, 2, 2, 8], 3),
    ([4, 4, 1], 2),
    ([2, 5, 3], 1),
    ([6, 1, 1, 1, 1, 3], 2),
]
_MISTAKES: Mistakes = {
    "static": (
        "The next requests wait until the whole batch has ended",
        lambda outputs, rows: [turn.start + turn.length for turn in static_batches(outputs, rows).turns],
    ),
    "round-robin": ("A request waits for its own row while another one is free", _one_row_each),
    "one-after-the-other": (
        "One request runs at a time; the other rows idle",
        lambda outputs, _rows: [sum(outputs[: number + 1]) for number in range(len(outputs))],
    ),
    "all-at-once": ("All requests run at once, however few rows there are", lambda outputs, _rows: list(outputs)),
    "idle-step-between": (
        "A step passes between a request's end and the next one's start",
        _paused,
    ),
    "gives-the-starts": (
        "These are the steps before each request's first one, not its last ones",
        lambda outputs, rows: [end - length for end, length in zip(_right(outputs, rows), outputs, strict=True)],
    ),
    "shortest-first": (
        "Short requests overtake those that came before them",
        lambda outputs, rows: _sorted(outputs, rows, False),
    ),
    "longest-first": (
        "Long requests overtake those that came before them",
        lambda outputs, rows: _sorted(outputs, rows, True),
    ),
    "counts-from-zero": (
        "The first step is step 1: a request of one token that starts at once ends with step 1",
        lambda outputs, rows: [end - 1 for end in _right(outputs, rows)],
    ),
}
