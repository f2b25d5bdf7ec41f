"""From an engine's cumulative outputs to the chunks that a server sends."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake, recognise
from course_lib.grading.judge import call
from course_lib.serving.outputs import CompletionOutput, FinishReason, RequestOutput
from course_lib.viz.tables import Cell, Table

stream_chunks = Exercise(
    "05.streaming", "stream_chunks", "One stream, many readers", difficulty=3, importance=4, minutes=20
)

Chunk = tuple[str, int, str, str | None]
_WORDS = ("Hi", " you", "!", " ha", " ha", "", "\n")
_REASONS = ("stop", "length", "abort", "stop")


@stream_chunks.part(3, "one request: each chunk brings what is new, at once, and the last one says why it ended")
def _one(answer: Answer) -> None:
    _judge(answer, _Engine(1, 1))


@stream_chunks.part(4, "several requests and samples: each chunk belongs to a request's id and a sample's index")
def _many(answer: Answer) -> None:
    _judge(answer, _Engine(3, 3))


@stream_chunks.part(3, "each sample ends once: those that come again after their end, and those that never come to one")
def _ends(answer: Answer) -> None:
    _judge(answer, _Engine(2, 2, again=True, left_open=True))


@dataclass
class _Sample:
    """A sample that grows."""

    index: int
    words: list[str]
    reason: str | None
    text: str = ""
    ended: bool = False

    def grow(self, words: int) -> None:
        """Take in some words; with the last one comes the end."""
        self.text += "".join(self.words[:words])
        self.words = self.words[words:]
        self.ended = not self.words and self.reason is not None

    def output(self) -> CompletionOutput:
        reason = cast("FinishReason", self.reason) if self.ended else None
        return CompletionOutput(self.index, self.text, [7] * len(self.text), finish_reason=reason)


@dataclass(frozen=True)
class _Engine:
    """What an engine serves, and how it tells of it.

    Attributes:
        requests: at most.
        samples: of each request, at most.
        again: whether an output has all samples, finished ones too, and not only the one that grew (vLLM's way).
        left_open: whether some samples never end.
    """

    requests: int
    samples: int
    again: bool = False
    left_open: bool = False


def _outputs(engine: _Engine, seed: int) -> list[RequestOutput]:
    """Return what an engine gives out step by step, the same for the same seed."""
    chance = random.Random(seed)
    running: dict[str, list[_Sample]] = {}
    for place in range(chance.randint(1, engine.requests)):
        endings = _REASONS if not engine.left_open else (*_REASONS, None)
        running["ABC"[place]] = [
            _Sample(index, chance.choices(_WORDS, k=chance.randint(1, 4)), chance.choice(endings))
            for index in range(chance.randint(min(2, engine.samples), engine.samples))
        ]
    found = []
    while growing := [(name, one) for name, all_ in running.items() for one in all_ if one.words]:
        name, sample = chance.choice(growing)
        sample.grow(chance.choice([0, 1, 1, 2]))
        given = running[name] if engine.again else [sample]
        finished = all(one.ended for one in running[name])
        found.append(RequestOutput(name, None, [1], [one.output() for one in given], finished))
    return found


def _judge(answer: Answer, engine: _Engine) -> None:
    for outputs in sorted((_outputs(engine, seed) for seed in range(150)), key=_size):
        _compare(answer, outputs, engine)


def _size(outputs: list[RequestOutput]) -> int:
    return sum(len(output.outputs) for output in outputs)


def _run(answer: Callable[[Iterable[RequestOutput]], Any], outputs: Sequence[RequestOutput]) -> list[list[Chunk]]:
    """Return the chunks that came for each output before the next one was asked for, and at last those after all of them."""
    came: list[list[Chunk]] = [[]]

    def arriving() -> Iterator[RequestOutput]:
        for output in outputs:
            yield output
            came.append([])

    chunks = answer(arriving())
    if not isinstance(chunks, Iterable):
        raise WrongAnswer("no-chunks", f"stream_chunks has to yield chunks, and returned {chunks!r:.60}")
    for chunk in chunks:
        if not isinstance(chunk, tuple) or len(chunk) != 4:
            said = f"a chunk is a tuple (request id, index, new text, finish reason), and {chunk!r:.80} came"
            raise WrongAnswer("no-chunks", said)
        came[-1].append(chunk)
    return came


def _compare(answer: Answer, outputs: list[RequestOutput], engine: _Engine) -> None:
    def stream_chunks(outputs: list[RequestOutput]) -> list[list[Chunk]]:
        return _run(answer, outputs)

    stream_chunks.__qualname__ = "stream_chunks"
    right, got = _run(_Sketch(), outputs), call(stream_chunks, outputs)
    if got == right:
        return
    inputs = [(_outputs(engine, seed),) for seed in range(1000, 1025)]
    mistake = recognise(stream_chunks, _MISTAKES, [*inputs, (outputs,)])
    name, why = (mistake.name, mistake.why) if mistake else _describe(right, got)
    place = next(place for place, chunks in enumerate(right) if got[place : place + 1] != [chunks])
    when = f"output {place + 1} of {len(outputs)}" if place < len(outputs) else "the end of the outputs"
    raise WrongAnswer(name, f"at {when}: {why}", _table(outputs, right, got, place))


def _describe(right: list[list[Chunk]], got: list[list[Chunk]]) -> tuple[str, str]:
    """Return a name for what no known mistake explains."""
    texts = [{(one[0], one[1]): "" for chunks in run for one in chunks} for run in (right, got)]
    for run, found in zip((right, got), texts, strict=True):
        for chunk in (chunk for chunks in run for chunk in chunks):
            found[chunk[0], chunk[1]] += str(chunk[2])
    if texts[0] != texts[1]:
        return "wrong-text", "a sample's texts, one after the other, do not give its text"
    return "other-chunks", "the text is right, but not the chunks in which it comes"


def _table(outputs: list[RequestOutput], right: list[list[Chunk]], got: list[list[Chunk]], place: int) -> Table:
    rows: list[list[Cell | str]] = []
    for step in range(max(0, place - 3), place + 1):
        came = "(no more)"
        if step < len(outputs):
            samples = ", ".join(
                f"{one.index}: {one.text!r} {one.finish_reason or ''}".strip() for one in outputs[step].outputs
            )
            came = f"{outputs[step].request_id} [{samples}]"
        theirs, mine = (", ".join(map(str, run[step])) if step < len(run) else "-" for run in (right, got))
        rows.append([came, theirs or "nothing", Cell(mine or "nothing", "right" if mine == theirs else "wrong")])
    return Table("What came, and the chunks that it made", ["output", "expected", "yours"], rows)


@dataclass(frozen=True)
class _Sketch:
    """Streaming; each default is right, each other value is a mistake that people make."""

    key: Callable[[str, int, int], object] = lambda name, index, place: (name, index)  # noqa: ARG005
    told_index: Callable[[int, int], int] = lambda index, place: index  # noqa: ARG005
    new: Callable[[str, str], str] = lambda text, before: text[len(before) :]
    first_only: bool = False
    empty: bool = False
    silent_end: bool = False
    once: bool = True
    request_ends: bool = False
    close: bool = True
    at_once: bool = True

    def __call__(self, outputs: Iterable[RequestOutput]) -> Iterator[Chunk]:
        if not self.at_once:
            outputs = list(outputs)
        seen: dict[object, str] = {}
        open_: dict[object, tuple[str, int]] = {}
        ended = set()
        for output in outputs:
            for place, one in enumerate(output.outputs[: 1 if self.first_only else None]):
                key = self.key(output.request_id, one.index, place)
                if key in ended and self.once:
                    continue
                new = self.new(one.text, seen.get(key, ""))
                reason = one.finish_reason if output.finished or not self.request_ends else None
                index = self.told_index(one.index, place)
                if new or self.empty or (reason and not self.silent_end):
                    yield output.request_id, index, new, reason
                seen[key] = one.text
                open_[key] = output.request_id, index
                if reason:
                    ended.add(key)
        for key, (name, index) in open_.items():
            if key not in ended and self.close:
                yield name, index, "", "abort"


def _with(**mistake: object) -> Callable[[list[RequestOutput]], list[list[Chunk]]]:
    sketch = replace(_Sketch(), **mistake)  # type: ignore[arg-type]  # each mistake names a field of its own
    return lambda outputs: _run(sketch, outputs)


_WHOLE = Mistake(
    "whole-text-again",
    "an output has the sample's whole text so far; a chunk brings what is new in it",
    _with(new=lambda text, before: text),  # noqa: ARG005
)
_MISTAKES = [
    _WHOLE,
    replace(_WHOLE, gives=_with(new=lambda text, before: text, empty=True)),  # noqa: ARG005
    replace(_WHOLE, gives=_with(new=lambda text, before: text if text != before else "")),
    Mistake(
        "removes-repeats",
        "what came before was removed wherever it stands in the text; it stands at its beginning, once",
        _with(new=lambda text, before: text.replace(before, "") if before else text),
    ),
    Mistake(
        "spaces-lost",
        "spaces or newlines around a new text are part of it: put together, the chunks must give the text",
        _with(new=lambda text, before: text[len(before) :].strip()),
    ),
    Mistake(
        "empty-chunks",
        "an output that brings nothing (after a preemption, or within a character) is no chunk",
        _with(empty=True),
    ),
    Mistake(
        "silent-end",
        "a sample may end without new text (its last token is the end-of-sequence token); the reader waits for the reason",
        _with(silent_end=True),
    ),
    Mistake(
        "waits-for-the-end",
        "no chunk was yielded before the last output had come: that is no stream",
        _with(at_once=False),
    ),
    Mistake(
        "samples-mixed",
        "samples of a request were taken for one text; each has an index",
        _with(key=lambda name, index, place: name),  # noqa: ARG005
    ),
    Mistake(
        "requests-mixed",
        "samples of different requests were taken for one text; each request has an id",
        _with(key=lambda name, index, place: index),  # noqa: ARG005
    ),
    Mistake(
        "place-as-index",
        "a sample's place in the output was taken for its index; vLLM sends only the sample that grew, at place 0",
        _with(key=lambda name, index, place: (name, place), told_index=lambda index, place: place),  # noqa: ARG005
    ),
    Mistake(
        "waits-for-the-request",
        "a sample's reason was kept until all samples of its request had ended; each has its own",
        _with(request_ends=True),
    ),
    Mistake("first-sample-only", "an output may bring several samples", _with(first_only=True)),
    Mistake(
        "ends-twice",
        "a sample that had ended came once more with its request, and was ended once more",
        _with(once=False),
    ),
    Mistake(
        "left-open",
        'the outputs came to an end, and a sample did not: its reader waits for ever unless a chunk says "abort"',
        _with(close=False),
    ),
]
