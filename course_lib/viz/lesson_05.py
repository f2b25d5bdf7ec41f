"""The still pictures of lesson 05: what is sampled from, where memory and rows go, who waits for what."""

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from course_lib.machine.prerequisites import Check
from course_lib.serving.metrics import Watched
from course_lib.serving.sampler import smallest_kept
from course_lib.viz.picture import OWNER_COLORS
from course_lib.viz.tables import Cell, Mark, Table
from course_lib.viz.theme import COLORS, CourseFigure, new_figure

GIB = 2**30
_MARKS: dict[str, Mark] = {"ok": "right", "failed": "wrong"}
_NO_WORK = "#E4E2DB"


def checks_table(checks: Sequence[Check]) -> Table:
    """Return what was found on this machine, one row a check, with advice where there is some."""
    rows: list[list[Cell | str]] = [
        [check.name, Cell(check.found, _MARKS.get(check.status, "")), check.advice] for check in checks
    ]
    return Table("This machine", ["what", "found", "advice"], rows)


def nucleus(logits: Sequence[float], temperature: float, top_p: float) -> list[float]:
    """Return each token's probability of being sampled: the temperature comes first, then the cut, as in vLLM.

    Args:
        logits: of all tokens; log probabilities will do.
        temperature: above 0.
        top_p: above 0, at most 1.
    """
    scaled = torch.tensor([list(logits)], dtype=torch.float64) / temperature
    bounds = (torch.tensor([[bound]], dtype=torch.float64) for bound in (math.inf, top_p, 0.0))
    lowest = smallest_kept(scaled, *bounds)
    return [float(share) for share in scaled.masked_fill(scaled < lowest, -math.inf).softmax(-1)[0]]


def sampling(
    words: Mapping[int, str],
    logprobs: Mapping[int, float],
    settings: Sequence[tuple[float, float]],
    drawn: Mapping[int, int],
    shown: int = 12,
) -> CourseFigure:
    """Draw the likeliest next tokens under several settings of temperature and top-p; dots are what vLLM drew under the last.

    Args:
        words: the text of the tokens that are drawn.
        logprobs: of all tokens, by token.
        settings: pairs of temperature and top-p.
        drawn: how often each token came under the last setting.
        shown: how many tokens to draw.
    """
    tokens = sorted(logprobs, key=lambda token: -logprobs[token])
    names = [repr(words[token]) for token in tokens[:shown]]
    with new_figure(9.6, 4.0) as figure:
        places = figure.subplots(1, len(settings), sharey=True)
        for axes, (temperature, top_p) in zip(np.atleast_1d(places), settings, strict=True):
            shares = nucleus([logprobs[token] for token in tokens], temperature, top_p)
            left = sum(share > 0 for share in shares)
            axes.barh(range(shown), [100 * share for share in shares[:shown]], color=COLORS["blue"], height=0.75)
            said = f"temperature {temperature:g}" + (f", top-p {top_p:g}" if top_p < 1 else "")
            axes.set_title(f"{said}\n{left:,} tokens can come", fontsize=9.5)
            axes.set_xlabel("probability (%)")
        total = sum(drawn.values())
        seen = [100 * drawn.get(token, 0) / total for token in tokens[:shown]]
        axes.plot(seen, range(shown), "o", color=COLORS["vermillion"], label=f"{total} samples of vLLM")
        axes.legend(loc="lower right")
        places[0].set_yticks(range(shown), names)
        places[0].invert_yaxis()
    return figure


def partings(prompts: Sequence[str], one: Sequence[Any], other: Sequence[Any], names: tuple[str, str]) -> Table:
    """Return where greedy answers part, how likely the two tokens were there, and how far logprobs were apart until then.

    Args:
        prompts: what to call them.
        one: outputs of the first engine, vLLM's, with `logprobs` of 2 or more.
        other: outputs of the second one, with logprobs too.
        names: of the engines.
    """
    rows: list[list[Cell | str]] = []
    for prompt, mine, theirs in zip(prompts, one, other, strict=True):
        here, there = mine.outputs[0], theirs.outputs[0]
        tokens = list(here.token_ids)
        place = parting(tokens, there.token_ids)
        pairs = zip(tokens[:place], here.logprobs, there.logprobs, strict=False)
        apart = max((abs(a[token].logprob - b[token].logprob) for token, a, b in pairs), default=0.0)
        if place is None:
            rows.append([prompt, Cell(f"all {len(tokens)}", "right"), f"{apart:.4f}", "", ""])
            continue
        both = [_likely(here.logprobs[place].get(token)) for token in (tokens[place], there.token_ids[place])]
        rows.append([prompt, f"{place} of {len(tokens)}", f"{apart:.4f}", *both])
    columns = ["prompt", ">same tokens", ">logprobs apart by", f"then {names[0]} takes", f"and {names[1]}"]
    return Table(f"Greedy answers, {names[0]} and {names[1]}; probabilities are the first one's", columns, rows)


def parting(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Return the first place at which two answers differ; None where they are equal."""
    places = (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return next(places, None if len(one) == len(other) else min(len(one), len(other)))


def memory_split(splits: Mapping[str, Mapping[str, float]], total: float) -> CourseFigure:
    """Draw what a GPU's memory is used for, one bar for each setting.

    Args:
        splits: bytes by part, in order, by the setting's name.
        total: the GPU's bytes.
    """
    with new_figure(9.0, 0.9 + 0.5 * len(splits)) as figure:
        axes = figure.subplots()
        for row, parts in enumerate(splits.values()):
            start = 0.0
            for (part, size), color in zip(parts.items(), OWNER_COLORS, strict=False):
                axes.barh(row, size / GIB, left=start, color=color, height=0.7, label=part if row == 0 else None)
                start += size / GIB
            axes.barh(
                row, total / GIB - start, left=start, color="none", edgecolor=COLORS["grey"], hatch="///", height=0.7
            )
        axes.set_yticks(range(len(splits)), list(splits))
        axes.invert_yaxis()
        axes.set_xlabel("GiB; hatched: left to others")
        axes.set_xlim(0, total / GIB)
        pools = [list(parts.values())[-1] / GIB for parts in splits.values()]
        axes.set_title(f"From {pools[0]:.1f} to {pools[-1]:.1f} GiB of KV cache: the share is not the pool")
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside lower center", ncols=len(parts))
    return figure


def padding(prompts: Sequence[int], outputs: Sequence[int]) -> CourseFigure:
    """Draw a static batch: a row a request, padded to the longest prompt, computed until the longest answer ends.

    Args:
        prompts: tokens of each prompt.
        outputs: tokens wanted of each answer.
    """
    longest, last = max(prompts), max(outputs)
    waste = wasted(prompts, outputs)
    kinds = {
        "padding": _NO_WORK,
        "prompt": COLORS["blue"],
        "answer": COLORS["green"],
        "nobody wants it": COLORS["vermillion"],
    }
    with new_figure(9.0, 1.4 + 0.13 * len(prompts)) as figure:
        axes = figure.subplots()
        for row, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
            start = -longest
            for color, width in zip(kinds.values(), (longest - prompt, prompt, output, last - output), strict=True):
                axes.add_patch(Rectangle((start, row - 0.45), width, 0.9, facecolor=color, edgecolor="none"))
                start += width
        axes.set(xlim=(-longest, last), ylim=(len(prompts) - 0.4, -0.6), ylabel="row of the batch")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("token, counted from the first of the answers")
        axes.set_title(f"A static batch with padding: {waste:.0%} of what is computed is for nobody")
        axes.grid(visible=False)
        handles = [Patch(facecolor=color, label=name) for name, color in kinds.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def wasted(prompts: Sequence[int], outputs: Sequence[int]) -> float:
    """Return the share of a padded static batch's tokens that nobody asked for."""
    computed = len(prompts) * (max(prompts) + max(outputs))
    return 1 - (sum(prompts) + sum(outputs)) / computed


def waits(watched: Watched) -> CourseFigure:
    """Draw what readers felt: time to first token by place in the queue, waits between tokens, a step's time by its batch."""
    first = [times.ttft for times in watched.requests]
    between = np.sort([1e3 * wait for times in watched.requests for wait in times.inter_token_latencies])
    with new_figure(9.6, 3.4) as figure:
        left, middle, right = figure.subplots(1, 3)
        left.plot(range(len(first)), first, "o", color=COLORS["blue"], markersize=4)
        left.set(xlabel="place in the queue", ylabel="time to first token (s)", ylim=(0, None))
        left.set_title(f"First token:\n{min(first):.2f} to {max(first):.2f} s")
        if len(between):
            middle.step(between, 1 - np.arange(len(between)) / len(between), where="post", color=COLORS["blue"])
            middle.set_title(f"Between tokens: median {median(between):.0f} ms,\nworst {between[-1]:,.0f} ms")
        middle.set(xscale="log", yscale="log", xlabel="inter-token latency (ms)", ylabel="share that is longer")
        _steps_by_batch(right, watched)
    return figure


def sample_tables(tables: Mapping[str, Sequence[int]]) -> Table:
    """Return the block tables of a request's samples; blocks that several of them hold are marked."""
    held = [block for table in tables.values() for block in table]
    width = max(len(table) for table in tables.values())
    rows: list[list[Cell | str]] = []
    for name, table in tables.items():
        cells: list[Cell | str] = [
            Cell(str(block), "right") if held.count(block) > 1 else str(block) for block in table
        ]
        rows.append([name, *cells, *[""] * (width - len(table))])
    caption = f"{len(held)} entries, {len(set(held))} blocks: what is marked is shared"
    return Table(caption, ["sample", *(f">entry {place}" for place in range(width))], rows)


def arrivals(streams: Mapping[str, Sequence[float]], title: str) -> CourseFigure:
    """Draw when each piece of text came.

    Args:
        streams: seconds at which its pieces came, by request.
        title: what to see.
    """
    with new_figure(9.0, 1.2 + 0.42 * len(streams)) as figure:
        axes = figure.subplots()
        for row, moments in enumerate(streams.values()):
            axes.plot(
                moments, [row] * len(moments), "|", color=OWNER_COLORS[row % 6], markersize=14, markeredgewidth=1.6
            )
        axes.set_yticks(range(len(streams)), list(streams))
        axes.set(ylim=(len(streams) - 0.5, -0.5), xlim=(0, None), xlabel="seconds since the request was sent")
        axes.set_title(title)
        axes.grid(visible=False, axis="y")
    return figure


def _steps_by_batch(axes: Axes, watched: Watched) -> None:
    """Draw the seconds of each step over the requests that ran in it."""
    moments = [0.0, *(sample.seconds for sample in watched.samples)]
    took = [1e3 * (later - before) for before, later in itertools.pairwise(moments)]
    axes.plot([sample.running for sample in watched.samples], took, "o", color=COLORS["blue"], alpha=0.35, markersize=4)
    axes.set(xlabel="requests that run", ylabel="time of the step (ms)", ylim=(0, None), xlim=(0, None))
    axes.set_title("A step's time,\nby its batch")


def _likely(logprob: Any) -> str:
    """Return a token and its probability; of one that is not among those reported, nothing is known."""
    return f"{logprob.decoded_token!r} ({math.exp(logprob.logprob):.1%})" if logprob is not None else "another one"
