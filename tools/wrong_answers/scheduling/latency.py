# ruff: noqa: D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""Latencies of a stream."""

from itertools import pairwise
from statistics import mean, median

from wrong_answers import wrong


def _waits(times):
    return [b - a for stream in times.values() for a, b in pairwise(stream)]


def _paces(times):
    return [(stream[-1] - stream[0]) / (len(stream) - 1) for stream in times.values() if len(stream) > 1]


def _answer(arrivals, times, **changed):
    waits, paces = _waits(times), _paces(times)
    return {
        "ttft": median([stream[0] - arrivals[name] for name, stream in times.items()]),
        "itl": median(waits) if waits else 0.0,
        "worst": max(waits, default=0.0),
        "tpot": mean(paces) if paces else 0.0,
    } | changed


@wrong("04.latency", "from-time-zero", "Takes the clock's time of the first token for the wait.")
def from_zero(arrivals, token_times):
    return _answer(arrivals, token_times, ttft=median([stream[0] for stream in token_times.values()]))


@wrong("04.latency", "mean-of-first-tokens", "Takes the mean where the median is asked for.")
def mean_first(arrivals, token_times):
    return _answer(arrivals, token_times, ttft=mean([s[0] - arrivals[n] for n, s in token_times.items()]))


@wrong("04.latency", "first-token-is-a-wait", "Counts the wait for the first token among those between tokens.")
def with_first(arrivals, token_times):
    waits = []
    for name, stream in token_times.items():
        before = arrivals[name]
        for time in stream:
            waits.append(time - before)
            before = time
    return _answer(arrivals, token_times, itl=median(waits), worst=max(waits))


@wrong("04.latency", "all-in-one-stream", "Puts all requests' tokens in one row.")
def one_stream(arrivals, token_times):
    row = sorted(time for stream in token_times.values() for time in stream)
    waits = [b - a for a, b in pairwise(row)] or [0.0]
    return _answer(arrivals, token_times, itl=median(waits), worst=max(waits))


@wrong("04.latency", "mean-hides-the-stall", "Averages each request's waits before it looks for the worst.")
def averaged(arrivals, token_times):
    paces = _paces(token_times) or [0.0]
    return _answer(arrivals, token_times, itl=median(paces), worst=max(paces))


@wrong("04.latency", "divides-by-all-tokens", "Divides by the number of tokens and not of waits.")
def by_tokens(arrivals, token_times):
    paces = [(s[-1] - s[0]) / len(s) for s in token_times.values() if len(s) > 1]
    return _answer(arrivals, token_times, tpot=mean(paces) if paces else 0.0)


@wrong("04.latency", "queue-in-the-pace", "Begins to count at the arrival.")
def from_arrival(arrivals, token_times):
    return _answer(arrivals, token_times, tpot=mean([(s[-1] - arrivals[n]) / len(s) for n, s in token_times.items()]))


@wrong("04.latency", "one-mean-for-all-waits", "Averages over waits and not over requests.")
def pooled(arrivals, token_times):
    return _answer(arrivals, token_times, tpot=mean(_waits(token_times) or [0.0]))


@wrong("04.latency", "crash", "Divides by zero for an answer of one token.")
def one_token(arrivals, token_times):
    return _answer(arrivals, token_times, tpot=mean([(s[-1] - s[0]) / (len(s) - 1) for s in token_times.values()]))
