"""All pictures: three forms in a cell's output, a page of their own, and code that runs."""

import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import course_lib.viz
from course_lib.viz import Picture, block_explorer, fragmentation_playground, kv_calculator, memory_map
from course_lib.viz.picture import ASSETS, OWNER_COLORS, OWNER_INKS, bundle, key_frames, stylesheet

WIDGET = "application/vnd.jupyter.widget-view+json"
HOSTILE = '</script><script>document.title = "hacked"</script>{{CODE}} & \\1'


@pytest.fixture
def pictures(make: SimpleNamespace) -> dict[str, Picture]:
    return {
        "memory": memory_map(make.full_memory, "Memory"),
        "blocks": block_explorer(make.shared_prefix, "Blocks"),
        "calculator": kv_calculator(),
    }


def test_a_cell_gets_the_widget_a_png_and_words(pictures: dict[str, Picture]) -> None:
    for view in (*pictures.values(), fragmentation_playground()):
        data, metadata = view._repr_mimebundle_()
        assert data[WIDGET]["model_id"] == view.model_id
        image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
        width, height = metadata["image/png"]["width"], metadata["image/png"]["height"]
        assert image.size == pytest.approx((1.6 * width, 1.6 * height), abs=2)
        assert len(image.getcolors()) > 8  # drawn on
        assert data["text/plain"] == repr(view) == view.words()
        assert " object at 0x" not in data["text/plain"]
        assert len(data["text/plain"].splitlines()) > 1


def test_a_page_shows_the_frame_that_the_widget_stands_at(
    pictures: dict[str, Picture], browser: Callable[[Path], tuple[str, list[str]]], tmp_path: Path
) -> None:
    expected = {
        "memory": ("D (60 tokens) does not fit", "✗ refused", "2 holes, the largest of 40 slots"),
        "blocks": ("A ends", "reference count 1, held by B's logical block 0", "Free list, 6 blocks"),
        "calculator": ("22.5 KiB", "SmolLM2-135M"),
    }
    for name, picture in pictures.items():
        picture.frame = 2
        dom, complaints = browser(picture.to_html(tmp_path / f"{name}.html"))
        assert complaints == []
        shown = dom.split('<script type="application/json"')[0]
        assert [text for text in expected[name] if text not in shown] == []
        assert f"<title>{picture.payload['title']}</title>" in dom


@pytest.mark.parametrize(
    ("name", "act", "expected"),
    [
        ("memory", "document.querySelector('.player input').value = 2; input('.player input')", ["✗ refused", "3 / 3"]),
        ("blocks", "focus('.pool [role=button]')", ['class="detail" aria-live="polite">Block 0: reference count 2', 2]),
        ("blocks", "focus('.requests [role=button]'); press('ArrowDown')", ["A's logical block 0, tokens 0 to 3", 1]),
        (
            "blocks",
            "focus('.requests [role=button]'); press('ArrowDown'); press('ArrowRight'); press('ArrowRight')",
            ["polite\">A's token 1: table[1 // 4] * 4 + 1 % 4", 1],
        ),
        ("blocks", "focus('.pool [role=button]'); press('Escape')", ["Point at a request", 0]),
        ("calculator", "set('[type=number]', 4096)", ["4,096 tokens</small>", "✓ 16 requests of 4,096 tokens fit"]),
        ("calculator", "set('[type=number]', -1)", ['aria-invalid="true"', "✓ 16 requests of 2,048 tokens fit"]),
    ],
)
def test_a_page_can_be_worked(
    name: str, act: str, expected: list[str | int], make: SimpleNamespace, browser: Callable, tmp_path: Path
) -> None:
    picture = {
        "memory": memory_map(make.full_memory),
        "blocks": block_explorer(make.shared_prefix),
        "calculator": kv_calculator(),
    }[name]
    picture.frame = 1
    page = picture.to_html(tmp_path / "page.html")
    script = """<script type="module">
    const input = (field) => document.querySelector(field).dispatchEvent(new Event("input", { bubbles: true }));
    const set = (field, value) => { document.querySelector(field).value = value; input(field); };
    const focus = (node) => document.querySelector(node).focus();
    const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    """
    page.write_text(
        page.read_text(encoding="utf-8").replace("</body>", f"{script}{act}</script></body>"), encoding="utf-8"
    )
    dom, complaints = browser(page)
    assert complaints == []
    for text in expected:
        if isinstance(text, int):
            wires = re.search(r'<svg class="wires"[^>]*>(.*?)</svg>', dom, re.DOTALL)[1]
            assert wires.count("<path") == text
        else:
            assert text in dom.split('<script type="application/json"')[0]


def test_a_page_needs_nothing_else_and_keeps_its_state(pictures: dict[str, Picture], tmp_path: Path) -> None:
    for name, picture in pictures.items():
        page = picture.to_html(tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert re.findall(r"""(?:src|href)=|@import|url\(|https?://(?!www\.w3\.org/2000/svg)""", page) == []
        assert json.loads(re.search(r'id="state">(.*?)</script>', page)[1]) == {"payload": picture.payload, "frame": 0}


def test_no_text_breaks_out_of_a_page(make: SimpleNamespace, tmp_path: Path) -> None:
    page = memory_map(make.full_memory, HOSTILE).to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>document" not in page
    assert page.count("</script>") == 2
    assert json.loads(re.search(r'id="state">(.*?)</script>', page)[1])["payload"]["title"] == HOSTILE


@pytest.mark.parametrize("asset", sorted(path.name for path in ASSETS.glob("*.mjs")))
def test_a_bundle_is_one_module_that_parses(asset: str, node: Callable, tmp_path: Path) -> None:
    code = bundle(asset)
    assert not re.search(r"^import |from \"\./", code, re.MULTILINE)
    if "export default" not in code:
        return  # a part of others
    assert re.findall(r"^export .*", code, re.MULTILINE) == ["export default { render };"]
    (tmp_path / "bundle.mjs").write_text(code, encoding="utf-8")
    assert (
        node("shared.mjs", f'typeof (await import("{(tmp_path / "bundle.mjs").as_uri()}")).default.render', None)
        == "function"
    )


def test_words_of_shared_functions(node: Callable) -> None:
    assert node("shared.mjs", "[1, 2, 1234].map((n) => asset.plural(n, 'slot'))", None) == [
        "1 slot",
        "2 slots",
        "1,234 slots",
    ]
    times = node("shared.mjs", "data.map(asset.frameTime)", [1, 10, 100, 10_000])
    assert times == sorted(times, reverse=True)
    assert all(time * count <= 26_000 for time, count in zip(times[:3], [1, 10, 100], strict=True))


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(2, 12))
def test_key_frames_tell_the_story(important: list[bool], limit: int) -> None:
    chosen = key_frames(important, important, limit)
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    assert chosen[-1] == len(important) - 1
    assert len(chosen) == min(limit, len(important))
    between = [place for place in range(1, len(important) - 1) if important[place]]
    if len(between) <= min(limit - 2, (limit + 1) // 2):
        assert set(between) <= set(chosen)


def test_inks_can_be_read_on_their_colors() -> None:
    def luminance(color: str) -> float:
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for color, ink in zip(OWNER_COLORS, OWNER_INKS, strict=True):
        low, high = sorted([luminance(color), luminance(ink)])
        assert (high + 0.05) / (low + 0.05) > 4.5
        assert f": {color};" in stylesheet()


def test_the_package_is_light_and_gives_all_that_it_names() -> None:
    script = "import sys, course_lib.viz; print([m for m in ('matplotlib', 'anywidget', 'torch', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    # A submodule that was imported stands in the package under its own name: it must not hide a function.
    for module in course_lib.viz._MODULES:
        import_module(f"course_lib.viz.{module}")
    assert all(callable(getattr(course_lib.viz, name)) for name in course_lib.viz.__all__)
    assert sorted(course_lib.viz._HOME) == sorted(course_lib.viz.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = course_lib.viz.nothing
