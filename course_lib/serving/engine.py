"""The engine: requests go in, each step computes some of their tokens, outputs come out."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from course_lib.scheduling import Request, Scheduler, SchedulerOutput
from course_lib.serving.batch import Span
from course_lib.serving.detokenizer import Detokenizer
from course_lib.serving.model_runner import ModelRunner
from course_lib.serving.outputs import Logprob, RequestMetrics, RequestOutput
from course_lib.serving.request_state import RequestState, Sample
from course_lib.serving.sampler import Sampled, Sampler, SamplingRow
from course_lib.serving.sampling_params import SamplingParams


@dataclass(frozen=True)
class Step:
    """One step, for whoever watches.

    Attributes:
        plan: who computed how many tokens, who was preempted and why nobody else was admitted.
        sampled: the tokens that came of it, by the scheduler's request id.
        seconds: what it took to `schedule`, `run` the model and `sample`.
    """

    plan: SchedulerOutput
    sampled: Mapping[str, int]
    seconds: Mapping[str, float]


class LLMEngine:
    """Runs requests step by step.

    Args:
        runner: the model and its KV cache.
        scheduler: plans the steps.
        sampler: chooses the tokens.
        tokenizer: a transformers tokenizer; None takes and gives tokens only.
        eos_token_ids: tokens that end an output unless `ignore_eos`, the tokenizer's own one first.
        on_step: called in each step with a `Step`, after its tokens are sampled and before the scheduler takes them in: the
            queue, the block tables and the pool are as they were when the model ran.
    """

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        sampler: Sampler,
        tokenizer: Any = None,
        eos_token_ids: Sequence[int] = (),
        on_step: Callable[[Step], object] | None = None,
    ):
        self.runner, self.scheduler, self.sampler, self.tokenizer = runner, scheduler, sampler, tokenizer
        self.eos_token_ids = tuple(eos_token_ids)
        self.on_step = on_step
        self._idle_steps = 0
        self._states: dict[str, RequestState] = {}
        self._samples: dict[str, tuple[RequestState, Sample]] = {}  # by the scheduler's ids

    def add_request(
        self,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        priority: int = 0,
    ) -> None:
        """Let a request wait for its turn. Its `n` samples are requests with the same prompt, which find its blocks cached.

        Args:
            request_id: its name, unique among unfinished requests.
            prompt: its text, for the output.
            prompt_token_ids: its tokens.
            params: how to sample it.
            priority: for the priority policy; smaller comes first.

        Raises:
            ValueError: it can't run; the message says why. Nothing of it was added.
        """
        vocab, limit = self.runner.model.config.vocab, self.scheduler.config.max_model_len
        params.check(vocab)
        if request_id in self._states:
            raise ValueError(f"request {request_id!r} is here already; give each request an id of its own")
        wrong = next((token for token in prompt_token_ids if not 0 <= token < vocab), None)
        if wrong is not None:
            raise ValueError(f"prompt token {wrong} is out of range; the model has tokens 0 to {vocab - 1}")
        if (params.stop_strings or params.detokenize) and self.tokenizer is None:
            raise ValueError("this engine has no tokenizer; ask for tokens only, with detokenize=False")
        now = time.monotonic()
        state = RequestState(request_id, prompt, prompt_token_ids, RequestMetrics(arrival_time=now))
        max_tokens = limit if params.max_tokens is None else params.max_tokens
        eos = () if params.ignore_eos else self.eos_token_ids
        for index in range(params.n):
            name = request_id if params.n == 1 else f"{index}_{request_id}"
            stop = {*eos, *(params.stop_token_ids or ())}
            request = Request(name, prompt_token_ids, max_tokens, stop, priority, now)
            state.samples.append(self._sample(index, request, params, eos))
        try:
            for sample in state.samples:
                self.scheduler.add_request(sample.request)
                self._samples[sample.request.request_id] = state, sample
        except ValueError:
            for sample in state.samples:
                self._forget(sample)
            raise
        self._states[request_id] = state

    def step(self) -> list[RequestOutput]:
        """Compute one step, and return the outputs so far of the requests that got a token."""
        times = [time.perf_counter()]
        plan = self.scheduler.schedule()
        times.append(time.perf_counter())
        self._check_progress(plan)
        spans, samples = self._prepare(plan)
        logits = self.runner.run(spans) if spans else None
        times.append(time.perf_counter())
        sampled = self.sampler(logits, [sample.sampling_now() for sample in samples]) if logits is not None else []
        times.append(time.perf_counter())
        tokens = {sample.request.request_id: got.token for sample, got in zip(samples, sampled, strict=True)}
        if self.on_step is not None:
            seconds = (after - before for before, after in itertools.pairwise(times))
            self.on_step(Step(plan, tokens, dict(zip(("schedule", "run", "sample"), seconds, strict=True))))
        self.scheduler.update(tokens)
        return self._collect(samples, sampled)

    def abort_request(self, request_id: str) -> RequestOutput | None:
        """End a request before its time, and return what there is of it; None where it is not here (any more)."""
        state = self._states.pop(request_id, None)
        if state is None:
            return None
        for sample in state.samples:
            self._forget(sample)
            sample.abort()
        return state.output()

    def has_unfinished_requests(self) -> bool:
        """Whether a step would have anything to do."""
        return bool(self._states)

    def reset_prefix_cache(self) -> bool:
        """Forget all cached blocks. Return whether it was done: it is not while requests run."""
        return self.scheduler.kv_manager.pool.reset_prefix_cache()

    def __repr__(self) -> str:
        return f"LLMEngine({self.scheduler}, {self.runner})"

    def _sample(self, index: int, request: Request, params: SamplingParams, eos: Sequence[int]) -> Sample:
        seed = params.seed
        generator = None if seed is None else self.sampler.make_generator(seed + index)
        detokenizer = None
        if params.detokenize:
            detokenizer = Detokenizer(
                self.tokenizer,
                params.stop_strings,
                params.include_stop_str_in_output,
                params.skip_special_tokens,
                params.min_tokens,
            )
        logprobs: list[dict[int, Logprob]] | None = None if params.logprobs is None else []
        return Sample(index, request, SamplingRow(params, generator), eos[0] if eos else None, detokenizer, logprobs)

    def _check_progress(self, plan: SchedulerOutput) -> None:
        """Raise where a scheduler, perhaps a learner's, would let its requests wait forever."""
        self._idle_steps = 0 if plan.num_scheduled_tokens or not self._states else self._idle_steps + 1
        if self._idle_steps > 1:  # once is possible: when a request gives its blocks to be admitted again
            raise RuntimeError(
                f"the scheduler planned nothing in two steps, and {len(self._states)} requests are unfinished "
                f"({plan.held_back or 'no reason given'}); look at its schedule()"
            )

    def _prepare(self, plan: SchedulerOutput) -> tuple[list[Span], list[Sample]]:
        """Return what the model has to compute, and the samples that get a token: those whose tokens are all computed then."""
        spans, samples, now = [], [], time.monotonic()
        for request_id, num_new in plan.num_scheduled_tokens.items():
            state, sample = self._samples[request_id]
            state.metrics.scheduled_ts = state.metrics.scheduled_ts or now
            request = sample.request
            end = request.num_computed_tokens  # `schedule` has counted the step's tokens already
            table = self.scheduler.kv_manager.table(request_id)
            spans.append(Span(request.token_ids, end - num_new, end, table))
            if end == request.num_tokens:
                samples.append(sample)
        return spans, samples

    def _collect(self, samples: Sequence[Sample], sampled: Sequence[Sampled]) -> list[RequestOutput]:
        """Let each sample take in its token, and return the outputs of their requests."""
        now = time.monotonic()
        changed: dict[str, int] = {}
        for sample, got in zip(samples, sampled, strict=True):
            state = self._samples[sample.request.request_id][0]
            sample.add(got)
            if sample.finish_reason is not None:
                self._forget(sample)  # a stop string is ours to find: the scheduler would go on
            changed[state.request_id] = changed.get(state.request_id, 0) + 1
        outputs = []
        for request_id, tokens in changed.items():
            state = self._states[request_id]
            state.note(now, tokens)
            outputs.append(state.output())
            if state.finished:
                del self._states[request_id]
        return outputs

    def _forget(self, sample: Sample) -> None:
        """Take a sample out of the scheduler, where it is still there."""
        self.scheduler.abort(sample.request.request_id)
        self._samples.pop(sample.request.request_id, None)
