"""One trainer a ZeRO stage: how a step is cut, what spoils it, what a checkpoint brings back."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from course_lib.training import Group, PackedBatch, PolicyTrainer, StepStats, TrainerConfig

Loss = Callable[[PackedBatch, Tensor, Tensor], Tensor]
Snapshot = Callable[[PolicyTrainer], dict[str, Tensor]]
CONFIG: dict[str, Any] = {"learning_rate": 3e-4, "warmup_steps": 4, "micro_batch_tokens": 32}
PASSES = 4  # micro-batches of `groups` at 32 tokens
KINDS: dict[str, dict[str, Any]] = {
    "stage 0": {"zero_stage": 0},
    "stage 1": {"zero_stage": 1},
    "stage 2": {"zero_stage": 2},
    "stage 3": {"zero_stage": 3},
    "stage 2, offload": {"zero_stage": 2, "offload_optimizer": True},
}


@dataclass
class Run:
    """A trainer, its checkpoint after one step, and what three more steps gave when nothing came between."""

    trainer: PolicyTrainer
    config: TrainerConfig
    checkpoint: Path
    saved: dict[str, Tensor]
    steps: list[StepStats]
    after: dict[str, Tensor]


@pytest.fixture(scope="module", params=KINDS)
def run(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_folder: Path,
    groups: list[Group],
    advantage_loss: Loss,
    snapshot: Snapshot,
) -> Run:
    config = TrainerConfig(**CONFIG, **KINDS[request.param])
    trainer = PolicyTrainer(tiny_folder, config)
    assert trainer.step(groups, advantage_loss).micro_batches == PASSES
    checkpoint = tmp_path_factory.mktemp("checkpoint")
    trainer.save(checkpoint, {"epoch": 3, "seen": ["a", "b"]})
    saved = snapshot(trainer)
    steps = [trainer.step(groups, advantage_loss) for _ in range(3)]
    return Run(trainer, config, checkpoint, saved, steps, snapshot(trainer))


def spoiled(loss: Loss, at: int, spoil: Callable[[Tensor], Tensor]) -> Loss:
    """The same loss, but for the micro-batch number `at`."""
    calls = iter(range(1000))

    def wrong(batch: PackedBatch, logprobs: Tensor, entropy: Tensor) -> Tensor:
        value = loss(batch, logprobs, entropy)
        return spoil(value) if next(calls) == at else value

    return wrong


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_uninterrupted_run_moves(run: Run) -> None:
    """Else the exact agreements below would say nothing."""
    losses = [step.loss for step in run.steps]
    assert len(set(losses)) == 3
    assert losses[0] > losses[-1]
    assert not same(run.saved, run.after)


def test_load_brings_back_everything(run: Run, groups: list[Group], advantage_loss: Loss, snapshot: Snapshot) -> None:
    assert run.trainer.load(run.checkpoint) == {"epoch": 3, "seen": ["a", "b"]}
    assert run.trainer.steps == 1
    assert same(snapshot(run.trainer), run.saved)
    assert [run.trainer.step(groups, advantage_loss) for _ in range(3)] == run.steps
    assert same(snapshot(run.trainer), run.after)


def test_a_new_trainer_goes_on_from_a_checkpoint(
    run: Run, tiny_folder: Path, groups: list[Group], advantage_loss: Loss, snapshot: Snapshot
) -> None:
    trainer = PolicyTrainer(tiny_folder, run.config)
    assert trainer.load(run.checkpoint) == {"epoch": 3, "seen": ["a", "b"]}
    assert same(snapshot(trainer), run.saved)
    assert [trainer.step(groups, advantage_loss) for _ in range(3)] == run.steps
    assert same(snapshot(trainer), run.after)


@pytest.mark.parametrize("at", [0, PASSES - 1])
@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_as_if_it_never_happened(
    run: Run, groups: list[Group], advantage_loss: Loss, snapshot: Snapshot, factor: float, at: int
) -> None:
    run.trainer.load(run.checkpoint)
    # Adding the constant leaves the gradient finite: only the loss itself says that something is wrong.
    for spoil in (lambda value: value * factor, lambda value: value + factor):
        stats = run.trainer.step(groups, spoiled(advantage_loss, at, spoil))
        assert not stats.applied
        assert not math.isfinite(stats.loss)
        assert not math.isfinite(stats.grad_norm)
        assert same(snapshot(run.trainer), run.saved)
    assert run.trainer.steps == 1
    assert [run.trainer.step(groups, advantage_loss) for _ in range(3)] == run.steps
    assert same(snapshot(run.trainer), run.after)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.self_attn.k_proj.weight"])
def test_one_value_of_one_gradient_that_is_not_finite_is_refused(
    run: Run, groups: list[Group], advantage_loss: Loss, snapshot: Snapshot, name: str, value: float
) -> None:
    """The loss is finite: only the gradient says that something is wrong."""

    def spoil(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient.view(-1)[-1] = value
        return gradient

    run.trainer.load(run.checkpoint)
    hook = dict(run.trainer.policy.model.named_parameters())[name].register_hook(spoil)
    try:
        stats = run.trainer.step(groups, advantage_loss)
    finally:
        hook.remove()
    assert math.isfinite(stats.loss)
    assert not stats.applied
    assert not math.isfinite(stats.grad_norm)
    assert same(snapshot(run.trainer), run.saved)
    assert [run.trainer.step(groups, advantage_loss) for _ in range(3)] == run.steps


def test_attention_that_plans_anew_for_each_shape_is_off(run: Run, tiny_folder: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    PolicyTrainer(tiny_folder, run.config)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_gradients_are_not_looked_at_one_by_one(
    run: Run, groups: list[Group], advantage_loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their norm says what 6 to 13 launches for each of them would say; an offloaded gradient is looked at on its way."""
    looks = []
    for place in ("runtime.utils", "runtime.zero.stage_1_and_2"):
        monkeypatch.setattr(f"deepspeed.{place}.has_inf_or_nan", looks.append)
    run.trainer.load(run.checkpoint)
    assert run.trainer.step(groups, advantage_loss).applied
    assert bool(looks) == run.config.offload_optimizer


@pytest.mark.parametrize("at", [0, 1, PASSES - 1])
def test_a_loss_that_raises_leaves_nothing_behind(
    run: Run, groups: list[Group], advantage_loss: Loss, snapshot: Snapshot, at: int
) -> None:
    def fail(value: Tensor) -> Tensor:
        raise KeyError("a learner's mistake")

    run.trainer.load(run.checkpoint)
    with pytest.raises(KeyError, match="a learner's mistake"):
        run.trainer.step(groups, spoiled(advantage_loss, at, fail))
    assert same(snapshot(run.trainer), run.saved)
    assert [run.trainer.step(groups, advantage_loss) for _ in range(3)] == run.steps


def test_logprobs_between_steps_change_nothing(run: Run, groups: list[Group], advantage_loss: Loss) -> None:
    run.trainer.load(run.checkpoint)
    steps = []
    for _ in range(3):
        before = run.trainer.logprobs(groups)
        steps.append(run.trainer.step(groups, advantage_loss))
        after = run.trainer.logprobs(groups)
        assert not torch.equal(before[0], after[0])
    assert steps == run.steps


def test_logprobs_are_those_that_the_loss_gets(run: Run, groups: list[Group], advantage_loss: Loss) -> None:
    run.trainer.load(run.checkpoint)
    found = run.trainer.logprobs(groups, temperature=0.8)
    assert {sample: len(values) for sample, values in found.items()} == {
        sample: len(response)
        for group in groups
        for sample, response in zip(group.samples, group.responses, strict=True)
    }

    def compare(batch: PackedBatch, logprobs: Tensor, entropy: Tensor) -> Tensor:
        for sample, offset, value in zip(
            batch.samples.tolist(), batch.offsets.tolist(), logprobs.tolist(), strict=True
        ):
            assert value == found[sample][offset]
        return advantage_loss(batch, logprobs, entropy)

    run.trainer.step(groups, compare, temperature=0.8)


def test_no_groups_is_an_error(run: Run, advantage_loss: Loss) -> None:
    with pytest.raises(ValueError, match="got no groups"):
        run.trainer.step([], advantage_loss)
    with pytest.raises(ValueError, match="got no groups"):
        run.trainer.logprobs([])


def test_a_missing_checkpoint_is_a_clear_error(run: Run, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="holds no DeepSpeed checkpoint"):
            run.trainer.load(folder)


def test_a_checkpoint_of_another_stage_is_a_clear_error(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    PolicyTrainer(tiny_folder, TrainerConfig(zero_stage=(run.config.zero_stage + 1) % 4)).save(tmp_path)
    run.trainer.load(run.checkpoint)
    with pytest.raises(ValueError, match=r"was saved with ZeRO stage .* on 1 rank.*this trainer has stage"):
        run.trainer.load(tmp_path)
    assert run.trainer.steps == 1


def test_the_learning_rate_warms_up_by_steps_that_were_applied(
    run: Run, groups: list[Group], advantage_loss: Loss
) -> None:
    run.trainer.load(run.checkpoint)
    rates = []
    for factor in (1.0, math.nan, 1.0, 1.0, 1.0):
        stats = run.trainer.step(groups, spoiled(advantage_loss, 0, lambda value, factor=factor: value * factor))
        rates.append(stats.learning_rate / CONFIG["learning_rate"])
    assert rates == pytest.approx([0.5, 0.75, 0.75, 1.0, 1.0])


def test_repr_says_stage_and_steps(run: Run) -> None:
    run.trainer.load(run.checkpoint)
    assert repr(run.trainer).endswith(f"ZeRO-{run.config.zero_stage}, 1 rank(s), 1 steps)")
