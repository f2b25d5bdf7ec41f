"""The pictures of lesson 04 say the right numbers, and draw without a warning."""

import pytest

from course_lib.fragmentation.workload import Request as Job
from course_lib.scheduling import Request, SchedulerConfig
from course_lib.scheduling.dry_run import dry_run
from course_lib.scheduling.replay import Replay, StaticBatching, replay
from course_lib.viz import lesson_04
from course_lib.viz.theme import CourseFigure

CONFIG = SchedulerConfig(max_num_batched_tokens=32, max_num_seqs=4, max_model_len=64)
JOBS = [Job(str(place), 0.1 * place, 8, 4 + 5 * place) for place in range(5)]


def run(**options: object) -> Replay:
    return replay(JOBS, CONFIG, 40, lambda *_: 0.01, block_size=4, **options)  # type: ignore[arg-type]


def titles(figure: CourseFigure) -> str:
    figure._repr_png_()
    return " | ".join(axes.get_title(loc="left") for axes in figure.axes)


def texts(figure: CourseFigure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.filterwarnings("error")
def test_the_still_ones() -> None:
    assert {"scheduler", "block pool", "PagedAttention"} <= set(texts(lesson_04.pipeline()))
    runs = {"whole": run(), "chunks": run()}
    assert "worst wait" in titles(lesson_04.stalls(runs))
    assert "smaller batch" in titles(lesson_04.pool_sizes({20: run(), 40: run()}))
    assert "Hit rate: 0 % to 0 %" in titles(lesson_04.hit_rates({20: run(), 40: run()}, 0.5))


@pytest.mark.filterwarnings("error")
def test_a_load_is_read_off_where_the_curve_crosses_the_limit() -> None:
    curves = {"one": [0.005, 0.02, 0.08], "other": [0.005, 0.005, 0.02]}
    title = titles(lesson_04.latency_by_load([1, 2, 4], curves, limit=0.01))
    assert "At 10 ms a token: 1.4 and 2.8 requests a second" in title
    both = {"one": [0.02, 0.02, 0.02], "other": [0.005, 0.005, 0.005]}
    assert "1.0 and at least 4.0 requests" in titles(lesson_04.latency_by_load([1, 2, 4], both, limit=0.01))


@pytest.mark.filterwarnings("error")
def test_the_timeline_says_what_each_computes() -> None:
    requests = [Request(name, range(100 * place, 100 * place + 12), 16) for place, name in enumerate("ABC")]
    trace = dry_run(requests, CONFIG, 13)
    figure = lesson_04.timeline(trace)
    figure._repr_png_()
    numbers = [int(text) for text in texts(figure)]
    assert sum(numbers) == sum(sum(step.plan.values()) for step in trace.steps)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [
        "computes prompt tokens",
        "computes its newest token",
        "computes tokens again",
        "preempted, waits",
    ]


def test_the_tables() -> None:
    slow = run(scheduler=StaticBatching)
    gain = lesson_04.gains({"five": (slow, run())})
    assert f"{run().tokens_per_second / slow.tokens_per_second:.1f} times" in repr(gain)
    assert "10.0" in repr(lesson_04.stall_table({"all": run()}))
    rules = repr(lesson_04.rules_table({"all rules": run(), "static": slow, "worse": "falls over"}))
    assert f"{slow.tokens_per_second / run().tokens_per_second - 1:+.1%}" in rules and "falls over" in rules
