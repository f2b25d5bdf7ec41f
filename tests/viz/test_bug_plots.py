"""The pictures of the noise floor and of the bug zoo say what was found."""

from typing import Any

import pytest
import torch

from course_lib.rl.bug_zoo import BUGS, Caught, Evidence
from course_lib.rl.noise_floor import Disagreement, NoiseFloor
from course_lib.viz.bug_plots import noise_plot, signature_plot, zoo_plot, zoo_table


def experiment(name: str, found: bool = True) -> Caught:
    bug = BUGS[name]
    right = torch.full((20,), float(bug.signature == "token_weight"))
    finding = f"{bug.title}: because" if found else None
    return Caught(bug, Evidence(right, 0.0, None), Evidence(right + torch.linspace(-3, 3, 20), 12.0, finding))


ALL = [experiment(name) for name in BUGS]


@pytest.mark.filterwarnings("error")
def test_one_panel_a_bug() -> None:
    figure = zoo_plot(ALL[:7])
    figure._repr_png_()
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"{one.bug.title}: caught" for one in ALL[:7]] + [""]
    notes = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert notes[0] == "tensors that are not the trainer's: 0 healthy, 12 broken"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BUGS)
def test_a_signature_alone(name: str) -> None:
    figure = signature_plot(experiment(name, found=False))
    figure._repr_png_()
    (axes,) = figure.axes
    assert axes.get_title(loc="left").endswith(": missed")
    legend = axes.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"healthy", "broken"}


def test_values_beyond_the_edge_are_counted_at_it() -> None:
    axes = signature_plot(experiment("no_sync")).axes[0]
    steps: list[Any] = list(axes.patches)
    shares = [step.get_data().values.sum() for step in steps]
    assert shares == pytest.approx([1.0, 1.0])


def test_the_table_counts_catches_and_false_alarms() -> None:
    missed, absent = experiment("no_sync", found=False), experiment("stale_lm_head", found=False)
    absent = Caught(absent.bug, absent.healthy, absent.broken, "no packed copy")
    alarmed = Caught(BUGS["top_p_bias"], ALL[4].broken, ALL[4].broken)
    words = repr(zoo_table([ALL[1], missed, absent, alarmed]))
    assert "2 of 4 bugs caught, 1 false alarms" in words
    assert "✓ caught" in words
    assert "✗ missed" in words
    assert "  can't show here" in words
    assert "✗ 12" in words


@pytest.mark.filterwarnings("error")
def test_the_noise_at_a_clip_range() -> None:
    pair = Disagreement("trainer / vllm", torch.tensor([0.0] * 9 + [0.3]))
    quiet = Disagreement("trainer / itself", torch.zeros(10))
    figure = noise_plot(NoiseFloor(shapes=quiet, sampler=pair, trainer_float32=quiet, sampler_float32=pair))
    figure._repr_png_()
    lines: dict[Any, Any] = {line.get_label(): line for line in figure.axes[0].lines}
    shares = dict(zip(lines["trainer / vllm"].get_xdata().round(3), lines["trainer / vllm"].get_ydata(), strict=True))
    assert shares[0.2] == pytest.approx(0.1)
    assert shares[0.36] == 0
    assert max(lines["trainer / itself"].get_ydata()) == 0
