"""A scheduler that takes short prompts first, and forgets nobody."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.scheduling.running import Make, Traced, steps
from course_lib.grading.exercises.training.naming import named, several
from course_lib.grading.judge import for_all
from course_lib.paged_attention import PagedKVManager
from course_lib.scheduling import Request, Scheduler, SchedulerConfig, SchedulerOutput
from course_lib.viz.tables import Cell, Table

scheduler = Exercise(
    "08.scheduler", "MyScheduler", "Short ones first, and nobody forgotten", difficulty=3, importance=4, minutes=25
)

_AGEING = 8
_ANOTHER = "another-plan"
_LONGEST, _SIZE = 40, 4
_Arrival = tuple[int, int, int]


def _traced(budget: int, places: int, spare: int, arrivals: Sequence[_Arrival]) -> Traced:
    """Return requests from the steps between them, the lengths of their prompts and how many tokens they make."""
    config = SchedulerConfig(max_num_batched_tokens=budget, max_num_seqs=places, max_model_len=_LONGEST)
    step, found = 0, []
    for place, (gap, prompt, makes) in enumerate(arrivals):
        step += gap
        found.append((step, tuple(range(100 * place, 100 * place + prompt)), makes))
    return Traced(config, _LONGEST // _SIZE + spare, False, tuple(found))


def _traces(
    gaps: st.SearchStrategy[int], spare: st.SearchStrategy[int], places: int, *, grow: bool = False
) -> st.SearchStrategy[Traced]:
    """Draw requests; those that `grow` are few, and make so many tokens that they need one another's blocks."""
    prompts, makes = (st.integers(1, 16), st.integers(4, 24)) if grow else (st.integers(1, 24), st.integers(1, 10))
    arrivals = st.lists(st.tuples(gaps, prompts, makes), min_size=1, max_size=4 if grow else 7)
    return st.builds(_traced, st.integers(4, 24), st.integers(1, places), spare, arrivals)


_GIVES_WAY = (
    _traced(12, 3, 0, [(0, 6, 14), (0, 12, 13), (1, 1, 8)]),
    _traced(15, 2, 0, [(0, 13, 12), (1, 20, 12), (2, 3, 8)]),
    _traced(17, 2, 0, [(0, 15, 15), (0, 8, 11), (2, 5, 6)]),
    _traced(23, 3, 1, [(0, 10, 18), (2, 5, 14), (0, 5, 10)]),
    _traced(16, 3, 0, [(0, 16, 9), (2, 19, 6), (1, 14, 4)]),
    _traced(21, 3, 0, [(0, 1, 12), (0, 8, 8), (0, 18, 6)]),
)
"""Requests that need one another's blocks: each mistake about those that give way shows on some of them."""
_ROOMY, _ANY = st.just(60), st.integers(0, 4)


@scheduler.part(3, "budget and places are kept, and every request gets all of its tokens")
def _limits(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda trace: _keeps_limits(answer, trace), examples=60, trace=_traces(st.integers(0, 2), _ANY, 6))


@scheduler.part(4, "of those that come together, the shortest prompt begins first, and among equals the first to come")
def _shortest(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda trace: _compare(answer, trace), examples=60, trace=_traces(st.just(0), _ROOMY, 3))


@scheduler.part(3, "who has waited long is not overtaken any more, also after it had to give way")
def _ageing(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda trace: _compare(answer, trace), examples=40, trace=_traces(st.integers(0, 3), _ROOMY, 2))
        for_all(lambda trace: _compare(answer, trace), examples=40, trace=_traces(st.integers(0, 2), _ANY, 6))
        growing = _traces(st.integers(0, 2), st.integers(0, 2), 3, grow=True)
        for_all(lambda trace: _compare(answer, trace), examples=40, trace=growing)
        for trace in _GIVES_WAY:
            _compare(answer, trace)


class _Ranked(Scheduler):
    """The right order as it is here; each mistake changes one of these."""

    sorts = True
    sorts_each_step = True
    by_length = 1
    ageing = _AGEING
    whole_text = False
    ages_anew = False
    forgets_preempted = False
    overtakes = False
    budget_each = False

    def __init__(self, config: SchedulerConfig, kv_manager: PagedKVManager):
        super().__init__(config, kv_manager)
        self.step = 0
        self.came: dict[str, int] = {}

    def add_request(self, request: Request) -> None:
        super().add_request(request)
        self.came[request.request_id] = self.step
        self._sort()

    def schedule(self) -> SchedulerOutput:
        if self.sorts_each_step:
            self._sort()
        if self.forgets_preempted:
            for request in [one for one in self.waiting if one.num_preemptions]:
                self.waiting.remove(request)
        self.step += 1
        return super().schedule()

    def _sort(self) -> None:
        if self.sorts:
            for request in sorted(self.waiting, key=self._rank):
                self.waiting.remove(request)
                self.waiting.add(request)

    def _rank(self, request: Request) -> int:
        length = request.num_tokens if self.whole_text else request.num_prompt_tokens
        return self.by_length * length + self.ageing * self.came[request.request_id]

    def _preempt(self, request: Request) -> None:
        super()._preempt(request)
        if self.ages_anew:
            self.came[request.request_id] = self.step

    def _schedule_waiting(self, output: SchedulerOutput, budget: int) -> None:
        if not self.overtakes:
            super()._schedule_waiting(output, budget)
            return
        for request in list(self.waiting):
            room = budget and len(self.running) < self.config.max_num_seqs
            if room and not self._admit(request, output, budget):
                budget -= output.num_scheduled_tokens[request.request_id]


def _keeps_limits(answer: Answer, trace: Traced) -> None:
    """Run requests to their end; any order will do."""
    kept: list[Scheduler] = []
    requests: dict[str, Request] = {}

    def make(config: SchedulerConfig, manager: PagedKVManager) -> Scheduler:
        kept.append(answer(config, manager))
        return kept[-1]

    for number, step in enumerate(steps(_remembering(make, requests), trace)):
        plan: Any = step["plan"]
        tokens, running = sum(new for _, new in plan), step["running"]
        if tokens > trace.config.max_num_batched_tokens:
            said = f"step {number} computes {tokens} tokens, {dict(plan)}"
            raise WrongAnswer("over-budget", f"{trace}. {said}; the engine's buffers hold no more than the budget")
        if len(running) > trace.config.max_num_seqs:  # type: ignore[arg-type]
            raise WrongAnswer("too-many-at-once", f"{trace}. In step {number} run {running}")
    short = [one for one in requests.values() if len(one.output_token_ids) < one.max_tokens]
    if short:
        said = f"{short[0].request_id} got {several(len(short[0].output_token_ids), 'token')} of {short[0].max_tokens}"
        raise WrongAnswer("loses-requests", f"{trace}. {said}, and waits for ever")
    if (free := kept[-1].kv_manager.pool.num_free_blocks) != trace.blocks:
        raise WrongAnswer("leaks-blocks", f"{trace}. All requests are finished, and {free} blocks are free")


def _remembering(make: Make, requests: dict[str, Request]) -> Make:
    """Return a maker of schedulers whose requests are noted as they come."""

    def noted(config: SchedulerConfig, manager: PagedKVManager) -> Scheduler:
        made = make(config, manager)
        add = made.add_request

        def add_request(request: Request) -> None:
            requests[request.request_id] = request
            add(request)

        made.add_request = add_request  # type: ignore[method-assign]
        return made

    return noted


def _compare(answer: Answer, trace: Traced) -> None:
    """Compare who computes what, step by step."""
    right = _plans(_Ranked, trace)
    got = _plans(answer, trace, len(right) + 1)
    for number, (theirs, mine) in enumerate(zip(right, got, strict=False)):
        if mine != theirs:
            waiting = f"step {number}: {dict(theirs)} was expected to be planned, and {dict(mine)} was"
            raise WrongAnswer(_ANOTHER, f"{trace}. {waiting}", _picture(trace, mine, theirs))
    if len(got) != len(right):
        raise WrongAnswer("loses-requests", f"{trace}. All end after {len(right)} steps, and here they do not")


def _plans(make: Make, trace: Traced, most: int = 400) -> list[list[tuple[str, int]]]:
    return [step["plan"] for step in steps(make, trace, most)]  # type: ignore[misc]


def _picture(trace: Traced, mine: Sequence[tuple[str, int]], right: Sequence[tuple[str, int]]) -> Table:
    got, expected = dict(mine), dict(right)
    rows: list[list[Cell | str]] = []
    for name, (comes, prompt, _) in zip("ABCDEFG", trace.arrivals, strict=False):
        planned, wanted = str(got.get(name, "")), str(expected.get(name, ""))
        mark = Cell(planned, "right" if planned == wanted else "wrong")
        rows.append([name, str(len(prompt)), str(comes), str(len(prompt) + _AGEING * comes), mark, wanted])
    columns = ["request", ">prompt", ">came in step", ">rank", ">your tokens", ">expected"]
    return Table("The step in which the plans part", columns, rows)


def _with(name: str, why: str, **change: Any) -> Mistake:
    return Mistake(name, why, partial(_plans, type(name, (_Ranked,), change)))


_MISTAKES = [
    _with("first-come", "the order is the one in which they came: the queue was not touched", sorts=False),
    _with("longest-first", "the longest prompt came first", by_length=-1, ageing=-_AGEING),
    _with("longest-first", "the longest prompt came first", by_length=-1),
    _with("starves", "as long as shorter ones come, a long one never begins: its age counts for nothing", ageing=0),
    _with("rewards-the-late", "the later it came the better its rank: the sign of the age is wrong", ageing=-_AGEING),
    _with(
        "whole-text",
        "the tokens that it has made count with the prompt's: who had to give way after long work goes far back",
        whole_text=True,
    ),
    _with("ages-anew", "who had to give way lost its age with its blocks, and can starve", ages_anew=True),
    _with(
        "front-of-the-queue",
        "it was sorted only when a request came: who had to give way stands in front, whatever its rank",
        sorts_each_step=False,
    ),
    _with(
        "overtakes",
        "where the first one does not fit another one began: the blocks that the first one waits for are never free at once",
        overtakes=True,
    ),
    _with("loses-requests", "who had to give way does not wait any more, and never ends", forgets_preempted=True),
]
_INPUTS = [
    (_traced(20, 2, 60, [(0, 20, 4), (0, 3, 3), (0, 12, 5), (0, 3, 2), (1, 2, 6), (1, 9, 2), (1, 1, 9)]),),
    (_traced(12, 1, 60, [(0, 24, 3), (0, 16, 4), (1, 4, 6), (2, 3, 3), (1, 8, 2), (3, 2, 4)]),),
    (_traced(4, 2, 0, [(0, 9, 10), (0, 18, 4), (2, 2, 1)]),),
    (_traced(16, 6, 0, [(0, 23, 10), (0, 22, 9), (1, 16, 10), (1, 15, 10), (2, 10, 10), (2, 3, 9), (2, 5, 8)]),),
    *((trace,) for trace in _GIVES_WAY),
]


def _named(answer: Answer) -> AbstractContextManager[None]:
    hint = f"a request's rank is the length of its prompt plus {_AGEING} times the step in which it came"
    return named(_ANOTHER, partial(_plans, answer), partial(_plans, _Ranked), _MISTAKES, _INPUTS, _same, hint)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other)
