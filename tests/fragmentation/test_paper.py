"""The paper's Figures 2 and 13a, as far as they need no paging."""

from functools import cache

import pytest

from course_lib.fragmentation import FirstFit, StepTime, Waste, reserve_exact, reserve_max, sharegpt
from course_lib.fragmentation.paper import ENGINE, KV_SLOTS, ORCA, orca, orca_max_closed_form
from course_lib.fragmentation.simulation import Simulation, Step

POINTS = 0.025
SEEDS = (0, 1, 2)


@cache
def hours(system: str) -> list[Simulation]:
    """An hour of the paper's workload, several times."""
    return [orca(ORCA[system].reserve, seed=seed) for seed in SEEDS]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_the_memory_is_the_paper_s() -> None:
    """Table 1: 12 GB for keys and values, 15.7K slots."""
    assert KV_SLOTS == 15728


@pytest.mark.parametrize("system", ORCA)
def test_figure_2(system: str) -> None:
    for bar in ("used", "reserved", "internal", "external"):
        found = mean([getattr(run.waste, bar) for run in hours(system)])
        assert found == pytest.approx(getattr(ORCA[system].waste, bar), abs=POINTS), bar


@pytest.mark.parametrize("system", ORCA)
def test_figure_13a(system: str) -> None:
    assert mean([run.mean_batch for run in hours(system)]) == pytest.approx(ORCA[system].batch, rel=0.05)


def test_the_bars_are_whole() -> None:
    for row in ORCA.values():
        waste = row.waste
        assert waste.used + waste.reserved + waste.internal + waste.external == pytest.approx(1, abs=0.002)


@pytest.mark.parametrize("factor", [0.6, 3.0])
def test_the_rows_do_not_depend_on_the_step_time(factor: float) -> None:
    ours, other = (orca(reserve_max, step_time=ENGINE.slower(scale)) for scale in (1.0, factor))
    assert ours.mean_batch == pytest.approx(7)
    assert other.mean_batch == pytest.approx(7)
    assert other.waste.used == pytest.approx(ours.waste.used, abs=POINTS)


def test_closed_form() -> None:
    """It holds within 2.5 points for the paper's bar, and for the simulation."""
    form = orca_max_closed_form(sharegpt())
    simulated = Waste(
        *(
            mean([getattr(run.waste, bar) for run in hours("Orca (Max)")])
            for bar in ("used", "reserved", "internal", "external")
        )
    )
    for bar in ("used", "reserved", "internal", "external"):
        assert getattr(form, bar) == pytest.approx(getattr(ORCA["Orca (Max)"].waste, bar), abs=POINTS)
        assert getattr(form, bar) == pytest.approx(getattr(simulated, bar), abs=0.01)


def test_two_thirds_of_the_oracle_s_last_bar_are_rounding() -> None:
    waste = hours("Orca (Oracle)")[0].waste
    assert 0.6 < waste.rounding / waste.external < 0.8
    assert orca(reserve_exact, allocator=FirstFit(KV_SLOTS), count=3600).waste.external < 0.2


def test_the_engine_is_calibrated_by_little_s_law() -> None:
    seconds_a_token = 30.42 / 2 / 338
    full = Step(batch=30, prompt_tokens=round(30 / 338 * 161), context_tokens=15_000)
    assert seconds_a_token / StepTime()(full) == pytest.approx(1.7, abs=0.05)
    assert ENGINE(full) == pytest.approx(seconds_a_token, rel=0.05)
