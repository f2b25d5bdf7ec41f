"""One step's samples, and the normalisation: a mean over all tokens, however the micro-batches are cut."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_lib.rl import LoopConfig, RLLoop, policy_gradient_loss
from course_lib.rl.batch import Batch, by_token
from course_lib.rl.metrics import step_metrics
from course_lib.training import StepStats, micro_batches, pack

MakeBatch = Callable[[list[int], list[float]], Batch]
LENGTHS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)
unshared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def shares(batch: Batch, table: torch.Tensor, max_tokens: int) -> torch.Tensor:
    """The sum of what the trainer would add up: one share a micro-batch."""
    loop: Any = SimpleNamespace(loss=policy_gradient_loss, config=LoopConfig())
    total = torch.zeros(())
    for groups in micro_batches(batch.groups(), max_tokens):
        packed = pack(groups)
        logprobs = table[packed.samples, packed.offsets]
        total = total + RLLoop._share(loop, batch, packed, logprobs, torch.ones_like(logprobs))
    return total


@unshared
@given(pairs=LENGTHS, max_tokens=st.integers(1, 60), seed=st.integers(0, 99))
def test_mean_over_all_tokens_of_the_batch(make_batch: MakeBatch, pairs: Any, max_tokens: int, seed: int) -> None:
    lengths = [length for pair in pairs for length in pair]
    advantages = torch.randn(len(lengths), generator=torch.Generator().manual_seed(seed)).tolist()
    batch = make_batch(lengths, advantages)
    table = batch.rollout.logprobs.clone().requires_grad_()  # trainer and sampler agree: every weight is 1
    total = shares(batch, table, max_tokens)
    tokens = sum(lengths)
    wanted = -sum(advantage * length for advantage, length in zip(advantages, lengths, strict=True)) / tokens
    assert float(total.detach()) == pytest.approx(wanted, abs=1e-5)
    total.backward()
    slope = -batch.advantages[:, None] / tokens * batch.rollout.response_mask
    assert table.grad is not None
    assert torch.allclose(table.grad, slope, atol=1e-6)
    assert torch.equal(batch.trained["seen"].bool(), batch.rollout.response_mask)


def test_groups_hold_every_sample_once(make_batch: MakeBatch) -> None:
    batch = make_batch([1, 4, 2, 3], [0.0] * 4)
    groups = batch.groups()
    assert [group.samples for group in groups] == [[0, 1], [2, 3]]
    assert [group.prompt_ids for group in groups] == [[5, 6], [5, 7]]
    assert [response for group in groups for response in group.responses] == batch.rollout.responses()
    assert batch.tokens == 10


def test_groups_without_a_signal_are_left_out(make_batch: MakeBatch) -> None:
    batch = make_batch([1, 1, 1, 1, 1, 1], [0.0, 0.0, 1.0, -1.0, 0.0, 0.5])
    assert [group.samples for group in batch.with_signal(batch.groups())] == [[2, 3], [4, 5]]


def test_padded_and_by_token_are_each_others_inverse(make_batch: MakeBatch) -> None:
    batch = make_batch([2, 3, 1, 4], [1.0, -1.0, 1.0, -1.0])
    values = {row: torch.rand(length) for row, length in enumerate([2, 3, 1, 4])}
    table = batch.padded(values)
    packed = pack(batch.groups())
    assert torch.equal(by_token(table, packed), torch.cat([values[row] for row in range(4)]))
    assert not bool(table[~batch.rollout.response_mask].any())


def test_metrics_of_a_made_up_step(make_batch: MakeBatch) -> None:
    batch = make_batch([2, 2], [1.0, -1.0])
    shares(batch, batch.rollout.logprobs + 0.2, 100)
    found = step_metrics(batch, StepStats(0.5, 1.0, True, 1, 1e-3))
    assert found["mismatch"] == pytest.approx(0.2, abs=1e-6)
    assert found["ratio_mean"] == pytest.approx(1.2214, abs=1e-4)
    assert found["ratio_outside"] == 1.0
    assert found["entropy"] == 1.0
    assert (found["reward"], found["reward_std"], found["groups_with_signal"], found["tokens"]) == (0.0, 1.0, 1.0, 4)


def test_mismatch_is_measured_at_equal_weights(make_batch: MakeBatch) -> None:
    """After a batch's first update the trainer has moved on, and what it says then is no mismatch with the sampler."""
    batch = make_batch([2, 2], [1.0, -1.0])
    batch.old_logprobs = batch.rollout.logprobs.clone()
    shares(batch, batch.rollout.logprobs + 0.5, 100)
    found = step_metrics(batch, StepStats(0.5, 1.0, True, 1, 1e-3))
    assert found["mismatch"] == 0.0
    assert found["ratio_max"] == 1.0
    assert found["clipped"] == 0.5  # exp(0.5) is over 1.2: clipped where the advantage is positive


def test_a_step_without_a_signal_has_no_token_metrics(make_batch: MakeBatch) -> None:
    found = step_metrics(make_batch([1, 1], [0.0, 0.0]), None)
    assert found["applied"] is False
    assert "entropy" not in found
