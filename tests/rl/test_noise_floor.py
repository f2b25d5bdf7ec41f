"""The noise floor: small where nothing is wrong, and its clip range clips as little as it promises."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from course_lib.rl import Addition, VLLMRollout
from course_lib.rl.noise_floor import Disagreement, NoiseFloor, _logprobs_float32, noise_floor
from course_lib.training import Group, PolicyTrainer

PROBLEMS = Addition().draw(4, random.Random(0))
SMALL: dict[str, Any] = {"samples_per_prompt": 4, "max_new_tokens": 8}
log_ratios = st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=300).map(torch.tensor)


def floor_of(values: torch.Tensor) -> NoiseFloor:
    wide, narrow = Disagreement("wide", values), Disagreement("narrow", values / 10)
    return NoiseFloor(shapes=narrow, sampler=wide, trainer_float32=narrow, sampler_float32=narrow)


def test_figures_of_a_disagreement() -> None:
    found = Disagreement("a / b", torch.tensor([0.9, 1.0, 1.05, 1.25]).log())
    assert found.outside() == 0.25
    assert found.outside(0.95, 1.3) == 0.25
    assert found.largest == pytest.approx(0.2231, abs=1e-4)
    assert found.mean == pytest.approx((0.1054 + 0 + 0.0488 + 0.2231) / 4, abs=1e-4)
    assert found.median == pytest.approx(0.0488, abs=1e-4)
    assert "25.0% of ratios outside" in str(found)


@given(log_ratios, st.sampled_from([0.01, 0.05, 0.2, 0.5]))
def test_the_suggested_range_clips_no_more_than_its_share(values: torch.Tensor, share: float) -> None:
    low, high = floor_of(values).suggested_clip(share, old="sampler")
    ratios = values.double().exp()
    assert low >= 0
    assert high >= 0
    # A quantile between two values is interpolated: half a value on either side.
    for beyond in (ratios < 1 - low - 1e-9, ratios > 1 + high + 1e-9):
        assert int(beyond.sum()) <= share / 2 * (len(ratios) - 1) + 1


@given(log_ratios)
def test_a_tighter_range_clips_more(values: torch.Tensor) -> None:
    noise = floor_of(values)
    for old in ("trainer", "sampler"):
        wide, tight = noise.suggested_clip(0.01, old), noise.suggested_clip(0.3, old)
        assert wide[0] >= tight[0]
        assert wide[1] >= tight[1]
    assert noise.suggested_clip(old="trainer")[1] <= noise.suggested_clip(old="sampler")[1] + 1e-6


def test_wrong_questions_are_refused() -> None:
    noise = floor_of(torch.zeros(3))
    with pytest.raises(ValueError, match="share is 1"):
        noise.suggested_clip(1)
    with pytest.raises(ValueError, match="'trainer' or 'sampler'"):
        noise.suggested_clip(old="vllm")  # type: ignore[arg-type]


def test_no_problems_and_no_temperature() -> None:
    nothing: Any = None
    with pytest.raises(ValueError, match="no problems"):
        noise_floor(nothing, nothing, [])
    with pytest.raises(ValueError, match="must be above 0"):
        noise_floor(nothing, nothing, PROBLEMS, temperature=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equal_weights_leave_rounding_and_other_weights_more(
    make_trainer: Callable[..., PolicyTrainer], equalize: Any, engine: VLLMRollout, train: Any, temperature: float
) -> None:
    trainer = equalize(make_trainer())
    config = trainer.config
    noise = noise_floor(trainer, engine, PROBLEMS, temperature=temperature, **SMALL)
    assert trainer.config is config
    assert len({len(pair.log_ratios) for pair in noise}) == 1
    assert all(pair.mean < 0.05 and pair.outside() < 0.02 for pair in noise)
    assert noise.shapes.mean > 0  # the two shapes are two
    # The ratios are of the same tokens: (trainer / fp32) * (fp32 / vllm) is trainer / vllm.
    composed = noise.trainer_float32.log_ratios + noise.sampler_float32.log_ratios
    assert torch.allclose(composed, noise.sampler.log_ratios, atol=1e-5)
    train(trainer)
    moved = noise_floor(trainer, engine, PROBLEMS, temperature=temperature, **SMALL)
    assert moved.sampler.mean > 2 * noise.sampler.mean
    assert moved.sampler_float32.mean > 2 * noise.sampler.mean
    assert moved.trainer_float32.mean < 0.05  # the fp32 copy follows the trainer


def test_float32_equals_transformers(make_trainer: Callable[..., PolicyTrainer], tiny: Path) -> None:
    prompt, response = [1, 40, 50, 60], [70, 80, 90, 2]
    trainer = make_trainer()
    found = _logprobs_float32(trainer, [Group(prompt, [response, [75]], [0, 1])], 0.8)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    with torch.no_grad():
        logprobs = (model(torch.tensor([prompt + response])).logits[0] / 0.8).log_softmax(-1)
    wanted = logprobs[3:-1].gather(1, torch.tensor(response)[:, None])[:, 0]
    assert torch.allclose(found[0], wanted, atol=1e-4)
