"""From a token's bytes to text that can be shown: whole characters, and nothing that a stop string may take back."""

import codecs
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake, recognise
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

stream_text = Exercise("05.stop_strings", "stream_text", "Text as it comes", difficulty=4, importance=4, minutes=30)

Pieces = Sequence[bytes]
_LETTERS = "abé€🤖"


def _cut(draw: st.DrawFn, data: bytes) -> Pieces:
    cuts = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=6))})
    return [data[start:end] for start, end in pairwise(cuts)]


@st.composite
def _pieces(draw: st.DrawFn, whole: bool = False) -> Pieces:
    """Draw a text's bytes cut into tokens, perhaps within a character; perhaps the last one is never finished."""
    pieces = _cut(draw, draw(st.text(_LETTERS, min_size=1, max_size=12)).encode())
    unfinished = not whole and len(pieces) > 1 and draw(st.booleans())
    return pieces[:-1] if unfinished else pieces


@st.composite
def _stopped(draw: st.DrawFn) -> tuple[Pieces, list[str]]:
    """Draw stop strings, perhaps one within another, and a text with some of them or their beginnings, cut into tokens."""
    one, other = draw(st.text("ab🤖", min_size=1, max_size=4)), draw(st.text("abc", min_size=1, max_size=2))
    stop = draw(st.sampled_from([[one], [one, other], [other, one], [one, one[1:-1]], [one[1:-1], one]]))
    # None that ends with another: both would be complete at the same letter.
    stop = [mine for mine in stop if mine and not any(mine != its and its and mine.endswith(its) for its in stop)]
    fragments = st.sampled_from(["a", "b", "c", "🤖", *(mine for mine in stop), *(mine[:-1] for mine in stop)])
    return _cut(draw, "".join(draw(st.lists(fragments, min_size=1, max_size=8))).encode()), stop


@dataclass(frozen=True)
class _Run:
    """What an answer did with some tokens.

    Attributes:
        shown: the text that was shown when each token had been taken in; as many as tokens were asked for.
        text: all of it in the end.
        empty: whether an empty text came.
    """

    shown: tuple[str, ...]
    text: str
    empty: bool = False


@stream_text.part(3, "the texts together are the whole text, with no character in halves")
def _characters(answer: Answer) -> None:
    for_all(lambda pieces: _compare(answer, pieces, []), examples=80, pieces=_pieces())


@stream_text.part(
    4,
    "the text ends before the stop string that ends first, wherever tokens are cut, and no token is taken in after it",
)
def _stops(answer: Answer) -> None:
    for_all(lambda drawn: _compare(answer, *drawn), examples=200, drawn=_stopped())


@stream_text.part(3, "all that no stop string can take back is shown at once, before the next token is asked for")
def _at_once(answer: Answer) -> None:
    for_all(lambda pieces: _compare(answer, pieces, [], at_once=True), examples=80, pieces=_pieces(whole=True))
    for_all(lambda drawn: _compare(answer, *drawn, at_once=True), examples=150, drawn=_stopped())


def _run(answer: Callable[[Iterable[bytes], list[str]], Iterable[str]], pieces: Pieces, stop: Sequence[str]) -> _Run:
    told: list[str] = []
    shown: list[str] = []

    def tokens() -> Iterator[bytes]:
        for piece in pieces:
            yield piece
            shown.append("".join(told))

    texts = answer(tokens(), list(stop))
    if not isinstance(texts, Iterable) or isinstance(texts, str):
        raise WrongAnswer("no-texts", f"stream_text has to yield texts, and returned {texts!r:.60}")
    for text in texts:
        if not isinstance(text, str):
            raise WrongAnswer("no-texts", f"texts were expected, and {text!r:.60} came")
        told.append(text)
    # A token counts as taken in when the next one is asked for, or when the answer ends.
    return _Run((*shown, "".join(told)), "".join(told), "" in told)


def _compare(answer: Answer, pieces: Pieces, stop: list[str], *, at_once: bool = False) -> None:
    def stream_text(pieces: Pieces, stop: list[str]) -> _Run:
        return _run(answer, pieces, stop)

    stream_text.__qualname__ = "stream_text"
    right, got = _run(_Sketch(), pieces, stop), call(stream_text, list(pieces), stop)
    wrong_text = got.text != right.text
    if not wrong_text and (not at_once or got.shown == right.shown) and len(got.shown) == len(right.shown):
        if got.empty and at_once:
            raise WrongAnswer(
                "empty-texts", "an empty text was yielded; what is sent to a client should bring something"
            )
        return
    # How much is shown when may differ in many ways; what the text is in the end tells the mistakes about it apart.
    same = (lambda one, other: one == other) if at_once and not wrong_text else _ends_alike
    mistake = recognise(stream_text, _MISTAKES, [*_INPUTS, (pieces, stop)], same)
    name = mistake.name if mistake else "other-text" if wrong_text else "other-times"
    why = mistake.why if mistake else "go through the tokens in the table"
    said = f"tokens {[*pieces]}, stop {stop}: {why}"
    if wrong_text:
        said += f". In the end {right.text!r} was expected, and {got.text!r} came"
    raise WrongAnswer(name, said, _table(pieces, right, got))


def _ends_alike(one: _Run, other: _Run) -> bool:
    return one.text == other.text and len(one.shown) == len(other.shown)


def _table(pieces: Pieces, right: _Run, got: _Run) -> Table:
    rows: list[list[Cell | str]] = []
    for place in range(max(len(right.shown), len(got.shown))):
        token = repr(pieces[place]) if place < len(pieces) else "no more"
        theirs, mine = (repr(run.shown[place]) if place < len(run.shown) else "-" for run in (right, got))
        rows.append([token, theirs, Cell(mine, "right" if mine == theirs else "wrong")])
    return Table("What is shown after each token", ["token", "expected", "yours"], rows)


@dataclass(frozen=True)
class _Sketch:
    """Streaming; each default is right, each other value is a mistake that people make."""

    decode: str = "as they come"  # or each token "replace" or "ignore"
    last_character: bool = True
    look_in: str = "all"  # or the "piece"
    hold: str = "what may stop"  # or "nothing", "everything", "a fixed number"
    give_back: bool = True
    keep: bool = False
    first: str = "to end"  # or "to begin", "of the list"
    ends: bool = True

    def __call__(self, pieces: Iterable[bytes], stop: Sequence[str]) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text, shown = "", 0
        for piece in pieces:
            new = decoder.decode(piece) if self.decode == "as they come" else piece.decode("utf-8", self.decode)
            text += new
            cut = self._find(text, len(text) - len(new) if self.look_in == "piece" else 0, stop)
            if cut is not None:
                if cut > shown:
                    yield text[shown:cut]
                if not self.ends:
                    for _ in pieces:
                        pass
                return
            free = max(shown, len(text) - self._held(text, stop))
            if free > shown:
                yield text[shown:free]
                shown = free
        rest = text[shown:] if self.give_back else ""
        last = decoder.decode(b"", final=True) if self.last_character and self.decode == "as they come" else ""
        if rest + last:
            yield rest + last

    def _find(self, text: str, start: int, stop: Sequence[str]) -> int | None:
        """Return how long the text is when it is cut at a stop string; None where there is none."""
        found = [(text.find(one, start), one) for one in stop]
        found = [(place, one) for place, one in found if place >= 0]
        if not found:
            return None
        order = {"to end": lambda one: one[0] + len(one[1]), "to begin": lambda one: one[0], "of the list": lambda _: 0}
        place, one = min(found, key=order[self.first])
        return place + (len(one) if self.keep else 0)

    def _held(self, text: str, stop: Sequence[str]) -> int:
        if self.hold == "a fixed number":
            return max((len(one) for one in stop), default=1) - 1
        if self.hold == "what may stop":
            sizes = (size for one in stop for size in range(1, len(one)) if text.endswith(one[:size]))
            return max(sizes, default=0)
        return len(text) if self.hold == "everything" else 0


def _with(**mistake: str | bool) -> Callable[[Pieces, Sequence[str]], _Run]:
    sketch = replace(_Sketch(), **mistake)  # type: ignore[arg-type]  # each mistake names a field of its own
    return lambda pieces, stop: _run(sketch, pieces, stop)


_ROBOT = "🤖".encode()
_INPUTS: list[tuple[Pieces, list[str]]] = [
    ([b"a", _ROBOT[:2], _ROBOT[2:], b"b"], []),
    ([b"a", "é".encode()[:1]], []),
    ([b"xa", b"a", b"by", b"z"], ["ab"]),
    ([b"xab", b"y"], ["ab"]),
    ([b"xabcdy", b"z"], ["abcd", "bc"]),
    ([b"xcab", b"z"], ["ab", "c"]),
    ([b"x", b"ya"], ["ab"]),
    ([b"xyza", b"b", b"cab"], ["abb", "q"]),
    ([b"xx" + _ROBOT, b"xx"], [_ROBOT.decode() + "y"]),
]
_MISTAKES = [
    Mistake(
        "half-characters",
        "each token was decoded alone: a character of several bytes may come in several tokens, and halves of it are shown",
        _with(decode="replace"),
    ),
    Mistake(
        "loses-characters",
        "bytes that are no character yet were thrown away, and the rest of it came with the next token",
        _with(decode="ignore"),
    ),
    Mistake(
        "end-lost",
        "the text ends within a character; it is decoded as one replacement character (U+FFFD), as the whole would be",
        _with(last_character=False),
    ),
    Mistake(
        "stop-within-a-token",
        "the stop string was looked for in what the newest token brought; it may have begun in an earlier one",
        _with(look_in="piece"),
    ),
    Mistake(
        "leaks-the-stop",
        "the beginning of a stop string was shown before it was known what it would become",
        _with(hold="nothing"),
    ),
    Mistake("keeps-the-stop", "the stop string is no part of the text", _with(keep=True)),
    Mistake(
        "first-of-the-list",
        "several stop strings were completed at once; the one that ended first counts, wherever it stands in the list",
        _with(first="of the list"),
    ),
    Mistake(
        "first-to-begin",
        "several stop strings were completed at once; had the text come letter by letter, the one that ends first had stopped it",
        _with(first="to begin"),
    ),
    Mistake(
        "held-back-lost",
        "what was held back never became a stop string; when no token follows it is text like any other",
        _with(give_back=False),
    ),
    Mistake(
        "goes-on",
        "the text went on behind the stop string; the engine computes tokens that nobody will see",
        _with(ends=False),
    ),
    Mistake(
        "waits-for-the-end",
        "nothing was shown before the last token had come: that is no stream",
        _with(hold="everything"),
    ),
    Mistake(
        "holds-too-much",
        "as much was held back as the longest stop string could need; this text can't become one any more, so show it",
        _with(hold="a fixed number"),
    ),
]
