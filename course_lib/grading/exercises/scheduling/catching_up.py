"""Who runs already: how many tokens each computes in the next step."""

from collections.abc import Callable, Sequence

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake, recognise
from course_lib.grading.judge import call, for_all
from course_lib.scheduling import Request
from course_lib.viz.tables import Cell, Table

plan_running = Exercise(
    "04.catch_up", "plan_running", "No prefill, no decode: catching up", difficulty=2, importance=5, minutes=15
)

_State = tuple[int, int, int]
"""A request's prompt tokens, output tokens, and how many of both are computed."""


def request(name: str, state: _State) -> Request:
    """Return a request in this state."""
    prompt, output, computed = state
    made = Request(name, [1] * prompt, 99)
    made.token_ids += [2] * output
    made.num_computed_tokens = computed
    return made


@st.composite
def _states(draw: st.DrawFn, behind: tuple[int, int]) -> list[_State]:
    found = []
    for _ in range(draw(st.integers(0, 5))):
        output = draw(st.integers(0, 4))
        lag = draw(st.integers(*behind))
        found.append((lag + draw(st.integers(1, 9)), output, 0))
        prompt, output, _ = found[-1]
        found[-1] = (prompt, output, prompt + output - lag)
    return found


@plan_running.part(3, "a request that generates is one token behind, and computes one token")
def _decode(answer: Answer) -> None:
    for_all(lambda states: _compare(answer, states, 64), examples=30, states=_states((1, 1)))


@plan_running.part(
    4, "a prompt takes what is left of the budget, in part if need be, and in the order of the running requests"
)
def _chunks(answer: Answer) -> None:
    for_all(
        lambda states, budget: _compare(answer, states, budget),
        examples=150,
        states=_states((1, 12)),
        budget=st.integers(1, 24),
    )


@plan_running.part(3, "who is not behind is left out, those after it are not; the requests stay as they are")
def _up_to_date(answer: Answer) -> None:
    for_all(
        lambda states, budget: _compare(answer, states, budget),
        examples=100,
        states=_states((0, 6)),
        budget=st.integers(0, 16),
    )


def _right(requests: Sequence[Request], budget: int) -> dict[str, int]:
    plan = {}
    for one in requests:
        new = min(one.num_tokens - one.num_computed_tokens, budget)
        if new:
            plan[one.request_id] = new
            budget -= new
    return plan


def _compare(answer: Answer, states: list[_State], budget: int) -> None:
    requests = [request(name, state) for name, state in zip("ABCDE", states, strict=False)]
    right = _right(requests, budget)
    got = call(answer, requests, budget)
    if [one.num_computed_tokens for one in requests] != [computed for _, _, computed in states]:
        told = "a plan says what will be computed; the requests count it themselves, once the step is planned for all"
        raise WrongAnswer("changes-the-requests", f"num_computed_tokens was changed: {told}")
    if isinstance(got, dict) and list(got.items()) == list(right.items()):
        return
    mistake = recognise(answer, _MISTAKES, _INPUTS, lambda one, other: list(one.items()) == list(other.items()))
    name, why = (
        (mistake.name, mistake.why) if mistake else ("wrong-plan", "go through the requests in order, with the budget")
    )
    planned = got if isinstance(got, dict) else {}
    rows: list[list[Cell | str]] = [
        [
            one.request_id,
            str(one.num_tokens),
            str(one.num_computed_tokens),
            Cell(
                str(planned.get(one.request_id, "-")),
                "right" if planned.get(one.request_id) == right.get(one.request_id) else "wrong",
            ),
        ]
        for one in requests
    ]
    table = Table(f"A budget of {budget} tokens", ["request", ">tokens", ">computed", ">your plan"], rows)
    raise WrongAnswer(name, f"with a budget of {budget}, {right} was expected and {got!r} came: {why}", table)


def _loop(take: Callable[[Request, int], int | None]) -> Callable[[Sequence[Request], int], dict[str, int]]:
    """Return a planner that goes through the requests and takes what `take` says; None ends it, 0 is left out."""

    def plan(requests: Sequence[Request], budget: int) -> dict[str, int]:
        found = {}
        for one in requests:
            new = take(one, budget)
            if new is None:
                break
            if new > 0:
                found[one.request_id] = new
                budget -= new
        return found

    return plan


def _behind(one: Request) -> int:
    return one.num_tokens - one.num_computed_tokens


_INPUTS = [
    ([request(name, state) for name, state in zip("ABCDE", states, strict=False)], budget)
    for budget in (3, 7, 20)
    for states in (
        [(9, 0, 4), (5, 2, 6), (8, 0, 0), (3, 1, 3)],
        [(4, 3, 6), (4, 0, 4), (6, 0, 2), (7, 2, 8)],
        [(9, 0, 1), (4, 2, 5)],
    )
]
_MISTAKES = [
    Mistake(
        "one-token-each",
        "everybody got one token; a prompt is behind by many, and there is no need to compute it one by one",
        _loop(lambda one, budget: min(1, _behind(one), budget)),
    ),
    Mistake(
        "no-budget",
        "more tokens were planned than the budget has: the step would take as long as the longest prompt",
        _loop(lambda one, _budget: _behind(one)),
    ),
    Mistake(
        "whole-or-nothing",
        "a prompt that does not fit into what is left of the budget was left out; it can be computed in part",
        _loop(lambda one, budget: _behind(one) if _behind(one) <= budget else 0),
    ),
    Mistake(
        "stops-at-what-does-not-fit",
        "the plan ends at the first request that does not fit as a whole; it can be computed in part",
        _loop(lambda one, budget: _behind(one) if _behind(one) <= budget else None),
    ),
    Mistake(
        "shortest-first",
        "those who are least behind were planned first; the order of the running requests is the order of the plan",
        lambda requests, budget: _right(sorted(requests, key=_behind), budget),
    ),
    Mistake(
        "prompts-only",
        "only prompts were looked at: a request is behind by its generated tokens, too",
        _loop(lambda one, budget: min(one.num_prompt_tokens - one.num_computed_tokens, budget)),
    ),
    Mistake(
        "plans-nothing-for-somebody",
        "a request with 0 tokens is in the plan; who computes nothing is no part of the step",
        lambda requests, budget: {one.request_id: _right(requests, budget).get(one.request_id, 0) for one in requests},
    ),
    Mistake(
        "stops-at-a-zero",
        "the plan ends at a request that is not behind; those after it may be",
        _loop(lambda one, budget: min(_behind(one), budget) or None),
    ),
    Mistake(
        "equal-shares",
        "the budget was cut into equal shares; what one request does not need of it, another one can use",
        lambda requests, budget: {
            one.request_id: min(_behind(one), budget // len(requests))
            for one in requests
            if min(_behind(one), budget // len(requests))
        },
    ),
]
