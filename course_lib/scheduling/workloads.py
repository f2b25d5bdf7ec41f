"""Requests that put a scheduler to the test: prompts of very unequal length, and conversations that grow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from course_lib.fragmentation.workload import Request as Job
from course_lib.fragmentation.workload import poisson_requests, sharegpt


@dataclass(frozen=True)
class OrcaLengths:
    """The lengths of Orca's experiments (Yu et al., OSDI 2022, section 6.2): all uniform, and nobody stops early."""

    prompt: tuple[int, int] = (32, 512)
    output: tuple[int, int] = (1, 128)

    def draw(self, rng: np.random.Generator, count: int) -> Int[np.ndarray, "count 2"]:
        """Draw the prompt's and the output's tokens of `count` requests."""
        sides = (self.prompt, self.output)
        return np.stack([rng.integers(low, high, size=count, endpoint=True) for low, high in sides], axis=1)


def at_once(jobs: Sequence[Job]) -> list[Job]:
    """Return the same requests, all there from the start."""
    return [replace(job, arrival=0.0) for job in jobs]


def with_documents(rate: float, count: int, share: float, tokens: int, seed: int) -> list[Job]:
    """Return chats of ShareGPT's lengths, of which a share brings a document: a prompt of `tokens` tokens.

    Args:
        rate: how many come a second on average.
        count: how many there are.
        share: of them that bring a document, from 0 to 1.
        tokens: the document's length.
        seed: the same seed gives the same requests.
    """
    jobs = poisson_requests(rate, count, sharegpt(), seed)
    brings = np.random.default_rng([seed, 1]).random(count) < share
    return [replace(job, prompt_tokens=tokens) if long else job for job, long in zip(jobs, brings, strict=True)]


@dataclass(frozen=True)
class Chats:
    """Conversations in turns: each turn's prompt is the system prompt and everything that was said before, and a question.

    Attributes:
        jobs: the turns of all conversations, in order of arrival.
        prompts: a turn's prompt tokens, for `replay`.
    """

    jobs: list[Job]
    prompts: Callable[[Job], Sequence[int]]


def chats(conversations: int, turns: int, system: int, said: int, pause: float, seed: int) -> Chats:
    """Return conversations that begin within the first pause and go on with one pause on average between their turns.

    Args:
        conversations: how many.
        turns: of each.
        system: tokens of the system prompt, which all share.
        said: tokens that a question adds, and an answer too.
        pause: seconds from a turn to the next, on average.
        seed: the same seed gives the same requests.

    An answer that comes back in the next prompt counts as new text: `replay` makes tokens up, and knows no text.
    """
    rng = np.random.default_rng(seed)
    arrivals = rng.uniform(0, pause, size=(conversations, 1)) + rng.exponential(
        pause, size=(conversations, turns)
    ).cumsum(axis=1)
    jobs = [
        Job(f"{chat}.{turn}", float(arrivals[chat, turn]), system + said * (2 * turn + 1), said)
        for chat in range(conversations)
        for turn in range(turns)
    ]

    def prompt(job: Job) -> list[int]:
        own = 1_000_000_000 * (1 + int(job.id.partition(".")[0]))
        return [*range(system), *range(own, own + job.prompt_tokens - system)]

    return Chats(sorted(jobs, key=lambda job: job.arrival), prompt)
