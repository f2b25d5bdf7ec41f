"""The engine: requests go in, each step computes some of their tokens, outputs come out."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from course_lib.scheduling import AsyncScheduler, Request, Scheduler, SchedulerOutput
from course_lib.serving.batch import KNOWN, Span
from course_lib.serving.detokenizer import Detokenizer
from course_lib.serving.model_runner import ModelRunner
from course_lib.serving.outputs import Logprob, RequestMetrics, RequestOutput
from course_lib.serving.request_state import RequestState, Sample
from course_lib.serving.sampler import Draw, Sampled, Sampler, SamplingRow
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


@dataclass(frozen=True)
class _Launched:
    """A step that is being computed.

    Attributes:
        plan: what the scheduler planned.
        samples: those that get a token, with their requests.
        draw: their tokens; None where there are none.
        rows: the row of each in `draw`, by the scheduler's request id.
        times: when it began, was planned, and was launched, in seconds.
    """

    plan: SchedulerOutput
    samples: list[tuple[RequestState, Sample]]
    draw: Draw | None
    rows: dict[str, int]
    times: list[float]


class LLMEngine:
    """Runs requests step by step.

    With an `AsyncScheduler`, `step` launches a step and then finishes the one before it: while the host takes in tokens, makes
    outputs and plans the next step, the device computes. Outputs come a step later, and are the same.

    Args:
        runner: the model and its KV cache.
        scheduler: plans the steps.
        sampler: chooses the tokens.
        tokenizer: a transformers tokenizer; None takes and gives tokens only.
        eos_token_ids: tokens that end an output unless `ignore_eos`, the tokenizer's own one first.
        on_step: called in each step with a `Step`, after its tokens are sampled and before the scheduler takes them in: the
            queue, the block tables and the pool are as they were when the model ran. (With an `AsyncScheduler` they are as
            the next step has them.)
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
        self._overlaps = isinstance(scheduler, AsyncScheduler)
        self._in_flight: _Launched | None = None
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

    def step(self, only_finished: bool = False) -> list[RequestOutput]:
        """Compute one step, and return the outputs so far of the requests that got a token.

        Args:
            only_finished: make outputs of finished requests only; to make one is to copy its tokens.
        """
        launched: _Launched | None = self._launch()
        if self._overlaps:
            launched, self._in_flight = self._in_flight, launched
        return [] if launched is None else self._finish(launched, only_finished)

    def _launch(self) -> _Launched:
        """Plan a step and hand it to the device."""
        times = [time.perf_counter()]
        plan = self.scheduler.schedule()
        times.append(time.perf_counter())
        self._check_progress(plan)
        spans, samples = self._prepare(plan)
        draw, rows = None, {}
        if spans:
            before = self._in_flight
            computed = self.runner.run(spans, None if before is None or before.draw is None else before.draw.tokens)
            times.append(time.perf_counter())
            if samples:
                asked = [sample.sampling_now() for _, sample in samples]
                draw = self.sampler.launch(computed.logits, asked, computed.positions)
                rows = {sample.request.request_id: row for row, (_, sample) in enumerate(samples)}
            if isinstance(self.scheduler, AsyncScheduler):
                self.scheduler.expect(rows)
        else:
            times.append(time.perf_counter())
        return _Launched(plan, samples, draw, rows, times)

    def _finish(self, launched: _Launched, only_finished: bool) -> list[RequestOutput]:
        """Take in a launched step's tokens, once they are there."""
        sampled = [] if launched.draw is None else launched.draw.result()
        got = [
            (state, sample, token)
            for (state, sample), token in zip(launched.samples, sampled, strict=True)
            # One that was aborted, or that a stop ended a step ago, has left; its name may be another's now.
            if self._samples.get(sample.request.request_id, (None, None))[1] is sample
        ]
        tokens = {sample.request.request_id: token.token for _, sample, token in got}
        if self.on_step is not None:
            seconds = (after - before for before, after in itertools.pairwise([*launched.times, time.perf_counter()]))
            self.on_step(Step(launched.plan, tokens, dict(zip(("schedule", "run", "sample"), seconds, strict=True))))
        self.scheduler.update(tokens)
        return self._collect(got, only_finished)

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
        waits = self._in_flight is not None and self._in_flight.samples
        self._idle_steps = 0 if plan.num_scheduled_tokens or waits or not self._states else self._idle_steps + 1
        if self._idle_steps > 1:  # once is possible: when a request gives its blocks to be admitted again
            raise RuntimeError(
                f"the scheduler planned nothing in two steps, and {len(self._states)} requests are unfinished "
                f"({plan.held_back or 'no reason given'}); look at its schedule()"
            )

    def _prepare(self, plan: SchedulerOutput) -> tuple[list[Span], list[tuple[RequestState, Sample]]]:
        """Return what the model has to compute, and the samples that get a token: those whose tokens are all computed then."""
        spans, samples, now = [], [], time.monotonic()
        rows = {} if self._in_flight is None else self._in_flight.rows
        tables = self.scheduler.kv_manager.live_tables
        for request_id, num_new in plan.num_scheduled_tokens.items():
            entry = self._samples[request_id]
            request, metrics = entry[1].request, entry[0].metrics
            if metrics.scheduled_ts is None:
                metrics.scheduled_ts = now
            end = request.num_computed_tokens  # `schedule` has counted the step's tokens already
            source = rows[request_id] if request.num_in_flight else KNOWN
            spans.append(Span(request.token_ids, end - num_new, end, tables[request_id], source))
            if end == len(request.token_ids):
                samples.append(entry)
        return spans, samples

    def _collect(self, got: Sequence[tuple[RequestState, Sample, Sampled]], only_finished: bool) -> list[RequestOutput]:
        """Let each sample take in its token, and return the outputs of their requests."""
        now = time.monotonic()
        changed: dict[str, RequestState] = {}
        for state, sample, token in got:
            sample.add(token)
            state.metrics.note(now)
            if sample.finish_reason is not None:
                self._forget(sample)  # a stop string is ours to find: the scheduler would go on
                if state.finished:
                    del self._states[state.request_id]
            elif only_finished:
                continue
            changed[state.request_id] = state
        return [state.output() for state in changed.values() if not only_finished or state.finished]

    def _forget(self, sample: Sample) -> None:
        """Take a sample out of the scheduler, where it is still there."""
        self.scheduler.abort(sample.request.request_id)
        self._samples.pop(sample.request.request_id, None)
