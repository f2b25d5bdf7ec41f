"""A step of a trace in words: who came, who was admitted, preempted or held back, and why."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from course_lib.scheduling.trace import Step

MOST_NAMES = 6
"""So many are named in an event; the rest are counted."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a step: what, and to whom and why."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def events(
    step: Step, before: Step | None, seen: Collection[str], lost: Collection[str], label: Callable[[str], str] = str
) -> list[Event]:
    """Return what happened in a step, in the order in which a scheduler does it; one event a kind.

    Args:
        step: the step.
        before: the one before it.
        seen: requests of all steps before.
        lost: requests that were preempted before.
        label: gives a request's short name.
    """
    there = [*step.running, *step.waiting]
    came = [name for name in there if name not in seen and (name in step.waiting or name in step.admitted)]
    found = {
        "Arrived": _listed(_counted(label(name), step.requests[name].prompt, "prompt token") for name in came),
        "Aborted": _listed(map(label, _aborted(before, there))),
        "Preempted": _listed(_preempted(name, whom, label) for name, whom in step.preempted.items()),
        "Admitted": _listed(_admitted(step, name, label(name), name in lost) for name in step.admitted),
        "Evicted": _evicted(step.evicted),
        "Held back": _held_back(step, label),
        "Finished": _listed(_finished(step, name, how, label(name)) for name, how in step.finished.items()),
        "Idle": "" if step.plan else "no request computes a token in this step",
    }
    return [Event(kind, text) for kind, text in found.items() if text]


def _listed(parts: Iterable[str]) -> str:
    named = list(parts)
    more = len(named) - MOST_NAMES
    return "; ".join(named[:MOST_NAMES]) + (f"; and {more} more" if more > 0 else "")


def _counted(name: str, number: int, noun: str) -> str:
    return f"{name} ({number} {noun}{'' if number == 1 else 's'})"


def _aborted(before: Step | None, there: Collection[str]) -> list[str]:
    """A request that neither finished nor is here any more was taken out."""
    return [name for name in before.requests if name not in there and name not in before.finished] if before else []


def _preempted(name: str, whom: str, label: Callable[[str], str]) -> str:
    if whom == name:
        return f"{label(name)}, because it needs a block, and nobody is left to give way but itself"
    return f"{label(name)}, because {label(whom)} needs its blocks" if whom else label(name)


def _admitted(step: Step, name: str, label: str, again: bool) -> str:
    known = step.requests[name].known
    return f"{label}{' again' if again else ''} ({step.admitted[name]} of {known} tokens from the prefix cache)"


def _evicted(blocks: list[int]) -> str:
    if not blocks:
        return ""
    numbers = ", ".join(map(str, blocks[:12])) + (", …" if len(blocks) > 12 else "")
    noun, its = ("block", "its") if len(blocks) == 1 else ("blocks", "their")
    return f"{noun} {numbers}: the prefix cache forgets {its} tokens"


def _held_back(step: Step, label: Callable[[str], str]) -> str:
    if not step.waiting:
        return ""
    if step.preempted and not step.admitted:
        return f"{label(step.waiting[0])}: nobody is admitted in a step that preempts"
    return f"{label(step.waiting[0])}: {step.held_back}" if step.held_back else ""


def _finished(step: Step, name: str, how: str, label: str) -> str:
    progress = step.requests[name]
    output = progress.known - progress.prompt + (name in step.sampled)
    return f"{label} ({how.removeprefix('finished: ')}, {output} token{'' if output == 1 else 's'} out)"
