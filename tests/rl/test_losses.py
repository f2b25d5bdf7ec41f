"""The loss against the papers' formulas, sample by sample in plain Python, and its gradient against differences."""

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from course_lib.rl.losses import LossConfig, ResponseTokens, policy_gradient_loss, token_weights

LOGPROB = st.floats(-6, -0.01)
NEAR = st.floats(-1.5, 1.5)
TOKEN = st.tuples(LOGPROB, NEAR, NEAR, st.floats(-3, 3), NEAR)  # logprob, how far to old, sampler, reference; advantage
SAMPLES = st.lists(st.lists(TOKEN, min_size=1, max_size=4), min_size=1, max_size=4)
CONFIG = st.builds(
    LossConfig,
    ratio=st.sampled_from(["token", "sequence"]),
    clip_low=st.floats(0, 0.9) | st.just(1.0),
    clip_high=st.floats(0, 0.9) | st.just(math.inf),
    truncate_at=st.just(0.0) | st.floats(0.5, 4),
    mask_above=st.just(0.0) | st.floats(1.1, 3),
    kl_coefficient=st.just(0.0) | st.floats(0.01, 1),
    kl_estimator=st.sampled_from(["k1", "k2", "k3"]),
)
Samples = list[list[tuple[float, ...]]]
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def paper(sample: list[tuple[float, ...]], config: LossConfig) -> list[float]:
    """The tokens of one sample: PPO's equation 7, GSPO's 7, truncated importance sampling, masking, Schulman's k1 to k3."""
    apart = mean([-to_sampler for _, _, to_sampler, _, _ in sample])
    if config.mask_above and not 1 / config.mask_above <= math.exp(apart) <= config.mask_above:
        return [0.0] * len(sample)
    together = mean([-to_old for _, to_old, _, _, _ in sample])
    losses = []
    for _, to_old, to_sampler, advantage, to_reference in sample:
        ratio = math.exp(together if config.ratio == "sequence" else -to_old)
        inside = max(1 - config.clip_low, min(ratio, 1 + config.clip_high))
        objective = min(ratio * advantage, inside * advantage)
        if config.truncate_at:
            objective *= min(math.exp(-to_sampler), config.truncate_at)
        d = to_reference
        divergence = {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - 1 - d}[config.kl_estimator]
        losses.append(-objective + config.kl_coefficient * divergence)
    return losses


def tensors(samples: Samples) -> ResponseTokens:
    rows = torch.tensor([token for sample in samples for token in sample], dtype=torch.float64)
    new, to_old, to_sampler, advantages, to_reference = rows.unbind(1)
    old = new + to_old
    return ResponseTokens(
        logprobs=new.clone().requires_grad_(),
        old_logprobs=old,
        sampler_logprobs=old + to_sampler,
        advantages=advantages,
        # Rows of a batch are neither in order nor without gaps in a micro-batch.
        samples=torch.cat([torch.full((len(sample),), 7 * (len(samples) - i)) for i, sample in enumerate(samples)]),
        reference_logprobs=new + to_reference,
    )


def one(**values: float) -> ResponseTokens:
    """A single token."""
    filled = {"logprobs": -2.0, "old_logprobs": -2.0, "sampler_logprobs": -2.0, "advantages": 1.0} | values
    tokens: dict[str, Any] = {name: torch.tensor([value], dtype=torch.float64) for name, value in filled.items()}
    return ResponseTokens(**tokens, samples=torch.tensor([0]))


def kinks(samples: Samples, config: LossConfig) -> float:
    """How near the nearest ratio is to a place where the loss has a corner or a jump."""
    ratios = [math.exp(-token[1]) for sample in samples for token in sample]
    if config.ratio == "sequence":
        ratios = [math.exp(mean([-token[1] for token in sample])) for sample in samples]
    found = [abs(ratio - edge) for ratio in ratios for edge in (1 - config.clip_low, 1 + config.clip_high)]
    if config.mask_above:
        apart = [abs(mean([token[2] for token in sample])) for sample in samples]
        found += [abs(value - math.log(config.mask_above)) for value in apart]
    return min(found)


@few
@given(SAMPLES, CONFIG)
def test_equals_the_papers(samples: Samples, config: LossConfig) -> None:
    assume(kinks(samples, config) > 1e-9)
    wanted = [loss for sample in samples for loss in paper(sample, config)]
    assert policy_gradient_loss(tensors(samples), config).loss.tolist() == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@few
@given(SAMPLES, CONFIG)
def test_gradient_equals_differences_of_the_papers(samples: Samples, config: LossConfig) -> None:
    assume(kinks(samples, config) > 1e-3)
    tokens = tensors(samples)
    policy_gradient_loss(tokens, config).loss.sum().backward()
    assert tokens.logprobs.grad is not None
    gradient = iter(tokens.logprobs.grad.tolist())
    for sample in samples:
        for place, (new, to_old, to_sampler, advantage, to_reference) in enumerate(sample):

            def loss(
                shift: float, sample: Any = sample, place: int = place, old: Any = (to_old, to_reference)
            ) -> float:
                new, _, to_sampler, advantage, _ = sample[place]
                moved = (new + shift, old[0] - shift, to_sampler, advantage, old[1] - shift)
                return sum(paper([*sample[:place], moved, *sample[place + 1 :]], config))

            slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
            assert next(gradient) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@few
@given(SAMPLES, CONFIG)
def test_marks_are_zero_or_one_and_constant(samples: Samples, config: LossConfig) -> None:
    found = policy_gradient_loss(tensors(samples), config)
    for mark in (found.clipped, found.truncated, found.masked):
        assert not mark.requires_grad
        assert mark.shape == found.loss.shape
        assert set(mark.tolist()) <= {0.0, 1.0}


@few
@given(SAMPLES, CONFIG)
def test_a_micro_batch_sees_its_own_samples_alone(samples: Samples, config: LossConfig) -> None:
    together = policy_gradient_loss(tensors(samples), config).loss.tolist()
    apart = [loss for sample in samples for loss in policy_gradient_loss(tensors([sample]), config).loss.tolist()]
    assert together == pytest.approx(apart, rel=1e-9, abs=1e-9)


@given(st.floats(0.01, 0.5), st.floats(0.01, 3), st.booleans(), st.floats(0.05, 0.4))
def test_clipped_side_has_no_gradient(beyond: float, size: float, up: bool, clip: float) -> None:
    ratio = 1 + clip + beyond if up else (1 - clip) * (1 - beyond)
    for advantage, clipped in ((size if up else -size, True), (-size if up else size, False)):
        tokens = one(logprobs=math.log(ratio) - 2, advantages=advantage)
        tokens.logprobs.requires_grad_()
        found = policy_gradient_loss(tokens, LossConfig(clip_low=clip, clip_high=clip))
        found.loss.sum().backward()
        assert tokens.logprobs.grad is not None
        assert bool(found.clipped) == clipped
        assert (float(tokens.logprobs.grad) == 0) == clipped


@given(NEAR, st.floats(0.5, 4))
def test_weight_is_truncated_and_counted(disagreement: float, limit: float) -> None:
    weight = math.exp(disagreement)
    assume(abs(weight - limit) > 1e-4)
    found = policy_gradient_loss(one(sampler_logprobs=-2 - disagreement), LossConfig(truncate_at=limit))
    assert float(found.loss) == pytest.approx(-min(weight, limit))
    assert bool(found.truncated) == (weight > limit)


@given(st.lists(NEAR, min_size=1, max_size=5), st.lists(NEAR, min_size=1, max_size=5), st.floats(1.05, 3))
def test_a_sequence_is_left_out_as_a_whole_or_not_at_all(first: Any, second: Any, limit: float) -> None:
    samples: Samples = [[(-2.0, 0.0, -apart, 1.0, 0.5) for apart in sample] for sample in (first, second)]
    assume(all(abs(abs(mean(sample)) - math.log(limit)) > 1e-6 for sample in (first, second)))
    tokens = tensors(samples)
    found = policy_gradient_loss(tokens, LossConfig(mask_above=limit, kl_coefficient=0.1))
    found.loss.sum().backward()
    assert tokens.logprobs.grad is not None
    marks = [abs(mean(sample)) > math.log(limit) for sample in (first, second) for _ in sample]
    assert found.masked.bool().tolist() == marks
    assert (found.loss == 0).tolist() == marks
    assert (tokens.logprobs.grad == 0).tolist() == marks


def test_zero_turns_the_corrections_off() -> None:
    found = policy_gradient_loss(one(sampler_logprobs=-5.0), LossConfig(truncate_at=0))
    assert (float(found.loss), float(found.truncated), float(found.masked)) == (-1.0, 0.0, 0.0)


LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=9)


@given(LENGTHS, st.integers(9, 40), st.integers(0, 99))
def test_weights_give_the_three_averages(lengths: list[int], max_new_tokens: int, seed: int) -> None:
    losses = [
        torch.randn(length, generator=torch.Generator().manual_seed(seed + length)).tolist() for length in lengths
    ]
    wanted = {
        "token": sum(map(sum, losses)) / max(1, sum(lengths)),
        "sequence": mean([sum(sample) / max(1, len(sample)) for sample in losses]),
        "constant": mean([sum(sample) / max_new_tokens for sample in losses]),
    }
    for average, value in wanted.items():
        weights = token_weights(torch.tensor(lengths), average, max_new_tokens)  # type: ignore[arg-type]
        assert weights.shape == (len(lengths),) and bool(weights.isfinite().all())
        found = sum(weight * sum(sample) for weight, sample in zip(weights.tolist(), losses, strict=True))
        assert found == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_responses_of_one_length_are_weighted_alike_by_all_averages() -> None:
    token, sequence, constant = (
        token_weights(torch.full((6,), 8), name, 8) for name in ("token", "sequence", "constant")
    )  # type: ignore[arg-type]
    torch.testing.assert_close(token, sequence)
    torch.testing.assert_close(token, constant)


BAD: dict[str, list[Any]] = {
    "ratio": ["tokens"],
    "clip_low": [-0.1, 1.1, math.nan],
    "clip_high": [-1, math.nan],
    "average": ["mean"],
    "truncate_at": [-1, math.nan, math.inf],
    "mask_above": [-1, 0.5, 1.0, math.nan],
    "kl_coefficient": [-0.1, math.nan],
    "kl_estimator": ["k4"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_config_errors_name_the_field_and_its_value(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}; it must be"):
        LossConfig(**{name: value})


def test_unknown_average() -> None:
    with pytest.raises(ValueError, match="average is 'mean'; it must be"):
        token_weights(torch.ones(2, dtype=torch.long), "mean", 8)  # type: ignore[arg-type]


def test_kl_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="reference_logprobs"):
        policy_gradient_loss(one(), LossConfig(kl_coefficient=0.1))


def test_tokens_print_in_a_line() -> None:
    assert repr(tensors([[(-1.0, 0, 0, 1, 0)] * 3, [(-1.0, 0, 0, 1, 0)]])) == "ResponseTokens(4 tokens of 2 samples)"
