"""The pictures of lesson 05 say the right numbers, and draw without a warning."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.machine.prerequisites import Check
from course_lib.serving.metrics import EngineSample, RequestTimes, Watched
from course_lib.viz import lesson_05
from course_lib.viz.theme import CourseFigure

LOGITS = st.lists(st.floats(-8, 8), min_size=1, max_size=30)
LENGTHS = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=9)


def titles(figure: CourseFigure) -> str:
    figure._repr_png_()
    return " | ".join(axes.get_title(loc="left") for axes in figure.axes)


def answer(tokens: list[int], logprobs: list[float], others: dict[int, dict[int, float]] | None = None) -> Any:
    """An output as vLLM gives it: tokens, and at each place the logprobs of some."""
    found = []
    for place, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
        reported = {token: logprob} | (others or {}).get(place, {})
        found.append({one: SimpleNamespace(logprob=value, decoded_token=f"<{one}>") for one, value in reported.items()})
    return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(tokens), logprobs=found)])


@given(LOGITS, st.floats(0.2, 3), st.floats(0.05, 1))
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(
    logits: list[float], temperature: float, top_p: float
) -> None:
    weights = [math.exp(logit / temperature) for logit in logits]
    whole = [weight / sum(weights) for weight in weights]
    found = lesson_05.nucleus(logits, temperature, top_p)
    kept = [share for share, left in zip(whole, found, strict=True) if left]
    gone = [share for share, left in zip(whole, found, strict=True) if not left]
    assert sum(found) == pytest.approx(1)
    assert sum(kept) >= top_p - 1e-9
    assert sum(share for share in kept if share > min(kept) * (1 + 1e-9)) < top_p + 1e-9
    assert max(gone, default=0) <= min(kept)
    for share, left in zip(whole, found, strict=True):
        assert left == 0 or left == pytest.approx(share / sum(kept))


@pytest.mark.filterwarnings("error")
def test_sampling_says_how_many_tokens_are_left() -> None:
    shares = [0.5, 0.3, 0.15, 0.05]
    logprobs = {10 + place: math.log(share) for place, share in enumerate(shares)}
    words = {token: f"word {token}" for token in logprobs}
    figure = lesson_05.sampling(words, logprobs, [(1.0, 1.0), (1.0, 0.7)], {10: 6, 11: 4}, shown=3)
    assert "temperature 1\n4 tokens can come" in titles(figure)
    assert "temperature 1, top-p 0.7\n2 tokens can come" in titles(figure)
    (dots,) = figure.axes[1].lines
    assert list(dots.get_xdata()) == [60, 40, 0]
    assert [bar.get_width() for bar in figure.axes[1].patches] == pytest.approx([62.5, 37.5, 0])


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_answers_part_where_their_beginnings_end(one: list[int], other: list[int]) -> None:
    place = lesson_05.parting(one, other)
    if place is None:
        assert one == other
    else:
        assert one[:place] == other[:place]
        assert one[place : place + 1] != other[place : place + 1]


def test_partings_show_both_tokens_and_the_distance_before() -> None:
    one = [answer([1, 2, 3], [-0.1, -0.2, -0.7], {2: {9: -0.71}}), answer([1, 2], [-0.1, -0.2])]
    other = [answer([1, 2, 9], [-0.1, -0.25, -0.6]), answer([1, 2], [-0.1, -0.2])]
    table = lesson_05.partings(["first", "second"], one, other, ("here", "there"))
    first, second = ([cell.text for cell in row] for row in table.rows)
    assert first == ["first", "2 of 3", "0.0500", "'<3>' (49.7%)", "'<9>' (49.2%)"]
    assert second == ["second", "all 2", "0.0000", "", ""]
    unknown = lesson_05.partings(["first"], other[:1], one[:1], ("there", "here"))
    assert unknown.rows[0][-1].text == "another one"


@given(LENGTHS)
@settings(max_examples=5, deadline=None)
def test_waste_is_what_the_picture_paints_for_nobody(lengths: list[tuple[int, int]]) -> None:
    prompts, outputs = zip(*lengths, strict=True)
    figure = lesson_05.padding(prompts, outputs)
    areas: dict[Any, float] = {}
    for patch in figure.axes[0].patches:
        color = patch.get_facecolor()
        areas[color] = areas.get(color, 0) + patch.get_width()
    computed = sum(areas.values())
    assert computed == len(lengths) * (max(prompts) + max(outputs))
    used = sum(prompts) + sum(outputs)
    assert lesson_05.wasted(prompts, outputs) == pytest.approx(1 - used / computed)
    assert f"{1 - used / computed:.0%} of what is computed" in figure.axes[0].get_title(loc="left")


@pytest.mark.filterwarnings("error")
def test_the_share_is_not_the_pool() -> None:
    splits = {f"{share}": {"weights": 8 * 2**30, "KV cache": (share * 80 - 8) * 2**30} for share in (0.2, 0.4)}
    figure = lesson_05.memory_split(splits, 80 * 2**30)
    assert "From 8.0 to 24.0 GiB" in titles(figure)
    assert sum(patch.get_width() for patch in figure.axes[0].patches) == pytest.approx(160)


@pytest.mark.filterwarnings("error")
def test_waits_are_the_requests_and_the_steps() -> None:
    samples = [EngineSample(0.1 * step, step % 3, 0, 0.5, 0, 0, 0, step) for step in range(1, 6)]
    requests = [RequestTimes(0.1, [0.02, 0.03]), RequestTimes(0.4, [0.5])]
    figure = lesson_05.waits(Watched(samples, [], requests, 0.5))
    assert "First token:\n0.10 to 0.40 s" in titles(figure)
    assert "Between tokens: median 30 ms,\nworst 500 ms" in titles(figure)
    (dots,) = figure.axes[2].lines
    assert list(dots.get_ydata()) == pytest.approx([100] * 5)
    assert list(dots.get_xdata()) == [1, 2, 0, 1, 2]
    lesson_05.waits(Watched(samples, [], [RequestTimes(0.1)], 0.5))._repr_png_()


@pytest.mark.filterwarnings("error")
def test_the_small_ones() -> None:
    table = lesson_05.sample_tables({"0": [4, 7], "1": [4, 8, 9]})
    assert "5 entries, 4 blocks" in table.caption
    assert [[cell.text for cell in row] for row in table.rows] == [["0", "4", "7", ""], ["1", "4", "8", "9"]]
    assert [cell.mark for cell in table.rows[0][1:]] == ["right", "", ""]
    figure = lesson_05.arrivals({"one": [0.1, 0.2], "two": []}, "When")
    assert titles(figure) == "When"
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [2, 0]
    checks = lesson_05.checks_table([Check("tier", "ok", "cpu"), Check("memory", "failed", "1 GiB", "Get more.")])
    assert "✗ 1 GiB" in repr(checks) and "Get more." in repr(checks)
