"""Two ranks learn from preferences and from conversations as one rank does, whatever the ZeRO stage."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from course_lib.models.scoring import with_score_head
from course_lib.training import (
    PolicyTrainer,
    RewardTrainer,
    TrainerConfig,
    addition_conversations,
    fine_tune,
    launch,
    synthetic_preferences,
)

WORKER = Path(__file__).with_name("preference_worker.py")
OPTIONS: dict[str, Any] = {"learning_rate": 3e-4, "micro_batch_tokens": 150}
pytestmark = pytest.mark.slow
Steps = list[dict[str, Any]]


@pytest.fixture(scope="module")
def scored_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_score_head(tiny_folder, tmp_path_factory.mktemp("scored"), scale=0.3)


@pytest.fixture(scope="module")
def ranks(tiny_folder: Path, scored_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIER", "cpu")
        patch.setenv("DS_ACCELERATOR", "cpu")
        arguments = [str(tiny_folder), str(scored_folder), str(out)]
        launch(WORKER, ranks=2, arguments=arguments, timeout=280)  # a hang is a failure
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(2)]


def agree(steps: list[Steps], alone: Steps, figures: tuple[str, ...]) -> None:
    """The same sums in another order, in bf16; what is said of all ranks is the same on each."""
    for figure in figures:
        values = [[step[figure] for step in found] for found in steps]
        assert values[0] == values[1], figure
        assert values[0] == pytest.approx([step[figure] for step in alone], rel=2e-2, abs=3e-2), figure
    assert alone[0]["loss"] - alone[-1]["loss"] > 0.1


@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_two_ranks_learn_preferences_as_one_does(ranks: list[dict[str, Any]], scored_folder: Path, stage: str) -> None:
    trainer = RewardTrainer(scored_folder, TrainerConfig(**OPTIONS, zero_stage=int(stage)))
    alone = [asdict(trainer.step(synthetic_preferences(9))) for _ in range(4)]
    found = [rank["reward"][stage] for rank in ranks]
    agree([one["steps"] for one in found], alone, ("loss", "margin", "grad_norm"))
    assert found[0]["steps"][0]["accuracy"] == found[1]["steps"][0]["accuracy"]
    assert found[0]["steps"][0]["accuracy"] == pytest.approx(alone[0]["accuracy"], abs=0.12)  # one pair may be a tie
    # The rank with fewer pairs makes as many passes as the other, the last ones worth nothing.
    assert len({step["micro_batches"] for one in found for step in one["steps"]}) == 1


@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_a_rank_without_preferences_is_an_error_on_both(ranks: list[dict[str, Any]], stage: str) -> None:
    assert all("a rank of the trainer got no groups" in rank["reward"][stage]["refused"] for rank in ranks)


@pytest.mark.parametrize("stage", ["2", "3"])
def test_two_ranks_are_fine_tuned_as_one_is(ranks: list[dict[str, Any]], tiny_folder: Path, stage: str) -> None:
    trainer = PolicyTrainer(tiny_folder, TrainerConfig(**OPTIONS, zero_stage=int(stage)))
    alone = [asdict(step) for step in fine_tune(trainer, addition_conversations(12), steps=4, batch=5)]
    agree([rank["supervised"][stage] for rank in ranks], alone, ("loss", "grad_norm"))
