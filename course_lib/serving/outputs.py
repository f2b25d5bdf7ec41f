"""What comes back from a request; fields and meanings are those of vLLM's outputs."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

FinishReason = Literal["stop", "length", "abort", "error"]


class Logprob(NamedTuple):
    """A token's log probability, in nats.

    Attributes:
        logprob: its logarithm.
        rank: how many tokens are at least as likely, itself included: 1 is the most likely.
        decoded_token: its text; None without a tokenizer.
    """

    logprob: float
    rank: int
    decoded_token: str | None = None


@dataclass(frozen=True)
class CompletionOutput:
    """One sample of a request.

    Attributes:
        index: which of the request's `n` samples.
        text: the output so far, or as a whole.
        token_ids: its tokens, the one that stopped it included.
        cumulative_logprob: the sum of its tokens' logprobs, where these were asked for.
        logprobs: for each token the most likely ones and itself, by token id.
        finish_reason: `stop`, `length`, `abort`, or `error` where it never ran; None while it runs.
        stop_reason: the string or token id that stopped it; None for the end-of-sequence token.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    def finished(self) -> bool:
        """Whether no token follows."""
        return self.finish_reason is not None


@dataclass
class RequestMetrics:
    """When what happened to a request, in seconds of `time.monotonic`; of several samples the first or the last.

    Attributes:
        arrival_time: it was added.
        scheduled_ts: a step took it in.
        first_token_ts: its first token was sampled.
        last_token_ts: its latest token was sampled.
        num_generation_tokens: tokens so far, of all samples.
        num_preemptions: how often it lost its blocks.
    """

    arrival_time: float
    scheduled_ts: float | None = None
    first_token_ts: float | None = None
    last_token_ts: float | None = None
    num_generation_tokens: int = 0
    num_preemptions: int = 0

    def note(self, now: float) -> None:
        """Take down that a token came.

        Args:
            now: seconds.
        """
        if self.first_token_ts is None:
            self.first_token_ts = now
        self.last_token_ts = now
        self.num_generation_tokens += 1

    @property
    def first_token_latency(self) -> float | None:
        """Seconds from arrival to the first token."""
        return None if self.first_token_ts is None else self.first_token_ts - self.arrival_time


@dataclass(frozen=True)
class RequestOutput:
    """A request's samples, so far or finished.

    Attributes:
        request_id: its name.
        prompt: its text; None where tokens were given.
        prompt_token_ids: its tokens.
        outputs: a sample each.
        finished: whether all samples are.
        num_cached_tokens: prompt tokens that the prefix cache spared the first sample.
        metrics: times.
        error: why it was refused; then there is one empty output, with `finish_reason` "error".
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int = 0
    metrics: RequestMetrics | None = None
    error: str | None = None
    prompt_logprobs: None = field(default=None, repr=False)

    @classmethod
    def refused(cls, request_id: str, prompt: object, error: str) -> "RequestOutput":
        """Return the output of a request that can't run."""
        text = prompt if isinstance(prompt, str) else None
        return cls(request_id, text, [], [CompletionOutput(0, "", [], finish_reason="error")], True, error=error)
