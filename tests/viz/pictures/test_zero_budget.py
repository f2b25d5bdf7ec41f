"""The ZeRO calculator: the page's numbers and advice are Python's, and the advice is true."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from course_lib.kv_cache.cost import MODELS
from course_lib.models import load_policy
from course_lib.viz import zero_calculator
from course_lib.viz.kv_budget import GIB
from course_lib.viz.zero_budget import Settings, ZeroCalculator, budget_of, remedies

KNOWN = sorted(name for name, shape in MODELS.items() if shape.gated_mlp)
CASES = st.tuples(
    st.sampled_from(KNOWN),
    st.builds(
        lambda ranks, stage, optimizer, param, checkpointing, rows, length, gib: Settings(
            ranks, stage, optimizer and stage > 0, param and stage == 3, checkpointing, rows, length, gib
        ),
        st.integers(1, 600),
        st.integers(0, 3),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.integers(1, 64),
        st.integers(1, 8192),
        st.floats(1, 1024),
    ),
)


@given(st.lists(CASES, min_size=60, max_size=60))
# No shrinking: it would start node a thousand times.
@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_the_page_works_out_what_python_does(node: Callable, cases: list[tuple[str, Settings]]) -> None:
    shapes = {shape["name"]: shape for shape in zero_calculator().payload["shapes"]}
    found = node(
        "zero_calculator.mjs",
        "data.map(([shape, settings]) => [asset.budget(shape, settings), asset.remedies(shape, settings)])",
        [[shapes[name], asdict(setting)] for name, setting in cases],
    )
    for (name, setting), (sums, steps) in zip(cases, found, strict=True):
        budget = budget_of(MODELS[name], setting)
        assert sums == {"device": budget.device, "host": budget.host}
        assert steps == [asdict(step) for step in remedies(MODELS[name], setting)]


def test_the_page_ignores_what_the_stage_does_not_have(node: Callable) -> None:
    shape = zero_calculator().payload["shapes"][0]
    asked = asdict(Settings(stage=1)) | {"stage": 0, "offload_optimizer": True, "offload_param": True}
    plain = asked | {"offload_optimizer": False, "offload_param": False}
    one, other = node(
        "zero_calculator.mjs", f"data.map((one) => asset.budget({json.dumps(shape)}, one))", [asked, plain]
    )
    assert one == other


@given(CASES)
@settings(deadline=None)
def test_every_step_helps_and_none_comes_after_it_fits(case: tuple[str, Settings]) -> None:
    name, setting = case
    room, need = setting.gpu_gib * GIB, budget_of(MODELS[name], setting).device_bytes
    sizes = [need, *(step.device_bytes for step in remedies(MODELS[name], setting))]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    assert all(size > room for size in sizes[:-1])
    assert len(sizes) > 1 or need <= room or setting.gradient_checkpointing


def test_the_advice_of_a_model_that_is_too_large() -> None:
    words = zero_calculator("Qwen3-4B", stage=2, ranks=2, rows=8, length=1024, gpu_gib=80).words()
    assert "✗ It does not fit" in words
    assert "What would do: gradient checkpointing" in words
    assert "✓ It fits" in zero_calculator("Qwen3-4B", gradient_checkpointing=True).words()
    hopeless = zero_calculator("Llama-3.1-70B", gpu_gib=1).words()
    assert "Not even this would do" in hopeless


@pytest.mark.parametrize(
    "picture",
    [
        zero_calculator(),
        zero_calculator("Llama-3.1-8B", stage=2, offload_optimizer=True, gpu_gib=24),
        zero_calculator("Llama-3.1-70B", stage=3, offload_optimizer=True, offload_param=True),
    ],
    ids=["fits", "offloads", "offloads all"],
)
def test_the_bars_are_as_long_as_the_parts(picture: ZeroCalculator) -> None:
    budget = picture.budget
    scale = 8.6 / max(budget.device_bytes, budget.host_bytes, picture.settings.gpu_gib * GIB)
    parts = [*budget.device.values(), *(budget.host.values() if budget.host_bytes else ())]
    axes = picture.figure().axes[0]
    filled = [patch.get_width() for patch in axes.patches if patch.get_fill()]
    assert filled == pytest.approx([size * scale for size in parts])
    width, height = picture.figure().get_size_inches()
    for text in axes.texts:
        assert text.get_position()[1] < height
        assert text.get_window_extent().x1 <= width * 100, text.get_text()


def test_the_page_shows_it(browser: Callable, tmp_path: Path) -> None:
    page = zero_calculator("Llama-3.1-8B", stage=2, offload_optimizer=True, gpu_gib=24).to_html(tmp_path / "page.html")
    dom, complaints = browser(page)
    assert not complaints
    assert "In the host's memory, for each GPU" in dom
    assert "It does not fit" in dom


def test_any_model_of_the_family_can_be_shown() -> None:
    folder = load_policy("tiny")
    picture = zero_calculator(folder, gpu_gib=2)
    assert picture.shape.name == folder.name
    assert picture.shape.qk_norm
    assert {folder.name, *KNOWN} == {shape["name"] for shape in picture.payload["shapes"]}


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="OPT-13B has an MLP of two matrices"):
        zero_calculator("OPT-13B")
    with pytest.raises(ValueError, match=r"no such setting: tokens; there are ranks, stage"):
        zero_calculator(tokens=3)
    with pytest.raises(ValueError, match="rows is 0"):
        zero_calculator(rows=0)
    with pytest.raises(ValueError, match="offload_param needs stage 3"):
        zero_calculator(offload_param=True)
    with pytest.raises(ValueError, match="SmolLM2-135M"):
        zero_calculator("GPT-17")
