"""Labels of a conversation: which tokens the policy learns to say."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.training.naming import named
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

sft_labels = Exercise(
    "06.sft_labels", "sft_batch", "What is there to learn in a conversation?", difficulty=3, importance=5, minutes=20
)

Turn = tuple[str, list[int], list[int]]
Conversation = list[Turn]
_END, _START, _ROLES = 2, 1, {"system": 5, "user": 6, "assistant": 7}
_IGNORED = -100


def _conversation(*turns: tuple[str, Sequence[int]]) -> Conversation:
    """Return turns as a chat template writes them: a header of two tokens, the text and the end of the turn."""
    return [(role, [_START, _ROLES[role]], [*text, _END]) for role, text in turns]


_TEXT = st.lists(st.integers(10, 30), max_size=3)
_ANSWER = st.tuples(st.just("assistant"), _TEXT)
_QUESTION = st.tuples(st.just("user"), _TEXT)
_ONE = st.tuples(_QUESTION, _ANSWER).map(lambda turns: _conversation(*turns))
_MANY = st.tuples(
    st.lists(st.tuples(st.just("system"), _TEXT), max_size=1),
    st.lists(st.tuples(_QUESTION, _ANSWER), min_size=1, max_size=3),
).map(lambda drawn: _conversation(*drawn[0], *(turn for pair in drawn[1] for turn in pair)))


@sft_labels.part(3, "a question and its answer: the labels are the answer's tokens and its end, one position early")
def _single(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda one: _compare(answer, [one], 0), examples=30, one=_ONE)


@sft_labels.part(3, "several turns: every answer is learned, and nothing that others said")
def _turns(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda one: _compare(answer, [one], 0), examples=40, one=_MANY)


@sft_labels.part(4, "a batch, padded with the token that also ends a turn: no padding is learned, and each end is")
def _batch(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda rows: _compare(answer, rows, _END), examples=50, rows=st.lists(_MANY, min_size=1, max_size=3))


def _right(conversations: list[Conversation], pad_id: int) -> tuple[Tensor, Tensor]:
    """Go through the batch position by position, and ask of each what comes next and who says it."""
    rows = [
        [
            (token, said and role == "assistant")
            for role, *parts in one
            for said, part in enumerate(parts)
            for token in part
        ]
        for one in conversations
    ]
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id)
    labels = torch.full((len(rows), longest), _IGNORED)
    for number, row in enumerate(rows):
        for position, (token, learned) in enumerate(row):
            ids[number, position] = token
            if learned:
                labels[number, position - 1] = token
    return ids, labels


@dataclass(frozen=True)
class _Sketch:
    """A batch that is right as it is here; each other value is a mistake that people make."""

    learns: tuple[str, ...] = ("assistant",)
    header: bool = False
    end: bool = True
    padding: bool = False
    by_value: bool = False
    last_only: bool = False
    shift: int = 1

    def __call__(self, conversations: list[Conversation], pad_id: int) -> tuple[Tensor, Tensor]:
        """Return ids and labels."""
        ids = _right(conversations, pad_id)[0]
        labels = torch.full_like(ids, _IGNORED)
        for row, one in enumerate(conversations):
            place = 0
            for number, (role, header, content) in enumerate(one):
                tokens = header + content
                learned = role in self.learns and (not self.last_only or number == len(one) - 1)
                start = place + (0 if self.header else len(header))
                stop = place + len(tokens) - (0 if self.end else 1)
                if learned:
                    labels[row, start:stop] = ids[row, start:stop]
                place += len(tokens)
            if self.padding:
                labels[row, place:] = pad_id
        if self.by_value:
            labels[ids == pad_id] = _IGNORED
        if not self.shift:
            return ids, labels
        shifted = labels.roll(-self.shift, 1)
        if self.shift > 0:
            shifted[:, -self.shift :] = _IGNORED
        else:
            shifted[:, : -self.shift] = _IGNORED
        return ids, shifted


def _same(one: Any, other: tuple[Tensor, Tensor]) -> bool:
    return (
        isinstance(one, tuple)
        and len(one) == 2
        and all(
            isinstance(mine, Tensor) and mine.shape == theirs.shape and torch.equal(mine, theirs)
            for mine, theirs in zip(one, other, strict=True)
        )
    )


def _compare(answer: Answer, conversations: list[Conversation], pad_id: int) -> None:
    right = _right(conversations, pad_id)
    got = call(answer, [[(role, list(a), list(b)) for role, a, b in one] for one in conversations], pad_id)
    if _same(got, right):
        return
    shape = list(right[0].shape)
    if not isinstance(got, tuple) or len(got) != 2 or not all(isinstance(part, Tensor) for part in got):
        raise WrongAnswer("no-pair", f"two tensors were expected, ids and labels, and {type(got).__name__} came")
    ids, labels = got
    if list(ids.shape) != shape or list(labels.shape) != shape:
        said = f"ids and labels of shape {shape} were expected, and {list(ids.shape)} and {list(labels.shape)} came"
        raise WrongAnswer("other-shape", said)
    row = next(n for n in range(len(conversations)) if not _same((ids[n], labels[n]), (right[0][n], right[1][n])))
    table = _picture(conversations[row], (ids[row], labels[row]), (right[0][row], right[1][row]))
    given = f"conversation {row + 1} of {len(conversations)}, {' then '.join(turn[0] for turn in conversations[row])}"
    if ids.dtype != torch.int64 or labels.dtype != torch.int64:
        said = f"{given}: ids have dtype {ids.dtype}, labels {labels.dtype}; cross_entropy takes int64"
        raise WrongAnswer("other-dtype", said)
    if not torch.equal(ids, right[0]):
        said = f"{given}: the ids are not the turns' headers and contents in their order, padded at the end"
        raise WrongAnswer("other-ids", said, table)
    place = int((labels[row] != right[1][row]).nonzero()[0])
    mine, theirs = int(labels[row, place]), int(right[1][row, place])
    raise WrongAnswer("wrong-labels", f"{given}: the label of position {place} is {mine}, expected {theirs}", table)


def _picture(one: Conversation, got: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> Table:
    who = [f"{role}{', header' * (not said)}" for role, *parts in one for said, part in enumerate(parts) for _ in part]
    rows: list[list[Cell | str]] = []
    columns = [part.tolist() for part in (*got, *right)]
    for place, (my_id, my_label, its_id, its_label) in enumerate(zip(*columns, strict=True)):
        rows.append(
            [
                str(place),
                who[place] if place < len(who) else "padding",
                str(its_id) if my_id == its_id else Cell(str(my_id), "wrong"),
                Cell(str(my_label), "right" if my_label == its_label else "wrong"),
                str(its_label),
            ]
        )
    return Table(
        f"Position by position; {_END} ends a turn", [">position", "of", ">id", ">your label", ">expected"], rows
    )


def _named(answer: Answer) -> Any:
    short = _conversation(("user", [11, 12]), ("assistant", [13, 14]))
    long = _conversation(("system", [9]), ("user", [15]), ("assistant", [16, 17]), ("user", [18]), ("assistant", [19]))
    inputs = [([short], 0), ([long], 0), ([short, long], 0), ([short, long], _END)]
    hint = "say for each position which token comes next, and whether the assistant says it"
    return named("wrong-labels", answer, _right, _MISTAKES, inputs, _same, hint)


_RIGHT = _Sketch()
_MISTAKES = [
    Mistake(
        "not-shifted",
        "the labels stand where their tokens stand, and the logits at a position are about the token after it",
        replace(_RIGHT, shift=0),
    ),
    Mistake(
        "shifted-twice", "the labels are two positions early: each is compared once too late", replace(_RIGHT, shift=2)
    ),
    Mistake(
        "shifted-back",
        "the labels were moved to the right; the token that comes next is wanted",
        replace(_RIGHT, shift=-1),
    ),
    Mistake(
        "learns-everything",
        "questions and system prompt are learned, too: the policy would learn to ask",
        replace(_RIGHT, learns=tuple(_ROLES), header=True),
    ),
    Mistake(
        "learns-the-user",
        "what the user says is learned, and what the assistant says is not",
        replace(_RIGHT, learns=("user",)),
    ),
    Mistake(
        "learns-the-header",
        "the header of the assistant's turn is learned, and at generation the template writes it",
        replace(_RIGHT, header=True),
    ),
    Mistake(
        "last-answer-only",
        "only the last answer is learned; the ones before it are the assistant's, too",
        replace(_RIGHT, last_only=True),
    ),
    Mistake(
        "never-ends",
        "the token that ends the turn is not learned: a policy that never saw it as a label never stops",
        replace(_RIGHT, end=False),
    ),
    Mistake(
        "masked-by-value",
        "labels were left out because their token is the padding's; here the same token ends each turn. Go by position",
        replace(_RIGHT, by_value=True),
    ),
    Mistake("learns-padding", "padding is learned: nobody said it", replace(_RIGHT, padding=True)),
]
