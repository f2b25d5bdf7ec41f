"""A request: its tokens, and how far their keys and values are computed."""

from collections.abc import Iterable, Sequence
from enum import Enum

from course_lib.paged_attention.prefix_cache import BlockHash, block_hashes

IN_FLIGHT = -1
"""Stands in a request's tokens for one that a step is computing: there is a token, and nobody knows it yet."""


class RequestStatus(Enum):
    """Where a request is in its life; the names are vLLM's."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED_STOPPED = "finished: stop token"
    FINISHED_LENGTH_CAPPED = "finished: length"
    FINISHED_ABORTED = "finished: aborted"

    @property
    def finished(self) -> bool:
        """Whether the request has left the scheduler."""
        return self.name.startswith("FINISHED")


class Request:
    """A prompt and what was generated after it.

    Args:
        request_id: its name, unique among unfinished requests.
        prompt_token_ids: at least one token.
        max_tokens: how many tokens to generate at most, 1 or more.
        stop_token_ids: each of these ends the request, as its last token; the end-of-sequence token belongs here.
        priority: for the priority policy; smaller comes first.
        arrival_time: for the priority policy, among equal priorities; smaller comes first.

    Attributes:
        num_computed_tokens: of all its tokens, prompt and output, how many have their keys and values in the cache. All of
            scheduling is about this number catching up with `num_tokens`.
        num_cached_tokens: how many of them the prefix cache spared it when it was last admitted.
        num_preemptions: how often it lost its blocks.
        num_in_flight: how many of its tokens, the last ones, are `IN_FLIGHT` (vLLM's `num_output_placeholders`).

    Raises:
        ValueError: an empty prompt, or nothing to generate.
    """

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        max_tokens: int,
        stop_token_ids: Iterable[int] = (),
        priority: int = 0,
        arrival_time: float = 0.0,
    ):
        if not prompt_token_ids:
            raise ValueError(f"request {request_id!r} has an empty prompt; expected one token or more")
        if max_tokens < 1:
            raise ValueError(f"request {request_id!r} has max_tokens={max_tokens}; expected 1 or more")
        self.request_id = request_id
        self.num_prompt_tokens = len(prompt_token_ids)
        self.max_tokens = max_tokens
        self.stop_token_ids = frozenset(stop_token_ids)
        self.priority, self.arrival_time = priority, arrival_time
        self.status = RequestStatus.WAITING
        self.token_ids = list(prompt_token_ids)
        self.num_computed_tokens = 0
        self.num_cached_tokens = 0
        self.num_preemptions = 0
        self.num_in_flight = 0
        self._hashes: list[BlockHash] = []

    @property
    def num_tokens(self) -> int:
        """How many tokens there are so far, prompt and output, those in flight included."""
        return len(self.token_ids)

    @property
    def output_token_ids(self) -> list[int]:
        """The tokens generated so far, as far as they are known."""
        return self.token_ids[self.num_prompt_tokens : self.num_tokens - self.num_in_flight]

    def block_hashes(self, block_size: int) -> list[BlockHash]:
        """Return the hash chain of its full blocks of known tokens; each is computed once."""
        known = self.num_tokens - self.num_in_flight
        if known // block_size > len(self._hashes):
            self._hashes = block_hashes(self.token_ids[:known], block_size, self._hashes)
        return self._hashes

    def is_full(self, max_model_len: int) -> bool:
        """Whether its last token, perhaps in flight, is the last that it may have."""
        return len(self.token_ids) >= min(max_model_len, self.num_prompt_tokens + self.max_tokens)

    def expect(self) -> None:
        """Count on a token that a step is computing."""
        self.token_ids.append(IN_FLIGHT)
        self.num_in_flight += 1

    def append(self, token: int, max_model_len: int) -> bool:
        """Add a generated token, in the place that was kept for it; return whether it is the last one, and ends the request."""
        before = len(self.token_ids) - self.num_in_flight
        if self.num_in_flight:
            self.token_ids[before] = token
            self.num_in_flight -= 1
        else:
            self.token_ids.append(token)
        if token in self.stop_token_ids:
            self.status = RequestStatus.FINISHED_STOPPED
        elif before + 1 >= min(max_model_len, self.num_prompt_tokens + self.max_tokens):
            self.status = RequestStatus.FINISHED_LENGTH_CAPPED
        else:
            return False
        del self.token_ids[before + 1 :]  # what is in flight behind it is not wanted
        self.num_in_flight = 0
        return True

    def __lt__(self, other: "Request") -> bool:
        """Whether this one comes first under the priority policy."""
        mine, theirs = ((one.priority, one.arrival_time, one.request_id) for one in (self, other))
        return mine < theirs

    def __repr__(self) -> str:
        return (
            f"Request({self.request_id!r}, {self.status.value}, {self.num_prompt_tokens} prompt + "
            f"{self.num_tokens - self.num_prompt_tokens} output tokens, {self.num_computed_tokens} computed)"
        )
