"""The samples of a step as the dashboard shows them: by question, each token with what became of it."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

_NUMBERS = ("sampled", "old", "trained", "advantage")
_FLAGS = ("clipped", "truncated", "masked")


def grouped(line: dict[str, Any], limit: int) -> dict[str, Any]:
    """Return a line of samples.jsonl by question, with at most `limit` samples.

    Groups in which rewards differ come first: of the others the trainer learns nothing.

    Returns:
        `version` (of the weights that sampled), `total` (samples of the step), `groups`: `question`, `answer`, `samples`.
        A sample's `tokens` are empty where the run did not record them.
    """
    samples = line["samples"]
    groups = [list(group) for _, group in groupby(samples, key=lambda sample: sample["question"])]
    groups.sort(key=lambda group: not any(sample["advantage"] for sample in group))
    # Two groups at the least, so that a run with large groups shows more than one question.
    share = max(1, limit if len(groups) == 1 else limit // 2)
    room, found = limit, []
    for group in groups:
        chosen = _best_and_worst(group, min(share, room))
        room -= len(chosen)
        if chosen:
            first = group[0]
            rows = [_sample(sample) for sample in chosen]
            found.append({"question": first["question"], "answer": str(first.get("answer", "")), "samples": rows})
    return {"version": line.get("weight_version"), "total": len(samples), "groups": found}


def _best_and_worst(group: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return `count` samples in their order: where there are more, half from the top of the rewards, half from the bottom."""
    if count >= len(group):
        return list(group)
    ranked = sorted(range(len(group)), key=lambda place: -_finite(group[place]["reward"]))
    chosen = {*ranked[: (count + 1) // 2], *ranked[len(ranked) - count // 2 :]}
    return [group[place] for place in sorted(chosen)]


def _sample(sample: dict[str, Any]) -> dict[str, Any]:
    tokens = sample.get("tokens") or {}
    shown: dict[str, Any] = {"text": tokens.get("text", [])}
    shown |= {name: [_rounded(value) for value in tokens[name]] for name in _NUMBERS if tokens.get(name)}
    # Flags are 0 nearly always.
    shown |= {name: tokens[name] for name in _FLAGS if any(tokens.get(name, []))}
    found = {
        "reward": _rounded(sample["reward"]),
        "advantage": _rounded(sample["advantage"]),
        "parts": {name: _rounded(value) for name, value in (sample.get("parts") or {}).items()},
        "tokens": shown,
    }
    return found if shown["text"] else found | {"completion": sample["completion"]}


def _rounded(value: float | None) -> float | None:
    return round(value, 4) if value is not None and math.isfinite(value) else None


def _finite(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else -math.inf
