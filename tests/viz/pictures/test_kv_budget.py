"""The KV calculator: the page's numbers are Python's, and Python's hold what they promise."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.kv_cache.cost import MODELS, kv_bytes_per_token, weight_bytes
from course_lib.viz import kv_calculator
from course_lib.viz.kv_budget import GIB, Settings, kv_budget, readable

CASES = st.tuples(
    st.sampled_from(sorted(MODELS)),
    st.builds(
        Settings,
        weight_bytes=st.sampled_from([4, 2, 1, 0.5]),
        kv_bytes=st.sampled_from([4, 2, 1]),
        context=st.integers(1, 1_000_000),
        requests=st.integers(1, 10_000),
        gpu_gib=st.floats(0.25, 4096),
        utilization=st.floats(0.05, 1),
    ),
)


@given(CASES)
def test_what_fits_fits_and_one_more_does_not(case: tuple[str, Settings]) -> None:
    name, setting = case
    shape, budget = MODELS[name], kv_budget(MODELS[name], setting)
    assert budget.kv_bytes_per_token == kv_bytes_per_token(shape, 1) * setting.kv_bytes
    assert budget.weight_bytes == weight_bytes(shape, 1) * setting.weight_bytes
    room = budget.usable_bytes - budget.weight_bytes
    for count, each in (
        (budget.tokens_that_fit, budget.kv_bytes_per_token),
        (budget.requests_that_fit, budget.kv_bytes_per_request),
    ):
        assert count == 0 if room < each else count * each <= room < (count + 1) * each


@given(st.lists(CASES, min_size=20, max_size=20))
@settings(max_examples=5, deadline=None)
def test_the_page_works_out_what_python_does(node: Callable, cases: list[tuple[str, Settings]]) -> None:
    shapes = {shape["name"]: shape for shape in kv_calculator().payload["shapes"]}
    found = node(
        "kv_calculator.mjs",
        "data.map(([shape, settings]) => { const sums = asset.budget(shape, settings); "
        "return [sums, asset.parts(sums)]; })",
        [[shapes[name], asdict(setting)] for name, setting in cases],
    )
    texts = node("calculator.mjs", "data.map(asset.bytes)", [sums["kv_bytes"] for sums, _ in found])
    for (name, setting), (sums, parts), text in zip(cases, found, texts, strict=True):
        budget = kv_budget(MODELS[name], setting)
        assert sums == asdict(budget)
        assert text == readable(budget.kv_bytes)
        need = budget.weight_bytes + budget.kv_bytes
        assert sum(part["bytes"] for part in parts) == pytest.approx(max(budget.memory_bytes, need))
        assert all(part["bytes"] >= 0 for part in parts)


def test_numbers_of_the_paper() -> None:
    # Kwon et al., SOSP 2023, section 3: a token of OPT-13B takes 800 KB, and a request of 2048 tokens 1.6 GB.
    budget = kv_budget(MODELS["OPT-13B"], Settings())
    assert budget.kv_bytes_per_token == 800 * 1024
    assert readable(budget.kv_bytes_per_request) == "1.56 GiB"
    assert "KV per token 800 KiB" in repr(kv_calculator("OPT-13B"))


def test_any_config_can_be_shown(tmp_path: Path) -> None:
    config = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 3,
        "intermediate_size": 128,
        "vocab_size": 512,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for model in (config, tmp_path, str(tmp_path), tmp_path / "config.json"):
        picture = kv_calculator(model, gpu_gib=1)
        assert picture.budget.kv_bytes_per_token == 2 * 3 * 2 * 16 * 2
        names = [shape["name"] for shape in picture.payload["shapes"]]
        assert picture.payload["model"] in names
        assert set(MODELS) < set(names)


def test_the_bar_says_when_it_is_too_much() -> None:
    small, large = kv_calculator("Llama-3.1-8B", gpu_gib=80), kv_calculator("Llama-3.1-8B", gpu_gib=8)
    assert "✓ 16 requests of 2,048 tokens fit" in small.words()
    assert "✗ 16 requests of 2,048 tokens do not fit" in large.words()
    for picture in (small, large):
        widths = [patch.get_width() for patch in picture.figure().axes[0].patches]
        assert sum(widths) == pytest.approx(8.6)
        assert widths[0] / widths[1] == pytest.approx(picture.budget.weight_bytes / picture.budget.kv_bytes)
    assert large.budget.memory_bytes == 8 * GIB


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="SmolLM2-135M"):
        kv_calculator("GPT-17")
    with pytest.raises(ValueError, match=r"no such setting: tokens; there are .*context"):
        kv_calculator(tokens=3)
    with pytest.raises(ValueError, match="context is 0"):
        kv_calculator(context=0)
    with pytest.raises(ValueError, match="at most 1"):
        kv_calculator(utilization=90)
