"""What the engine knows of a request beside what the scheduler knows: how to sample it, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from course_lib.scheduling import Request, RequestStatus
from course_lib.serving.detokenizer import Detokenizer
from course_lib.serving.outputs import CompletionOutput, FinishReason, Logprob, RequestMetrics, RequestOutput
from course_lib.serving.sampler import Sampled, SamplingRow


@dataclass
class Sample:
    """One of the `n` samples of a request: a request to the scheduler.

    Attributes:
        index: which one.
        request: the scheduler's.
        sampling: how its tokens are chosen.
        eos_token_id: the token that stops it without being a stop reason; None where it does not stop.
        detokenizer: makes its text; None where none is wanted.
        logprobs: for each token, where they are wanted.
    """

    index: int
    request: Request
    sampling: SamplingRow
    eos_token_id: int | None
    detokenizer: Detokenizer | None
    logprobs: list[dict[int, Logprob]] | None
    cumulative_logprob: float = 0.0
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    def sampling_now(self) -> SamplingRow:
        """Return how its next token is chosen: what stops it is forbidden before `min_tokens`."""
        params, request = self.sampling.params, self.request
        # What is in flight counts: this row is for the token behind it.
        if params.min_tokens and request.num_tokens - request.num_prompt_tokens < params.min_tokens:
            return SamplingRow(params, self.sampling.generator, tuple(request.stop_token_ids))
        return self.sampling

    def add(self, sampled: Sampled) -> None:
        """Take in a token that the scheduler has taken in, and see whether it is the last one."""
        if self.logprobs is not None and sampled.logprobs is not None:
            self.logprobs.append(self._with_text(sampled.logprobs))
            self.cumulative_logprob += sampled.logprobs[sampled.token].logprob
        status = self.request.status
        if status is RequestStatus.FINISHED_STOPPED:
            self.finish_reason = "stop"
            self.stop_reason = None if sampled.token == self.eos_token_id else sampled.token
        elif status is RequestStatus.FINISHED_LENGTH_CAPPED:
            self.finish_reason = "length"
        if self.detokenizer is None:
            return
        if self.finish_reason != "stop" or self.sampling.params.include_stop_str_in_output:
            found = self.detokenizer.add(sampled.token)
            if found is not None:
                self.finish_reason, self.stop_reason = "stop", found
        if self.finish_reason is not None:
            self.detokenizer.finish()

    def _with_text(self, logprobs: dict[int, Logprob]) -> dict[int, Logprob]:
        if self.detokenizer is None:
            return logprobs
        return {
            token: entry._replace(decoded_token=self.detokenizer.decode([token])) for token, entry in logprobs.items()
        }

    def abort(self) -> None:
        """End it before its time."""
        if self.finish_reason is None:
            self.finish_reason = "abort"
            if self.detokenizer is not None:
                self.detokenizer.finish()

    def output(self) -> CompletionOutput:
        """Return what there is so far."""
        return CompletionOutput(
            index=self.index,
            text=self.detokenizer.visible if self.detokenizer is not None else "",
            token_ids=self.request.output_token_ids,
            cumulative_logprob=None if self.logprobs is None else self.cumulative_logprob,
            logprobs=None if self.logprobs is None else list(self.logprobs),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )


@dataclass
class RequestState:
    """A request as its caller sees it.

    Attributes:
        request_id: its name; its samples' names begin with a number where there are several, as in vLLM.
        prompt: its text; None where tokens were given.
        prompt_token_ids: its tokens.
        metrics: times.
        samples: its samples.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: Sequence[int]
    metrics: RequestMetrics
    samples: list[Sample] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether all samples are."""
        return all(sample.finish_reason is not None for sample in self.samples)

    def output(self) -> RequestOutput:
        """Return what there is so far."""
        self.metrics.num_preemptions = sum(sample.request.num_preemptions for sample in self.samples)
        return RequestOutput(
            request_id=self.request_id,
            prompt=self.prompt,
            prompt_token_ids=list(self.prompt_token_ids),
            outputs=[sample.output() for sample in self.samples],
            finished=self.finished,
            num_cached_tokens=self.samples[0].request.num_cached_tokens,
            metrics=self.metrics,
        )
