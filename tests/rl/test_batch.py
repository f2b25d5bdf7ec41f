"""One step's samples, and the normalisation: a mean over all tokens, however the micro-batches are cut."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_lib.rl import ALGORITHMS, LoopConfig, LossConfig, policy_gradient_loss, token_weights
from course_lib.rl.batch import Batch, by_token
from course_lib.rl.collect import Collected
from course_lib.rl.losses import Average, ResponseTokens, TokenLoss
from course_lib.rl.metrics import step_metrics
from course_lib.rl.rewards import RewardFault
from course_lib.rl.update import LossTables, Updater, UpdateStats, as_token_loss
from course_lib.rl.world import World
from course_lib.training import StepStats, micro_batches, pack

MakeBatch = Callable[[list[int], list[float]], Batch]
LENGTHS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)
unshared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


MAX_NEW_TOKENS = 8
STATS = UpdateStats(StepStats(0.5, 1.0, True, 1, 1e-3))


def parts(batch: Batch, table: torch.Tensor, max_tokens: int, average: Average = "token") -> torch.Tensor:
    """The sum of what the trainer would add up: one part a micro-batch."""
    algorithm = replace(ALGORITHMS["grpo"], loss=LossConfig(average=average))
    nothing: Any = None
    updater = Updater(nothing, algorithm, policy_gradient_loss, None, None, LoopConfig(), World())
    weights = token_weights(batch.rollout.response_lengths, average, MAX_NEW_TOKENS)
    tables, total = LossTables.of(batch, weights, "cpu"), torch.zeros(())
    for groups in micro_batches(batch.groups(), max_tokens):
        packed = pack(groups)
        logprobs = table[packed.samples, packed.offsets]
        total = total + updater._part(batch, tables, packed, logprobs, torch.ones_like(logprobs))
    return total


def collected(batch: Batch) -> Collected:
    return Collected(batch, batch.rewards, batch.faults)


@unshared
@given(pairs=LENGTHS, max_tokens=st.integers(1, 60), seed=st.integers(0, 99))
def test_mean_over_all_tokens_of_the_batch(make_batch: MakeBatch, pairs: Any, max_tokens: int, seed: int) -> None:
    lengths = [length for pair in pairs for length in pair]
    advantages = torch.randn(len(lengths), generator=torch.Generator().manual_seed(seed)).tolist()
    batch = make_batch(lengths, advantages)
    table = batch.rollout.logprobs.clone().requires_grad_()  # trainer and sampler agree: every weight is 1
    total = parts(batch, table, max_tokens)
    tokens = sum(lengths)
    wanted = -sum(advantage * length for advantage, length in zip(advantages, lengths, strict=True)) / tokens
    assert float(total.detach()) == pytest.approx(wanted, abs=1e-5)
    total.backward()
    slope = -batch.advantages[:, None] / tokens * batch.rollout.response_mask
    assert table.grad is not None
    assert torch.allclose(table.grad, slope, atol=1e-6)
    assert torch.equal(batch.trained["seen"].bool(), batch.rollout.response_mask)


@pytest.mark.parametrize("name", ["grpo", "dapo", "reinforce"])
def test_the_loss_of_a_micro_batch_waits_for_nothing(make_batch: MakeBatch, name: str) -> None:
    """On a GPU the host must be free to launch the backward pass. A meta tensor has no values to wait for: reading one raises."""
    batch = make_batch([2, 3], [1.0, -1.0])
    nothing: Any = None
    updater = Updater(nothing, ALGORITHMS[name], policy_gradient_loss, None, None, LoopConfig(), World())
    tables = LossTables.of(batch, torch.ones(2), "meta")
    packed = pack(batch.groups()).to("meta")
    logprobs = torch.zeros(5, device="meta", requires_grad=True)
    updater._part(batch, tables, packed, logprobs, torch.zeros(5, device="meta")).backward()
    with pytest.raises(NotImplementedError, match="meta"):
        batch.trained["seen"]  # which is when the values are fetched


def test_what_the_trainer_saw_is_there_after_each_micro_batch_and_gone_after_clear(make_batch: MakeBatch) -> None:
    batch = make_batch([2, 3, 1, 2], [1.0] * 4)
    first, second = (pack([group]) for group in batch.groups())
    batch.trained.record(first, logprobs=torch.arange(5.0), masked=torch.ones(5))
    assert batch.trained["logprobs"].tolist() == [[0, 1, 0], [2, 3, 4], [0, 0, 0], [0, 0, 0]]
    batch.trained.record(second, logprobs=torch.full((3,), 7.0), masked=torch.zeros(3))
    assert batch.trained["logprobs"].tolist() == [[0, 1, 0], [2, 3, 4], [7, 0, 0], [7, 7, 0]]
    assert batch.trained["masked"].sum() == 5
    assert batch.trained["seen"].sum() == 8
    batch.trained.record(first, logprobs=torch.ones(5))
    batch.trained.clear()
    assert all(not table.any() for table in batch.trained)


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
    parts(batch, batch.rollout.logprobs + 0.2, 100)
    found = step_metrics(collected(batch), STATS)
    assert found["mismatch"] == pytest.approx(0.2, abs=1e-6)
    assert found["ratio_mean"] == pytest.approx(1.2214, abs=1e-4)
    assert found["ratio_outside"] == 1.0
    assert found["entropy"] == 1.0
    assert (found["reward"], found["reward_std"], found["groups_with_signal"], found["tokens"]) == (0.0, 1.0, 1.0, 4)


def test_mismatch_is_measured_at_equal_weights(make_batch: MakeBatch) -> None:
    """After a batch's first update the trainer has moved on, and what it says then is no mismatch with the sampler."""
    batch = make_batch([2, 2], [1.0, -1.0])
    batch.old_logprobs = batch.rollout.logprobs.clone()
    parts(batch, batch.rollout.logprobs + 0.5, 100)
    found = step_metrics(collected(batch), STATS)
    assert found["mismatch"] == 0.0
    assert found["ratio_max"] == 1.0
    assert found["clipped"] == 0.5  # exp(0.5) is over 1.2: clipped where the advantage is positive


def test_a_step_without_a_signal_has_no_token_metrics(make_batch: MakeBatch) -> None:
    found = step_metrics(collected(make_batch([1, 1], [0.0, 0.0])), None)
    assert found["applied"] is False
    assert "entropy" not in found


@unshared
@given(pairs=LENGTHS, cut=st.integers(1, 60), average=st.sampled_from(["sequence", "constant"]))
def test_every_average_is_the_same_however_the_batch_is_cut(
    make_batch: MakeBatch, pairs: Any, cut: int, average: Average
) -> None:
    lengths = [length for pair in pairs for length in pair]
    advantages = torch.randn(len(lengths), generator=torch.Generator().manual_seed(1)).tolist()
    batch = make_batch(lengths, advantages)
    divisors = lengths if average == "sequence" else [MAX_NEW_TOKENS] * len(lengths)
    means = [-a * length / divisor for a, length, divisor in zip(advantages, lengths, divisors, strict=True)]
    assert float(parts(batch, batch.rollout.logprobs, cut, average)) == pytest.approx(
        sum(means) / len(lengths), abs=1e-5
    )


@unshared
@given(pairs=LENGTHS, data=st.data())
def test_taken_apart_and_joined_a_batch_is_the_same(make_batch: MakeBatch, pairs: Any, data: st.DataObject) -> None:
    lengths = [length for pair in pairs for length in pair]
    batch = make_batch(lengths, [float(row) for row in range(len(lengths))])
    batch.reward_parts = {"part": batch.rewards * 2}
    batch.faults = [RewardFault(row, "q", "t", "failed") for row in range(0, len(lengths), 3)]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(pairs) - 1), max_size=3)) if len(pairs) > 1 else [])
    places = [0, *cuts, len(pairs)]
    pieces = [batch.take(range(start, end)) for start, end in itertools.pairwise(places)]
    joined = Batch.join(pieces)
    assert joined.rollout.prompts() == batch.rollout.prompts()
    assert joined.rollout.responses() == batch.rollout.responses()
    assert torch.equal(joined.rollout.logprobs, batch.rollout.logprobs)
    assert torch.equal(joined.rewards, batch.rewards)
    assert torch.equal(joined.reward_parts["part"], batch.reward_parts["part"])
    assert joined.faults == batch.faults
    assert joined.problems == batch.problems


def test_a_table_says_what_happened_to_each_token(make_batch: MakeBatch) -> None:
    batch = make_batch([2, 3, 1, 1], [1.0, -1.0, 0.0, 0.0])
    seen = batch.take([0])
    parts(seen, seen.rollout.logprobs + 0.1, 100)
    first, second = seen.table(lambda ids: f"<{ids[0]}>")
    assert [len(row["tokens"]["text"]) for row in (first, second)] == [2, 3]
    assert first["tokens"]["trained"] == pytest.approx([value + 0.1 for value in first["tokens"]["sampled"]], abs=1e-3)
    assert first["tokens"]["clipped"] == [0, 0]
    unseen = batch.table(lambda ids: "x")[2]["tokens"]
    assert (unseen["trained"], unseen["old"], len(unseen["sampled"])) == ([], [], 1)
    assert "tokens" not in batch.table()[0]


@unshared
@given(pairs=LENGTHS, data=st.data())
def test_a_table_is_what_a_look_at_each_token_says(make_batch: MakeBatch, pairs: Any, data: st.DataObject) -> None:
    lengths = [length for pair in pairs for length in pair]
    batch = make_batch(lengths, [1.0] * len(lengths))
    rounded = st.integers(-(2**20), 2**20).map(lambda number: number / 2**10)  # among them halves of the last decimal
    numbers = st.one_of(st.floats(width=32), rounded)

    def drawn() -> torch.Tensor:
        values = data.draw(
            st.lists(numbers, min_size=batch.rollout.logprobs.numel(), max_size=batch.rollout.logprobs.numel())
        )
        return torch.tensor(values).view_as(batch.rollout.logprobs)

    batch.rollout.logprobs, batch.advantages = drawn(), drawn()
    batch.old_logprobs = drawn() if data.draw(st.booleans()) else None
    groups = data.draw(st.lists(st.sampled_from(batch.groups()), unique_by=lambda group: group.samples[0]))
    if groups:
        packed = pack(groups)
        batch.trained.record(packed, logprobs=drawn()[packed.samples, packed.offsets], clipped=packed.offsets % 2)
    seen = {sample for group in groups for sample in group.samples}
    old = batch.trained["logprobs"] if batch.old_logprobs is None else batch.old_logprobs
    tables = {"sampled": batch.rollout.logprobs, "old": old, "trained": batch.trained["logprobs"]}
    for row, (entry, length) in enumerate(zip(batch.table(lambda ids: f"<{ids[0]}>"), lengths, strict=True)):
        tokens = {
            name: table[row, :length].tolist() for name, table in (tables | {"advantage": batch.advantages}).items()
        }
        wanted: dict[str, Any] = {name: [round(value, 4) for value in values] for name, values in tokens.items()}
        wanted |= {
            name: batch.trained[name][row, :length].int().tolist() for name in ("clipped", "truncated", "masked")
        }
        hidden = set() if row in seen else wanted.keys() - {"sampled", "advantage"}
        wanted |= {name: [] for name in hidden} | {"text": [f"<{token}>" for token in batch.rollout.responses()[row]]}
        assert json.dumps(entry["tokens"], sort_keys=True) == json.dumps(wanted, sort_keys=True)  # NaN is not itself
    assert list(entry["tokens"]) == ["text", "sampled", "old", "trained", "clipped", "truncated", "masked", "advantage"]


def test_a_loss_of_ones_own_gives_a_number_a_token() -> None:
    one = torch.ones(2)
    tokens = ResponseTokens(one, one, one, one, torch.tensor([0, 0]))
    assert torch.equal(as_token_loss(one, tokens).loss, one)
    whole = TokenLoss(one, one, one, one)
    assert as_token_loss(whole, tokens) is whole
    with pytest.raises(ValueError, match=r"shape \(\); expected the loss of each token, of shape \(2,\)"):
        as_token_loss(one.sum(), tokens)
    with pytest.raises(ValueError, match="a float"):
        as_token_loss(1.0, tokens)  # type: ignore[arg-type]
