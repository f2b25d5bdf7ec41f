"""The page's arithmetic: ratios and fates of tokens, axes, the cursor's step, and stretches of KV use."""

import itertools
import math
import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.viz.dashboard_samples import grouped


@given(st.integers(0, 10_000))
@settings(max_examples=4, deadline=None)
def test_ratios_and_fates_are_those_of_the_run(runs: SimpleNamespace, node: Callable, seed: int) -> None:
    shown = grouped(runs.samples(30, random.Random(seed)), 16)
    samples = [sample for group in shown["groups"] for sample in group["samples"]]
    told = node(
        "dashboard_scale.mjs",
        "data.map((one) => one.tokens.text.map((_, at) => { const told = asset.token(one, at);"
        "return [told, asset.fate(told), ['advantage', 'ratio', 'mismatch'].map((kind) => asset.heat(told, kind, 2))]; }))",
        samples,
    )
    for sample, found in zip(samples, told, strict=True):
        tokens = sample["tokens"]
        for at, (token, fate, heats) in enumerate(found):
            seen = "trained" in tokens
            flags = {name: bool(tokens.get(name, [0] * 99)[at]) for name in ("clipped", "truncated", "masked")}
            assert token["seen"] == seen
            assert {name: token[name] for name in flags} == flags
            assert ("not trained on" in fate) == (not seen)
            if not seen:
                assert token["ratio"] is token["mismatch"] is heats[1] is heats[2] is None
                continue
            assert token["ratio"] == pytest.approx(math.exp(tokens["trained"][at] - tokens["old"][at]))
            assert token["mismatch"] == pytest.approx(math.exp(tokens["old"][at] - tokens["sampled"][at]))
            assert ("masked" in fate) == flags["masked"]
            if not flags["masked"]:
                assert [name for name in ("clipped", "truncated") if name in fate] == [
                    n for n in ("clipped", "truncated") if flags[n]
                ]
            for value, share in zip(
                (sample["advantage"], math.log(token["ratio"]), math.log(token["mismatch"])), heats, strict=True
            ):
                assert -1 <= share <= 1
                assert share * value >= 0
                assert (share == 0) == (value == 0)


def test_axes_are_round_and_the_cursor_finds_its_step(node: Callable) -> None:
    rng = random.Random(0)
    ranges = [
        sorted((rng.uniform(-1, 1) * 10 ** rng.randint(-6, 6), rng.uniform(-1, 1) * 10 ** rng.randint(-6, 6)))
        for _ in range(200)
    ]
    for (low, high), found in zip(
        ranges, node("dashboard_scale.mjs", "data.map(([low, high]) => asset.ticks(low, high))", ranges), strict=True
    ):
        gaps = [later - before for before, later in itertools.pairwise(found)]
        assert 1 <= len(found) <= 6
        assert all(low <= tick + 1e-8 * (high - low) and tick - 1e-8 * (high - low) <= high for tick in found)
        assert all(gap == pytest.approx(gaps[0], rel=1e-6) for gap in gaps)
    steps = [sorted(rng.sample(range(1000), rng.randint(1, 40))) for _ in range(100)]
    wanted = [rng.uniform(-10, 1010) for _ in steps]
    places = node(
        "dashboard_scale.mjs",
        "data.map(([numbers, one]) => asset.nearest(numbers, one))",
        list(zip(steps, wanted, strict=True)),
    )
    for numbers, one, place in zip(steps, wanted, places, strict=True):
        assert abs(numbers[place] - one) == min(abs(number - one) for number in numbers)
    windows = [[place, count, size] for count in (1, 4, 30) for place in range(count) for size in (1, 3, 5, count)]
    cases = [case for case in windows if case[2] <= case[1]]
    for (place, count, size), (first, last) in zip(
        cases, node("dashboard_scale.mjs", "data.map((one) => asset.windowAround(...one))", cases), strict=True
    ):
        assert 0 <= first <= place <= last < count
        assert last - first + 1 == size


def test_numbers_in_words(node: Callable) -> None:
    said = node(
        "dashboard_scale.mjs",
        "data.map(([value, share]) => asset.brief(value, share))",
        [[0.12345, False], [0.12345, True], [None, True], [0, False], [1234.5, False], [2e-6, False]],
    )
    assert said == ["0.123", "12.3 %", "\u2013", "0", "1,235", "2e-6"]
    assert node("dashboard_scale.mjs", "data.map(asset.duration)", [0.0123, 1.5, 200]) == [
        "12.3 ms",
        "1.5 s",
        "3 min 20 s",
    ]


@given(
    st.lists(st.tuples(st.floats(0.1, 3), st.floats(0, 0.5)), min_size=1, max_size=5),
    st.lists(st.floats(0, 12), max_size=30),
)
@settings(max_examples=5, deadline=None)
def test_each_generation_has_a_curve_of_its_own(
    node: Callable, phases: list[tuple[float, float]], moments: list[float]
) -> None:
    spans, clock = [], 0.0
    for length, gap in phases:
        spans.append(["generate", clock, clock + length])
        clock += length + gap + 0.01
    points = [[at, 0.5] for at in sorted(moments)]
    found = node("dashboard_scale.mjs", "asset.stretches(data.points, data.spans)", {"points": points, "spans": spans})
    assert sorted(point for part in found for point in part) == points
    for part in found:
        homes = {
            next((place for place, (_, start, end) in enumerate(spans) if start - 1e-3 <= at <= end + 1e-3), -1)
            for at, _ in part
        }
        assert len(homes) == 1


def test_a_lane_of_kv_use_is_as_high_as_it_must_be(node: Callable) -> None:
    peaks = [0.0, 0.004, 0.01, 0.011, 0.3, 0.5, 0.51, 1.0]
    assert node("dashboard_scale.mjs", "data.map(asset.roomFor)", peaks) == [0.01, 0.01, 0.01, 0.02, 0.5, 0.5, 1, 1]


def test_a_gap_in_the_numbers_is_a_gap_in_the_line(node: Callable) -> None:
    assert node("dashboard_scale.mjs", "asset.trail(data)", [[0, 1], [2, 3], None, [4, 5]]) == "M0 1L2 3M4 5"
