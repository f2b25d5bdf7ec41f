"""The still pictures of lesson 03."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from course_lib.fragmentation.memory import Waste
from course_lib.fragmentation.simulation import Simulation
from course_lib.paged_attention import benchmark
from course_lib.paged_attention.benchmark_shapes import SHAPES
from course_lib.paged_attention.block_size import BlockSizeCosts
from course_lib.paged_attention.block_table import slot
from course_lib.viz.tables import Cell, Table
from course_lib.viz.theme import COLORS, CourseFigure, new_figure

_BLOCKS = [COLORS[name] for name in ("blue", "orange", "green", "purple", "sky")]
_EMPTY = "#FFFFFF"
_WASTE = {"used": "blue", "reserved": "sky", "internal": "orange", "external": "grey"}


def address_translation(
    table: Sequence[int], length: int, position: int, block_size: int, num_blocks: int
) -> CourseFigure:
    """Draw a sequence, its block table and the pool, and how one position gets to its slot.

    Args:
        table: the sequence's block table.
        length: its tokens.
        position: the one to follow.
        block_size: slots in a block.
        num_blocks: blocks in the pool.
    """
    index, offset = divmod(position, block_size)
    found = slot(table, position, block_size)
    with new_figure(9.6, 4.2) as figure:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_title(
            f"Token {position} is entry {index} of the table, offset {offset}: block {table[index]}, slot {found}"
        )
        width = 100 / (num_blocks * block_size)
        cell = min(100 / length, 2 * width)
        for place in range(length):
            entry = place // block_size
            _cell(axes, place * cell, 8.2, cell, _BLOCKS[entry % len(_BLOCKS)], bold=place == position)
        box = 9.0
        for entry, block in enumerate(table):
            color = _BLOCKS[entry % len(_BLOCKS)]
            axes.add_patch(Rectangle((entry * box, 4.5), box - 0.8, 1.3, facecolor=color, edgecolor=COLORS["black"]))
            axes.text(
                entry * box + box / 2 - 0.4, 5.15, f"{entry} → {block}", ha="center", va="center", color="#111111"
            )
        for number in range(num_blocks * block_size):
            entry_of = {block: entry for entry, block in enumerate(table)}.get(number // block_size)
            filled = entry_of is not None and entry_of * block_size + number % block_size < length
            color = _BLOCKS[entry_of % len(_BLOCKS)] if filled and entry_of is not None else _EMPTY
            _cell(axes, number * width, 0.9, width, color, bold=number == found)
        for block in range(num_blocks):
            x = block * block_size * width
            axes.add_patch(Rectangle((x, 0.9), block_size * width, 1.3, fill=False, edgecolor=COLORS["black"], lw=1.3))
            axes.text(x + block_size * width / 2, 0.35, str(block), ha="center", va="center", fontsize=9)
        axes.text(0, 10.0, f"the sequence: {length} tokens, in logical order", fontsize=9)
        axes.text(0, 6.25, "its block table: entry → block", fontsize=9)
        axes.text(0, 2.65, f"the pool: {num_blocks} blocks of {block_size} slots, by number", fontsize=9)
        arrow = {"arrowstyle": "-|>", "color": COLORS["black"], "lw": 1.5}
        middle = index * box + box / 2 - 0.4
        axes.annotate("", (middle, 6.0), ((position + 0.5) * cell, 8.1), arrowprops=arrow)
        axes.annotate("", ((found + 0.5) * width, 2.3), (middle, 4.4), arrowprops=arrow)
        axes.set_xlim(-0.5, 100.5)
        axes.set_ylim(0, 10.6)
    return figure


def collisions(table: Sequence[int], block_size: int, num_blocks: int) -> CourseFigure:
    """Draw which slots a sequence's tokens get by the right formula, and by the one that forgets the block size.

    Args:
        table: the sequence's block table; all of its blocks are full.
        block_size: slots in a block.
        num_blocks: blocks in the pool.
    """
    positions = range(len(table) * block_size)
    right = [slot(table, position, block_size) for position in positions]
    wrong = [table[position // block_size] + position % block_size for position in positions]
    lost = len(wrong) - len(set(wrong))
    with new_figure(9.6, 4.4) as figure:
        upper, lower = figure.subplots(2, 1)
        _slots(upper, right, block_size, num_blocks)
        upper.set_title(f"table[p // size] * size + p % size: {len(right)} tokens in {len(set(right))} slots")
        _slots(lower, wrong, block_size, num_blocks)
        lower.set_title(
            f"table[p // size] + p % size: {len(wrong)} tokens in {len(set(wrong))} slots, {lost} overwritten"
        )
        lower.set_xlabel(
            "physical slot; a number in a slot is a token's position, red slots were written more than once"
        )
    return figure


def hash_chains(sequences: Sequence[str], chains: Sequence[Sequence[bytes]], block_size: int) -> Table:
    """Return a table of sequences of words cut into blocks, with each full block's hash; those of the first are marked.

    Args:
        sequences: words, separated by spaces.
        chains: each sequence's hashes.
        block_size: words in a block.
    """
    rows: list[list[Cell | str]] = []
    for number, (sequence, chain) in enumerate(zip(sequences, chains, strict=True), start=1):
        words = sequence.split()
        cells: list[Cell | str] = [str(number)]
        for start in range(0, len(words), block_size):
            place, text = start // block_size, " ".join(words[start : start + block_size])
            named = f"{text}: {chain[place].hex()[:6]}" if place < len(chain) else f"{text}: no name yet"
            shared = number > 1 and place < min(len(chain), len(chains[0])) and chain[place] == chains[0][place]
            cells.append(Cell(named, "right") if shared else named)
        rows.append(cells)
    blocks = [f"block {place}" for place in range(len(rows[0]) - 1)]
    return Table("Names of blocks; marked where the first sequence has the same one", ["", *blocks], rows)


def paper_rows(
    rows: Mapping[str, Simulation], paper_used: Mapping[str, float], paper_batch: Mapping[str, float]
) -> CourseFigure:
    """Draw the paper's Figure 2 and Figure 13a: what memory does in each system, and how many requests it batches.

    Args:
        rows: each system's simulation, from the top down.
        paper_used: the paper's share of memory that holds tokens.
        paper_batch: the paper's mean batch.
    """
    names = list(rows)
    with new_figure(9.6, 3.6) as figure:
        bars, batches = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
        for place, name in enumerate(names):
            _waste_bar(bars, place, rows[name].waste)
            bars.plot(100 * paper_used[name], place, "D", color=COLORS["black"], ms=6, zorder=3)
            batches.barh(place, rows[name].mean_batch, color=COLORS["green"], height=0.62)
            end = max(rows[name].mean_batch, paper_batch[name])
            batches.text(end + 1.0, place, f"{rows[name].mean_batch:.1f}", va="center", fontsize=9)
            batches.plot(paper_batch[name], place, "D", color=COLORS["black"], ms=6, zorder=3)
        for part, color in _WASTE.items():
            bars.barh(0, 0, color=COLORS[color], label=part)
        bars.plot([], [], "D", color=COLORS["black"], ms=6, label="the paper")
        bars.set_yticks(range(len(names)), names)
        bars.invert_yaxis()
        bars.set_xlim(0, 100)
        bars.set_xlabel("share of the KV memory (%)")
        bars.set_title("What the memory's slots do")
        figure.legend(*bars.get_legend_handles_labels(), loc="outside lower left", ncols=5)
        batches.set_xlim(0, 1.2 * max(simulation.mean_batch for simulation in rows.values()))
        batches.set_xlabel("requests in a batch (mean)")
        batches.set_title("How many run at once")
    return figure


def load_dependence(runs: Mapping[float, Simulation], paper_batch: float) -> CourseFigure:
    """Draw what the paged row depends on: the same arrivals, served by slower and slower engines.

    Args:
        runs: simulations, by how many times slower than the roofline a step is.
        paper_batch: the paper's mean batch.
    """
    slower = list(runs)
    with new_figure(9.6, 3.4) as figure:
        left, right = figure.subplots(1, 2)
        left.plot(slower, [run.mean_batch for run in runs.values()], "o-", color=COLORS["green"])
        left.axhline(paper_batch, color=COLORS["black"], lw=1, ls="--")
        left.text(slower[0], paper_batch + 0.6, f"the paper: {paper_batch}", fontsize=9)
        left.set_ylim(0, None)
        left.set_ylabel("requests in a batch (mean)")
        left.set_title("The batch depends on the engine's speed")
        wastes = [run.waste for run in runs.values()]
        held = [100 * waste.used / (waste.used + waste.internal) for waste in wastes]
        right.plot(slower, held, "o-", color=COLORS["blue"], label="of the blocks that are held")
        right.plot(
            slower, [100 * waste.used for waste in wastes], "s-", color=COLORS["vermillion"], label="of the whole pool"
        )
        right.set_ylim(0, 105)
        right.set_ylabel("slots that hold a token (%)")
        right.set_title("The share of held slots in use does not")
        right.legend(loc="lower right")
        for axes in (left, right):
            axes.set_xlabel("a step's time, in rooflines")
    return figure


def block_sizes(costs: Sequence[BlockSizeCosts]) -> CourseFigure:
    """Draw what small and large blocks cost."""
    sizes = [str(cost.block_size) for cost in costs]
    panels = [
        ("Large blocks: empty slots", "held slots without a token (%)", [100 * cost.empty for cost in costs], "orange"),
        ("... and shorter hits", "of a common prefix shared (%)", [100 * cost.shared for cost in costs], "green"),
        ("Small blocks: long tables", "entries per request", [cost.table_entries for cost in costs], "purple"),
        ("... and small copies", "gathered (GB/s)", [cost.gather_bytes_per_second / 1e9 for cost in costs], "blue"),
    ]
    with new_figure(9.6, 5.0) as figure:
        for axes, (title, label, values, color) in zip(figure.subplots(2, 2).flat, panels, strict=True):
            axes.bar(sizes, values, color=COLORS[color], width=0.7)
            axes.set_title(title)
            axes.set_ylabel(label)
            axes.set_xlabel("slots in a block")
            axes.grid(visible=False, axis="x")
    return figure


def kernel_times() -> Table:
    """Return the Triton kernel's times beside their floor: of this machine's GPU, or the recorded ones where it has none."""
    if torch.cuda.is_available():
        record = benchmark.measure_all(SHAPES, "cuda")
        where = "measured here"
    elif benchmark.RECORD.is_file():
        record = benchmark.recorded()
        where = f"recorded on {record['date']}"
    else:
        return Table(
            "No GPU here, and no recorded measurement: `python -m course_lib.paged_attention.benchmark`", [], []
        )
    facts = record["machine"]
    on = f"{facts['machine']}, torch {facts['torch']}, triton {facts['triton']}"
    return Table(f"One layer's attention, {where}: {on}", benchmark.COLUMNS, benchmark.rows(record))


def _cell(axes: Axes, x: float, y: float, width: float, color: str, bold: bool = False) -> None:
    edge, line = (COLORS["black"], 2.2) if bold else (COLORS["grey"], 0.5)
    axes.add_patch(Rectangle((x, y), width, 1.3, facecolor=color, edgecolor=edge, lw=line, zorder=3 if bold else 2))


def _slots(axes: Axes, slots: Sequence[int], block_size: int, num_blocks: int) -> None:
    times = Counter(slots)
    last = {found: position for position, found in enumerate(slots)}
    for number in range(num_blocks * block_size):
        color = _EMPTY if not times[number] else COLORS["vermillion"] if times[number] > 1 else COLORS["sky"]
        _cell(axes, number, 0, 1, color)
        if number in last:
            axes.text(number + 0.5, 0.65, str(last[number]), ha="center", va="center", fontsize=8.5, color="#111111")
    for block in range(num_blocks):
        axes.add_patch(
            Rectangle((block * block_size, 0), block_size, 1.3, fill=False, edgecolor=COLORS["black"], lw=1.5)
        )
        axes.text((block + 0.5) * block_size, -0.45, f"block {block}", ha="center", va="center", fontsize=9)
    axes.set_xlim(-0.1, num_blocks * block_size + 0.1)
    axes.set_ylim(-0.8, 1.5)
    axes.grid(visible=False)
    axes.set_yticks([])
    axes.set_xticks([])
    axes.spines[["left", "bottom"]].set_visible(False)


def _ink(color: str) -> str:
    """Return what can be read on a ground of this colour."""
    return "#FFFFFF" if color in (COLORS["blue"], COLORS["grey"]) else "#111111"


def _waste_bar(axes: Axes, place: int, waste: Waste) -> None:
    left = 0.0
    for part, color in _WASTE.items():
        share = 100 * getattr(waste, part)
        axes.barh(place, share, left=left, color=COLORS[color], height=0.62)
        if share > 6:
            middle = left + share / 2
            axes.text(middle, place, f"{share:.1f}", ha="center", va="center", fontsize=9, color=_ink(COLORS[color]))
        left += share
