"""From logits to the distribution that a token is drawn from: temperature, min-p, top-k, top-p."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from jaxtyping import Bool, Float
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake, recognise
from course_lib.grading.judge import call, for_all
from course_lib.serving.sampler import smallest_kept
from course_lib.viz.tables import Cell, Table

sampling_probs = Exercise(
    "05.sampling", "sampling_probs", "Temperature, top-k, top-p, min-p", difficulty=3, importance=4, minutes=25
)


@dataclass(frozen=True)
class _Asked:
    """What the learner's function is given beside the logits, by name."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


_LOGITS = st.lists(st.integers(-20, 20), min_size=2, max_size=8, unique=True).map(lambda row: [one / 4 for one in row])
_TEMPERATURE = st.sampled_from([1.0, 0.7, 0.5, 2.0])
_OFF = st.sampled_from([0, -1])
_TOP_K = st.integers(1, 9)
_TOP_P = st.sampled_from([0.9, 0.5, 0.7, 0.97, 0.2])
_MIN_P = st.sampled_from([0.1, 0.3, 0.05, 0.6])


@sampling_probs.part(2, "temperature: above 0 the logits are divided by it, 0 takes the likeliest token for sure")
def _temperature(answer: Answer) -> None:
    _judge(answer, st.builds(_Asked, temperature=st.sampled_from([1.0, 0.5, 2.0, 0.0]), top_k=_OFF))


@sampling_probs.part(3, "top-k and min-p, each alone: the k likeliest, and those not too far below the likeliest")
def _simple_cuts(answer: Answer) -> None:
    _judge(answer, st.builds(_Asked, temperature=_TEMPERATURE, top_k=_TOP_K))
    _judge(answer, st.builds(_Asked, temperature=_TEMPERATURE, top_k=_OFF, min_p=_MIN_P))


@sampling_probs.part(3, "top-p alone: the fewest tokens that sum to it or more")
def _top_p(answer: Answer) -> None:
    _judge(answer, st.builds(_Asked, temperature=_TEMPERATURE, top_k=_OFF, top_p=_TOP_P))


@sampling_probs.part(2, "all of them, each on the distribution that the one before it left")
def _together(answer: Answer) -> None:
    _judge(answer, st.builds(_Asked, temperature=_TEMPERATURE, top_k=_TOP_K, top_p=_TOP_P, min_p=_MIN_P))


def _right(logits: Float[Tensor, " vocab"], asked: _Asked) -> Float[Tensor, " vocab"]:
    """Return the course's sampler's distribution; tests hold that to vLLM's."""
    if asked.temperature == 0:
        return torch.eye(len(logits))[logits.argmax()]
    scaled = (logits / asked.temperature)[None]
    top_k = asked.top_k if asked.top_k > 0 else len(logits)
    lowest = smallest_kept(scaled, *(torch.tensor([[one]]).float() for one in (top_k, asked.top_p, asked.min_p)))
    return scaled.masked_fill(scaled < lowest, -torch.inf).softmax(-1)[0]


def _on_an_edge(logits: Tensor, asked: _Asked) -> bool:
    """Whether a hair's breadth decides what is kept: there rounding may decide, and nothing is asked."""
    if asked.temperature == 0:
        return False
    hairs = [
        replace(asked, top_p=min(1.0, asked.top_p * one), min_p=asked.min_p * other)
        for one in (0.999, 1.001)
        for other in (0.999, 1.001)
    ]
    return len({tuple((_right(logits, hair) > 0).tolist()) for hair in hairs if asked.top_p < 1 or hair.top_p >= 1}) > 1


def _same(one: object, other: Tensor) -> bool:
    return (
        isinstance(one, Tensor)
        and one.shape == other.shape
        and torch.allclose(one.float(), other, atol=1e-5, equal_nan=True)
    )


def _judge(answer: Answer, asked: st.SearchStrategy[_Asked]) -> None:
    for_all(lambda logits, asked: _compare(answer, logits, asked), examples=80, logits=_LOGITS, asked=asked)


def _compare(answer: Answer, row: list[float], asked: _Asked) -> None:
    logits = torch.tensor(row)
    if _on_an_edge(logits, asked):
        return
    right, given = _right(logits, asked), logits.clone()
    got = call(answer, given, **vars(asked))
    if not isinstance(got, Tensor) or got.shape != right.shape:
        raise WrongAnswer("other-shape", f"{len(row)} probabilities were expected, in a tensor, and {got!r:.100} came")
    if _same(got, right) and torch.equal(given, logits):
        return
    if not torch.equal(given, logits):
        raise WrongAnswer(
            "changes-the-logits", "the logits that were given are changed now; logprobs are made from them"
        )
    inputs = [(torch.tensor(one), asked) for one in _ROWS for asked in _PROBES]
    mistake = recognise(lambda logits, one: answer(logits, **vars(one)), _MISTAKES, [*inputs, (logits, asked)], _same)
    told = ", ".join(f"{name}={value:g}" for name, value in vars(asked).items())
    table = _table(row, asked, right, got)
    if mistake:
        raise WrongAnswer(mistake.name, f"{told}: {mistake.why}", table)
    if not bool(torch.isfinite(got).all()):
        raise WrongAnswer("not-a-number", f"{told}: {got.tolist()} came; what was divided by 0?", table)
    if abs(float(got.sum()) - 1) > 1e-4:
        raise WrongAnswer("does-not-sum-to-one", f"{told}: the probabilities sum to {float(got.sum()):.3f}", table)
    raise WrongAnswer("other-probs", f"{told}: go through the table by hand, one step after the other", table)


def _table(row: list[float], asked: _Asked, right: Tensor, got: Tensor) -> Table:
    scaled = (torch.tensor(row) / (asked.temperature or 1.0)).softmax(-1)
    order = sorted(range(len(row)), key=lambda token: -row[token])
    rows: list[list[Cell | str]] = [
        [
            str(token),
            f"{row[token]:.2f}",
            f"{float(scaled[token]):.3f}" if asked.temperature else "",
            f"{float(right[token]):.3f}",
            Cell(f"{float(got[token]):.3f}", "right" if abs(got[token] - right[token]) < 1e-5 else "wrong"),
        ]
        for token in order
    ]
    columns = [">token", ">logit", ">after temperature", ">expected", ">yours"]
    return Table("Tokens, the likeliest first", columns, rows)


@dataclass(frozen=True)
class _Sketch:
    """The four steps; each default is right, each other value is a mistake that people make."""

    temperature: Callable[[Tensor, float], Tensor] = lambda logits, temperature: logits / temperature
    temperature_last: bool = False
    top_k_is_on: Callable[[int], bool] = lambda top_k: top_k > 0
    min_p: Callable[[Tensor, float], Bool[Tensor, " vocab"]] = lambda probs, share: probs >= share * probs.max()
    min_p_last: bool = False
    crossing: int = 0
    top_p_of_the_rest: bool = True
    divide: bool = True
    sorted_back: bool = True

    def __call__(self, logits: Tensor, asked: _Asked) -> Tensor:
        if asked.temperature == 0:
            return torch.eye(len(logits))[logits.argmax()]
        scaled = self.temperature(logits, asked.temperature)
        order = scaled.argsort(descending=True)
        ranked = logits[order] if self.temperature_last else scaled[order]
        probs = ranked.softmax(-1)
        kept = torch.ones(len(logits), dtype=torch.bool)
        if not self.min_p_last:
            kept &= self.min_p(probs, asked.min_p)
        if self.top_k_is_on(asked.top_k):
            kept[asked.top_k :] = False
        if asked.top_p < 1:
            left = ranked.masked_fill(~kept, -torch.inf).softmax(-1) if self.top_p_of_the_rest else probs
            before = left.cumsum(-1) - left
            more = int((before < asked.top_p).sum()) + self.crossing
            kept[max(1, more) :] = False
        if self.min_p_last:
            kept &= self.min_p(probs, asked.min_p)
        final = scaled[order].softmax(-1) * kept
        if self.divide:
            final = final / final.sum()
        return final[order.argsort()] if self.sorted_back else final


_chance = random.Random(6)
_ROWS = [[one / 7 for one in _chance.sample(range(-40, 40), size)] for size in (7, 6, 9)]
_PROBES = [
    _Asked(temperature, top_k, top_p, min_p)
    for temperature in (0.6, 4.0)
    for top_k, top_p, min_p in (
        (0, 1.0, 0.0),
        (4, 1.0, 0.0),
        (-1, 1.0, 0.0),
        (0, 0.83, 0.0),
        (0, 1.0, 0.17),
        (3, 0.83, 0.0),
        (0, 0.9, 0.1),
    )
]
_MISTAKES = [
    Mistake(
        "temperature-multiplied",
        "the logits were multiplied by the temperature: a low one has to make the likeliest token likelier",
        _Sketch(temperature=lambda logits, temperature: logits * temperature),
    ),
    Mistake(
        "temperature-has-no-effect",
        "the temperature changes nothing: probabilities that are divided by it and brought to 1 again are what they were",
        _Sketch(temperature=lambda logits, _: logits),
    ),
    Mistake(
        "temperature-last",
        "what is kept was decided before the temperature came in; vLLM divides first, so a high temperature keeps more",
        _Sketch(temperature_last=True),
    ),
    Mistake(
        "min-p-absolute",
        "min_p was compared with the probability itself; it is a share of the likeliest token's",
        _Sketch(min_p=lambda probs, share: probs >= share),
    ),
    Mistake(
        "drops-the-crossing-token",
        "the token with which the sum gets to top_p was dropped: what is left sums to less",
        _Sketch(crossing=-1),
    ),
    Mistake(
        "keeps-one-too-many",
        "one token more was kept than is needed to get to top_p",
        _Sketch(crossing=1),
    ),
    Mistake(
        "top-p-of-the-whole",
        "top-p took its share of all tokens; those that top-k and min-p took out have no part in the sum any more",
        _Sketch(top_p_of_the_rest=False),
    ),
    Mistake(
        "min-p-last",
        "min-p came after top-p; in vLLM it comes before, so what it takes out has no part in top-p's sum",
        _Sketch(min_p_last=True),
    ),
    Mistake(
        "off-is-on",
        "top_k=-1 means that it is off, as 0 does",
        _Sketch(top_k_is_on=lambda top_k: top_k != 0),
    ),
    Mistake("not-divided", "what is left has to sum to 1 again", _Sketch(divide=False)),
    Mistake(
        "sorted-for-good",
        "the probabilities came sorted; each has to stand at its own token's place",
        _Sketch(sorted_back=False),
    ),
]
