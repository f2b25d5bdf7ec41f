"""Which tokens did the policy say? By position, for padding that looks like the end of a turn."""

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

response_mask = Exercise("07.response_mask", "response_mask", "Who said that?", difficulty=2, importance=5, minutes=15)

_EOS = 2


@dataclass(frozen=True)
class _Row:
    """A prompt, and how many tokens the policy said before it ended; it is cut off where it did not end.

    Attributes:
        prompt: tokens; `_EOS` among them ends a turn.
        said: how many tokens the policy said, the end not counted.
    """

    prompt: tuple[int, ...]
    said: int


@dataclass(frozen=True)
class _Batch:
    """Rows as transformers' `generate` returns them: prompts padded on the left, responses on the right, by the end token."""

    rows: tuple[_Row, ...]
    max_new_tokens: int

    @property
    def prompt_width(self) -> int:
        return max(len(row.prompt) for row in self.rows)

    @property
    def ids(self) -> Tensor:
        padded = []
        for number, row in enumerate(self.rows):
            response = [20 + 5 * number + place for place in range(row.said)]
            end = [_EOS] * (self.max_new_tokens - len(response))
            padded.append([_EOS] * (self.prompt_width - len(row.prompt)) + list(row.prompt) + response + end)
        return torch.tensor(padded)

    def arguments(self) -> tuple[Tensor, int, int]:
        return self.ids, self.prompt_width, _EOS


def _batches(prompts: st.SearchStrategy[tuple[int, ...]], ends: bool | None = None) -> st.SearchStrategy[_Batch]:
    """Draw batches whose responses end (`ends`), are cut off (False), or either (None)."""
    return st.integers(1, 5).flatmap(
        lambda most: st.builds(
            _Batch,
            st.lists(
                st.builds(_Row, prompts, st.integers(most if ends is False else 0, most - 1 if ends else most)),
                min_size=1,
                max_size=3,
            ).map(tuple),
            st.just(most),
        )
    )


_PLAIN = st.lists(st.integers(10, 19), min_size=1, max_size=4).map(tuple)
_CHAT = st.lists(st.sampled_from([11, 12, _EOS]), min_size=1, max_size=4).map(tuple)


@response_mask.part(4, "responses that end: from their first token to the one that ends them, and no padding")
def _ended(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda batch: _compare(answer, batch), examples=60, batch=_batches(_PLAIN, ends=True))


@response_mask.part(3, "responses that were cut off, for which no end token stands anywhere")
def _cut_off(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda batch: _compare(answer, batch), examples=20, batch=_batches(_PLAIN, ends=False))
        for_all(lambda batch: _compare(answer, batch), examples=40, batch=_batches(_PLAIN))


@response_mask.part(3, "chat prompts, in which the end token ends every turn: nothing of a prompt is the policy's")
def _chat(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda batch: _compare(answer, batch), examples=60, batch=_batches(_CHAT))


def _right(ids: Tensor, prompt_width: int, eos_id: int) -> Tensor:
    """Go through each row, token by token, and remember whether it has ended."""
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row in range(len(ids)):
        ended = False
        for place in range(prompt_width, ids.shape[1]):
            mask[row, place] = not ended
            ended = ended or int(ids[row, place]) == eos_id
    return mask


@dataclass(frozen=True)
class _Sketch:
    """A mask that is right as it is here; each other value is a mistake that people make."""

    start: int = 0
    by_value: bool = False
    end: int = 1
    looks_at_prompt: bool = False
    last: bool = False
    none_is_first: bool = False
    padding: bool = False
    prompt: bool = False
    one_length: bool = False

    def __call__(self, ids: Tensor, prompt_width: int, eos_id: int) -> Tensor:
        places = torch.arange(ids.shape[1])
        inside = (places >= prompt_width + self.start).expand(ids.shape)
        if self.prompt:
            inside = torch.ones_like(inside)
        if self.padding:
            return inside.clone()
        is_end = ids == eos_id
        if self.by_value:
            return inside & ~is_end
        if not self.looks_at_prompt:
            is_end = is_end & (places >= prompt_width)
        if self.last:
            reversed_first = is_end.flip(1).long().argmax(1)
            first = torch.where(is_end.any(1), ids.shape[1] - 1 - reversed_first, ids.shape[1])
        else:
            nothing = prompt_width if self.none_is_first else ids.shape[1]
            first = torch.where(is_end.any(1), is_end.long().argmax(1), nothing)
        if self.one_length:
            first = first[:1].expand(len(ids))
        return inside & (places < first[:, None] + self.end)


def _same(one: Any, other: Tensor) -> bool:
    return isinstance(one, Tensor) and one.shape == other.shape and torch.equal(one.bool(), other)


def _compare(answer: Answer, batch: _Batch) -> None:
    right = _right(*batch.arguments())
    got = call(answer, *batch.arguments())
    if not isinstance(got, Tensor) or got.shape != right.shape:
        came = f"shape {list(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
        raise WrongAnswer(
            "other-shape", f"a mask of shape {list(right.shape)}, as ids has, was expected, and {came} came"
        )
    if got.dtype != torch.bool:
        why = "a tensor of whole numbers in its place picks elements by their number: loss[mask] would be another thing"
        raise WrongAnswer("no-bool", f"the mask has dtype {got.dtype}, and torch.bool was expected; {why}")
    if torch.equal(got, right):
        return
    row, place = (int(number) for number in (got != right).nonzero()[0])
    kind = _kinds(batch)[row][place]
    said = f"row {row}, column {place}, {kind}: {bool(got[row, place])}, expected {bool(right[row, place])}"
    raise WrongAnswer("wrong-mask", said, _picture(batch, got, right))


def _kinds(batch: _Batch) -> list[list[str]]:
    """Say of each position what stands there."""
    told = []
    for row in batch.rows:
        end = ["the response's end"] * (row.said < batch.max_new_tokens)
        prompt = ["padding before the prompt"] * (batch.prompt_width - len(row.prompt)) + ["the prompt"] * len(
            row.prompt
        )
        response = ["the response"] * row.said + end
        told.append(prompt + response + ["padding"] * (batch.max_new_tokens - len(response)))
    return told


def _picture(batch: _Batch, got: Tensor, right: Tensor) -> Table:
    """Draw each row as three: its ids, the answer's mask and the right one."""
    rows: list[list[Cell | str]] = []
    for number, ids in enumerate(batch.ids.tolist()):
        mine, theirs = got[number].tolist(), right[number].tolist()
        marks = [Cell("1" if a else "·", "right" if a == b else "wrong") for a, b in zip(mine, theirs, strict=True)]
        rows += [
            [f"{number}", "ids", *("end" if token == _EOS else str(token) for token in ids)],
            ["", "yours", *marks],
            ["", "expected", *("1" if a else "·" for a in theirs)],
        ]
    width, longest = batch.prompt_width, batch.ids.shape[1]
    columns = [f">{'p' if place < width else 'r'}{place}" for place in range(longest)]
    caption = f"p: columns of the prompts, r: of the responses; `end` is token {_EOS}, which also pads"
    return Table(caption, ["row", "", *columns], rows)


def _named(answer: Answer) -> Any:
    batches: Sequence[_Batch] = [
        _Batch((_Row((11, 12), 2), _Row((13,), 1)), 5),
        _Batch((_Row((11,), 4), _Row((12, 13, 14), 0), _Row((15,), 2)), 4),
        _Batch((_Row((_EOS, 11, _EOS, 12), 1), _Row((11, _EOS), 3)), 3),
    ]
    hint = "say for each position who put the token there: the prompt, the policy, or the padding"
    return named("wrong-mask", answer, _right, _MISTAKES, [one.arguments() for one in batches], _same, hint)


_RIGHT = _Sketch()
_MISTAKES = [
    Mistake(
        "masked-by-value",
        "the token that ends the response is missing. It has the padding's id, but the policy chose it, and has to learn when",
        replace(_RIGHT, by_value=True),
    ),
    Mistake(
        "masked-by-value",
        "tokens were judged by their value alone, and the prompt was not left out",
        replace(_RIGHT, by_value=True, prompt=True),
    ),
    Mistake("counts-padding", "what follows the end is padding, which nobody said", replace(_RIGHT, padding=True)),
    Mistake(
        "counts-padding",
        "the row's last end token was looked for, and that is padding; the first one is the policy's",
        replace(_RIGHT, last=True),
    ),
    Mistake(
        "end-of-the-prompt",
        "the first end token of the row was looked for, and it stands in the prompt, or pads it",
        replace(_RIGHT, looks_at_prompt=True),
    ),
    Mistake(
        "argmax-of-nothing",
        "argmax of a row without an end is 0: of a response that was cut off only the first token is left",
        replace(_RIGHT, none_is_first=True),
    ),
    Mistake("prompt-too", "the prompt is in the mask; the policy did not say it", replace(_RIGHT, prompt=True)),
    Mistake(
        "starts-early",
        "the mask starts at the prompt's last token. Its logits predict the response, but this mask is of tokens",
        replace(_RIGHT, start=-1),
    ),
    Mistake("starts-late", "the response's first token is missing", replace(_RIGHT, start=1)),
    Mistake("one-length-for-all", "all rows end where the first one does", replace(_RIGHT, one_length=True)),
    Mistake("one-too-many", "one token after the end is in the mask", replace(_RIGHT, end=2)),
]
