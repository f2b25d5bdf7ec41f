"""The recipes: what each tier's run is made of."""

import pytest

from course_lib import machine
from course_lib.rl.capstone import recipe


@pytest.mark.parametrize(("tier", "samples"), [("cpu", 128), ("gpu", 512)])
def test_a_step_has_the_samples_that_the_readme_says(tier: machine.Tier, samples: int) -> None:
    numbers = recipe(tier=tier)
    assert numbers.loop.prompts_per_step * numbers.loop.samples_per_prompt == samples


def test_the_rate_decays_over_the_run_that_was_asked_for() -> None:
    assert recipe(steps=7, tier="cpu").trainer.decay_steps == 7


@pytest.mark.parametrize("tier", ["cpu", "gpu"])
def test_one_rank_has_nothing_to_partition(tier: machine.Tier) -> None:
    assert [recipe(tier=tier, ranks=ranks).trainer.zero_stage for ranks in (1, 2, 4)] == [0, 2, 2]


def test_a_seed_reaches_the_loop() -> None:
    assert recipe(seed=5).loop.seed == 5
