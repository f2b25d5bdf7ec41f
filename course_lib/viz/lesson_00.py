"""The pictures of lesson 00."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from course_lib.kv_cache.cost import ModelShape, kv_bytes_per_token, weight_bytes
from course_lib.viz.theme import COLORS, new_figure

_TRAINING = (
    ("weights, bf16", 2, COLORS["blue"]),
    ("gradients, bf16", 2, COLORS["sky"]),
    ("master weights, fp32", 4, COLORS["orange"]),
    ("Adam's two moments, fp32", 8, COLORS["vermillion"]),
)
"""Bytes a parameter of mixed-precision training with Adam (Rajbhandari et al., ZeRO, arXiv 1910.02054, section 3.1)."""


def memory_by_job(models: Sequence[ModelShape], tokens: int, gpu_gb: float = 80) -> Figure:
    """Draw what generating and training hold in memory, model by model, against one GPU.

    Args:
        models: from small to large.
        tokens: prompt and response tokens of all requests that are generated at once.
        gpu_gb: the GPU's memory in 10^9 bytes.
    """
    with new_figure(9, 0.75 * len(models) + 1.5) as figure:
        axes = figure.subplots()
        labels = []
        for row, model in enumerate(models):
            parameters = weight_bytes(model, 1)
            training = [(name, parameters * size, color) for name, size, color in _TRAINING]
            generating = [
                training[0],
                ("KV cache, bf16", kv_bytes_per_token(model) * tokens, COLORS["green"]),
            ]
            for place, job in ((3 * row, generating), (3 * row + 1, training)):
                left = 0.0
                for name, size, color in job:
                    axes.barh(place, size / 1e9, left=left, height=0.9, color=color, label=name if row == 0 else None)
                    left += size / 1e9
            labels += [(3 * row, f"{model.name}  generate"), (3 * row + 1, "train")]
        axes.axvline(gpu_gb, color=COLORS["black"], linestyle="--", linewidth=1.2)
        axes.annotate(f"one {gpu_gb:.0f} GB GPU", (gpu_gb, -1.1), ha="center", va="bottom", fontsize=9)
        axes.set_yticks([place for place, _ in labels], [label for _, label in labels])
        axes.set_ylim(3 * len(models) - 1, -1.2)
        axes.set_xlabel("memory (GB), without activations")
        axes.set_title("Generating pays for tokens, training for parameters", pad=14)
        axes.grid(visible=False, axis="y")
        named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.legend(named.values(), named.keys(), loc="upper right")
    return figure
