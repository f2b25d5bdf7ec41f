"""Folders of runs as the loop writes them, made up."""

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.viz.conftest import measurement, receipt, step
from tests.viz.pictures.conftest import browser, node

__all__ = ["browser", "node"]
LENGTH = 12


def clock_of(number: int, start: float, checkpoint: bool) -> tuple[list[list[Any]], list[list[Any]], float]:
    """A step's phases and KV use, from `start`; half a second at its end belongs to nobody."""
    phases = [("generate", 1.3), ("reward", 0.02), ("train", 1.2 + 0.3 * math.sin(number)), ("sync", 0.8)]
    phases += [("evaluate", 0.9), ("checkpoint", 0.6)] if checkpoint else []
    spans, now = [], start
    for name, seconds in phases:
        spans.append([name, round(now, 4), round(now + seconds, 4)])
        now += seconds
    points = 24
    kv = [
        [
            round(start + 1.3 * at / points, 4),
            round(0.8 * math.sin(math.pi * (at + 1) / (points + 1)), 4),
            64 - 2 * at,
            0,
        ]
        for at in range(points)
    ]
    return spans, kv, now + 0.5


def samples_of(number: int, rng: random.Random, prompts: int = 4, each: int = 4) -> dict[str, Any]:
    rows = []
    for prompt in range(prompts):
        right = 10 + prompt
        rewards = [float(rng.random() < 0.2 + 0.01 * number) for _ in range(each)]
        mean = sum(rewards) / each
        deviation = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / each)
        for reward in rewards:
            advantage = (reward - mean) / (deviation + 1e-4) if deviation else 0.0
            text = [
                f"{right - 7}",
                " +",
                " 7",
                " =",
                f" {right if reward else right + 1}",
                "\n\n",
                "That",
                " is",
                " <b>",
                "it",
                ".",
                "<|im_end|>",
            ]
            sampled = [-abs(rng.gauss(0, 0.9)) for _ in text]
            old = [value + rng.gauss(0, 0.03) for value in sampled]
            trained = [value + 0.15 * advantage * rng.random() for value in old]
            seen = bool(deviation)
            tokens = {
                "text": text,
                "sampled": sampled,
                "old": old if seen else [],
                "trained": trained if seen else [],
                "clipped": [int(abs(new - was) > 0.2) for new, was in zip(trained, old, strict=True)] if seen else [],
                "truncated": [int(rng.random() < 0.03) for _ in text] if seen else [],
                "masked": [int(prompt == 3)] * len(text) if seen else [],
            }
            rows.append(
                {
                    "question": f"What is {right - 7}+7? Answer with just the number.",
                    "answer": str(right),
                    "completion": "".join(text[:-1]),
                    "reward": reward,
                    "advantage": advantage,
                    "parts": {"correct": reward, "brief": 0.3},
                    "tokens": tokens,
                }
            )
    return {"step": number, "weight_version": number - 1, "samples": rows}


def write_run(
    folder: Path,
    steps: int = 20,
    *,
    failed: int | None = None,
    refused: int | None = None,
    old: bool = False,
    pace: float = 30.0,
    **sizes: int,
) -> Path:
    """Write the folder of a run.

    Args:
        folder: where.
        steps: how many.
        failed: the step whose receipt fails.
        refused: the step that the trainer refuses.
        old: as runs were before they recorded timelines, KV use and tokens.
        pace: steps in which it learns most of it.
        sizes: `prompts` and `each`, of the samples.
    """
    rng = random.Random(steps)
    folder.mkdir(parents=True)
    config = {"steps": steps, "policy": "smollm2-1", "task": "addition", "prompts_per_step": 4, "samples_per_prompt": 4}
    if not old:
        config["algorithm"] = {"name": "grpo"}
    (folder / "config.json").write_text(json.dumps(config))
    records, samples, now = [measurement(0.4)], [], 3.0
    records[0]["timeline"] = [["evaluate", 1.0, 3.0]]
    for number in range(1, steps + 1):
        done = 1 - math.exp(-number / pace)
        record = step(
            number,
            reward=done * 0.9 + 0.05 * rng.gauss(0, 1),
            entropy=2 - 1.9 * done,
            length=20 - 15 * done,
            mismatch_kl=0.002 * (1 - done),
            clipped=0.02 * rng.random(),
            truncated=0.001,
            masked=0.0,
            ratio_mean=1.0 + 0.003 * rng.gauss(0, 1),
            ratio_min=0.75 + 0.1 * rng.random(),
            ratio_max=1.25 + 0.2 * rng.random(),
            ratio_outside=0.1 * (1 - done),
            grad_norm=1.2 + 0.3 * rng.gauss(0, 1),
            applied=number != refused,
            receipt=receipt(
                number,
                0.05 + 0.01 * rng.random(),
                "stale lm_head: the output matrix is the old one" if number == failed else None,
            ),
        )
        measured = number % 10 == 0 or number == steps
        if measured:
            record["held_out"] = 0.4 + 0.55 * done
        spans, kv, now = clock_of(number, now, measured)
        record |= {"reward_parts": {"correct": record["reward"], "brief": 0.3}, "reward_faults": 0, "sampled_groups": 4}
        record |= {"timeline": spans, "kv": kv}
        records.append(record)
        samples.append(samples_of(number, rng, **sizes))
    if old:
        for record in records:
            for key in ("timeline", "kv", "reward_parts", "reward_faults", "masked", "sampled_groups"):
                record.pop(key, None)
        for line in samples:
            del line["weight_version"]
            for row in line["samples"]:
                del row["tokens"], row["parts"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in samples))
    return folder


@pytest.fixture(scope="session")
def runs() -> SimpleNamespace:
    return SimpleNamespace(write=write_run, samples=samples_of)
