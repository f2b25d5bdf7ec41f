"""The ZeRO calculator of lesson 06: what training holds on each rank, whether a GPU has room for it, and what to change if not."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from course_lib.kv_cache.cost import MODELS, ModelShape
from course_lib.training import zero_memory
from course_lib.training.logprobs import VOCABULARY_CHUNK
from course_lib.training.zero_memory import CATEGORIES, MemoryBudget, ZeroPlan, training_memory
from course_lib.viz.kv_budget import GIB, readable, shape_of
from course_lib.viz.lesson_06 import KINDS
from course_lib.viz.picture import Picture, bundle, sheet, write
from course_lib.viz.theme import COLORS, CourseFigure

_MOST_RANKS = 1024
_WIDTH = 8.6  # inches of a bar
_LINE = 118  # characters of small print in that width
_DARK = ("blue", "grey")  # colours that want white letters
_CHANGES = 6


@dataclass(frozen=True)
class Settings:
    """What the calculator can be set to.

    Attributes:
        ranks: GPUs.
        stage: ZeRO's.
        offload_optimizer: whether master weights and moments live in host memory.
        offload_param: whether stage 3's weights do.
        gradient_checkpointing: whether layers run again in the backward pass.
        rows: sequences of a micro-batch on one rank.
        length: tokens of a sequence.
        gpu_gib: memory of one GPU in GiB.

    Raises:
        ValueError: a number that is not above 0, or an offload that the stage does not have.
    """

    ranks: int = 2
    stage: int = 2
    offload_optimizer: bool = False
    offload_param: bool = False
    gradient_checkpointing: bool = False
    rows: int = 8
    length: int = 1024
    gpu_gib: float = 80

    def __post_init__(self) -> None:
        for name in ("rows", "length", "gpu_gib"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        _ = self.plan

    @property
    def plan(self) -> ZeroPlan:
        """The settings that `training_memory` takes as a plan."""
        return ZeroPlan(self.stage, self.ranks, self.offload_optimizer, self.offload_param, self.gradient_checkpointing)


@dataclass(frozen=True)
class Remedy:
    """A change that saves memory on the device.

    Attributes:
        text: what to change, after the changes before it.
        device_bytes: what a rank then holds.
    """

    text: str
    device_bytes: int


def budget_of(shape: ModelShape, settings: Settings) -> MemoryBudget:
    """Return what each rank holds."""
    return training_memory(shape, settings.plan, settings.rows * settings.length, settings.length)


def remedies(shape: ModelShape, settings: Settings) -> list[Remedy]:
    """Return what to change, one after the other and cheapest first, until it fits; all that helps where nothing suffices.

    Checkpointing costs a third more compute; a higher stage communication; fewer rows more passes; offloading the host's
    slowness; ranks money.
    """
    room, now = settings.gpu_gib * GIB, budget_of(shape, settings).device_bytes
    found: list[Remedy] = []
    for number in range(_CHANGES):
        for text, changed in _change(number, settings):
            size = budget_of(shape, changed).device_bytes
            if now > room and size < now:
                settings, now = changed, size
                found.append(Remedy(text, size))
    return found


def zero_calculator(model: str | Path | Mapping[str, Any] = "SmolLM2-135M", **settings: float) -> "ZeroCalculator":
    """Return a calculator of training's memory. It works without a kernel: the page works it out itself.

    Args:
        model: a name in `kv_cache.cost.MODELS`, a model folder, its config.json, or that file's mapping.
        settings: what to start from: the fields of `Settings`.

    Raises:
        ValueError: no such model or one that the trainer does not know, or a setting that is none or makes no sense.
    """
    unknown = sorted(settings.keys() - asdict(Settings()).keys())
    if unknown:
        raise ValueError(f"no such setting: {', '.join(unknown)}; there are {', '.join(asdict(Settings()))}")
    return ZeroCalculator(shape_of(model), Settings(**settings))  # type: ignore[arg-type]  # counts are whole numbers


class ZeroCalculator(Picture):
    """The picture that `zero_calculator` returns.

    Args:
        shape: the model that it starts with; all of `MODELS` that the trainer knows can be chosen in it.
        settings: the settings that it starts with.
    """

    _esm = bundle("zero_calculator.mjs")

    def __init__(self, shape: ModelShape, settings: Settings):
        self.shape, self.settings = shape, settings
        self.budget = budget_of(shape, settings)
        shapes = {name: one for name, one in MODELS.items() if one.gated_mlp} | {shape.name: shape}
        payload = {
            "title": "Where does training's memory go, and does it fit?",
            "shapes": [_sizes(one) for one in shapes.values()],
            "kinds": [
                {"key": key, "name": KINDS[key][0], "color": COLORS[KINDS[key][1]], "ink": _ink(KINDS[key][1])}
                for key in CATEGORIES
            ],
            "model": shape.name,
            "settings": asdict(settings),
        }
        super().__init__(payload=payload)

    def figure(self) -> CourseFigure:
        """Return what a rank holds as a bar, with the GPU's memory as a line."""
        budget, room = self.budget, self.settings.gpu_gib * GIB
        told = wrap(f"{_listed(budget.device)}; the line: the GPU's memory", _LINE)
        verdict = [part for line in _verdict(self.shape, self.settings, budget) for part in wrap(line, _LINE - 12)]
        below = 2.35 if budget.host_bytes else 1.6
        with sheet(below + 0.2 * len(told) + 0.25 * len(verdict), self.payload["title"]) as (figure, axes):
            write(axes, 0.2, 0.5, _heading(self.shape, self.settings), 9)
            inch = _WIDTH / max(budget.device_bytes, budget.host_bytes, room)
            _bar(axes, budget.device, inch, 0.85, "on each GPU")
            axes.plot([0.2 + room * inch] * 2, [0.9, 1.46], color=COLORS["black"], linewidth=1.8)
            if budget.host_bytes:
                _bar(axes, budget.host, inch, 1.62, "in the host's memory, for each GPU")
            for place, line in enumerate(told):
                write(axes, 0.2, below + 0.2 * place, line, color=COLORS["grey"])
            color = COLORS["black"] if budget.device_bytes <= room else COLORS["vermillion"]
            for place, line in enumerate(verdict):
                write(axes, 0.2, below + 0.2 * len(told) + 0.05 + 0.25 * place, line, 9.5, color=color)
        return figure

    def words(self) -> str:
        """Return the numbers in words."""
        lines = [_heading(self.shape, self.settings), f"  on each GPU: {_listed(self.budget.device)}"]
        if self.budget.host_bytes:
            lines.append(f"  in the host's memory for each: {_listed(self.budget.host)}")
        return "\n".join([*lines, *(f"  {line}" for line in _verdict(self.shape, self.settings, self.budget))])


def _change(number: int, settings: Settings) -> Iterator[tuple[str, Settings]]:
    """Yield a kind of change to the settings, in several steps where there are any."""
    if number == 0 and not settings.gradient_checkpointing:
        yield "gradient checkpointing", replace(settings, gradient_checkpointing=True)
    elif number == 1:
        for stage in range(settings.stage + 1, 4):
            yield f"ZeRO-{stage}", replace(settings, stage=stage)
    elif number == 2 and settings.rows > 1:
        yield "micro-batches of 1 row", replace(settings, rows=1)
    elif number == 3 and not settings.offload_optimizer:
        yield "the optimizer on the host", replace(settings, stage=max(1, settings.stage), offload_optimizer=True)
    elif number == 4 and settings.stage == 3 and not settings.offload_param:
        yield "the weights on the host", replace(settings, offload_param=True)
    elif number == 5:
        ranks = 2 * settings.ranks
        while ranks <= _MOST_RANKS:
            yield f"{ranks} ranks", replace(settings, ranks=ranks)
            ranks *= 2


def _sizes(shape: ModelShape) -> dict[str, Any]:
    """Return what the page has to know of a model, DeepSpeed's defaults with it."""
    matrices = (shape.head_weights, shape.hidden * shape.intermediate, shape.hidden * shape.heads * shape.head_dim)
    return asdict(shape) | {
        "parameters": shape.parameters,
        "largest": max(matrices),
        "persistent": zero_memory.persistent_parameters(shape),
        "chunk": min(shape.vocab, VOCABULARY_CHUNK),
        "bucket": zero_memory.REDUCE_BUCKET,
        "live": zero_memory.MAX_LIVE,
        "sub_group": zero_memory.SUB_GROUP,
    }


def _bar(axes: Axes, parts: Mapping[str, int], inch: float, y: float, name: str) -> None:
    write(axes, 0.2, y - 0.05, name, 8.5)
    x = 0.2
    for key, size in parts.items():
        label, color = KINDS[key]
        axes.add_patch(Rectangle((x, y + 0.12), size * inch, 0.42, facecolor=COLORS[color], linewidth=0))
        for text in (f"{label} {readable(size)}", label, key):
            if len(text) * 0.072 < size * inch:
                write(axes, x + 0.05, y + 0.33, text, 8, color=_ink(color))
                break
        x += size * inch
    axes.add_patch(Rectangle((0.2, y + 0.12), _WIDTH, 0.42, fill=False, edgecolor=COLORS["grey"], linewidth=0.6))


def _ink(color: str) -> str:
    return "#FFFFFF" if color in _DARK else "#111111"


def _heading(shape: ModelShape, settings: Settings) -> str:
    batch = f"{settings.rows:,} x {settings.length:,} tokens"
    return f"{shape.name}: {settings.plan}, micro-batches of {batch}, {settings.gpu_gib:g} GiB a GPU"


def _listed(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{key} {readable(size)}" for key, size in parts.items() if size)


def _verdict(shape: ModelShape, settings: Settings, budget: MemoryBudget) -> list[str]:
    """Return whether it fits, and what to change where it does not."""
    room, need = settings.gpu_gib * GIB, budget.device_bytes
    share = f"{readable(need)} of {readable(room)}"
    if need <= room:
        return [f"✓ It fits: {share} on each GPU."]
    found = remedies(shape, settings)
    enough = bool(found) and found[-1].device_bytes <= room
    steps = ", then ".join(f"{step.text} ({readable(step.device_bytes)})" for step in found)
    advice = f"{'What would do' if enough else 'Not even this would do'}: {steps}." if found else "Nothing here helps."
    return [f"✗ It does not fit: {share} on each GPU.", advice]
