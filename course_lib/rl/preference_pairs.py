"""Preferences by a person: pairs to compare, and the file that keeps every choice at once."""

import json
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import Any

from course_lib.rl.batch import Batch
from course_lib.training.preferences import Preference

Pair = tuple[str, str, str]
"""A question and two answers to it."""


def preference_pairs(samples: Batch | Iterable[Mapping[str, Any]], count: int, seed: int = 0) -> list[Pair]:
    """Return `count` pairs of different completions of one prompt, in random order and with random sides.

    First comes one pair of every prompt, then a second of every prompt that has one, and so on: few comparisons say most where
    they are of different prompts.

    Args:
        samples: a step's batch, or rows with `question` and `completion`, such as those of a run's samples.jsonl.
        count: how many pairs.
        seed: of the choice.

    Raises:
        ValueError: `count` is below 1, or there are fewer pairs than that.
    """
    rows = (
        zip((problem.question for problem in samples.problems), samples.completions, strict=True)
        if isinstance(samples, Batch)
        else ((row["question"], row["completion"]) for row in samples)
    )
    answers: dict[str, list[str]] = {}
    for question, text in rows:
        if text.strip() and text not in answers.setdefault(question, []):
            answers[question].append(text)
    rng = random.Random(f"pairs {seed}")
    by_question = [_pairs_of(question, texts, rng) for question, texts in answers.items()]
    rng.shuffle(by_question)
    rounds = range(max(map(len, by_question), default=0))
    found = [pairs[place] for place in rounds for pairs in by_question if place < len(pairs)]
    if not 1 <= count <= len(found):
        raise ValueError(
            f"count is {count}; these samples have {len(found)} pairs of different completions of one prompt. Ask for between 1"
            " and that many, or give samples of more prompts, or sampled at a higher temperature."
        )
    return found[:count]


def _pairs_of(question: str, texts: Sequence[str], rng: random.Random) -> list[Pair]:
    pairs = [(question, a, b) if rng.random() < 0.5 else (question, b, a) for a, b in combinations(texts, 2)]
    rng.shuffle(pairs)
    return pairs


def append_preference(path: str | PathLike[str], preference: Preference) -> None:
    """Add a preference to a file that `training.read_preferences` reads; it is on the disk when this returns.

    Raises:
        OSError: the file can't be written. It is as it was.
    """
    append_line(path, asdict(preference))


def append_line(path: str | PathLike[str], record: Mapping[str, Any]) -> None:
    """Add an object to a file of JSON lines, whole or not at all; a last line that a crash has cut off is dropped.

    Raises:
        OSError: the file can't be written. It is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        before = file.read()
        end = len(before) - len(_torn(before))
        lead = "" if before[:end].endswith(b"\n") or not end else "\n"
        try:
            file.truncate(end)
            file.write(f"{lead}{json.dumps(record, ensure_ascii=False)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, end)
            raise


def remove_line(path: str | PathLike[str], record: Mapping[str, Any]) -> None:
    """Take the last line that holds this object out of a file of JSON lines; a crash leaves the old file or the new one.

    Raises:
        OSError: the file can't be written. It is as it was.
    """
    path = Path(path)
    lines = path.read_text(encoding="utf-8").split("\n")
    place = max((at for at, line in enumerate(lines) if line.strip() and json.loads(line) == record), default=None)
    if place is not None:
        draft = path.with_name(path.name + ".partial")
        draft.write_text("\n".join(lines[:place] + lines[place + 1 :]), encoding="utf-8")
        draft.replace(path)


def read_lines(path: str | PathLike[str]) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines, without a last line that was cut off; none where there is no file."""
    path = Path(path)
    text = path.read_bytes() if path.is_file() else b""
    whole = text[: len(text) - len(_torn(text))].decode()
    return [json.loads(line) for line in whole.split("\n") if line.strip()]


def _torn(text: bytes) -> bytes:
    """Return the last line where a crash has cut it off; a whole one may lack its line break, in a file edited by hand."""
    last = text[text.rfind(b"\n") + 1 :]
    try:
        return last if last.strip() and not isinstance(json.loads(last), dict) else b""
    except ValueError:
        return last
