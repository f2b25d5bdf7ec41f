"""A reward model from preferences: it learns what is easy to see, and says how well on pairs that it never saw."""

from pathlib import Path
from typing import Any

import pytest

from course_lib.serving import RewardModel
from course_lib.training import (
    RewardFit,
    RewardTrainer,
    TrainerConfig,
    find_preferences,
    synthetic_preferences,
    train_reward_model,
    write_preferences,
)


def test_preferences_come_from_a_file_or_are_made_up(tmp_path: Path) -> None:
    made_up = synthetic_preferences(6, seed=3)
    assert find_preferences("synthetic:6", seed=3) == made_up
    write_preferences(tmp_path / "mine.jsonl", made_up)
    assert find_preferences(str(tmp_path / "mine.jsonl")) == made_up


def test_a_bad_name_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="synthetic:200"):
        find_preferences("synthetic:many")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_preferences(str(tmp_path / "nowhere.jsonl"))


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"pairs_per_step": 0}, {"held_out": 0.0}, {"held_out": 1.0}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        train_reward_model(tmp_path, synthetic_preferences(8), tmp_path / "judge", **wrong)
    with pytest.raises(ValueError, match="5 at least"):
        train_reward_model(tmp_path, synthetic_preferences(4), tmp_path / "judge")


def test_it_learns_from_some_pairs_and_is_measured_on_the_others(tiny_folder: Path, tmp_path: Path) -> None:
    preferences = synthetic_preferences(40)
    seen: list[int] = []
    fit = train_reward_model(
        tiny_folder,
        preferences,
        tmp_path / "judge",
        epochs=4,
        config=TrainerConfig(learning_rate=3e-3),
        on_epoch=lambda epoch, so_far: seen.append(epoch),
    )
    assert isinstance(fit, RewardFit)
    assert (fit.trained_on, fit.held_out) == (32, 8)
    assert seen == [1, 2, 3, 4]
    assert len(fit.losses) == 4
    assert len(fit.accuracies) == 5
    assert fit.losses[-1] < 0.5 * fit.losses[0]
    again = RewardTrainer(tmp_path / "judge")  # what was written is what was measured last
    shares = {again.accuracy(preferences[start : start + 8]) for start in range(0, 40, 8)}
    assert max(shares) > 0.6
    again.engine.destroy()


def test_the_folder_is_one_that_vllm_serves(tiny_folder: Path, tmp_path: Path) -> None:
    train_reward_model(tiny_folder, synthetic_preferences(10), tmp_path / "judge", epochs=1)
    with RewardModel(tmp_path / "judge") as judge:
        assert len(judge.score(["3 + 4 = 7.", "hello"])) == 2
