"""The look of every plot of the course."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType
from PIL import Image

COLORS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#1F2328",
    "grey": "#6B6F76",
}
"""Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow, which is too pale for lines."""

# A card of its own, light but not white: with a transparent background, dark text would vanish in a dark notebook and
# light text in a light one, and no grey has enough contrast for small text on both.
CARD = "#F7F6F2"
_GRID = "#DAD8D1"

STYLE: dict[RcKeyType, Any] = {
    "figure.facecolor": CARD,
    "figure.edgecolor": CARD,
    "savefig.facecolor": CARD,
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "axes.facecolor": CARD,
    "axes.edgecolor": COLORS["grey"],
    "axes.labelcolor": COLORS["black"],
    "axes.labelsize": 10,
    "axes.titlecolor": COLORS["black"],
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=list(COLORS.values())),
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "text.color": COLORS["black"],
    "xtick.color": COLORS["black"],
    "ytick.color": COLORS["black"],
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "legend.fontsize": 9,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.facecolor": CARD,
    "legend.edgecolor": "none",
    "lines.linewidth": 2,
    "lines.markersize": 5,
}
"""Matplotlib's settings of the theme."""


class CourseFigure(Figure):
    """A figure that a notebook shows where it is a cell's value, whether or not pyplot was ever imported."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        # More dots than it is wide on the page, so that it is sharp on dense screens.
        drawn, image = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png", dpi=160)
        # In 128 colours: a third of the bytes in every notebook that is committed, and no eye sees it.
        Image.open(drawn).convert("RGB").quantize(128).save(image, "PNG", optimize=True)
        width, height = self.get_size_inches()
        return image.getvalue(), {"width": round(width * 100), "height": round(height * 100)}


@contextmanager
def applied() -> Iterator[None]:
    """Draw in the course's theme inside the `with` block, and leave matplotlib's settings as they were."""
    with mpl.rc_context(STYLE):
        yield


def apply() -> None:
    """Draw everything from here on in the course's theme: for the first cell of a notebook."""
    mpl.rcParams.update(STYLE)


@contextmanager
def new_figure(width: float = 9.0, height: float = 3.8) -> Iterator[CourseFigure]:
    """Yield an empty figure in the theme, `width` by `height` inches; draw on it inside the `with` block."""
    with applied():
        figure = CourseFigure(figsize=(width, height))
        yield figure
        # Ticks and their labels are made when a figure is first drawn, and they ask for the settings of that moment.
        figure.draw_without_rendering()
