"""The whole of `schedule()`, beside vLLM's."""

from collections.abc import Sequence
from dataclasses import dataclass

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.scheduling.running import Make, Traced, difference, steps
from course_lib.paged_attention import Block
from course_lib.scheduling import Request, RequestStatus, Scheduler, SchedulerOutput

scheduler = Exercise("04.scheduler", "MyScheduler", "vLLM's scheduler", difficulty=5, importance=5, minutes=45)


@scheduler.part(3, "all blocks and all budget: everybody begins in the first step, and then makes a token a step")
def _roomy(answer: Answer) -> None:
    _check(answer, [Traced.draw(seed, small=False, chunks=False) for seed in range(15)])


@scheduler.part(3, "a small budget and few places: chunks of prompts, and newcomers after those who run")
def _chunks(answer: Answer) -> None:
    _check(answer, [Traced.draw(seed, small=False, places=3) for seed in range(40)])


@scheduler.part(3, "few blocks: the last to come give way, and nobody is admitted in that step")
def _preempts(answer: Answer) -> None:
    _check(answer, [Traced.draw(seed, small=True) for seed in range(80)])


@scheduler.part(3, "shared beginnings: hits are taken over, and count against the free blocks")
def _hits(answer: Answer) -> None:
    _check(answer, [Traced.draw(seed, small=seed % 2 == 0, shared=True) for seed in range(80)])


def _check(answer: Answer, traces: list[Traced]) -> None:
    traces = sorted(traces, key=lambda one: len(one.arrivals))
    for trace in traces:
        name, why = "another-plan", "draw this step by hand"
        try:
            told = difference(answer, trace)
        except WrongAnswer as wrong:  # it may have fallen over what it did some steps before
            told, name, why = f"{trace}. {wrong.message}", wrong.diagnosis, "look at the step before it"
        if told:
            mistake = _recognise(answer, traces)
            raise WrongAnswer(mistake.name if mistake else name, f"{told}; {mistake.why if mistake else why}")


class _Sketch(Scheduler):
    """`schedule()` in one piece, right as it is here; each mistake changes one of these."""

    counts = True
    one_token = False
    newcomers_first = False
    first_victim = False
    to_the_back = False
    admits_after_preemption = False
    places = True
    chunks = True
    overtakes = False
    whole_prompt = True
    looks_up = True
    hits_leave = True

    def schedule(self) -> SchedulerOutput:
        output, budget = SchedulerOutput(), self.config.max_num_batched_tokens
        before = list(self.running)
        if self.newcomers_first:
            budget = self._let_in(output, budget)
        for request in before:
            if request in self.running:
                budget -= self._grow(request, output, budget)
        if not self.newcomers_first and (not output.preempted or self.admits_after_preemption):
            self._let_in(output, budget)
        for name, new in output.num_scheduled_tokens.items():
            self.requests[name].num_computed_tokens += new if self.counts else 0
        return output

    def _grow(self, request: Request, output: SchedulerOutput, budget: int) -> int:
        behind = 1 if self.one_token else request.num_tokens - request.num_computed_tokens
        new, manager = min(behind, budget), self.kv_manager
        if not new:
            return 0
        tokens, hashes = request.num_computed_tokens + new, request.block_hashes(manager.block_size)
        while manager.allocate_slots(request.request_id, tokens, hashes) is None:
            victim = self.running[0 if self.first_victim else -1]
            output.num_scheduled_tokens.pop(victim.request_id, None)
            self._preempt(victim)
            if self.to_the_back:
                self.waiting.remove(victim)
                self.waiting.add(victim)
            output.preempted[victim.request_id] = request.request_id
            if victim is request:
                return 0
        output.num_scheduled_tokens[request.request_id] = new
        return new

    def _let_in(self, output: SchedulerOutput, budget: int) -> int:
        manager = self.kv_manager
        for request in list(self.waiting):
            if not budget or (self.places and len(self.running) >= self.config.max_num_seqs):
                break
            hashes = request.block_hashes(manager.block_size)
            computed: Sequence[Block] = manager.get_computed_blocks(hashes, request.num_tokens) if self.looks_up else []
            cached = len(computed) * manager.block_size
            new = min(request.num_tokens - cached, budget)
            to_fit = request.num_tokens if self.whole_prompt else cached + new
            needed = manager.num_blocks_needed(request.request_id, to_fit, computed)
            if not self.hits_leave:
                needed -= sum(block.ref_cnt == 0 for block in computed)
            if needed > manager.pool.num_free_blocks or (not self.chunks and cached + new < request.num_tokens):
                if self.overtakes:
                    continue
                break
            manager.allocate_slots(request.request_id, cached + new, hashes, computed)
            self.waiting.remove(request)
            self.running.append(request)
            request.status = RequestStatus.RUNNING
            request.num_computed_tokens = request.num_cached_tokens = cached
            output.num_scheduled_tokens[request.request_id] = new
            budget -= new
        return budget


@dataclass(frozen=True)
class _Mistake:
    """A mistake that people make."""

    name: str
    why: str
    change: str

    @property
    def make(self) -> Make:
        """A scheduler with this mistake."""
        return type(self.name, (_Sketch,), {self.change: not getattr(_Sketch, self.change)})


_MISTAKES = [
    _Mistake(
        "never-counts", "what is planned has to be counted as computed, or the next step plans it again", "counts"
    ),
    _Mistake(
        "one-token-each", "a request whose prompt was computed in part is behind by more than one token", "one_token"
    ),
    _Mistake("newcomers-first", "those who run come first: a newcomer takes budget that they need", "newcomers_first"),
    _Mistake("forgets-places", "more than max_num_seqs requests run", "places"),
    _Mistake("no-chunks", "a prompt waits though a part of it fits into the budget", "chunks"),
    _Mistake("first-victim", "the request that ran longest gave way, and most is lost with it", "first_victim"),
    _Mistake("back-of-the-queue", "a preempted request has its place in front of the queue", "to_the_back"),
    _Mistake(
        "admits-after-preemption",
        "a step that preempted admits nobody: the victim would take back what it just gave",
        "admits_after_preemption",
    ),
    _Mistake("overtakes", "nobody overtakes a request that waits for blocks, or it may wait for ever", "overtakes"),
    _Mistake(
        "first-chunk-fits", "blocks for the whole prompt must be free, and not just for its first chunk", "whole_prompt"
    ),
    _Mistake("no-hits", "the prefix cache was not asked: tokens are computed again that are there", "looks_up"),
    _Mistake(
        "hits-are-free",
        "a hit that nobody holds leaves the free list, so it counts against the free blocks",
        "hits_leave",
    ),
]


def _recognise(answer: Answer, traces: list[Traced]) -> _Mistake | None:
    """Return the mistake whose plans are the answer's on all of these requests; None where none is."""
    answered = [_plans(answer, trace) for trace in traces]
    for mistake in _MISTAKES:
        if all(_plans(mistake.make, trace) == got for trace, got in zip(traces, answered, strict=True)):
            return mistake
    return None


def _plans(make: Make, trace: Traced) -> object:
    try:
        return [step["plan"] for step in steps(make, trace, 60)]
    except Exception:  # noqa: BLE001  a scheduler that falls over is told from one that does not
        return "falls over"
