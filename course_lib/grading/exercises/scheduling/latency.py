"""What a reader feels: waits for the first token, and between tokens."""

from itertools import pairwise
from statistics import mean, median

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake, recognise
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

latencies = Exercise("04.latency", "streaming_latencies", "What a reader feels", difficulty=2, importance=4, minutes=12)

Arrivals = dict[str, float]
Times = dict[str, list[float]]
_SECONDS = st.integers(1, 40).map(lambda tenths: tenths / 10)


@st.composite
def _streams(draw: st.DrawFn, longest: int = 5) -> tuple[Arrivals, Times]:
    """Draw requests that come at any time, and their tokens' times."""
    arrivals: Arrivals = {}
    times: Times = {}
    for place in range(draw(st.integers(1, 4))):
        name = "ABCD"[place]
        clock = arrivals[name] = draw(_SECONDS)
        times[name] = []
        for wait in draw(st.lists(_SECONDS, min_size=1, max_size=longest)):
            clock += wait
            times[name].append(round(clock, 1))
    return arrivals, times


@latencies.part(3, "`ttft`: the median wait from a request's arrival to its first token")
def _first(answer: Answer) -> None:
    for_all(lambda streams: _compare(answer, streams[0], streams[1], ("ttft",)), examples=60, streams=_streams())


@latencies.part(4, "`itl` and `worst`: the median and the longest wait between two tokens of one request")
def _between(answer: Answer) -> None:
    for_all(lambda streams: _compare(answer, streams[0], streams[1], ("itl", "worst")), examples=80, streams=_streams())


@latencies.part(3, "`tpot`: the mean over requests of the time for each token after the first")
def _per_token(answer: Answer) -> None:
    for_all(lambda streams: _compare(answer, streams[0], streams[1], ("tpot",)), examples=60, streams=_streams())


def _waits(times: Times) -> list[float]:
    return [after - before for stream in times.values() for before, after in pairwise(stream)]


def _right(arrivals: Arrivals, times: Times) -> dict[str, float]:
    waits = _waits(times)
    paces = [(stream[-1] - stream[0]) / (len(stream) - 1) for stream in times.values() if len(stream) > 1]
    return {
        "ttft": median(stream[0] - arrivals[name] for name, stream in times.items()),
        "itl": median(waits) if waits else 0.0,
        "worst": max(waits, default=0.0),
        "tpot": mean(paces) if paces else 0.0,
    }


def _row(times: Times) -> list[float]:
    return sorted(time for stream in times.values() for time in stream)


def _same(one: object, other: object) -> bool:
    return isinstance(one, int | float) and isinstance(other, int | float) and abs(one - other) < 1e-9


def _compare(answer: Answer, arrivals: Arrivals, times: Times, keys: tuple[str, ...]) -> None:
    right = _right(arrivals, times)
    got = call(answer, dict(arrivals), {name: list(stream) for name, stream in times.items()})
    if not isinstance(got, dict) or set(got) != set(right):
        said = f"expected a dict with the keys {', '.join(right)}, and {got!r} came"
        raise WrongAnswer("other-keys", said)
    wrong = [key for key in keys if not _same(got[key], right[key])]
    if not wrong:
        return
    key = wrong[0]

    def agrees(one: object, other: object) -> bool:
        return isinstance(one, dict) and isinstance(other, dict) and _same(one.get(key), other[key])

    mistake = recognise(answer, [m for m in _MISTAKES if key in m.gives(*_INPUTS[0])], _INPUTS, agrees)
    name = mistake.name if mistake else f"wrong-{key}"
    why = mistake.why if mistake else "go through one request's times by hand"
    rows: list[list[Cell | str]] = [
        [name_, f"{arrivals[name_]:.1f}", ", ".join(f"{time:.1f}" for time in stream)]
        for name_, stream in times.items()
    ]
    table = Table("When tokens came (s)", ["request", ">arrival", "tokens"], rows)
    raise WrongAnswer(name, f"{key} is {right[key]:.3f} s here, and {got[key]!r} came: {why}", table)


_INPUTS: list[tuple[Arrivals, Times]] = [
    ({"A": 1.0, "B": 2.5, "C": 0.3}, {"A": [2.0, 2.4, 4.0], "B": [3.0, 3.1], "C": [0.9]}),
    ({"A": 0.5, "B": 0.7}, {"A": [1.1, 1.2, 1.9, 5.0], "B": [1.0, 2.5, 2.6]}),
    ({"A": 2.0}, {"A": [3.5, 3.7, 4.4]}),
]
_MISTAKES = [
    Mistake(
        "from-time-zero",
        "the request had not come yet at time 0, and nobody waited for it then",
        lambda _arrivals, times: {"ttft": median(stream[0] for stream in times.values())},
    ),
    Mistake(
        "mean-of-first-tokens",
        "this is the mean; a few long waits move it, and that is why the median is asked for",
        lambda arrivals, times: {"ttft": mean(stream[0] - arrivals[name] for name, stream in times.items())},
    ),
    Mistake(
        "first-token-is-a-wait",
        "the wait for a request's first token is no wait between two tokens: it has a number of its own",
        lambda arrivals, times: {
            "itl": median(_waits({name: [arrivals[name], *stream] for name, stream in times.items()})),
            "worst": max(_waits({name: [arrivals[name], *stream] for name, stream in times.items()})),
        },
    ),
    Mistake(
        "all-in-one-stream",
        "tokens of different requests were put in one row; a reader sees the tokens of one request only",
        lambda _arrivals, times: {
            "itl": median(_waits({"": _row(times)}) or [0.0]),
            "worst": max(_waits({"": _row(times)}), default=0.0),
        },
    ),
    Mistake(
        "mean-hides-the-stall",
        "each request's waits were averaged first: one long stall among many short waits disappears in that",
        lambda _arrivals, times: {"itl": median(_paces(times)), "worst": max(_paces(times))},
    ),
    Mistake(
        "divides-by-all-tokens",
        "between n tokens there are fewer than n waits",
        lambda _arrivals, times: {
            "tpot": mean([(s[-1] - s[0]) / len(s) for s in times.values() if len(s) > 1] or [0.0]),
        },
    ),
    Mistake(
        "queue-in-the-pace",
        "the wait for the first token is in it; what comes before the first token is no time for a token after it",
        lambda arrivals, times: {"tpot": mean((s[-1] - arrivals[name]) / len(s) for name, s in times.items())},
    ),
    Mistake(
        "one-mean-for-all-waits",
        "all waits were averaged together, so long answers count more; each request counts once",
        lambda _arrivals, times: {"tpot": mean(_waits(times) or [0.0])},
    ),
]


def _paces(times: Times) -> list[float]:
    return [(stream[-1] - stream[0]) / (len(stream) - 1) for stream in times.values() if len(stream) > 1] or [0.0]
