"""The KV calculator of lesson 01: how many tokens' keys and values a GPU's memory has room for, for any model."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from matplotlib.patches import Rectangle

from course_lib.kv_cache.cost import MODELS, ModelShape, kv_bytes_per_token, weight_bytes
from course_lib.viz.picture import OWNER_COLORS, OWNER_INKS, Picture, bundle, sheet, write
from course_lib.viz.theme import COLORS, CourseFigure

GIB = 2**30


@dataclass(frozen=True)
class Settings:
    """What the calculator can be set to.

    Attributes:
        weight_bytes: bytes of a number in the weights: 2 in bf16, 0.5 in int4.
        kv_bytes: bytes of a number in the KV cache.
        context: tokens of each request, prompt and output.
        requests: how many are served at once.
        gpu_gib: the GPU's memory in GiB.
        utilization: the share of it that the engine may use; vLLM's `gpu_memory_utilization`.
    """

    weight_bytes: float = 2
    kv_bytes: float = 2
    context: int = 2048
    requests: int = 16
    gpu_gib: float = 24
    utilization: float = 0.9

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; expected more than 0")
        if self.utilization > 1:
            raise ValueError(f"utilization is {self.utilization}; expected a share, at most 1")


@dataclass(frozen=True)
class KVBudget:
    """What the calculator shows, in bytes and counts. Activations and the engine's own buffers are left out.

    Attributes:
        kv_bytes_per_token: what one token leaves in the cache.
        kv_bytes_per_request: what one request of `context` tokens does.
        kv_bytes: what all requests do.
        weight_bytes: the weights.
        memory_bytes: the GPU's memory.
        usable_bytes: what of it the engine may use.
        tokens_that_fit: beside the weights.
        requests_that_fit: of `context` tokens each, beside the weights.
    """

    kv_bytes_per_token: float
    kv_bytes_per_request: float
    kv_bytes: float
    weight_bytes: float
    memory_bytes: int
    usable_bytes: int
    tokens_that_fit: int
    requests_that_fit: int


def kv_budget(shape: ModelShape, settings: Settings) -> KVBudget:
    """Return what a model's weights and the requests' keys and values take, and how many would fit."""
    per_token = kv_bytes_per_token(shape, 1) * settings.kv_bytes
    per_request = per_token * settings.context
    weights = weight_bytes(shape, 1) * settings.weight_bytes
    memory = int(settings.gpu_gib * GIB)
    usable = int(memory * settings.utilization)
    room = max(0.0, usable - weights)
    return KVBudget(
        kv_bytes_per_token=per_token,
        kv_bytes_per_request=per_request,
        kv_bytes=per_request * settings.requests,
        weight_bytes=weights,
        memory_bytes=memory,
        usable_bytes=usable,
        tokens_that_fit=math.floor(room / per_token),
        requests_that_fit=math.floor(room / per_request),
    )


def kv_calculator(model: str | Path | Mapping[str, Any] = "SmolLM2-135M", **settings: float) -> "KVCalculator":
    """Return a calculator of the KV cache's memory. It works without a kernel: the page works it out itself.

    Args:
        model: a name in `kv_cache.cost.MODELS`, a model folder, its config.json, or that file's mapping.
        settings: what to start from: the fields of `Settings`.

    Raises:
        ValueError: no such model, or a setting that is none or makes no sense.
    """
    unknown = sorted(settings.keys() - asdict(Settings()).keys())
    if unknown:
        raise ValueError(f"no such setting: {', '.join(unknown)}; there are {', '.join(asdict(Settings()))}")
    return KVCalculator(shape_of(model), Settings(**settings))  # type: ignore[arg-type]  # counts are whole numbers


class KVCalculator(Picture):
    """The picture that `kv_calculator` returns.

    Args:
        shape: the model that it starts with; all of `MODELS` can be chosen in it.
        settings: the settings that it starts with.
    """

    _esm = bundle("kv_calculator.mjs")

    def __init__(self, shape: ModelShape, settings: Settings):
        self.shape, self.settings = shape, settings
        self.budget = kv_budget(shape, settings)
        shapes = {**MODELS, shape.name: shape}.values()
        payload = {
            "title": "How many tokens fit into a GPU's memory?",
            "shapes": [
                {
                    "name": one.name,
                    "layers": one.layers,
                    "kv_heads": one.kv_heads,
                    "head_dim": one.head_dim,
                    "parameters": one.parameters,
                }
                for one in shapes
            ],
            "model": shape.name,
            "settings": asdict(settings),
        }
        super().__init__(payload=payload)

    def figure(self) -> CourseFigure:
        """Return the memory as a bar, with the numbers over it."""
        budget, settings = self.budget, self.settings
        with sheet(2.1, _heading(self.shape, settings)) as (figure, axes):
            write(axes, 0.2, 0.56, _numbers(budget), 9)
            parts = _parts(budget)
            inch = 8.6 / sum(part[1] for part in parts)
            x = 0.2
            for name, size, color, ink, hatch in parts:
                look: dict[str, Any] = {
                    "facecolor": color,
                    "edgecolor": COLORS["grey"],
                    "hatch": hatch,
                    "linewidth": 0.7,
                }
                axes.add_patch(Rectangle((x, 0.85), size * inch, 0.42, **look))
                text = f"{name} {readable(size)}"
                if len(text) * 0.075 < size * inch and not hatch:
                    write(axes, x + 0.06, 1.06, text, 8.5, color=ink)
                x += size * inch
            edge = 0.2 + budget.usable_bytes * inch
            axes.plot([edge, edge], [0.78, 1.34], color=COLORS["black"], linewidth=1.5)
            told = ", ".join(f"{name} {readable(size)}" for name, size, *_ in parts)
            write(axes, 0.2, 1.5, f"{told}; the line: what the engine may use", color=COLORS["grey"])
            color = COLORS["black"] if _fits(budget) else COLORS["vermillion"]
            write(axes, 0.2, 1.82, _verdict(budget, settings), 9.5, color=color)
        return figure

    def words(self) -> str:
        """Return the numbers in words."""
        return "\n".join(
            [
                _heading(self.shape, self.settings),
                f"  {_numbers(self.budget)}",
                f"  {_verdict(self.budget, self.settings)}",
            ]
        )


def shape_of(model: str | Path | Mapping[str, Any]) -> ModelShape:
    """Return the shape of a model: a name in `MODELS`, a model folder, its config.json, or that file's mapping.

    Raises:
        ValueError: there is no such model.
    """
    if isinstance(model, str) and model in MODELS:
        return MODELS[model]
    if isinstance(model, str | Path):
        folder = Path(model).parent if Path(model).name == "config.json" else Path(model)
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"no model {str(model)!r}: pass one of {', '.join(MODELS)}, a model folder, or a config.json's mapping"
            )
        return ModelShape.from_config(folder)
    return ModelShape.from_config(model)


def readable(size: float) -> str:
    """Return bytes in the unit that fits, with three digits that matter: `72.0 KiB`, as the widget writes them."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    place = 0
    while size >= 1024 and place < len(units) - 1:
        size /= 1024
        place += 1
    digits = 0 if place == 0 or size >= 100 else 1 if size >= 10 else 2
    # A tie goes up, as JavaScript's toFixed has it; 1.125 MiB is one.
    rounded = Decimal(size).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{rounded} {units[place]}"


def _fits(budget: KVBudget) -> bool:
    return budget.weight_bytes + budget.kv_bytes <= budget.usable_bytes


def _heading(shape: ModelShape, settings: Settings) -> str:
    return f"{shape.name} on {settings.gpu_gib:g} GiB, {settings.utilization:.0%} of it for the engine"


def _numbers(budget: KVBudget) -> str:
    return (
        f"KV per token {readable(budget.kv_bytes_per_token)}, per request {readable(budget.kv_bytes_per_request)}, "
        f"weights {readable(budget.weight_bytes)}: {budget.tokens_that_fit:,} tokens fit"
    )


def _verdict(budget: KVBudget, settings: Settings) -> str:
    need = readable(budget.weight_bytes + budget.kv_bytes)
    fit = "fit" if _fits(budget) else "do not fit"
    return (
        f"{'✓' if _fits(budget) else '✗'} {settings.requests:,} requests of {settings.context:,} tokens {fit}: {need} of "
        f"{readable(budget.usable_bytes)}; {budget.requests_that_fit:,} requests would"
    )


def _parts(budget: KVBudget) -> list[tuple[str, float, str, str, str]]:
    """Return the bar's parts: name, bytes, colour, ink, hatch."""
    need = budget.weight_bytes + budget.kv_bytes
    rest = budget.memory_bytes - max(budget.usable_bytes, need)
    return [
        ("weights", budget.weight_bytes, OWNER_COLORS[0], OWNER_INKS[0], ""),
        ("KV cache", budget.kv_bytes, OWNER_COLORS[1], OWNER_INKS[1], ""),
        ("free", max(0.0, budget.usable_bytes - need), "none", COLORS["black"], ""),
        ("not given to the engine", max(0.0, rest), "none", COLORS["black"], "xxx"),
    ]
