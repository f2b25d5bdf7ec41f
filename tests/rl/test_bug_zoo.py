"""The bug zoo on the real engines: each bug is caught by its name, and nothing is found where there is none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from course_lib import machine
from course_lib.rl import VLLMRollout
from course_lib.rl.batch import Batch
from course_lib.rl.bug_zoo import BUGS, BugLab, Caught, Evidence, catch
from course_lib.rl.bugs.audit import audit_step
from course_lib.rl.bugs.loss_bugs import LabelsInPlace, MaskByValue, MicroBatchMean
from course_lib.rl.bugs.loss_pass import IGNORED, LossPass, StepLoss
from course_lib.rl.losses import token_weights
from course_lib.training import PolicyTrainer

on_engines = pytest.mark.slow
losses = st.lists(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def lab(tiny: Path, engine: VLLMRollout, make_trainer: Callable[..., PolicyTrainer], equalize: Any) -> BugLab:
    return BugLab(
        tiny, trainer=equalize(make_trainer(zero_stage=0)), rollout=engine, samples_per_prompt=8, learning_rate=1e-3
    )


def assert_right(lab: BugLab) -> None:
    """Nothing of a bug is left."""
    assert lab.sync.inspect().ok
    assert type(lab.loss_pass) is LossPass
    assert lab.sampling.top_p == 1.0
    assert not {"reload", "repack_tied_head", "reset_prefix_cache"} & set(vars(lab.sync))
    assert lab.trainer.config.learning_rate == 1e-3


@on_engines
@pytest.mark.parametrize("name", [*BUGS, *list(BUGS)[2::-1]])
def test_caught_in_any_order_and_without_a_false_alarm(lab: BugLab, name: str) -> None:
    if name == "stale_lm_head" and machine.tier() != "cpu":
        pytest.skip("a GPU has no packed lm_head")
    caught = catch(name, lab)
    assert caught.detected, str(caught)
    assert not caught.false_alarm, str(caught)
    assert caught.absent is None
    assert str(caught).startswith(f"{name}: caught.")
    if caught.bug.signature != "log_ratio":
        assert not torch.allclose(caught.healthy.signature, caught.broken.signature)
        assert float(caught.healthy.signature.max() - caught.healthy.signature.min()) < 1e-3  # all 1, or all 0
    assert_right(lab)


@on_engines
@pytest.mark.parametrize("name", BUGS)
def test_a_switch_goes_back_when_something_fails_meanwhile(lab: BugLab, name: str) -> None:
    with pytest.raises(ZeroDivisionError), BUGS[name].switch(lab):
        raise ZeroDivisionError
    assert_right(lab)
    assert float(lab.log_ratios().abs().median()) < 0.05


@on_engines
def test_detectors_name_their_own_bug_and_no_other(lab: BugLab) -> None:
    """A loss's audit is silent about the sampler, a receipt about the loss."""
    for switched, asked in (
        ("top_p_bias", "pad_is_eos"),
        ("pad_is_eos", "labels_in_place"),
        ("micro_batch_mean", "top_p_bias"),
    ):
        with BUGS[switched].switch(lab):
            finding = BUGS[asked].look(lab).finding
        assert not (finding or "").startswith(BUGS[asked].title), (switched, asked, finding)


@on_engines
def test_top_p_scales_logprobs_by_the_mass_that_the_nucleus_keeps(lab: BugLab) -> None:
    """Token by token, against a nucleus computed from the whole distribution of the trainer's own model."""
    with BUGS["top_p_bias"].switch(lab):
        rollout = lab.sample().rollout
    start, mask = rollout.input_ids.shape[1] - rollout.logprobs.shape[1], rollout.response_mask
    positions = (rollout.attention_mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = lab.trainer.policy.model(
            input_ids=rollout.input_ids, attention_mask=rollout.attention_mask, position_ids=positions
        ).logits
    probabilities = (logits[:, start - 1 : -1].float() / lab.temperature).softmax(-1)
    ordered = probabilities.sort(dim=-1, descending=True).values.cumsum(-1)
    kept = ordered.gather(-1, (ordered < 0.8).sum(-1, keepdim=True))[..., 0]
    chosen = probabilities.gather(-1, rollout.input_ids[:, start:, None])[..., 0]
    off = (chosen / kept).log() - rollout.logprobs
    unscaled = chosen.log() - rollout.logprobs
    assert float(off[mask].abs().median()) < 0.05
    assert float(off[mask].abs().mean()) < float(unscaled[mask].abs().mean()) / 3


@on_engines
def test_an_audit_finds_the_weights_of_a_mean_and_moves_nothing(lab: BugLab) -> None:
    before = {name: weight.clone() for name, weight in lab.trainer.named_weights()}
    audit = lab.audit()
    wanted = token_weights(lab.batch.rollout.response_lengths, "token", 24) * lab.batch.tokens
    assert torch.allclose(audit.weights, torch.where(lab.batch.rollout.response_mask, wanted[:, None], 0.0), atol=1e-4)
    assert audit.total == pytest.approx(1.0, abs=1e-4)
    assert audit.trained == lab.batch.tokens
    assert len(audit.ends) == int(lab.batch.rollout.finished.sum()) > 0
    assert all(torch.equal(before[name], weight) for name, weight in lab.trainer.named_weights())


@on_engines
def test_the_pass_over_padded_rows_equals_the_trainers(lab: BugLab) -> None:
    loss = StepLoss(LossPass(), lab.batch, lab.eos_id, 1, lab.trainer.policy, lab.temperature)
    assert loss.reference is not None
    packed = lab.batch.padded(lab.trainer.logprobs(lab.batch.groups(), lab.temperature))
    assert float((loss.reference - packed)[lab.batch.rollout.response_mask].abs().median()) < 0.05
    assert loss.tokens == lab.batch.tokens


@on_engines
def test_where_lm_head_is_no_copy_its_bug_is_absent(lab: BugLab, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = BUGS["stale_lm_head"]
    monkeypatch.setattr(lab.trainer, "named_weights", lambda: iter([("lm_head.weight", torch.zeros(1))]))
    assert "not tied" in str(bug.absent(lab))
    monkeypatch.setattr(machine, "tier", lambda: "gpu")
    reason = str(bug.absent(lab))
    assert "on the CPU only" in reason
    nothing = Evidence(torch.zeros(2), 0.0, None)
    assert "cannot show here" in str(Caught(bug, nothing, nothing, reason))


@on_engines
def test_a_lab_that_would_hide_bugs_is_refused(tiny: Path, lab: BugLab) -> None:
    with pytest.raises(ValueError, match="temperature is 1"):
        BugLab(tiny, trainer=lab.trainer, rollout=lab.rollout, temperature=1.0)
    with pytest.raises(ValueError, match="must be even"):
        BugLab(tiny, trainer=lab.trainer, rollout=lab.rollout, samples_per_prompt=3)
    with pytest.raises(ValueError, match="there is no bug 'flu'"):
        catch("flu", lab)


def test_an_audit_wants_advantages(make_trainer: Callable[..., PolicyTrainer], make_batch: Any) -> None:
    with pytest.raises(ValueError, match="other than 0"):
        audit_step(make_trainer(), make_batch([3, 2], [1.0, 0.0]), lambda *_: torch.zeros(()))


@given(losses)
def test_shares_are_one_mean_however_the_batch_is_cut(parts: list[list[float]]) -> None:
    tensors = [torch.tensor(part) for part in parts]
    whole = torch.cat(tensors)
    shares = [LossPass().share(part, len(whole), len(tensors)) for part in tensors]
    assert float(sum(shares)) == pytest.approx(float(whole.mean()), abs=1e-5)


@given(losses)
def test_means_of_micro_batches_weigh_tokens_by_their_neighbours(parts: list[list[float]]) -> None:
    assume(len({len(part) for part in parts}) > 1)
    tokens = sum(map(len, parts))
    for part in parts:
        values = torch.tensor(part, requires_grad=True)
        MicroBatchMean().share(values, tokens, len(parts)).backward()
        assert values.grad is not None
        assert torch.allclose(values.grad, torch.full_like(values, 1 / (len(part) * len(parts))))


@given(st.lists(st.lists(st.sampled_from([IGNORED, 5, 7]), min_size=4, max_size=4), min_size=1, max_size=4))
def test_targets_written_in_place_change_the_labels(rows: list[list[int]]) -> None:
    labels, spoilt = torch.tensor(rows), torch.tensor(rows)
    counted = int((labels != IGNORED).sum())
    assert torch.equal(LossPass().targets(labels), LabelsInPlace().targets(spoilt))
    assert labels.tolist() == rows
    assert int((spoilt[:, 1:] == IGNORED).sum()) == 0
    assert int((spoilt != IGNORED).sum()) == counted + int((labels[:, 1:] == IGNORED).sum())


@given(st.data())
def test_a_mask_by_value_loses_exactly_the_eos(make_batch: Callable[..., Batch], data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=4).filter(lambda found: len(found) % 2 == 0))
    batch, eos = make_batch(lengths, [1.0] * len(lengths)), 999
    start = batch.rollout.input_ids.shape[1] - batch.rollout.logprobs.shape[1]
    for row, length in enumerate(lengths):
        if data.draw(st.booleans()):
            batch.rollout.input_ids[row, start + length - 1] = eos
    right = LossPass().mask(batch, eos)
    lost = right & ~MaskByValue().mask(batch, eos)
    assert torch.equal(lost, right & (batch.rollout.input_ids[:, start:] == eos))
    assert not bool((MaskByValue().mask(batch, eos) & ~right).any())


def test_what_a_bug_says_of_itself() -> None:
    assert list(BUGS) == [bug.name for bug in BUGS.values()]
    assert len(BUGS) == 8
    assert all(bug.source and bug.detector and bug.figure for bug in BUGS.values())
    one = Caught(
        BUGS["no_sync"], Evidence(torch.zeros(3), 0, "no sync: but there was"), Evidence(torch.zeros(3), 7, None)
    )
    assert not one.detected
    assert one.false_alarm
    assert "NOT caught" in str(one)
    assert "FALSE ALARM" in str(one)
    assert "Evidence(3 values, figure 7, nothing found)" in repr(one)
