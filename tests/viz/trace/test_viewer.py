"""The trace viewer as a whole: its page, its static form, its words, and what two traces beside each other say."""

import base64
import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.scheduling.trace import Trace, first_difference
from course_lib.viz import trace_viewer
from course_lib.viz.picture import unpack
from course_lib.viz.trace_frames import names
from course_lib.viz.trace_strip import key_steps

HOSTILE = '</script><script>document.title = "hacked"</script>{{CODE}} & \\1'
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def run(runs: SimpleNamespace) -> Trace:
    trace: Trace = runs.served()
    assert any(step.preempted for step in trace.steps)
    assert any(spared for step in trace.steps for spared in step.admitted.values())
    assert any(step.evicted for step in trace.steps)
    return trace


def changed(trace: Trace, step: int) -> Trace:
    other = copy.deepcopy(trace)
    other.source = "vllm 0"
    other.steps[step].free.reverse()
    assert other.steps[step].free != trace.steps[step].free
    return other


def test_a_page_shows_the_step_and_needs_nothing_else(run: Trace, browser: Callable, tmp_path: Path) -> None:
    step = next(number for number, step in enumerate(run.steps) if step.preempted)
    viewer = trace_viewer(run, title=HOSTILE, budget=16)
    viewer.frame = step
    path = viewer.to_html(tmp_path / "page.html")
    page = path.read_text(encoding="utf-8")
    assert re.findall(r"""(?:src|href)=|@import|url\(|https?://(?!www\.w3\.org/2000/svg)""", page) == []
    assert page.count("</script>") == 2
    state = json.loads(re.search(r'id="state">(.*?)</script>', page)[1])
    assert state == {"payload": viewer.payload, "frame": step}
    dom, complaints = browser(path)
    assert complaints == []
    shown = dom.split('<script type="application/json"')[0]
    (victim,) = run.steps[step].preempted
    held = len(run.blocks) - len(run.steps[step].free)
    for text in (
        f"Step {step}</b>",
        f"{victim}, because {run.steps[step].preempted[victim]} needs its blocks",
        f"{victim}: nobody is admitted in a step that preempts",
        f"{held} of {len(run.blocks)} held",
        f"Free list, {len(run.steps[step].free)}",
        f"{sum(run.steps[step].plan.values())} of 16</text>",
        "↩ preempted",
    ):
        assert text in shown
    assert len(re.findall(r'<div [^>]*class="square ', shown)) == len(run.blocks)
    assert shown.count('class="row-of-batch') == len(run.steps[step].running)
    assert len(re.findall('<rect class="life|<rect [^>]*class="life', shown)) == len(viewer.views[0].timeline.lives)


@pytest.mark.parametrize(
    ("act", "step"),
    [
        ("input.value = 7; input.dispatchEvent(new Event('input'))", 7),
        ("press('End')", "last"),
        ("press('End'); press('ArrowLeft')", "last but one"),
        ("press('ArrowRight'); press('ArrowRight')", 2),
        ("click('next preemption')", "preemption"),
        ("click('first difference')", 5),
        ("point(0.5)", "middle"),
    ],
)
def test_a_page_can_be_worked(act: str, step: int | str, run: Trace, browser: Callable, tmp_path: Path) -> None:
    last = len(run.steps) - 1
    places: dict[int | str, int] = {
        "last": last,
        "last but one": last - 1,
        "middle": (last + 1) // 2,
        "preemption": next(number for number, one in enumerate(run.steps) if one.preempted),
    }
    page = trace_viewer(run, changed(run, 5)).to_html(tmp_path / "page.html")
    script = f"""<script type="module">
    const drawn = () => document.querySelector(".timeline rect");
    // Not a timer: the browser's clock is a virtual one here, and runs ahead of the unpacking.
    await new Promise((done) => {{
      if (drawn()) done();
      new MutationObserver(() => drawn() && done()).observe(document.body, {{ childList: true, subtree: true }});
    }});
    const input = document.querySelector(".player input");
    const buttons = [...document.querySelectorAll(".tools button")];
    const click = (text) => buttons.find((button) => button.textContent === text).click();
    const press = (key) => buttons[0].dispatchEvent(new KeyboardEvent("keydown", {{ key, bubbles: true }}));
    const point = (share) => {{
      const box = document.querySelector(".lane").getBoundingClientRect();
      const clientX = box.left + box.width * share + 1;
      document.querySelector(".timeline").dispatchEvent(new PointerEvent("pointerdown", {{ clientX, bubbles: true }}));
    }};
    {act}</script></body>"""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    dom, complaints = browser(page)
    assert complaints == []
    place = places.get(step, step)
    assert f'<b class="step">Step {place}</b>' in dom
    assert ("≠ differ: the free list" in dom) == (place == 5)
    # Both panels stand at the step, and the slider too.
    assert dom.count(f"Free list, {len(run.steps[place].free)}</b>") == 2
    assert f"{place} / {last}</output>" in dom


@given(st.integers(0, 10_000))
@settings(max_examples=4, deadline=None)
def test_the_figure_covers_all_requests(runs: SimpleNamespace, seed: int) -> None:
    trace = runs.recorded(seed)
    figure = trace_viewer(trace, title="All of them").figure()
    (lane,) = (axes for axes in figure.axes if axes.get_ylabel() == "requests")
    assert [text.get_text() for text in lane.get_yticklabels()] == names([trace])
    drawn = {round(bar.get_y() + bar.get_height() / 2) for bar in lane.patches if abs(bar.get_height() - 0.8) < 1e-6}
    assert drawn == set(range(len(names([trace]))))
    texts = [text.get_text() for text in figure.axes[0].texts]
    shown = key_steps(trace_viewer(trace).views[0])
    titles = [int(text.split(",")[0].removeprefix("Step ")) for text in texts if re.match(r"Step \d+,", text)]
    assert titles == sorted(titles) and set(titles) <= set(shown) and titles
    for number in titles:
        for reason in trace.steps[number].preempted.values():
            assert any(f"because {reason} needs its blocks" in text or "but itself" in text for text in texts)


def test_the_story_has_its_turning_points(run: Trace) -> None:
    view = trace_viewer(run).views[0]
    chosen = key_steps(view)
    fullest = max(range(len(run.steps)), key=lambda number: (run.kv_usage()[number], -number))
    first = next(number for number, step in enumerate(run.steps) if step.preempted)
    assert {0, len(run.steps) - 1, fullest, first} <= set(chosen)
    assert key_steps(view, 5)[0] == 5


def test_a_cell_gets_the_widget_a_png_and_words(run: Trace) -> None:
    viewer = trace_viewer(run, changed(run, 5), "Two")
    data, _ = viewer._repr_mimebundle_()
    assert data[WIDGET]["model_id"] == viewer.model_id
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == repr(viewer) == viewer.words()
    assert data["text/plain"].splitlines()[:2] == [
        "Two",
        "  ≠ course_lib and vllm 0 first differ at step 5: the free list",
    ]
    assert "Preempted" in data["text/plain"]
    assert viewer.payload["title"] == "Two"


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_two_equal_runs_are_called_the_same(runs: SimpleNamespace, seed: int) -> None:
    trace = runs.recorded(seed)
    viewer = trace_viewer(trace, runs.recorded(seed))
    assert first_difference(trace, runs.recorded(seed)) == ""
    assert "the same step by step" in viewer.verdict and viewer.same and viewer.parting is None
    assert not any(viewer.differs)
    data = unpack(viewer.payload["packed"])
    assert (data["same"], data["verdict"], data["differs"]) == (True, viewer.verdict, viewer.differs)
    assert data["views"][0]["frames"] == data["views"][1]["frames"]


def test_two_different_runs_are_told_apart(run: Trace, browser: Callable, tmp_path: Path) -> None:
    shorter = copy.deepcopy(run)
    shorter.source = "vllm 0"
    shorter.steps = shorter.steps[:10]
    viewer = trace_viewer(run, shorter)
    assert not viewer.same and "took" in viewer.verdict and viewer.parting is None
    viewer.frame = 12
    dom, complaints = browser(viewer.to_html(tmp_path / "page.html"))
    assert complaints == []
    assert "ended after 10 steps" in dom and 'class="verdict parted"' in dom
    assert viewer.figure().axes
    extra = changed(run, 3)
    extra.steps[8].running.append("stranger")
    extra.steps[8].requests["stranger"] = extra.steps[8].requests[extra.steps[8].running[0]]
    extra.steps[8].tables["stranger"] = []
    viewer = trace_viewer(run, extra)
    assert viewer.parting == 3 and viewer.differs[3] == ["the free list"]
    assert viewer.differs[8] == ["the batch", "how far the requests are", "block tables"]
    assert viewer.requests == [*names([run]), "stranger"]


def test_traces_that_can_not_be_drawn_are_refused(run: Trace) -> None:
    with pytest.raises(ValueError, match="has no step"):
        trace_viewer(Trace("course_lib", 4, [0, 1]))
    with pytest.raises(ValueError, match="has 0 blocks"):
        trace_viewer(Trace("course_lib", 4, [], run.steps))
    with pytest.raises(ValueError, match=r"names blocks \[\d"):
        trace_viewer(Trace("course_lib", 4, run.blocks[:5], run.steps))
    broken = copy.deepcopy(run)
    name = broken.steps[2].running[0]
    del broken.steps[2].requests[name]
    with pytest.raises(ValueError, match=rf"step 2 of .* has \['{name}'\] without progress"):
        trace_viewer(run, broken)
