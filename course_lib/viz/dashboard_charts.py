"""What the dashboard draws over the steps: which numbers of a record share a chart, and what they tell."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Look = Literal["line", "smoothed", "points", "limit", "low", "high"]
"""How numbers are drawn; `smoothed` has faint dots at the numbers themselves, and `low` and `high` bound a band."""


@dataclass(frozen=True)
class Line:
    """A chart's line.

    Attributes:
        key: where the numbers are in a record, as `series.scalars` names them.
        name: what the legend calls them.
        look: how they are drawn.
    """

    key: str
    name: str
    look: Look = "line"


@dataclass(frozen=True)
class Chart:
    """Lines that share an axis.

    Attributes:
        title: what is drawn.
        unit: of the axis.
        lines: what is drawn, those first that matter most.
        about: what to look for, in a sentence.
        shown: the axis shows at least this range.
        guides: values that a thin line is drawn at.
        percent: numbers are shares, and are told in percent.
    """

    title: str
    unit: str
    lines: tuple[Line, ...]
    about: str
    shown: tuple[float, ...] = (0.0,)
    guides: tuple[float, ...] = ()
    percent: bool = False


_CHARTS = (
    Chart(
        "Reward and accuracy",
        "mean of a sample, share right",
        (Line("reward", "reward", "smoothed"), Line("held_out", "held-out accuracy", "points")),
        "Both should rise together. A reward that rises alone is being gamed.",
    ),
    Chart(
        "Response length",
        "tokens",
        (Line("length", "length"),),
        "A length that grows to the limit, or falls to nothing, often comes before a collapse.",
    ),
    Chart(
        "Entropy",
        "nats per token",
        (Line("entropy", "entropy"),),
        "How undecided the policy still is. At 0 it no longer explores, and there is nothing more to learn from.",
    ),
    Chart(
        "KL divergence",
        "nats per token",
        (Line("mismatch_kl", "sampler to trainer"), Line("kl_reference", "to the reference")),
        "How far the sampler's distribution is from the trainer's at equal weights, and the policy from where it began.",
    ),
    Chart(
        "Ratio trainer / sampler",
        "probability ratio of a token",
        (
            Line("ratio_mean", "mean"),
            Line("ratio_min", "least", "low"),
            Line("ratio_max", "most", "high"),
        ),
        "At equal weights it would be 1 for each token, if both computed the same. The thin lines are at 0.9 and 1.1.",
        shown=(0.9, 1.1),
        guides=(0.9, 1.1),
    ),
    Chart(
        "Tokens off or held back",
        "share of tokens",
        (
            Line("ratio_outside", "outside 0.9 to 1.1"),
            Line("clipped", "clipped"),
            Line("truncated", "truncated"),
            Line("masked", "masked"),
        ),
        "Clipped: moved far enough in this batch. Truncated and masked: trainer and sampler disagree too much.",
        percent=True,
    ),
    Chart(
        "Weight sync",
        "median |difference of logprobs|, nats",
        (Line("receipt/gap", "after the sync"), Line("receipt/noise_floor", "noise floor", "limit")),
        "Canaries after each sync. A gap near the noise floor is rounding; the receipts say if it is not.",
    ),
    Chart(
        "Groups with a signal",
        "share of groups",
        (Line("groups_with_signal", "with different rewards"), Line("finished", "finished answers")),
        "A group of equal rewards teaches nothing. Near 0 the problems are too easy or too hard.",
        shown=(0.0, 1.0),
        percent=True,
    ),
    Chart(
        "Gradient norm",
        "before clipping",
        (Line("grad_norm", "gradient norm"),),
        "A single high step is noise; a norm that keeps growing is a run that will break.",
    ),
    Chart(
        "Loss",
        "as the optimizer sees it",
        (Line("loss", "loss"),),
        "In policy gradients a loss does not tell progress.",
    ),
    Chart(
        "Critic",
        "loss, explained share of variance",
        (Line("value_loss", "value loss"), Line("explained_variance", "explained variance")),
        "An explained variance near 1 means that the critic foresees the return; at 0 or below it is of no use.",
    ),
    Chart(
        "Speed",
        "response tokens per second",
        (Line("tokens_per_second", "of the whole step"),),
        "With training and sync.",
    ),
    Chart(
        "Peak memory",
        "GiB",
        (Line("peak_memory/host", "host"), Line("peak_memory/gpu", "GPU")),
        "The largest so far. It should be flat after the first steps.",
    ),
)


def charts(keys: Collection[str]) -> list[Chart]:
    """Return the charts that a run with these numbers fills; each has only the lines that there are numbers for."""
    parts = tuple(
        Line(key, key.removeprefix("reward_parts/")) for key in sorted(keys) if key.startswith("reward_parts/")
    )
    about = "A mixture's parts before their weights: which of them does the policy chase?"
    both = [_CHARTS[0], Chart("Parts of the reward", "mean of a sample", parts, about), *_CHARTS[1:]]
    found = []
    for chart in both:
        lines = tuple(line for line in chart.lines if line.key in keys)
        if lines:
            found.append(Chart(chart.title, chart.unit, lines, chart.about, chart.shown, chart.guides, chart.percent))
    return found
