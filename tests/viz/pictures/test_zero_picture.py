"""Who holds what: what is drawn is what the ranks said they had."""

from itertools import product

import pytest
from matplotlib.colors import to_hex

from course_lib.kv_cache.cost import MODELS
from course_lib.training.holdings import STATES, Holding, Holdings
from course_lib.training.zero_memory import ZeroPlan
from course_lib.training.zero_rank import RankRun
from course_lib.training.zero_study import StageRun, ZeroStudy
from course_lib.viz import who_holds_what
from course_lib.viz.lesson_06 import KINDS
from course_lib.viz.theme import COLORS

PARAMETERS = 1000
CUT_FROM = {"weights": 3, "gradients": 2, "master": 1, "exp_avg": 1, "exp_avg_sq": 1}


def holding(state: str, stage: int, rank: int, ranks: int, host: bool = False) -> Holding:
    cut = stage >= CUT_FROM[state]
    share = PARAMETERS // ranks
    ranges = ((rank * share, (rank + 1) * share),) if cut else ((0, PARAMETERS),)
    if cut and stage == 3:  # a comb: a part of each weight
        ranges = tuple((start + rank * 50 // ranks, start + (rank + 1) * 50 // ranks) for start in range(0, 1000, 50))
    size = 2 if state in ("weights", "gradients") else 4
    elements = sum(end - start for start, end in ranges)
    return Holding(state, f"float{8 * size}", elements, size * elements, host, ranges)


def study(ranks: int, stages: tuple[int, ...], *, offload: bool = False) -> ZeroStudy:
    runs = []
    for stage in stages:
        per_rank = [
            RankRun(
                Holdings(
                    rank, PARAMETERS, tuple(holding(s, stage, rank, ranks, offload and s in STATES[2:]) for s in STATES)
                ),
                losses=(1.0,),
                seconds=(0.1,),
                first_traffic=(),
                traffic=(),
                activation_bytes=1,
                peak_bytes=1,
            )
            for rank in range(ranks)
        ]
        runs.append(StageRun(ZeroPlan(stage, ranks, offload_optimizer=offload), tuple(per_rank)))
    return ZeroStudy("made up", MODELS["SmolLM2-135M"], 1, 8, 2, tuple(runs), "", "", "2026-01-01", {"machine": "none"})


@pytest.mark.parametrize(("ranks", "stages"), [(2, (0, 1, 2, 3)), (4, (1, 3)), (1, (0,))])
def test_each_bar_covers_the_ranges(ranks: int, stages: tuple[int, ...]) -> None:
    made = study(ranks, stages)
    figure = who_holds_what(made)
    panels = iter(figure.axes)
    for rank, run in product(range(ranks), made.runs):
        drawn = {to_hex(bars.get_facecolor()[0]): bars.get_paths() for bars in next(panels).collections}
        for state in STATES:
            paths = drawn[COLORS[KINDS[state][1]].lower()]
            spans = [(path.get_extents().x0, path.get_extents().x1) for path in paths]
            assert spans == run.ranks[rank].holdings.ranges(state)


def test_equal_areas_are_equal_bytes() -> None:
    made = study(2, (0, 1, 2, 3))
    for axes, (_, run) in zip(who_holds_what(made).axes, product(range(2), made.runs), strict=True):
        colors = {COLORS[KINDS[state][1]].lower() for state in STATES}
        bars = [bars for bars in axes.collections if to_hex(bars.get_facecolor()[0]) in colors]
        area = sum(path.get_extents().width * path.get_extents().height for one in bars for path in one.get_paths())
        assert area == pytest.approx(run.ranks[0].holdings.bytes())
        assert f"{run.ranks[0].holdings.bytes() / PARAMETERS:.1f} bytes a parameter" in axes.get_xlabel()


def test_the_host_is_named() -> None:
    figure = who_holds_what(study(2, (2,), offload=True))
    assert "optimizer on the host" in figure.axes[0].get_title()
    assert "on the host" in figure.axes[0].get_xlabel()


def test_a_run_without_gradients_is_drawn() -> None:
    made = study(1, (0,))
    held = made.runs[0].ranks[0].holdings
    parts = tuple(part for part in held.parts if part.state != "gradients")
    bare = StageRun(made.runs[0].plan, (RankRun(Holdings(0, PARAMETERS, parts), (1.0,), (0.1,), (), (), 1, 1),))
    assert len(who_holds_what(ZeroStudy(**vars(made) | {"runs": (bare,)})).axes) == 1
