"""Live metrics: lines that are the samples', the page's numbers, and a cell's output that ends with the finished picture."""

import contextlib
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.serving.metrics import EngineSample
from course_lib.viz import live, live_metrics
from course_lib.viz.live import Lines, lines


@st.composite
def engines(draw: st.DrawFn) -> list[EngineSample]:
    """Samples of an engine that could be: time and counts only grow."""
    seconds, queries, hits, preemptions, tokens = 0.0, 0, 0, 0, 0
    found = []
    for _ in range(draw(st.integers(1, 40))):
        seconds += draw(st.floats(0.001, 0.4))
        queries += draw(st.integers(0, 50))
        hits = draw(st.integers(hits, queries))
        preemptions += draw(st.integers(0, 2))
        tokens += draw(st.integers(0, 9))
        running, waiting = draw(st.integers(0, 99)), draw(st.integers(0, 99))
        found.append(EngineSample(seconds, running, waiting, draw(st.floats(0, 1)), queries, hits, preemptions, tokens))
    return found


@given(engines(), st.integers(2, 60))
def test_lines_keep_what_matters_of_any_run(samples: list[EngineSample], limit: int) -> None:
    found = lines(samples, limit)
    assert len({len(numbers) for numbers in vars(found).values()}) == 1
    assert len(found.seconds) == min(limit, len(samples))
    last = samples[-1]
    assert (found.running[-1], found.waiting[-1], found.tokens[-1]) == (
        last.running,
        last.waiting,
        last.generated_tokens,
    )
    assert found.kv[-1] == pytest.approx(100 * last.kv_usage, abs=0.01)
    assert found.hits[-1] == pytest.approx(100 * last.prefix_hits / max(1, last.prefix_queries), abs=0.01)
    assert sum(found.preempted) == last.preemptions
    moments = [0.0, *(sample.seconds for sample in samples)]
    longest = max(later - before for before, later in itertools.pairwise(moments))
    assert max(found.wait) == pytest.approx(1e3 * longest, abs=0.002)


@given(engines())
def test_speed_is_that_of_the_last_half_second(samples: list[EngineSample]) -> None:
    found = lines(samples)
    for place, sample in enumerate(samples):
        inside = [one for one in samples[: place + 1] if one.seconds >= sample.seconds - 0.5]
        before = samples[place - len(inside)] if len(inside) <= place else None
        start, made = (before.seconds, before.generated_tokens) if before else (0.0, 0)
        speed = (sample.generated_tokens - made) / (sample.seconds - start)
        assert found.speed[place] == pytest.approx(speed, abs=0.01)


@given(st.lists(engines(), min_size=10, max_size=10))
@settings(max_examples=3, deadline=None)
def test_the_page_draws_these_numbers(node: Callable, runs: list[list[EngineSample]]) -> None:
    box = {"left": 90, "width": 500, "y": 8, "height": 58}
    drawn = node(
        "live_metrics.mjs",
        "data.runs.map((lines) => asset.lanes(lines).map((lane) => "
        "[lane, lane.lines.map((line) => asset.stairs(lines.seconds, line[1], lane.top, data.box))]))",
        {"runs": [vars(lines(samples)) for samples in runs], "box": box},
    )
    for samples, lanes in zip(runs, drawn, strict=True):
        found = lines(samples)
        shown = {line[0]: line[3] for lane, _ in lanes for line in lane["lines"]}
        assert shown["running"] == f"{found.running[-1]}"
        assert shown["waiting"] == f"{found.waiting[-1]}"
        assert float(shown["% in use"]) == pytest.approx(found.kv[-1], abs=0.51)
        assert float(shown["tokens/s"].replace(",", "")) == pytest.approx(found.speed[-1], abs=0.51)
        assert f"▼ {sum(found.preempted)} preemption" in lanes[1][0]["more"]
        for lane, paths in lanes:
            for (_, numbers, *_), path in zip(lane["lines"], paths, strict=True):
                assert max(numbers) <= lane["top"]
                heights = [float(step.partition("H")[0]) for step in path.split("V")[1:]]
                assert all(8 - 0.1 <= y <= 66 + 0.1 for y in heights)
                tallest = max(range(len(numbers)), key=numbers.__getitem__)
                assert heights[tallest] == min(heights)
                assert float(path.rpartition("H")[2]) == pytest.approx(590, abs=0.1)


def test_a_page_of_its_own(browser: Callable[[Path], tuple[str, list[str]]], tmp_path: Path) -> None:
    picture = live_metrics("A busy </script> engine", 0)
    for step in range(1, 20):
        picture.add(EngineSample(0.1 * step, 7, 20 - step, step / 20, 100, 40, step // 5, 8 * step))
    dom, complaints = browser(picture.to_html(tmp_path / "page.html"))
    assert complaints == []
    for text in ("A busy &lt;/script&gt; engine", "▼ 3 preemptions", "152 tokens so far", "1.9 s", "% prefix hits"):
        assert text in dom
    assert dom.count('class="preemption"') == 3
    empty, complaints = browser(live_metrics("Soon").to_html(tmp_path / "empty.html"))
    assert complaints == []
    assert "not started" in empty
    assert "NaN" not in empty


class _Handle:
    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, picture: Any) -> None:
        self.shown.append(picture.words())


@pytest.mark.parametrize("fails", [False, True])
def test_a_cell_ends_with_the_finished_picture(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    handle = _Handle()
    first: list[str] = []
    monkeypatch.setattr(live, "display", lambda picture, display_id: first.append(picture.words()) or handle)
    with contextlib.suppress(ZeroDivisionError), live_metrics("Two steps", refresh=1000) as picture:
        for step in (1, 2):
            picture.add(EngineSample(0.25 * step, step, 0, 0.5, 0, 0, 0, 4 * step))
        assert len(picture.payload["lines"]["seconds"]) == 1  # the second one came too soon to be drawn
        assert 1 // (not fails)
    assert "nothing has run yet" in first[0]
    (last,) = handle.shown
    assert "0.5 s, 8 tokens, 0 preemptions" in last
    assert "at most 2 running" in last


@pytest.mark.filterwarnings("error")
def test_the_still_picture_is_drawn_at_any_time() -> None:
    picture = live_metrics("Now")
    assert "nothing has run yet" in picture.words()
    assert len(picture.figure().axes) == 4
    for step in range(1, 9):
        picture.add(EngineSample(0.1 * step, 3, 1, 0.9, 10, 5, step // 2, 3 * step))
    picture.redraw()
    requests, memory, *_ = picture.figure().axes
    assert requests.get_title(loc="left") == "Now"
    assert memory.get_legend().get_texts()[0].get_text() == "KV use"
    assert all(
        math.isfinite(number) for numbers in vars(Lines(**picture.payload["lines"])).values() for number in numbers
    )


def test_a_refresh_before_now_is_refused() -> None:
    with pytest.raises(ValueError, match="refresh is -1"):
        live_metrics(refresh=-1)
