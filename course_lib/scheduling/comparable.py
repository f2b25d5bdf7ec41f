"""Two traces side by side: what has to be set right before a word-by-word comparison."""

import re
from dataclasses import replace
from typing import Any

from course_lib.scheduling.trace import Step, Trace

_RANDOM = re.compile(r"(.+)-[0-9a-f]{8}")


def comparable(trace: Trace, tokens: bool = True) -> Trace:
    """Return a trace with the names that the caller gave, steps numbered from 0, and those left out in which nobody ran.

    Args:
        trace: ours, or one of a `vllm.LLM`: it appends random letters to each request's name, so that a client that uses a
            name twice does no harm.
        tokens: whether to keep which tokens were sampled. Two engines that round differently may sample different ones, and
            plan the same all the while.
    """
    ran = [step for step in trace.steps if step.plan]
    steps = [Step(**(_named(vars(step)) | {"number": number})) for number, step in enumerate(ran)]
    if not tokens:
        steps = [replace(step, sampled=dict.fromkeys(step.sampled, 0)) for step in steps]
    return replace(trace, steps=steps)


def _named(value: Any) -> Any:
    """Return the value with all names in it cut short."""
    if isinstance(value, dict):
        return {_named(key): _named(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_named(inner) for inner in value]
    found = _RANDOM.fullmatch(value) if isinstance(value, str) else None
    return found[1] if found else value
