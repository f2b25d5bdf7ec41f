"""A saved batch under every loss: an exact round trip, gradients that are transformers', and no weight that moves."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from course_lib.rl import Problem
from course_lib.rl.algorithms import ALGORITHMS
from course_lib.rl.batch import Batch
from course_lib.rl.replay import Replayed, load_batch, replay, save_batch
from course_lib.rl.rewards import RewardFault
from course_lib.training import PolicyTrainer

MakeBatch = Callable[[list[int], list[float]], Batch]
LENGTHS = [3, 6, 2, 4, 5, 5]
REWARDS = [1.0, 0.0, 0.5, 0.5, 0.0, 1.0]  # the second group has no signal


@pytest.fixture
def batch(make_batch: MakeBatch) -> Batch:
    return make_batch(LENGTHS, REWARDS)


def test_save_and_load_is_exact(batch: Batch, tmp_path: Path) -> None:
    batch.problems = [Problem("2+3?", "5", {"numbers": [2, 3]}), *batch.problems[1:]]
    batch.completions = ["é\n", *batch.completions[1:]]
    batch.rewards[0] = 1 / 3
    batch.old_logprobs = torch.randn(batch.rollout.logprobs.shape)
    batch.reward_parts = {"correct": batch.rewards.clone()}
    batch.faults = [RewardFault(1, "q", "c", "it raised")]
    save_batch(batch, tmp_path / "batch.pt")
    found = load_batch(tmp_path / "batch.pt")
    assert list(tmp_path.iterdir()) == [tmp_path / "batch.pt"]
    for item in fields(Batch):
        if item.init and item.name != "rollout":
            same(getattr(found, item.name), getattr(batch, item.name))
    for name, value in vars(batch.rollout).items():
        same(getattr(found.rollout, name), value)


def same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    if isinstance(wanted, Tensor):
        assert found.dtype == wanted.dtype and torch.equal(found, wanted)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            same(found[name], value)
    else:
        assert found == wanted


def test_a_file_that_is_no_batch(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_batch(tmp_path / "nothing.pt")
    (tmp_path / "text").write_text("text")
    torch.save({"problems": []}, tmp_path / "other.pt")
    for name in ("text", "other.pt"):
        with pytest.raises(ValueError, match=f"{name} holds no batch"):
            load_batch(tmp_path / name)


def theirs(folder: Path, batch: Batch, advantages: Tensor, weights: Tensor) -> tuple[float, list[Tensor]]:
    """The loss on fresh samples and its gradient by plain transformers: a sample at a time, whole rows of logits."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    total = torch.zeros(())
    rollout = batch.rollout
    for row, (prompt, response) in enumerate(zip(rollout.prompts(), rollout.responses(), strict=True)):
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(logits, -1)[torch.arange(len(response)), torch.tensor(response)]
        correction = torch.exp(logprobs.detach() - rollout.logprobs[row, : len(response)]).clamp(max=2.0)
        ratio = torch.exp(logprobs - logprobs.detach())
        total = total - (weights[row] * advantages[row] * correction * ratio).sum()
    total.backward()
    return float(total.detach()), [w.grad for w in model.parameters() if w.grad is not None]


def cosine(one: list[Tensor], other: list[Tensor]) -> float:
    a, b = (torch.cat([part.flatten() for part in parts]).double() for parts in (one, other))
    return float(a @ b / (a.norm() * b.norm()))


def test_loss_and_gradient_are_those_of_transformers(tiny: Path, batch: Batch) -> None:
    lengths, n = torch.tensor(LENGTHS), len(LENGTHS)
    dr_grpo = torch.tensor([0.5, -0.5, 0.0, 0.0, -0.5, 0.5])
    grpo = dr_grpo * 2**0.5
    cases = {
        "grpo": (grpo, 1 / (n * lengths)),
        "dr_grpo": (dr_grpo, torch.full((n,), 1 / (n * 8))),
        "rloo": (2 * dr_grpo, torch.full((n,), 1 / (n * 8))),
        "reinforce": (torch.tensor(REWARDS) - 0.5, torch.full((n,), 1 / (n * 8))),
    }
    found = replay(tiny, batch, list(cases), max_new_tokens=8)
    gradients = []
    for (name, (advantages, weights)), replayed in zip(cases.items(), found, strict=True):
        loss, gradient = theirs(tiny, batch, advantages, weights)
        gradients.append(gradient)
        assert replayed.name == name
        assert replayed.loss == pytest.approx(loss, rel=1e-4, abs=1e-7)
        norm = math.sqrt(sum(float((part.double() ** 2).sum()) for part in gradient))
        assert replayed.grad_norm == pytest.approx(norm, rel=1e-4)
        assert replayed.cosine == pytest.approx(cosine(gradients[0], gradient), abs=1e-4)


def test_token_gradients_say_what_becomes_likelier(tiny: Path, batch: Batch) -> None:
    """On fresh samples the gradient of a token's logprob is minus its advantage, importance weight and average's weight."""
    for replayed in replay(tiny, batch):
        mask = batch.rollout.response_mask
        assert not bool(replayed.token_gradient[~mask].any()) and not bool(replayed.advantages[~mask].any())
        assert torch.equal(replayed.token_gradient.sign(), -replayed.advantages.sign())
        assert (replayed.clipped, replayed.masked) == (0.0, 0.0)  # every ratio is 1


def numbers(found: list[Replayed]) -> list[tuple[Any, ...]]:
    return [(r.name, r.loss, r.grad_norm, r.clipped, r.truncated, r.masked, r.cosine) for r in found]


def test_the_same_numbers_each_time_however_it_is_cut(tiny: Path, batch: Batch) -> None:
    one, again = (replay(tiny, batch) for _ in range(2))
    assert numbers(one) == numbers(again)
    assert [replayed.name for replayed in one] == list(ALGORITHMS)
    assert one[0].cosine == pytest.approx(1.0)
    cut = replay(tiny, batch, micro_batch_tokens=5)
    for whole, parts in zip(one, cut, strict=True):
        assert parts.loss == pytest.approx(whole.loss, rel=1e-4, abs=1e-7)
        assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=1e-3)
        torch.testing.assert_close(parts.token_gradient, whole.token_gradient, atol=1e-6, rtol=1e-3)


def test_a_trainer_that_has_moved_is_replayed_and_stays_where_it_is(
    batch: Batch, make_trainer: Any, train: Callable[[PolicyTrainer], None]
) -> None:
    trainer = make_trainer(learning_rate=3e-3)
    batch.old_logprobs = batch.padded(trainer.logprobs(batch.with_signal(batch.groups())))
    assert replay(trainer, batch, ["gspo"])[0].clipped == 0.0
    assert replay(trainer, batch, ["gspo"], dtype=torch.float32)[0].clipped > 0  # rounding alone
    train(trainer)
    before = {name: weight.clone() for name, weight in trainer.named_weights()}
    (gspo,) = replay(trainer, batch, ["gspo"])
    assert gspo.clipped > 0  # its range is narrow, and the step was large
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.named_weights())
    train(trainer)  # and nothing is left behind that a step would trip over
    assert trainer.steps == 2


def test_dapo_leaves_groups_without_a_signal_out_of_the_average(tiny: Path, batch: Batch) -> None:
    dapo = replace(ALGORITHMS["dapo"], overlong_buffer=0)
    with_all = replace(dapo, dynamic_sampling=0)
    kept, whole = replay(tiny, batch, [dapo, with_all])
    assert whole.cosine == pytest.approx(1.0)
    assert kept.grad_norm / whole.grad_norm == pytest.approx(sum(LENGTHS) / (sum(LENGTHS) - 6), rel=1e-5)


def test_the_run_s_own_overlong_penalty_is_taken_off_again(tiny: Path, batch: Batch) -> None:
    plain = replay(tiny, batch, max_new_tokens=6)
    shaped = ALGORITHMS["dapo"].shape_rewards(batch.rewards, batch.rollout.response_lengths, 6)
    batch.reward_parts["overlong"] = shaped - batch.rewards
    batch.rewards = shaped
    assert bool(batch.reward_parts["overlong"].any())
    for one, other in zip(plain, replay(tiny, batch, max_new_tokens=6), strict=True):
        torch.testing.assert_close(one.advantages, other.advantages, atol=1e-5, rtol=1e-5)


def test_ppo_s_advantages_come_from_the_critic_s_values(tiny: Path, batch: Batch) -> None:
    (none,) = replay(tiny, batch, ["ppo"])
    last = torch.tensor(LENGTHS) - 1
    at_end = none.advantages.gather(1, last[:, None])[:, 0]
    assert torch.equal(at_end.argsort(stable=True), torch.tensor(REWARDS).argsort(stable=True))
    batch.values = torch.where(batch.rollout.response_mask, torch.tensor(REWARDS)[:, None], 0.0)
    assert not bool(replay(tiny, batch, ["ppo"])[0].advantages.any())  # all was foreseen


def test_failed_rewards_and_unknown_logprobs(tiny: Path, batch: Batch) -> None:
    batch.faults = [RewardFault(0, "q", "c", "it raised")]
    batch.old_logprobs = torch.zeros_like(batch.rollout.logprobs)  # as of samples that a run had no use for
    for replayed in replay(tiny, batch):
        assert not bool(replayed.advantages[0].any()) and not bool(replayed.token_gradient[0].any())
        assert replayed.clipped == 0.0


def test_nothing_to_learn(tiny: Path, make_batch: MakeBatch) -> None:
    for replayed in replay(tiny, make_batch([2, 3], [1.0, 1.0]), ["grpo", "dapo", "reinforce"], max_new_tokens=8):
        assert (replayed.loss, replayed.grad_norm) == (0.0, 0.0)
        assert math.isnan(replayed.cosine)


def test_errors(tiny: Path, batch: Batch) -> None:
    with pytest.raises(ValueError, match="no algorithm 'gropo'"):
        replay(tiny, batch, ["gropo"])
    grpo = ALGORITHMS["grpo"]
    with_kl = replace(grpo, loss=replace(grpo.loss, kl_coefficient=0.04))
    with pytest.raises(ValueError, match="there are no reference_logprobs"):
        replay(tiny, batch, [with_kl])
    batch.reference_logprobs = batch.rollout.logprobs.clone()
    assert replay(tiny, batch, [with_kl])[0].loss != replay(tiny, batch, [grpo])[0].loss
    batch.reference_logprobs[2:] = 0.0
    with pytest.raises(ValueError, match="reference_logprobs of some samples are missing"):
        replay(tiny, batch, [with_kl])
