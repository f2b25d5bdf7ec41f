"""Each algorithm against its paper: from rewards to the step's loss and gradient, sample by sample in plain Python."""

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_lib.rl.algorithms import ALGORITHMS, Algorithm, find_algorithm
from course_lib.rl.gae import generalized_advantages
from course_lib.rl.losses import ResponseTokens, policy_gradient_loss, token_weights
from course_lib.rl.overlong import overlong_penalty

LONGEST = 8


@dataclass
class Sample:
    """A response: its reward, and of each token the logprob, the old logprob and the critic's value."""

    reward: float
    new: list[float]
    old: list[float]
    values: list[float]

    def ratios(self) -> list[float]:
        return [math.exp(new - old) for new, old in zip(self.new, self.old, strict=True)]


Groups = list[list[Sample]]
TOKEN = st.tuples(st.floats(-5, -0.1), st.floats(-0.5, 0.5), st.floats(-1, 1))
SAMPLE = st.builds(
    lambda reward, tokens: Sample(
        reward, [new for new, _, _ in tokens], [new + off for new, off, _ in tokens], [value for *_, value in tokens]
    ),
    st.sampled_from([0.0, 0.25, 1.0]),
    st.lists(TOKEN, min_size=1, max_size=LONGEST),
)
GROUPS = st.integers(2, 4).flatmap(lambda n: st.lists(st.lists(SAMPLE, min_size=n, max_size=n), min_size=1, max_size=3))
few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def clipped(ratio: float, advantage: float, low: float = 0.2, high: float = 0.2) -> float:
    """PPO, arXiv 1707.06347, equation 7, the term of one token."""
    return min(ratio * advantage, max(1 - low, min(ratio, 1 + high)) * advantage)


def standardized(rewards: list[float]) -> list[float]:
    """DeepSeekMath, section 4.1.2; GSPO, equation 6; DAPO, equation 9."""
    if len(set(rewards)) == 1:
        return [0.0] * len(rewards)
    return [(reward - mean(rewards)) / statistics.stdev(rewards) for reward in rewards]


def grpo(groups: Groups) -> float:
    """arXiv 2402.03300, equation 3, with beta 0."""
    return mean(
        [
            mean([mean([clipped(r, a) for r in sample.ratios()]) for sample, a in zip(group, advantages, strict=True)])
            for group in groups
            for advantages in [standardized([sample.reward for sample in group])]
        ]
    )


def dr_grpo(groups: Groups) -> float:
    """arXiv 2503.20783, section 3.2: neither 1/|o| nor 1/std; its code divides by a constant, the longest generation."""
    return mean(
        [
            mean([sum(clipped(r, sample.reward - baseline) for r in sample.ratios()) for sample in group]) / LONGEST
            for group in groups
            for baseline in [mean([sample.reward for sample in group])]
        ]
    )


def dapo(groups: Groups) -> float:
    """arXiv 2503.14476, equations 8 to 13, over the tokens of all groups that equation 11 admits."""
    total, tokens = 0.0, 0
    for group in groups:
        rewards = [sample.reward + soft_overlong_punishment(len(sample.new), 4) for sample in group]
        if len(set(rewards)) == 1:
            continue  # equation 11: some right and some wrong
        for sample, advantage in zip(group, standardized(rewards), strict=True):
            total += sum(clipped(r, advantage, 0.2, 0.28) for r in sample.ratios())
            tokens += len(sample.new)
    return total / max(1, tokens)


def soft_overlong_punishment(length: int, cache: int) -> float:
    """Equation 13, with L_max = LONGEST and L_cache = cache."""
    if length <= LONGEST - cache:
        return 0.0
    return ((LONGEST - cache) - length) / cache if length <= LONGEST else -1.0


def gspo(groups: Groups) -> float:
    """arXiv 2507.18071, equations 5 to 7, with the clipping range of section 5.1."""
    return mean([mean([clipped(s, a, 3e-4, 4e-4) for s, a in sequence_ratios(group)]) for group in groups])


def sequence_ratios(group: list[Sample]) -> list[tuple[float, float]]:
    """Equations 7 and 6: each response's ratio and advantage."""
    ratios = [math.exp(sum(s.new) / len(s.new) - sum(s.old) / len(s.old)) for s in group]
    return list(zip(ratios, standardized([sample.reward for sample in group]), strict=True))


def rloo(groups: Groups) -> float:
    """arXiv 2402.14740, equation of section 2.2, over LONGEST; its estimator's gradient where new and old are equal."""
    return mean(
        [
            mean(
                [
                    (sample.reward - mean([other.reward for other in group if other is not sample]))
                    * sum(sample.ratios())
                    for sample in group
                ]
            )
            / LONGEST
            for group in groups
        ]
    )


def reinforce(groups: Groups) -> float:
    """Williams 1992 with the batch's mean for a baseline, over LONGEST."""
    samples = [sample for group in groups for sample in group]
    baseline = mean([sample.reward for sample in samples])
    return mean([(sample.reward - baseline) * sum(sample.ratios()) for sample in samples]) / LONGEST


def ppo(groups: Groups) -> float:
    """arXiv 1707.06347, equation 7, over all tokens, with equations 11 and 12 for the advantage (the last state is worth 0)."""
    terms = []
    for sample in (sample for group in groups for sample in group):
        after = [*sample.values[1:], 0.0]
        rewards = [0.0] * (len(sample.new) - 1) + [sample.reward]
        deltas = [r + v_next - v for r, v_next, v in zip(rewards, after, sample.values, strict=True)]
        for t, ratio in enumerate(sample.ratios()):
            advantage = sum(0.95**ahead * delta for ahead, delta in enumerate(deltas[t:]))
            terms.append(clipped(ratio, advantage))
    return mean(terms)


PAPERS: dict[str, Callable[[Groups], float]] = {
    "reinforce": reinforce,
    "rloo": rloo,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "ppo": ppo,
}


def table(rows: list[list[float]]) -> Tensor:
    return torch.tensor([row + [0.0] * (LONGEST - len(row)) for row in rows], dtype=torch.float64)


def step_loss(algorithm: Algorithm, groups: Groups, cuts: list[int] | None = None) -> tuple[float, list[float]]:
    """The step's loss and its gradient by each token's logprob, as the loop puts them together.

    `cuts` shuffles the samples over micro-batches: the number of the micro-batch of each sample.
    """
    lengths = torch.tensor([len(sample.new) for group in groups for sample in group])
    rewards = torch.tensor([sample.reward for group in groups for sample in group], dtype=torch.float64)
    rewards = algorithm.shape_rewards(rewards, lengths, LONGEST)
    samples = [sample for group in groups for sample in group]
    new, old, values = (table([getattr(sample, name) for sample in samples]) for name in ("new", "old", "values"))
    mask = torch.arange(LONGEST) < lengths[:, None]
    if algorithm.advantage is None:
        advantages, _ = generalized_advantages(rewards, values, mask, algorithm.gamma, algorithm.lam)
        kept = torch.ones(len(samples), dtype=torch.bool)
    else:
        by_group = algorithm.advantage(rewards.view(len(groups), -1))
        kept = by_group.any(dim=1).repeat_interleave(by_group.shape[1]) | (not algorithm.dynamic_sampling)
        advantages = by_group.flatten()[:, None].expand_as(values)
    weights = torch.zeros(len(samples))
    weights[kept] = token_weights(lengths[kept], algorithm.loss.average, LONGEST)
    new.requires_grad_()
    numbers = torch.tensor(cuts or [0] * len(samples))
    total = torch.zeros(())
    for number in numbers.unique():
        part = mask & (numbers == number)[:, None]
        rows = torch.arange(len(samples))[:, None].expand_as(mask)[part]
        tokens = ResponseTokens(new[part], old[part], old[part], advantages[part], rows)
        total = total + (policy_gradient_loss(tokens, algorithm.loss).loss * weights[rows]).sum()
    total.backward()
    assert new.grad is not None
    return float(total.detach()), new.grad[mask].tolist()


def slopes(objective: Callable[[Groups], float], groups: Groups) -> list[float]:
    """The paper's gradient by each token's logprob, by differences."""
    found = []
    for sample in (sample for group in groups for sample in group):
        for place, value in enumerate(sample.new):
            sides = []
            for shift in (1e-6, -1e-6):
                sample.new[place] = value + shift
                sides.append(objective(groups))
            sample.new[place] = value
            found.append((sides[0] - sides[1]) / 2e-6)
    return found


def corner_is_near(algorithm: Algorithm, groups: Groups) -> bool:
    edges = (1 - algorithm.loss.clip_low, 1 + algorithm.loss.clip_high)
    samples = [sample for group in groups for sample in group]
    ratios = [ratio for sample in samples for ratio in sample.ratios()]
    if algorithm.loss.ratio == "sequence":
        ratios = [math.exp(sum(s.new) / len(s.new) - sum(s.old) / len(s.old)) for s in samples]
    return any(abs(ratio - edge) < 1e-5 for ratio in ratios for edge in edges)


@pytest.mark.parametrize("name", ALGORITHMS)
@few
@given(groups=GROUPS, near=st.booleans())
def test_equals_its_paper(name: str, groups: Groups, near: bool) -> None:
    if near:  # within GSPO's narrow range too
        for sample in (sample for group in groups for sample in group):
            sample.old = [new + 1e-4 * (old - new) for new, old in zip(sample.new, sample.old, strict=True)]
    algorithm = ALGORITHMS[name]
    assume(not corner_is_near(algorithm, groups))
    loss, gradient = step_loss(algorithm, groups)
    objective = PAPERS[name]
    assert loss == pytest.approx(-objective(groups), rel=1e-5, abs=1e-6)
    assert gradient == pytest.approx([-slope for slope in slopes(objective, groups)], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ALGORITHMS)
@few
@given(groups=GROUPS, data=st.data())
def test_how_the_batch_is_cut_does_not_matter(name: str, groups: Groups, data: st.DataObject) -> None:
    count = sum(map(len, groups))
    cuts = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    whole, cut = (step_loss(ALGORITHMS[name], groups, how) for how in (None, cuts))
    assert cut[0] == pytest.approx(whole[0], rel=1e-9, abs=1e-9)
    assert cut[1] == pytest.approx(whole[1], rel=1e-9, abs=1e-9)


@few
@given(groups=GROUPS)
def test_gspo_s_gradient_is_equation_10(groups: Groups) -> None:
    """1/G sum of s_i A_i times the mean of the response's token gradients, where nothing is clipped."""
    gspo = ALGORITHMS["gspo"]
    unclipped = replace(gspo, loss=replace(gspo.loss, clip_low=1.0, clip_high=math.inf))
    wanted = [
        -ratio * advantage / len(sample.new) / len(group) / len(groups)
        for group in groups
        for sample, (ratio, advantage) in zip(group, sequence_ratios(group), strict=True)
        for _ in sample.new
    ]
    assert step_loss(unclipped, groups)[1] == pytest.approx(wanted, rel=1e-5, abs=1e-7)


@few
@given(groups=GROUPS)
def test_rloo_s_gradient_is_the_paper_s_where_samples_are_fresh(groups: Groups) -> None:
    for sample in (sample for group in groups for sample in group):
        sample.old = list(sample.new)
    wanted = []
    for group in groups:
        for sample in group:
            baseline = mean([other.reward for other in group if other is not sample])
            wanted += [-(sample.reward - baseline) / len(group) / len(groups) / LONGEST] * len(sample.new)
    assert step_loss(ALGORITHMS["rloo"], groups)[1] == pytest.approx(wanted, rel=1e-5, abs=1e-7)


@given(st.integers(0, 30), st.integers(1, 16), st.integers(0, 20))
def test_overlong_penalty_is_equation_13(length: int, cache: int, more: int) -> None:
    longest = cache + more
    found = float(overlong_penalty(torch.tensor([length]), longest, cache))
    if length <= longest - cache:
        assert found == 0
    elif length <= longest:
        assert found == pytest.approx(((longest - cache) - length) / cache)
    else:
        assert found == -1


def test_overlong_penalty_off_and_errors() -> None:
    assert torch.equal(overlong_penalty(torch.tensor([0, 9]), 9, 0), torch.zeros(2))
    for buffer in (-1, 10):
        with pytest.raises(ValueError, match=f"the overlong buffer is {buffer} tokens"):
            overlong_penalty(torch.tensor([1]), 9, buffer)


def test_the_papers_numbers() -> None:
    loss = {name: algorithm.loss for name, algorithm in ALGORITHMS.items()}
    assert (loss["dapo"].clip_low, loss["dapo"].clip_high) == (0.2, 0.28)
    assert (loss["gspo"].clip_low, loss["gspo"].clip_high) == (3e-4, 4e-4)
    assert {name: config.average for name, config in loss.items() if config.average != "constant"} == {
        "grpo": "sequence",
        "gspo": "sequence",
        "dapo": "token",
        "ppo": "token",
    }
    assert [name for name, algorithm in ALGORITHMS.items() if algorithm.critic] == ["ppo"]
    assert [name for name, algorithm in ALGORITHMS.items() if algorithm.dynamic_sampling] == ["dapo"]
    assert all(algorithm.source and algorithm.name == name for name, algorithm in ALGORITHMS.items())


def test_find_algorithm() -> None:
    assert find_algorithm("gspo") is ALGORITHMS["gspo"]
    own = replace(ALGORITHMS["grpo"], name="mine")
    assert find_algorithm(own) is own
    with pytest.raises(ValueError, match=r"no algorithm 'gropo'; choose one of reinforce, rloo, grpo, .*ppo"):
        find_algorithm("gropo")


def test_decisions_are_json_and_tell_algorithms_apart() -> None:
    seen = [json.dumps(algorithm.decisions(), allow_nan=False) for algorithm in ALGORITHMS.values()]
    assert len({text.replace(name, "") for name, text in zip(ALGORITHMS, seen, strict=True)}) == len(ALGORITHMS)
    grpo = ALGORITHMS["grpo"]
    for change in ({"gamma": 0.5}, {"loss": replace(grpo.loss, kl_coefficient=0.04)}, {"advantage": lambda r: r}):
        options: dict[str, Any] = change
        assert replace(grpo, **options).decisions() != grpo.decisions()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"advantage": None}, "either an advantage function or critic=True"),
        ({"critic": True}, "either an advantage function or critic=True"),
        ({"dynamic_sampling": -1}, "dynamic_sampling is -1"),
        ({"overlong_buffer": -1}, "overlong_buffer is -1"),
        ({"gamma": 1.5}, "gamma is 1.5"),
        ({"lam": math.nan}, "lam is nan"),
    ],
)
def test_algorithm_errors(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=f"grpo: .*{match}"):
        replace(ALGORITHMS["grpo"], **options)
