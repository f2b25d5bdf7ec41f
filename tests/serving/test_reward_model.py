"""Scores through vLLM are transformers' scores."""

from pathlib import Path
from typing import Any

import pytest
import torch

from course_lib.models import PolicyError, with_score_head
from course_lib.serving import EngineError, RewardModel, transformers_scores

TEXTS = ["Once upon a time", "What is 2+3? The answer is 5.", "a", list(range(20, 200)), "long " * 60, [1]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With scores of about -30 to 30: a bound in units of 1 is then worth something."""
    return with_score_head("tiny", tmp_path_factory.mktemp("reward"), scale=1.0)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    with RewardModel(folder, dtype="float32", enforce_eager=True, max_model_len=512) as model:
        yield model


def test_scores_are_transformers(model: RewardModel, folder: Path) -> None:
    mine, theirs = model.score(TEXTS), transformers_scores(folder, TEXTS)
    assert torch.tensor(theirs).std() > 5
    assert mine == pytest.approx(theirs, abs=1e-4)
    assert all(isinstance(score, float) for score in mine)


def test_in_bfloat16_the_difference_is_the_formats(folder: Path) -> None:
    exact = torch.tensor(transformers_scores(folder, TEXTS))
    rounded = torch.tensor(transformers_scores(folder, TEXTS, torch.bfloat16))
    with RewardModel(folder, dtype="bfloat16", enforce_eager=True, max_model_len=512) as model:
        assert "shut down" not in repr(model) and folder.name in repr(model)
        scores = torch.tensor(model.score(TEXTS))
    model.shutdown()  # again
    assert "shut down" in repr(model)
    with pytest.raises(EngineError, match="shut down"):
        model.score(TEXTS)
    assert (scores - exact).abs().max() < 2 * (rounded - exact).abs().max() < 0.05 * exact.std()


def test_a_score_is_of_its_text_alone(model: RewardModel) -> None:
    """Whatever else is in the batch, and in what order."""
    alone = [model.score([text])[0] for text in TEXTS]
    assert model.score(TEXTS[::-1]) == pytest.approx(alone[::-1], abs=1e-4)
    assert model.score(["What is 2+3?"] * 3) == pytest.approx(model.score(["What is 2+3?"]) * 3, abs=1e-4)
    assert model.score([]) == []


def test_text_and_tokens_are_the_same(model: RewardModel) -> None:
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(model.folder).encode("Once upon a time")
    assert model.score(["Once upon a time"]) == model.score([tokens])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", [5] * 513, "b"], "text 1 has 513 tokens, more than max_model_len=512"),
        (["a", ""], "text 1 is empty"),
        ([[]], "text 0 is empty"),
        ("one", r"give \[text\]"),
    ],
)
def test_texts_that_have_no_score(model: RewardModel, texts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.score(texts)
    if not isinstance(texts, str):
        assert len(model.score([[5] * 512])) == 1


def test_folders_that_are_no_reward_model(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"Qwen3ForCausalLM.*with_score_head"):
        RewardModel("tiny")
    with pytest.raises(PolicyError, match=r"config\.json is missing"):
        RewardModel(tmp_path)
    with pytest.raises(PolicyError, match="with_score_head"):
        transformers_scores("tiny", ["a"])
