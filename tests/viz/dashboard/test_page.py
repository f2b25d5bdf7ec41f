"""The dashboard's page: what it shows of a run or of two, and that it can be worked by keyboard and pointer."""

import html
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from course_lib.viz import Dashboard, dashboard_html
from course_lib.viz.dashboard_samples import grouped
from course_lib.viz.dashboard_time import IDLE, timeline
from course_lib.viz.picture import unpack

HOSTILE = '</script><script>document.title = "hacked"</script>{{CODE}} & \\1'
# Not a timer: the browser's clock is a virtual one here, and runs ahead of the unpacking.
WHEN_DRAWN = """<script type="module">
const drawn = () => document.querySelector(".chart .line") && document.querySelector(".verdict span");
await new Promise((done) => {
  if (drawn()) done();
  new MutationObserver(() => drawn() && done()).observe(document.body, { childList: true, subtree: true });
});
const $ = (name, place = 0) => document.querySelectorAll(name)[place];
const press = (key, times = 1) => {
  for (let time = 0; time < times; time += 1)
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
};
const at = (node, kind, across, down) => {
  const box = node.getBoundingClientRect();
  const [clientX, clientY] = [box.left + across * box.width, box.top + down * box.height];
  node.dispatchEvent(new PointerEvent(kind, { clientX, clientY, bubbles: true }));
};
"""


def worked(page: Path, browser: Callable, act: str = "") -> str:
    """Show a page, act on it, and return what is there then."""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{WHEN_DRAWN}{act}</script></body>"), "utf-8")
    dom, complaints = browser(page)
    assert complaints == []
    shown: str = dom.split('<script type="application/json"')[0]
    assert "NaN" not in shown
    assert "undefined" not in shown
    return shown


@pytest.fixture(scope="module")
def folder(runs: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = runs.write(tmp_path_factory.mktemp("runs") / "grpo", 24, failed=9, refused=5)
    return path


def tip_of(dom: str) -> str:
    (tip,) = re.findall(r'<div class="tip"[^>]*>(.*?)</div></div>', dom, re.DOTALL)
    return re.sub(r"<[^>]+>", "|", tip)


def test_a_page_tells_the_whole_run_and_needs_nothing_else(folder: Path, browser: Callable, tmp_path: Path) -> None:
    path = dashboard_html(folder, tmp_path / "run.html")
    page = path.read_text(encoding="utf-8")
    assert (
        re.findall(
            r"""(?:src|href)=|@import|url\((?!#)|https?://(?!www\.w3\.org/2000/svg)""", page.replace("url(#$", "")
        )
        == []
    )
    dom = worked(path, browser)
    for text in (
        "<title>grpo</title>",
        "24 of 24",
        "✗ 23 of 24 clean",
        "smollm2-1, addition, grpo",
        "Samples of step 24",
    ):
        assert text in dom
    titles = re.findall(r"<h4[^>]*>([^<]+)<small", dom)
    assert {"Reward and accuracy", "Response length", "Entropy", "KL divergence", "Ratio trainer / sampler"} <= set(
        titles
    )
    assert len(titles) == len(set(titles)) == dom.count('class="plot"')
    assert dom.count('class="clean"') == 23
    assert dom.count('class="failed"') == dom.count('class="noted"') == 1
    spans, _ = timeline([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])
    for phase in ("generate", "train", IDLE):
        assert dom.count(f'class="span {phase}"') == sum(span.phase == phase for step in spans[20:25] for span in step)
    assert "KV use" in dom
    assert "What ran when" in dom


def test_two_runs_lie_over_each_other(folder: Path, runs: SimpleNamespace, browser: Callable, tmp_path: Path) -> None:
    other = runs.write(tmp_path / "dapo", 12, pace=8)
    alone = worked(dashboard_html(folder, tmp_path / "one.html"), browser)
    dom = worked(dashboard_html(folder, tmp_path / "both.html", other), browser, "$('.whose button', 1).click();")
    assert "<title>grpo against dapo</title>" in dom
    assert dom.count('class="clean"') == 23 + 12
    assert "12 of 12 clean" in dom
    assert "dapo: no step 24" in dom
    assert dom.count('class="line bridge"') == 2 * alone.count('class="line bridge"')
    assert "Samples of step 12" in dom
    assert "The page has none of step 24" in dom
    twins = Dashboard(folder, runs.write(tmp_path / "b" / "grpo", 2))
    assert [run["name"] for run in unpack(twins.payload["packed"])["runs"]] == [f"{folder.parent.name}/grpo", "b/grpo"]


def test_a_run_of_before_still_shows(runs: SimpleNamespace, browser: Callable, tmp_path: Path) -> None:
    old = runs.write(tmp_path / "old", 6, old=True)
    dom = worked(dashboard_html(old), browser)
    assert (old / "dashboard.html").exists()
    assert "did not record when its phases ran" in dom
    assert "KV use" not in dom
    assert 'class="span idle"' not in dom
    assert "3 + 7 = " in dom
    (old / "samples.jsonl").unlink()
    (old / "config.json").unlink()
    assert "There are none here" in worked(dashboard_html(old), browser)


ACTS = {
    "focus('.strip'); press('Home'); press('ArrowRight', 9)": [
        "✗ </b>weights 9 FAILED: stale lm_head: the output",
        "Samples of step 9",
    ],
    "focus('.strip'); press('PageDown'); press('End'); press('ArrowLeft', 3)": ["Samples of step 21", 'valuenow="21"'],
    "focus('.strip'); press('Home'); press('ArrowLeft'); press('ArrowRight', 5)": ["▲ loss or gradient was not finite"],
    "at($('.plot', 2), 'click', 0.02, 0.5)": ['valuenow="0"', "the measurement before the first step"],
    "focus('.strip'); press('End')": ["Samples of step 24", "evaluate</text>"],
    "at($('.plot', 2), 'pointermove', 0.5, 0.5)": ["step 11</p>", "step 11</text>", "Samples of step 24"],
    "at($('.plot', 2), 'pointerleave', 0, 0)": ["step 24</text>", "no tooltip"],
    "focus('h4')": ["A reward that rises alone is being gamed"],
    "press('Escape')": ["no tooltip"],
    "click('this step')": ['aria-pressed="true">this step'],
    "click('whole run')": ['class="span checkpoint"', 'class="span idle"'],
    "at($('.span'), 'pointermove', 0.5, 0.5)": ["into the run"],
    "click('ratio trainer / sampler')": ["trainer thinks less"],
}


def test_a_page_can_be_worked_by_keyboard_and_pointer(folder: Path, browser: Callable, tmp_path: Path) -> None:
    script = """
    const focus = (name) => $(name).focus();
    const click = (text) => [...document.querySelectorAll("button")].find((one) => one.textContent === text).click();
    const missing = [];
    const shown = () => $(".dashboard").outerHTML + ($(".tip").hidden ? "no tooltip" : "");
    """
    for act, expected in ACTS.items():
        script += f"{act}; missing.push({json.dumps(expected)}.filter((text) => !shown().includes(text)));"
    dom = worked(
        dashboard_html(folder, tmp_path / "run.html"), browser, f"{script} document.title = JSON.stringify(missing);"
    )
    missing = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom)[1]))
    assert dict(zip(ACTS, missing, strict=True)) == {act: [] for act in ACTS}


def test_a_token_tells_where_it_comes_from(folder: Path, browser: Callable, tmp_path: Path) -> None:
    lines = (folder / "samples.jsonl").read_text().splitlines()
    shown = grouped(json.loads(lines[23]), 24)
    place, sample = 1, shown["groups"][0]["samples"][1]
    act = f"$('.tokens', {place}).firstChild.focus(); press('ArrowRight', 4); press('Home');"
    act += "press('ArrowRight', 3); press('ArrowLeft');"
    tip = tip_of(worked(dashboard_html(folder, tmp_path / "run.html"), browser, act))
    tokens, at = sample["tokens"], 2
    for text in (
        json.dumps(tokens["text"][at]),
        "|23|",  # the weights' version
        f"{tokens['sampled'][at]:.3f}",
        f"{tokens['old'][at]:.3f}",
        f"{tokens['trained'][at]:.3f}",
        f"{math.exp(tokens['trained'][at] - tokens['old'][at]):.3g}",
        f"{math.exp(tokens['old'][at] - tokens['sampled'][at]):.3g}",
        f"{sample['advantage']:+.3g}",
    ):
        assert text in tip


def test_a_page_of_a_usual_run_is_small_enough_to_send(runs: SimpleNamespace, tmp_path: Path) -> None:
    folder = runs.write(tmp_path / "run", 60, prompts=8, each=8)
    page = dashboard_html(folder)
    assert page.stat().st_size < 2_000_000
    (run,) = unpack(Dashboard(folder).payload["packed"])["runs"]
    assert len(run["steps"]) == 61
    assert len(run["samples"]) >= 20
    assert run["samples"]["60"]["total"] == 64


def test_no_text_breaks_out_of_the_page(runs: SimpleNamespace, browser: Callable, tmp_path: Path) -> None:
    folder = runs.write(tmp_path / "run", 2)
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    lines[1]["samples"][0] |= {"question": HOSTILE, "advantage": 1.0, "tokens": {"text": [HOSTILE], "sampled": [-1.0]}}
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    dashboard = Dashboard(folder, title=HOSTILE)
    path = dashboard.to_html(tmp_path / "page.html")
    page = path.read_text(encoding="utf-8")
    assert page.count("</script>") == 2
    assert json.loads(re.search(r'id="state">(.*?)</script>', page)[1]) == {"payload": dashboard.payload, "frame": -1}
    dom = worked(path, browser)
    assert "<script>document" not in dom
    assert dom.count("&lt;script&gt;document.title") >= 2


@pytest.mark.parametrize("wrong", ["missing", "empty", "no run", "unwritable"])
def test_what_can_not_be_shown_is_said(wrong: str, folder: Path, tmp_path: Path) -> None:
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "missing": ({"run": tmp_path / "nothing"}, "is no folder: give the folder of a run"),
        "no run": ({"run": tmp_path}, "holds no run"),
        "empty": ({"run": folder, "compare": tmp_path / "empty"}, "has no record yet"),
        "unwritable": ({"run": folder, "out": tmp_path / "no" / "page.html"}, "can't be written"),
    }
    if wrong == "empty":
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "config.json").write_text("{}")
    arguments, message = cases[wrong]
    with pytest.raises(ValueError, match=message):
        dashboard_html(**arguments)
