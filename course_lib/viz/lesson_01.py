"""Pictures of lesson 01: what a query looks at, what is computed again, what that costs, and what limits it."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

from course_lib.kv_cache.batching import Turn, slot_use
from course_lib.kv_cache.cost import Cost, Hardware, ModelShape, kv_bytes_per_token, step_cost, weight_bytes
from course_lib.kv_cache.measure import StepTime
from course_lib.viz.tables import Table
from course_lib.viz.theme import CARD, COLORS, CourseFigure, new_figure

_WITHOUT, _WITH = COLORS["vermillion"], COLORS["blue"]
_TINT = 0.18


def next_token(tokens: Sequence[str], looks: Mapping[str, Sequence[float]], predicted: str) -> CourseFigure:
    """Draw the last position's query looking at every key, for some heads.

    Args:
        tokens: the tokens so far, as text.
        looks: by title, the attention weights of the last token's query, one a token.
        predicted: the token that comes out.
    """
    with new_figure(3.6 * len(looks), 3.1) as figure:
        figure.suptitle(
            f"Token {len(tokens) + 1} comes from one query, that of token {len(tokens)}, over {len(tokens)} keys",
            x=0.01,
            ha="left",
            fontsize=11,
            fontweight="bold",
        )
        for axes, (title, weights) in zip(figure.subplots(1, len(looks), squeeze=False)[0], looks.items(), strict=True):
            _draw_look(axes, tokens, weights, predicted)
            axes.set_title(title, fontsize=9.5, fontweight="normal")
    return figure


def computed_tokens(without: Sequence[int], cached: Sequence[int]) -> CourseFigure:
    """Draw which tokens each step ran through the model.

    Args:
        without: tokens that each step computed without a cache.
        cached: the same with a cache; both generations had the same prompt.
    """
    with new_figure(9, 0.8 + 0.27 * len(without)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        _draw_grid(left, without, without, _WITHOUT)
        _draw_grid(right, cached, without, _WITH)
        left.set_title(f"Without a cache: {sum(without)} tokens computed")
        right.set_title(f"With a cache: {sum(cached)} (pale: k, v read back)")
        left.set_ylabel("step")
    return figure


def flops_per_token(contexts: Sequence[int], without: Sequence[Cost], cached: Sequence[Cost]) -> CourseFigure:
    """Draw the FLOPs that one more token costs, projections and attention apart, over the context."""
    with new_figure(9, 4) as figure:
        axes = figure.subplots()
        for costs, color, how in ((without, _WITHOUT, "without"), (cached, _WITH, "with")):
            projections, attention = [c.projection_flops for c in costs], [c.attention_flops for c in costs]
            _line(axes, contexts, projections, color, "o-", f"projections {how} a cache")
            _line(axes, contexts, attention, color, "s--", f"attention {how} a cache")
        _log_log(axes, "context (tokens)", "FLOPs for one more token")
        axes.set_title("With a cache only attention grows, and only in proportion to the context")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def step_times(without: Sequence[StepTime], cached: Sequence[StepTime]) -> CourseFigure:
    """Draw the measured time of one more token, attention and the rest apart, over the context."""
    with new_figure(9, 4) as figure:
        axes = figure.subplots()
        for times, color, how in ((without, _WITHOUT, "without"), (cached, _WITH, "with")):
            contexts = [time.context for time in times]
            rest, attention = [1e3 * t.other_seconds for t in times], [1e3 * t.attention_seconds for t in times]
            _line(axes, contexts, rest, color, "o-", f"all but attention {how} a cache")
            _line(axes, contexts, attention, color, "s--", f"attention {how} a cache")
        _log_log(axes, "context (tokens)", "time of one more token (ms)")
        last = without[-1].seconds / cached[-1].seconds
        axes.set_title(f"The same, on the clock: {last:.0f} times faster at {without[-1].context} tokens")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def roofline(hardware: Hardware, points: Mapping[str, Sequence[tuple[str, float, float]]]) -> CourseFigure:
    """Draw measured steps under a machine's roofline.

    Args:
        hardware: the machine.
        points: two groups by name, of each step a label, its arithmetic intensity in FLOPs a byte, and its FLOP/s.
    """
    with new_figure(9, 4.4) as figure:
        axes = figure.subplots()
        found = [intensity for group in points.values() for _, intensity, _ in group]
        low, high = min([*found, hardware.ridge]) / 2, max([*found, hardware.ridge]) * 2
        ends = [low, hardware.ridge, high]
        axes.plot(ends, [hardware.attainable(x) for x in ends], color=COLORS["black"], label="roofline")
        axes.axvline(hardware.ridge, color=COLORS["grey"], linestyle=":", linewidth=1.2)
        axes.annotate(
            f" ridge: {hardware.ridge:.0f} FLOPs a byte",
            (hardware.ridge, 0.03),
            xycoords=("data", "axes fraction"),
            fontsize=9,
        )
        styles = (
            (_WITH, "o", 6),
            (_WITHOUT, "s", -12),
        )  # labels above and below: points of two groups may be neighbours
        for (name, group), (color, marker, above) in zip(points.items(), styles, strict=True):
            axes.plot([p[1] for p in group], [p[2] for p in group], marker, color=color, markersize=7, label=name)
            for label, intensity, speed in group:
                axes.annotate(
                    label, (intensity, speed), (7, above), textcoords="offset points", fontsize=8.5, color=color
                )
        _log_log(axes, "arithmetic intensity (FLOPs a byte)", "FLOP/s")
        axes.set_ylim(bottom=min([*(speed for group in points.values() for _, _, speed in group), hardware.flops]) / 3)
        axes.set_title(f"Decode lives under the slope, prefill under the flat roof\n{hardware.name}")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def batch_throughput(times: Sequence[StepTime]) -> CourseFigure:
    """Draw the tokens a second of decoding, and the time of a step, over the batch size."""
    batches = [time.batch for time in times]
    speeds = [time.batch / time.seconds for time in times]
    with new_figure(9, 3.8) as figure:
        left, right = figure.subplots(1, 2)
        left.plot(
            batches,
            [speeds[0] * batch for batch in batches],
            ":",
            color=COLORS["grey"],
            label="if a step's time never grew",
        )
        left.plot(batches, speeds, "o-", color=_WITH, label="measured")
        left.set_ylabel("tokens a second, all sequences")
        left.set_title(f"Batch {batches[-1]}: {speeds[-1] / speeds[0]:.0f} times the tokens a second")
        left.legend()
        right.plot(batches, [1e3 * time.seconds for time in times], "o-", color=_WITH)
        right.set_ylabel("time of a step (ms)")
        growth = times[-1].seconds / times[0].seconds
        right.set_title(f"... and each waits {growth:.1f} times as long")
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xticks(batches, [str(batch) for batch in batches])
            axes.set_xlabel("batch size (sequences)")
        left.set_yscale("log")
        right.set_ylim(bottom=0)
    return figure


def batch_timeline(turns: Sequence[Turn]) -> CourseFigure:
    """Draw static batches in time: waiting, working, and idle until the longest is done."""
    parts = (
        ("waits for the batch", COLORS["orange"], "arrival", "start"),
        ("makes tokens", _WITH, "start", "end"),
        ("done, slot idle", COLORS["grey"], "end", "batch_end"),
    )
    with new_figure(9, 1.2 + 0.32 * len(turns)) as figure:
        axes = figure.subplots()
        for label, color, start, end in parts:
            widths = [getattr(turn, end) - getattr(turn, start) for turn in turns]
            starts = [getattr(turn, start) for turn in turns]
            alpha = 0.35 if color == COLORS["grey"] else 1.0
            axes.barh(range(len(turns)), widths, 0.7, starts, color=color, alpha=alpha, label=label)
        axes.set_yticks(range(len(turns)), [f"request {turn.request + 1}" for turn in turns])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("time (steps of the model)")
        axes.set_title(f"Fixed batches: {1 - slot_use(turns):.0%} of the slots' time makes no token")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def kv_table(shapes: Sequence[ModelShape], tokens: int = 2048) -> Table:
    """Return a table of what tokens leave in the cache, beside the weights; all in bf16."""
    rows = []
    for shape in shapes:
        kv, weights = kv_bytes_per_token(shape), weight_bytes(shape)
        sizes = [f"{kv / 1024:,.1f}", f"{kv * tokens / 2**30:.2f}", f"{weights / 2**30:.1f}", f"{weights / kv:,.0f}"]
        rows.append([shape.name, f"{shape.heads} / {shape.kv_heads}", *sizes])
    sizes = [">KiB a token", f">GiB for {tokens:,} tokens", ">GiB of weights", ">tokens as large as the weights"]
    return Table("What a token leaves in the cache, bf16", ["model", ">query / KV heads", *sizes], rows)


def limits_table(shape: ModelShape, machines: Sequence[Hardware], tokens: int = 1024) -> Table:
    """Return a table of the least time that a token takes, in prefill and in decode at batch 1, in bf16."""
    prefill, decode = step_cost(shape, tokens, tokens), step_cost(shape, 1, tokens)
    rows = []
    for machine in machines:
        speeds = [f"{machine.flops / 1e12:,.1f}", f"{machine.bandwidth / 1e9:,.0f}", f"{machine.ridge:.0f}"]
        least = [1e3 * machine.seconds(prefill) / tokens, 1e3 * machine.seconds(decode)]
        rows.append([machine.name, *speeds, *(f"{time:.3f}" for time in least)])
    columns = ["hardware", ">TFLOP/s", ">GB/s", ">ridge", ">prefill, ms a token", ">decode, ms a token"]
    said = f"intensity {prefill.intensity:,.0f} in prefill, {decode.intensity:.2f} in decode"
    return Table(f"{shape.name}, {tokens:,} tokens, {said}: the least that a token takes", columns, rows)


def _draw_look(axes: Axes, tokens: Sequence[str], weights: Sequence[float], predicted: str) -> None:
    last = len(tokens) - 1
    for place, (token, weight) in enumerate(zip(tokens, weights, strict=True)):
        axes.add_patch(Rectangle((place - 0.4, 0), 0.8, 0.42, facecolor=COLORS["sky"], alpha=0.45))
        axes.text(place, 0.21, "k, v", ha="center", va="center", fontsize=9)
        axes.text(place, -0.2, token, ha="center", va="center", fontsize=10, family="DejaVu Sans Mono")
        # Wide where much is taken; a key that is nearly ignored keeps a hair line, since it is read all the same.
        bend = 0.0 if place == last else 0.25
        arrow = FancyArrowPatch(
            (last, 1.3),
            (place, 0.45),
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-",
            linewidth=0.5 + 9 * weight,
            color=_WITH,
            alpha=0.55,
            capstyle="round",
        )
        axes.add_patch(arrow)
        axes.text(
            place,
            0.54,
            f"{weight:.0%}",
            ha="center",
            fontsize=9,
            bbox={"facecolor": CARD, "edgecolor": "none", "pad": 1},
        )
    axes.add_patch(Rectangle((last - 0.4, 1.3), 0.8, 0.42, facecolor=COLORS["orange"], alpha=0.6))
    axes.text(last, 1.51, "q", ha="center", va="center", fontsize=10)
    axes.add_patch(Rectangle((last + 0.6, 1.3), 0.8, 0.42, facecolor="none", edgecolor=COLORS["grey"], linestyle="--"))
    axes.text(last + 1, 1.51, predicted, ha="center", va="center", fontsize=10, family="DejaVu Sans Mono")
    axes.annotate("", (last + 0.6, 1.51), (last + 0.4, 1.51), arrowprops={"arrowstyle": "->", "color": COLORS["black"]})
    axes.set_xlim(-0.6, last + 1.6)
    axes.set_ylim(-0.4, 1.85)
    axes.set_axis_off()


def _draw_grid(axes: Axes, computed: Sequence[int], lengths: Sequence[int], color: str) -> None:
    """A row a step, a column a token: full where the step computed it, pale where the step only needed its keys."""
    for step, (new, length) in enumerate(zip(computed, lengths, strict=True)):
        for place in range(length):
            alpha = 1.0 if place >= length - new else _TINT
            axes.add_patch(Rectangle((place + 0.05, step + 0.05), 0.9, 0.9, facecolor=color, alpha=alpha, linewidth=0))
    axes.set_xlim(0, max(lengths))
    axes.set_ylim(len(lengths), 0)
    axes.set_xticks([place + 0.5 for place in range(max(lengths))], [str(place) for place in range(max(lengths))])
    axes.set_yticks([step + 0.5 for step in range(len(lengths))], [str(step + 1) for step in range(len(lengths))])
    axes.set_xlabel("position of the token")
    axes.tick_params(length=0)
    axes.grid(visible=False)


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], color: str, form: str, label: str) -> None:
    axes.plot(x, y, form, color=color, label=label)


def _log_log(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
