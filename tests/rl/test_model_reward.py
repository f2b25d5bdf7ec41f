"""A reward model's reward through vLLM's pooling runner: the scores that transformers gives to the conversations."""

import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from course_lib.models import with_score_head
from course_lib.rl.mixture import Mixture
from course_lib.rl.model_reward import ModelReward
from course_lib.rl.problem import Problem
from course_lib.rl.rewards import RewardError, compute_rewards
from course_lib.rl.shaping import brevity
from course_lib.serving import RewardModel, transformers_scores

pytestmark = pytest.mark.slow
PROBLEMS = [Problem("What is 2+3?", "5"), Problem("What is 7+5?", "12"), Problem("Say nothing.", ""), Problem("?", "!")]
TEXTS = ["2 + 3 = 5.", "I would rather talk about something else.", "", " line\n\nbreaks \n"]


@pytest.fixture(scope="module")
def judge(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardModel]:
    folder = with_score_head(tiny, tmp_path_factory.mktemp("judge"), scale=0.3)
    with RewardModel(folder, dtype="float32", enforce_eager=True, max_model_len=256) as model:
        yield model


def test_scores_are_those_of_the_conversations(judge: RewardModel) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(judge.folder)
    conversations = [
        [{"role": "user", "content": problem.question}, {"role": "assistant", "content": text}]
        for problem, text in zip(PROBLEMS, TEXTS, strict=True)
    ]
    ids = [tokenizer.apply_chat_template(one, tokenize=True, return_dict=False) for one in conversations]
    wanted = transformers_scores(judge.folder, ids)
    spread = max(wanted) - min(wanted)
    assert compute_rewards(ModelReward(judge), PROBLEMS, TEXTS).rewards == pytest.approx(wanted, abs=1e-3 * spread)


def test_standardized_keeps_the_order_and_the_differences(judge: RewardModel) -> None:
    raw = ModelReward(judge)(PROBLEMS, TEXTS)
    reward = ModelReward(judge, mean=3.0).standardized(PROBLEMS, TEXTS)
    values = reward(PROBLEMS, TEXTS)
    assert statistics.fmean(values) == pytest.approx(0, abs=1e-6)
    assert statistics.stdev(values) == pytest.approx(1, abs=1e-6)
    assert (reward.mean, reward.std) == pytest.approx((statistics.fmean(raw), statistics.stdev(raw)), abs=1e-6)
    mixed = compute_rewards(Mixture({"judge": (2.0, reward), "brief": (1.0, brevity(0, 10))}), PROBLEMS, TEXTS)
    assert mixed.parts["judge"] == pytest.approx(values, abs=1e-6)


def test_a_completion_that_is_too_long_is_the_only_one_without_a_reward(judge: RewardModel) -> None:
    texts = [*TEXTS[:3], "on and on " * 200]
    with pytest.raises(RewardError, match=r"ModelReward raised ValueError: .*max_model_len=256.*on and on"):
        compute_rewards(ModelReward(judge), PROBLEMS, texts)
    judged = compute_rewards(ModelReward(judge), PROBLEMS, texts, "go_on")
    assert [math.isnan(value) for value in judged.rewards] == [False, False, False, True]


@pytest.mark.parametrize(("mean", "std"), [(math.nan, 1.0), (0.0, 0.0), (0.0, -1.0), (0.0, math.inf)])
def test_a_scale_that_makes_no_sense(judge: RewardModel, mean: float, std: float) -> None:
    with pytest.raises(ValueError, match="expected finite numbers, and std above 0"):
        ModelReward(judge, mean, std)


def test_no_spread_to_standardize_by(judge: RewardModel) -> None:
    with pytest.raises(ValueError, match="2 completions with 1 different scores have no spread"):
        ModelReward(judge).standardized(PROBLEMS[:1] * 2, TEXTS[:1] * 2)
