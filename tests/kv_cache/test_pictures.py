"""The pictures of lesson 01 say the right numbers, and draw without a warning."""

import pytest

from course_lib.kv_cache import HARDWARE, MODELS, step_cost
from course_lib.kv_cache.batching import static_batches
from course_lib.kv_cache.measure import StepTime
from course_lib.viz import lesson_01
from course_lib.viz.theme import CourseFigure


def titles(figure: CourseFigure) -> str:
    figure._repr_png_()
    heading = [figure.get_suptitle()] if figure.get_suptitle() else []
    return " | ".join([*heading, *(axes.get_title(loc="left") for axes in figure.axes)])


def times(*seconds: float) -> list[StepTime]:
    return [StepTime(1, 2**place, 2**place, second, second / 4) for place, second in enumerate(seconds)]


@pytest.mark.filterwarnings("error")
def test_each_picture() -> None:
    looks = {"one head": [0.5, 0.3, 0.2], "another": [0.0, 0.0, 1.0]}
    assert "Token 4 comes from one query" in titles(lesson_01.next_token(["a", "b", "c"], looks, "d"))
    grid = titles(lesson_01.computed_tokens([3, 4, 5], [3, 1, 1]))
    assert "12 tokens" in grid and ": 5" in grid
    shape = MODELS["SmolLM2-135M"]
    costs = [[step_cost(shape, new or context, context) for context in (8, 16)] for new in (0, 1)]
    assert "only attention grows" in titles(lesson_01.flops_per_token([8, 16], *costs))
    assert "8 times faster at 4 tokens" in titles(lesson_01.step_times(times(0.2, 0.4, 0.8), times(0.1, 0.1, 0.1)))
    points = {"prefill": [("64", 100.0, 1e12)], "decode": [("1", 1.0, 1e11)]}
    assert "H100 SXM" in titles(lesson_01.roofline(HARDWARE["H100 SXM"], points))
    throughput = titles(lesson_01.batch_throughput(times(0.1, 0.1, 0.2)))
    assert "Batch 4: 2 times" in throughput and "2.0 times as long" in throughput
    assert "25%" in titles(lesson_01.batch_timeline(static_batches([0, 0], [2, 4], 2)))
