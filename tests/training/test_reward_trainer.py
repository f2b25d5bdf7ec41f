"""The reward model: Bradley and Terry's loss, scores that are transformers', and training that ZeRO does not change."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from course_lib.models import PolicyError, load_policy
from course_lib.models.scoring import with_score_head
from course_lib.serving import RewardModel, transformers_scores
from course_lib.training import (
    Preference,
    RewardStats,
    RewardTrainer,
    TrainerConfig,
    bradley_terry_loss,
    pack,
    synthetic_preferences,
)
from course_lib.training.score_model import ScoreModel

PAIRS = synthetic_preferences(9)
CONFIG: dict[str, Any] = {"learning_rate": 3e-4, "max_grad_norm": 1.0}
SCORES = st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=1, max_size=6)


@given(SCORES, st.floats(0, 5))
def test_the_loss_is_minus_the_logarithm_of_bradley_and_terry_s_odds(scores: list[Any], margin: float) -> None:
    chosen, rejected = torch.tensor(scores, dtype=torch.float64).unbind(1)
    strength = torch.exp(chosen - margin), torch.exp(rejected)
    expected = -torch.log(strength[0] / (strength[0] + strength[1]))
    torch.testing.assert_close(bradley_terry_loss(chosen, rejected, margin), expected, rtol=1e-6, atol=1e-9)


def test_the_loss_does_not_overflow() -> None:
    chosen = torch.tensor([-1000.0, 0.0, 1000.0], requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.zeros(3))
    assert loss.tolist() == pytest.approx([1000, math.log(2), 0])
    loss.sum().backward()
    assert chosen.grad is not None and chosen.grad.tolist() == pytest.approx([-1, -0.5, 0])


def test_scores_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) chosen scores and \(1,\) rejected ones"):
        bradley_terry_loss(torch.zeros(3), torch.zeros(1))


@pytest.fixture(scope="module")
def scored_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_score_head(tiny_folder, tmp_path_factory.mktemp("scored"), scale=0.3)


@pytest.fixture(scope="module")
def exact(scored_folder: Path) -> tuple[ScoreModel, Any, RewardTrainer]:
    """The reward model in fp32, ours and transformers' own, and a trainer that tokenizes."""
    theirs = AutoModelForSequenceClassification.from_pretrained(scored_folder, dtype=torch.float32).requires_grad_(
        False
    )
    ours = ScoreModel(scored_folder, dtype=torch.float32).requires_grad_(False)
    return ours, theirs, RewardTrainer(scored_folder)


TEXT = st.text("ab 07+é", min_size=1, max_size=20).filter(str.strip)
# One answer may begin with the other, and both may begin alike.
PAIR = st.builds(
    lambda prompt, both, a, b: Preference(prompt, both + a, both + b), TEXT, TEXT, TEXT, TEXT.map("!".__add__)
)


@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(PAIR, min_size=1, max_size=4))
def test_packed_pairs_score_as_each_text_alone(exact: tuple[ScoreModel, Any, RewardTrainer], pairs: list[Any]) -> None:
    ours, theirs, trainer = exact
    found = ours(pack(trainer.groups(pairs), pad_id=2))  # <|im_end|>, which every text has within
    texts = [trainer.conversation_ids(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    expected = torch.stack([theirs(torch.tensor([ids])).logits[0, 0] for ids in texts])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_a_pair_is_the_chat_template_s_tokens_and_shares_their_beginning(exact: tuple[Any, Any, RewardTrainer]) -> None:
    trainer = exact[2]
    for index, (pair, group) in enumerate(zip(PAIRS, trainer.groups(PAIRS), strict=True)):
        texts = [group.prompt_ids + response for response in group.responses]
        for text, answer in zip(texts, (pair.chosen, pair.rejected), strict=True):
            messages = [{"role": "user", "content": pair.prompt}, {"role": "assistant", "content": answer}]
            assert text == trainer.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        assert group.responses[0][:1] != group.responses[1][:1]
        assert group.samples == [2 * index, 2 * index + 1]


def test_answers_that_become_the_same_tokens_are_refused(exact: tuple[Any, Any, RewardTrainer]) -> None:
    tokenizer = exact[2].tokenizer
    template = tokenizer.chat_template
    tokenizer.chat_template = template.replace("message['content']", "message['content'] | trim")
    try:
        with pytest.raises(ValueError, match="preference 1: the chat template makes the same tokens"):
            exact[2].groups([PAIRS[0], Preference("p", "a", " a")])
    finally:
        tokenizer.chat_template = template


def test_the_first_step_s_figures_are_those_of_transformers_scores(scored_folder: Path) -> None:
    trainer = RewardTrainer(scored_folder, TrainerConfig(**CONFIG))
    texts = [trainer.conversation_ids(pair.prompt, text) for pair in PAIRS for text in (pair.chosen, pair.rejected)]
    chosen, rejected = torch.tensor(transformers_scores(scored_folder, texts)).unflatten(0, (-1, 2)).unbind(1)
    stats = trainer.step(PAIRS, margin=0.5)
    assert stats.loss == pytest.approx(float(bradley_terry_loss(chosen, rejected, 0.5).mean()), rel=0.03)
    assert stats.margin == pytest.approx(float((chosen - rejected).mean()), abs=0.03)
    assert stats.accuracy == pytest.approx(float((chosen > rejected).float().mean()), abs=0.12)  # one pair may be a tie
    assert stats.applied and trainer.steps == 1


def train(folder: Path, pairs: list[Preference], **options: Any) -> list[RewardStats]:
    trainer = RewardTrainer(folder, TrainerConfig(**CONFIG | options))
    return [trainer.step(pairs) for _ in range(4)]


@pytest.fixture(scope="module")
def alone(scored_folder: Path) -> list[RewardStats]:
    """Four steps at stage 0 in one micro-batch: what no stage, cut or number of ranks may change."""
    found = train(scored_folder, PAIRS, zero_stage=0)
    assert found[0].loss - found[-1].loss > 0.1
    return found


def agree(found: list[Any], expected: list[RewardStats]) -> None:
    """The same sums in another order, in bf16."""
    assert [step.loss for step in found] == pytest.approx([step.loss for step in expected], rel=2e-2, abs=2e-2)
    assert [step.margin for step in found] == pytest.approx([step.margin for step in expected], rel=2e-2, abs=4e-2)
    assert found[0].grad_norm == pytest.approx(expected[0].grad_norm, rel=2e-2)
    assert found[0].accuracy == pytest.approx(expected[0].accuracy, abs=0.12)


@pytest.mark.parametrize(
    "options", [{"zero_stage": 1}, {"zero_stage": 2}, {"zero_stage": 3}, {"micro_batch_tokens": 1}]
)
def test_stages_and_cuts_change_nothing(scored_folder: Path, alone: list[RewardStats], options: dict[str, Any]) -> None:
    found = train(scored_folder, PAIRS, **options)
    agree(found, alone)
    assert {step.micro_batches for step in found} == {9 if "micro_batch_tokens" in options else 1}


@pytest.fixture(scope="module", params=[2, 3])
def trained(request: pytest.FixtureRequest, tiny_folder: Path) -> RewardTrainer:
    """A reward model that began as the policy, and has learned."""
    config = TrainerConfig(learning_rate=1e-3, warmup_steps=4, zero_stage=request.param, micro_batch_tokens=1024)
    trainer = RewardTrainer(tiny_folder, config)
    pairs = synthetic_preferences(160)
    for step in range(16):
        trainer.step(pairs[(step % 8) * 16 :][:16])
    return trainer


def test_it_learns_what_it_was_not_shown(trained: RewardTrainer) -> None:
    held_out = synthetic_preferences(160)[128:]
    assert trained.accuracy([pair for index, pair in enumerate(held_out) if index % 4 in (2, 3)]) > 0.9


def test_the_exported_folder_scores_as_the_trainer_does(trained: RewardTrainer, tmp_path: Path) -> None:
    texts = [trained.conversation_ids(pair.prompt, text) for pair in PAIRS for text in (pair.chosen, pair.rejected)]
    mine = trained.scores(texts)
    trained.export(tmp_path / "reward")
    theirs = transformers_scores(load_policy(tmp_path / "reward"), texts)
    assert max(mine) - min(mine) > 1
    assert theirs == pytest.approx(mine, abs=0.03 * (max(mine) - min(mine)))
    again = RewardTrainer(tmp_path / "reward", trained.config)
    assert again.scores(texts) == pytest.approx(mine, abs=1e-5)
    assert again.accuracy(PAIRS) == trained.accuracy(PAIRS)
    new, old = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "reward", trained.folder))
    assert new.chat_template == old.chat_template


@pytest.mark.slow
@pytest.mark.parametrize("trained", [2], indirect=True)
def test_vllm_serves_what_was_trained(trained: RewardTrainer, tmp_path: Path) -> None:
    trained.export(tmp_path / "reward")
    texts = [trained.conversation_ids(pair.prompt, text) for pair in PAIRS for text in (pair.chosen, pair.rejected)]
    mine = trained.scores(texts)
    with RewardModel(tmp_path / "reward") as served:
        assert served.score(texts) == pytest.approx(mine, abs=0.03 * (max(mine) - min(mine)))


def test_accuracy_and_scores_agree(trained: RewardTrainer) -> None:
    pairs = synthetic_preferences(160)[150:]
    chosen, rejected = (
        trained.scores([trained.conversation_ids(pair.prompt, getattr(pair, name)) for pair in pairs])
        for name in ("chosen", "rejected")
    )
    right = sum(one > other for one, other in zip(chosen, rejected, strict=True))
    assert trained.accuracy(pairs) == pytest.approx(right / len(pairs), abs=0.1)


def test_a_checkpoint_brings_everything_back(
    scored_folder: Path, tmp_path: Path, snapshot: Callable[[Any], dict[str, Tensor]]
) -> None:
    trainer = RewardTrainer(scored_folder, TrainerConfig(**CONFIG))
    trainer.step(PAIRS)
    trainer.save(tmp_path, {"epoch": 1})
    unbroken = [trainer.step(PAIRS) for _ in range(2)]
    other = RewardTrainer(scored_folder, TrainerConfig(**CONFIG))
    assert other.load(tmp_path) == {"epoch": 1}
    assert [other.step(PAIRS) for _ in range(2)] == unbroken
    assert all(
        torch.equal(one, two) for one, two in zip(snapshot(other).values(), snapshot(trainer).values(), strict=True)
    )


def test_the_head_comes_from_the_seed(tiny_folder: Path) -> None:
    one, same, other = (RewardTrainer(tiny_folder, seed=seed).scores([[5, 6, 7]]) for seed in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize("method", ["step", "accuracy"])
def test_no_preferences_is_an_error(exact: tuple[Any, Any, RewardTrainer], method: str) -> None:
    with pytest.raises(ValueError, match="got no groups"):
        getattr(exact[2], method)([])


def test_an_empty_text_and_a_folder_that_is_no_model_are_errors(exact: tuple[Any, Any, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text 1 is empty"):
        exact[2].scores(["yes", ""])
    with pytest.raises(PolicyError, match="not a whole model folder"):
        RewardTrainer(tmp_path)
