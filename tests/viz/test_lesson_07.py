"""The pictures of lesson 07 say the right numbers, and draw without a warning."""

import numpy as np
import pytest
import torch

from course_lib.rl.replay import Replayed
from course_lib.viz import lesson_07
from course_lib.viz.theme import CourseFigure

pytestmark = pytest.mark.filterwarnings("error")


def titles(figure: CourseFigure) -> list[str]:
    figure._repr_png_()
    return [axes.get_title(loc="left") for axes in figure.axes]


def texts(figure: CourseFigure, panel: int = 0) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def labels(figure: CourseFigure, panel: int = 0, axis: str = "y") -> list[str]:
    ticks = figure.axes[panel].get_yticklabels() if axis == "y" else figure.axes[panel].get_xticklabels()
    return [label.get_text() for label in ticks]


def test_a_dashed_curve_loses_the_word_and_a_logarithmic_axis_has_plain_numbers() -> None:
    lines = {"meant": [(0, 10.0), (1, 20.0)], "trained (dashed)": [(0, 30.0), (1, 70.0)]}
    figure = lesson_07.curves(lines, "both", "step", "tokens", log=True)
    assert titles(figure) == ["both"]
    first, second = figure.axes[0].lines
    assert (first.get_label(), first.get_linestyle()) == ("meant", "-")
    assert (second.get_label(), second.get_linestyle()) == ("trained", "--")
    assert "times" not in "".join(label.get_text() for label in figure.axes[0].get_yticklabels(which="both"))
    assert lesson_07.curves(lines, "both", "step", "tokens", low=-2.0).axes[0].get_ylim()[0] == -2.0


def test_estimates_stand_beside_the_exact_gradient() -> None:
    figure = lesson_07.gradient_bars([0.1, -0.1], {"one": [0.3, 0.0], "many": [0.1, -0.1]}, [False, True])
    assert titles(figure) == ["one", "many"]
    assert labels(figure, axis="x") == ["answer 0", "answer 1  ✓"]
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]
    assert heights == [[0.1, -0.1, 0.3, 0.0], [0.1, -0.1, 0.1, -0.1]]


def test_the_objective_of_each_sign_has_its_panel() -> None:
    ratios = torch.linspace(0.5, 1.5, 11)
    gains = {"no clip": (ratios, -ratios), "clip": (ratios.clamp(max=1.2), -ratios.clamp(min=0.8))}
    figure = lesson_07.clipped_objective(ratios, gains)
    assert [title[:12] for title in titles(figure)] == ["Advantage +1", "Advantage -1"]
    for panel in (0, 1):
        lines = {line.get_label(): line for line in figure.axes[panel].lines}
        assert np.allclose(lines["clip"].get_ydata(), gains["clip"][panel])
        begins = lines["where each batch begins"]
        assert (list(begins.get_xdata()), list(begins.get_ydata())) == ([1], [1 - 2 * panel])


def test_each_kind_of_ratio_says_its_share_outside_the_range() -> None:
    figure = lesson_07.ratio_strips({"tokens": [0.5, 1.0, 1.1, 3.0], "mean": [1.0, 1.0]}, (0.8, 1.2), "ratios")
    assert titles(figure) == ["ratios"]
    assert labels(figure) == ["tokens\n50% outside", "mean\n0% outside"]
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[0.5, 1.0, 1.1, 3.0], [1.0, 1.0]]


def test_credit_is_written_into_its_cell() -> None:
    rows = {"λ = 0": [0.05, -0.7], "group mean": [-0.5, -0.5]}
    figure = lesson_07.credit(["7", " +"], [0.5, 0.55], rows)
    titles(figure)
    assert texts(figure, 1) == ["+0.05", "-0.70", "-0.50", "-0.50"]
    assert labels(figure, 1) == list(rows)
    assert labels(figure, 1, "x") == ["7", "␣+"]
    assert list(figure.axes[0].lines[0].get_ydata()) == [0.5, 0.55]


def test_pushes_of_opposite_sign_have_opposite_colours_and_a_dollar_is_no_formula() -> None:
    figure = lesson_07.pushes([["$", "$\x1c"], ["\n"]], {"grpo": [1.0, -1.0, 0.0]}, "pushes")
    assert titles(figure) == ["pushes"]
    image = figure.axes[0].images[0]
    up, down, nothing = (image.cmap(image.norm(value)) for value in (1.0, -1.0, 0.0))
    assert up != down and nothing not in (up, down)
    assert labels(figure, axis="x") == [r"\$", r"\$□", "↵"]
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[1.5, 1.5]]  # between the responses
    long = lesson_07.pushes([[f"t{place}" for place in range(20)]], {"zero": [0.0] * 20}, "no push at all")
    assert titles(long) == ["no push at all"] and texts(long) == []


def test_replayed_losses_as_a_table() -> None:
    nothing = torch.zeros(1, 1)
    replayed = Replayed("grpo", 0.5, 2.0, 0.25, 0.0, 0.0, float("nan"), nothing, nothing)
    table = lesson_07.replay_table([replayed], "one batch")
    assert repr(table).splitlines()[0] == "one batch" and "cosine to grpo" in table.columns
    assert [cell.text for cell in table.rows[0]] == ["grpo", "+0.5000", "2", "+nan", "25%", "0.0%"]


def test_estimators_of_the_divergence() -> None:
    bias, spread = {"k1": [0.0, 0.0], "k2": [0.1, 0.4]}, {"k1": [20.0, 2.0], "k2": [1.0, 2.0]}
    figure = lesson_07.kl_estimators([0.01, 1.0], bias, spread)
    assert len(titles(figure)) == 2
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == list(bias.values())
    assert [list(line.get_ydata()) for line in figure.axes[1].lines] == list(spread.values())
