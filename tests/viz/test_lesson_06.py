"""The pictures of lesson 06 say the right numbers, and draw without a warning."""

import pytest
import torch

from course_lib.kv_cache import ModelShape
from course_lib.training.communication import Traffic
from course_lib.training.holdings import Holding, Holdings
from course_lib.training.zero_memory import CATEGORIES, ZeroPlan
from course_lib.training.zero_rank import RankRun
from course_lib.training.zero_study import StageRun, ZeroStudy
from course_lib.viz import lesson_06
from course_lib.viz.theme import CourseFigure

SHAPE = ModelShape("toy", 2, 64, 4, 2, 16, 128, 256)


def titles(figure: CourseFigure) -> list[str]:
    figure._repr_png_()
    return [axes.get_title(loc="left") for axes in figure.axes]


def texts(figure: CourseFigure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def legend(figure: CourseFigure) -> list[str]:
    found = figure.axes[-1].get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


def study(micro_batches: int, moved: int) -> ZeroStudy:
    """One rank's stage 2: 500 moments of 1,000 parameters, `moved` bytes a step."""
    moments = Holding("exp_avg", "float32", 500, 2000, host=False, ranges=((0, 500),))
    held = Holdings(0, 1000, (moments, Holding("weights", "bfloat16", 1000, 2000, host=False, ranges=((0, 1000),))))
    traffic = (Traffic("all-reduce", 3, moved),)
    rank = RankRun(held, (2.5, 2.25), (0.3, 0.1, 0.2), traffic, traffic, 0, 12_000_000)
    runs = (StageRun(ZeroPlan(2, 2), (rank, rank)),)
    return ZeroStudy("toy", SHAPE, 1, 8, micro_batches, runs, "", "", "", {"machine": "a machine"})


@pytest.mark.filterwarnings("error")
def test_the_bars_of_memory_are_labelled_with_bytes_a_parameter() -> None:
    parts = {"weights": 200.0, "gradients": 200.0, "master": 400.0, "exp_avg": 400.0, "exp_avg_sq": 400.0}
    figure = lesson_06.memory({"predicted": parts, "measured": parts | {"weights": 50.0}}, parameters=100)
    assert titles(figure)[0].startswith("Training holds")
    assert texts(figure) == ["2.0", "2.0", "4.0", "4.0", "4.0", "16.0", "2.0", "4.0", "4.0", "4.0", "14.5"]
    assert legend(figure) == [lesson_06.KINDS[kind][0] for kind in parts]


def test_every_category_of_a_budget_has_a_name_and_a_colour() -> None:
    assert set(lesson_06.KINDS) == set(CATEGORIES)
    assert len(dict(lesson_06.KINDS.values())) == len(set(dict(lesson_06.KINDS.values()).values())) == len(CATEGORIES)


@pytest.mark.filterwarnings("error")
def test_a_weight_in_bf16_alone_stands_still() -> None:
    master = [0.3 - 2e-5 * step for step in range(300)]
    figure = lesson_06.vanishing([float(torch.tensor(0.3).bfloat16())] * 300, master)
    figure._repr_png_()
    curves = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    copy = torch.tensor(curves["its bf16 copy, which computes"])
    assert torch.equal(copy.bfloat16().float(), copy) and 3 <= len(copy.unique()) <= 5
    assert len(set(curves["bf16 alone"])) == 1


@pytest.mark.filterwarnings("error")
def test_gradients_that_fp16_would_lose_are_counted() -> None:
    # 2^-24 is fp16's smallest; what is below half of it becomes 0.
    sizes = torch.tensor([2.0**-30, -(2.0**-26), 2.0**-25, -(2.0**-20), 0.5, 0.0, 1.0, 2.0])
    assert [float(size) for size in sizes[:3].half()] == [0.0, 0.0, 0.0]
    figure = lesson_06.gradient_sizes(sizes * 1.01)
    assert titles(figure)[0].startswith(f"{2 / 7:.1%} of these gradients")
    assert (sizes * 1.01).half()[:3].abs().gt(0).tolist() == [False, False, True]


@pytest.mark.filterwarnings("error")
def test_the_curves() -> None:
    kept = {"all kept": [1e9, 2e9], "all kept, predicted": [1.1e9, 2.1e9]}
    assert "Activations grow" in titles(lesson_06.activations([10, 20], kept, states=4e9))[0]
    figure = lesson_06.losses({"without a stop": [(0, 2.0), (1, 1.0)], "loaded": [(1, 1.0)]}, "the same")
    assert titles(figure) == ["the same"] and legend(figure) == ["without a stop", "loaded"]
    assert legend(lesson_06.losses({"one": [(0, 2.0), (1, 1.0)]}, "alone")) == []


@pytest.mark.filterwarnings("error")
def test_each_stage_says_what_it_moves() -> None:
    figure = lesson_06.step_diagrams()
    figure._repr_png_()
    said = texts(figure)
    assert [text for text in said if "Ψ" in text] == ["2 Ψ", "2 Ψ", "3 Ψ"]
    # Gradients of three layers in each row; weights once after the step, or of each layer for each pass.
    assert said.count("gradients") == 9 and said.count("weights") == 1
    assert [said.count(f"weights {layer}") for layer in (1, 2, 3)] == [2, 2, 2]


@pytest.mark.filterwarnings("error")
def test_the_mask_is_coloured_from_the_answer_on() -> None:
    tokens = ["<|im_start|>", "user", "\n", " hi", "a" * 80, " yes", "<|im_end|>"]
    figure = lesson_06.loss_mask(tokens, answer=5)
    assert "sees 2 of 7 tokens" in titles(figure)[0]
    assert texts(figure) == ["<|im_start|>", "user", "↵", "␣hi", "a" * 80, "␣yes", "<|im_end|>"]
    colours = [patch.get_facecolor() for patch in figure.axes[0].patches]
    assert len(set(colours[:5])) == 1 and len(set(colours[5:])) == 1 and colours[0] != colours[5]


@pytest.mark.filterwarnings("error")
def test_every_score_is_a_dot_in_the_row_of_its_reason() -> None:
    panels = {"before": ([0.0, 1.0, 2.0], [1.0, 0.0, 3.0]), "after": ([4.0, 5.0, 6.0], [1.0, 0.0, 3.0])}
    figure = lesson_06.score_strips(panels, ["wrong sum", "too long", "wrong sum"])
    assert titles(figure) == ["before: 33% of pairs in the right order", "after: 100% of pairs in the right order"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["chosen", "rejected: wrong sum", "rejected: too long"]
    rows = [list(line.get_xdata()) for line in figure.axes[1].lines]
    assert rows == [[4.0, 5.0, 6.0], [1.0, 3.0], [0.0]]
    for place, line in enumerate(figure.axes[1].lines):
        assert all(abs(height - place) < 0.5 for height in line.get_ydata())


def test_the_table_compares_what_moves_with_the_paper() -> None:
    row = repr(lesson_06.zero_table(study(micro_batches=2, moved=10_000))).splitlines()[-1].split()
    # 500 moments; 4,000 bytes of 1,000 parameters; (k + 1) Ψ by the paper; 10,000 bytes are 5 times Ψ bf16 numbers.
    assert row == ["2", "0.00", "M", "4.0", "3", "Ψ", "5.0", "Ψ", "0.20", "0.01", "2.2500"]
    assert "4 Ψ" in repr(lesson_06.zero_table(study(micro_batches=3, moved=10_000)))
