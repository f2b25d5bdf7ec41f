"""Requests as they come to a server: when they arrive, how long their prompts are, how long their answers will be."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

LIMIT = 2048
"""The longest sequence, prompt and output together, that the paper's models take (OPT: 2048 tokens)."""
_SHAREGPT = Path(__file__).with_name("sharegpt_lengths.json")


@dataclass(frozen=True)
class Request:
    """A request for text.

    Attributes:
        id: its name.
        arrival: when it comes, in seconds.
        prompt_tokens: tokens of its prompt.
        output_tokens: tokens that it will generate. The server learns this number only when the last one is there.
    """

    id: str
    arrival: float
    prompt_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.output_tokens < 1:
            raise ValueError(
                f"request {self.id} has {self.prompt_tokens} prompt and {self.output_tokens} output tokens; "
                "expected at least 1 of each"
            )

    @property
    def tokens(self) -> int:
        """Tokens in memory when it ends: prompt and output."""
        return self.prompt_tokens + self.output_tokens


class Lengths(Protocol):
    """Where requests' lengths come from."""

    def draw(self, rng: np.random.Generator, count: int) -> Int[np.ndarray, "count 2"]:
        """Draw the prompt's and the output's tokens of `count` requests."""


@dataclass(frozen=True)
class Uniform:
    """Prompt and output each uniform between `low` and `high` tokens, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"uniform lengths from {self.low} to {self.high}: expected 1 <= low <= high")

    def draw(self, rng: np.random.Generator, count: int) -> Int[np.ndarray, "count 2"]:
        """Draw the prompt's and the output's tokens of `count` requests."""
        return rng.integers(self.low, self.high, size=(count, 2), endpoint=True)


@dataclass(frozen=True, eq=False)
class Histogram:
    """Lengths by histograms of prompts and of outputs, which are drawn apart.

    A request that comes out longer than `limit` swaps its output with another one's, or is drawn anew where that is no way out.

    Attributes:
        name: whose lengths they are.
        edges: the bins' edges in tokens, of prompts and of outputs.
        mass: each bin's probability.
        limit: the most tokens that prompt and output have together.
    """

    name: str
    edges: tuple[Float[np.ndarray, " bins+1"], Float[np.ndarray, " bins+1"]]
    mass: tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]
    limit: int = LIMIT

    def __repr__(self) -> str:
        means = [float((edges[1:] + edges[:-1]) @ mass / 2) for edges, mass in zip(self.edges, self.mass, strict=True)]
        return (
            f"Histogram({self.name}: mean prompt {means[0]:.1f}, mean output {means[1]:.1f} tokens, limit {self.limit})"
        )

    def draw(self, rng: np.random.Generator, count: int) -> Int[np.ndarray, "count 2"]:
        """Draw the prompt's and the output's tokens of `count` requests."""
        lengths = np.stack([self._lengths(rng, count, side) for side in (0, 1)], axis=1)
        for long in np.flatnonzero(lengths.sum(axis=1) > self.limit):
            # Swapping outputs with another request keeps both histograms as they are; drawing anew does not.
            for other in rng.integers(count, size=50):
                pairs = lengths[[long, other], 0] + lengths[[other, long], 1]
                if max(pairs) <= self.limit:
                    lengths[[long, other], 1] = lengths[[other, long], 1]
                    break
            while lengths[long].sum() > self.limit:
                lengths[long] = [int(self._lengths(rng, 1, side)[0]) for side in (0, 1)]
        return lengths

    def _lengths(self, rng: np.random.Generator, count: int, side: int) -> Int[np.ndarray, " count"]:
        edges, mass = self.edges[side], self.mass[side]
        bins = rng.choice(len(mass), size=count, p=mass / mass.sum())
        return np.rint(rng.uniform(edges[bins], edges[bins + 1])).astype(np.int64)


def uniform(low: int, high: int) -> Uniform:
    """Return lengths that are uniform between `low` and `high` tokens, for prompts and for outputs."""
    return Uniform(low, high)


def sharegpt(limit: int = LIMIT) -> Histogram:
    """Return the lengths of people's chats with ChatGPT, as the paper's Figure 11 shows them (Kwon et al., SOSP 2023).

    The numbers are read off the figure's bars, which are of the requests that the paper serves, all within 2048 tokens. They
    say nothing of how a prompt's length goes with its answer's, so the two are drawn apart.

    Args:
        limit: the most tokens that prompt and output may have together.
    """
    if limit < 64:
        raise ValueError(f"a limit of {limit} tokens leaves almost no ShareGPT request; expected 64 or more")
    data = json.loads(_SHAREGPT.read_text(encoding="utf-8"))
    prompts, outputs = (
        (np.array(data[side]["bin_edges"]), np.array(data[side]["mass"])) for side in ("input", "output")
    )
    return Histogram("ShareGPT", (prompts[0], outputs[0]), (prompts[1], outputs[1]), limit)


def poisson_requests(rate: float, count: int, lengths: Lengths, seed: int) -> list[Request]:
    """Return requests that arrive independently of one another, in order of arrival.

    Args:
        rate: how many come a second on average.
        count: how many there are.
        lengths: where their lengths come from.
        seed: the same seed gives the same requests.
    """
    if not (rate > 0 and math.isfinite(rate)) or count < 1:
        raise ValueError(f"{count} requests at {rate} a second: expected at least one, and a rate above 0")
    rng = np.random.default_rng(seed)
    arrivals = rng.exponential(1 / rate, size=count).cumsum()
    drawn = zip(arrivals, lengths.draw(rng, count), strict=True)
    return [
        Request(f"r{number}", float(arrival), int(prompt), int(output))
        for number, (arrival, (prompt, output)) in enumerate(drawn)
    ]
