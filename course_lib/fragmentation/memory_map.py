"""Who holds which part of a contiguous memory at one moment: what the pictures of lesson 02 are drawn from."""

from dataclasses import dataclass
from typing import Literal

State = Literal["used", "reserved", "internal", "free"]
"""Of the paper's terms (Kwon et al., SOSP 2023, section 3.1): `used` holds tokens, `reserved` will hold some of this request's
later, `internal` is the request's and never will; `free` belongs to nobody, and what of it nobody can use is external waste."""


@dataclass(frozen=True)
class Segment:
    """A run of token slots in one state.

    Attributes:
        start: its first slot.
        length: how many slots it has.
        state: what they are.
        owner: the request that holds them, empty where they are free.
    """

    start: int
    length: int
    state: State
    owner: str = ""


@dataclass(frozen=True)
class Snapshot:
    """The memory after one event.

    Attributes:
        time: when, in seconds or steps of the simulation.
        event: what happened, in words: `B (30 tokens) ends`, `D (60 tokens) does not fit`.
        size: slots in all.
        segments: all of the memory, in order, without gaps.
        refused: whether the event is a request that got no memory.
    """

    time: float
    event: str
    size: int
    segments: tuple[Segment, ...]
    refused: bool = False
