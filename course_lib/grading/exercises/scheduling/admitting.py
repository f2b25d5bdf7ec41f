"""Who may begin: the waiting requests against budget, places and blocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake, recognise
from course_lib.grading.judge import call, for_all
from course_lib.scheduling import Request
from course_lib.viz.tables import Cell, Table

admit = Exercise("04.admission", "admit", "Who may begin?", difficulty=3, importance=5, minutes=20)

_SIZE = 4


@dataclass(frozen=True)
class _Room:
    """What a step has left for new requests."""

    budget: int
    places: int
    blocks: int


_LENGTHS = st.lists(st.integers(1, 18), max_size=5)


@admit.part(3, "first come first served, up to `places` requests, each with the tokens that it needs")
def _places(answer: Answer) -> None:
    for_all(
        lambda lengths, places: _compare(answer, lengths, _Room(99, places, 99)),
        examples=50,
        lengths=_LENGTHS,
        places=st.integers(0, 6),
    )


@admit.part(3, "the last one to fit into the budget begins with a part of its prompt; nobody begins with 0 tokens")
def _budget(answer: Answer) -> None:
    for_all(
        lambda lengths, budget: _compare(answer, lengths, _Room(budget, 9, 99)),
        examples=80,
        lengths=_LENGTHS,
        budget=st.integers(0, 40),
    )


@admit.part(
    4,
    "a request begins only if blocks for its whole prompt are free, and nobody overtakes the first one that must wait",
)
def _blocks(answer: Answer) -> None:
    for_all(
        lambda lengths, budget, blocks: _compare(answer, lengths, _Room(budget, 9, blocks)),
        examples=150,
        lengths=_LENGTHS,
        budget=st.sampled_from([6, 14, 99]),
        blocks=st.integers(0, 12),
    )


def _requests(lengths: Sequence[int]) -> list[Request]:
    return [Request(name, [1] * length, 9) for name, length in zip("ABCDE", lengths, strict=False)]


@dataclass(frozen=True)
class _Rules:
    """How to admit; each default is right, each other value is a mistake that people make."""

    overtake: bool = False
    whole_blocks: bool = True
    chunks: bool = True
    use_places: bool = True
    use_budget: bool = True
    count_blocks: bool = True
    round_up: bool = True
    zeros: bool = False
    shortest: bool = False

    def plan(self, waiting: Sequence[Request], room: _Room) -> dict[str, int]:
        found: dict[str, int] = {}
        ordered = sorted(waiting, key=lambda one: one.num_tokens) if self.shortest else waiting
        for one in ordered:
            if (not room.budget and not self.zeros) or (not room.places and self.use_places):
                break
            new = min(one.num_tokens, room.budget) if self.use_budget else one.num_tokens
            counted = one.num_tokens if self.whole_blocks else new
            needed = -(-counted // _SIZE) if self.round_up else counted // _SIZE
            if needed > room.blocks or (not self.chunks and new < one.num_tokens):
                if self.overtake:
                    continue
                break
            found[one.request_id] = new
            left = room.blocks - needed if self.count_blocks else room.blocks
            room = _Room(max(0, room.budget - new), room.places - 1, left)
        return found


def _compare(answer: Answer, lengths: Sequence[int], room: _Room) -> None:
    requests = _requests(lengths)
    right = _Rules().plan(requests, room)
    got = call(answer, requests, room.budget, room.places, room.blocks, _SIZE)
    if [one.num_computed_tokens for one in requests] != [0] * len(requests) or len(requests) != len(lengths[:5]):
        raise WrongAnswer(
            "changes-the-requests", "the queue or a request in it was changed; only the plan is asked for"
        )
    if isinstance(got, dict) and list(got.items()) == list(right.items()):
        return
    mistake = recognise(answer, _MISTAKES, _INPUTS, lambda one, other: list(one.items()) == list(other.items()))
    name, why = (
        (mistake.name, mistake.why) if mistake else ("wrong-plan", "go through the queue from its head, by hand")
    )
    planned = got if isinstance(got, dict) else {}
    rows: list[list[Cell | str]] = [
        [
            one.request_id,
            str(one.num_tokens),
            str(-(-one.num_tokens // _SIZE)),
            Cell(
                str(planned.get(one.request_id, "waits")),
                "right" if planned.get(one.request_id) == right.get(one.request_id) else "wrong",
            ),
        ]
        for one in requests
    ]
    caption = f"Budget {room.budget} tokens, {room.places} places, {room.blocks} free blocks of {_SIZE}"
    table = Table(caption, ["request", ">tokens", ">blocks", ">your plan"], rows)
    raise WrongAnswer(name, f"{caption}: {right} was expected and {got!r} came; {why}", table)


def _with(**mistake: bool) -> Callable[[Sequence[Request], int, int, int, int], dict[str, int]]:
    rules = replace(_Rules(), **mistake)
    return lambda waiting, budget, places, blocks, _size: rules.plan(waiting, _Room(budget, places, blocks))


_INPUTS = [
    (_requests(lengths), budget, places, blocks, _SIZE)
    for lengths in ([9, 14, 3, 5, 1], [6, 2, 11, 8], [17, 4, 4, 2], [5, 5, 5])
    for budget, places, blocks in ((99, 2, 99), (12, 9, 99), (99, 9, 5), (8, 9, 3), (0, 4, 9), (20, 9, 7))
]
_MISTAKES = [
    Mistake(
        "overtakes",
        "a request that fits began before one that came first and does not: with enough short ones, the long one starves",
        _with(overtake=True),
    ),
    Mistake(
        "first-chunk-fits",
        "blocks were free for the first part of a prompt and not for all of it: it holds blocks that it can't make use of",
        _with(whole_blocks=False),
    ),
    Mistake(
        "no-chunks",
        "a prompt that is longer than what is left of the budget waits; a part of it can be computed in this step",
        _with(chunks=False),
    ),
    Mistake("forgets-places", "more requests began than there are places", _with(use_places=False)),
    Mistake("over-budget", "more tokens were planned than the budget has", _with(use_budget=False)),
    Mistake(
        "blocks-given-twice",
        "the blocks of a request that begins are free for the next one still",
        _with(count_blocks=False),
    ),
    Mistake(
        "rounds-down",
        "blocks were rounded down: the tokens after the last full block need one, too",
        _with(round_up=False),
    ),
    Mistake("begins-with-nothing", "a request with 0 tokens is in the plan: the budget was used up", _with(zeros=True)),
    Mistake(
        "shortest-first", "the shortest prompts began first; the queue has an order of its own", _with(shortest=True)
    ),
]
