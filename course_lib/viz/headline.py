"""The README's table of what was measured, made of the records in `results/`, so that the two can't drift apart.

`python -m course_lib.viz.headline` writes it into the README, between two comments.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from course_lib.machine.record import RESULTS

README = RESULTS.parent / "README.md"
_BEGIN = "<!-- Made of results/ by: python -m course_lib.viz.headline -->"
_END = "<!-- As made of results/ -->"
_BLOCK = re.compile(f"(?<={re.escape(_BEGIN)}\n).*?(?={re.escape(_END)})", re.DOTALL)
_HEAD = "| what | on | measured | beside | record, and what repeats it |\n|---|---|---|---|---|\n"

Record = dict[str, Any]
Row = tuple[str, str, str]
"""What was measured, the figures, and what they are beside."""


def headline(results: Path = RESULTS) -> str:
    """Return the table, in Markdown. A record that is not there has no row, nor has a part of one that failed."""
    return _HEAD + "".join(_lines(results))


def into_readme(text: str, table: str) -> str:
    """Return a README with the table in its place.

    Raises:
        ValueError: the two comments between which it belongs are not there.
    """
    if not _BLOCK.search(text):
        raise ValueError(f"the README has no place for the table: expected the lines {_BEGIN!r} and {_END!r}.")
    return _BLOCK.sub(lambda _: table, text)


def _lines(results: Path) -> Iterator[str]:
    for name, rows in _RECORDS.items():
        file = results / f"{name}.json"
        if file.is_file():
            record = json.loads(file.read_text())
            where = (record.get("machine") or record["summary"]["machine"])["machine"]
            for what, measured, beside in rows(record):
                source = f"[{name}](results/{file.name}), `{record['command']}`"
                yield f"| {what} | {where} | {measured} | {beside} | {source} |\n"


def _serving(model: str) -> Callable[[Record], Iterator[Row]]:
    def rows(record: Record) -> Iterator[Row]:
        engines = {name: found for name, found in record["engines"].items() if "tokens_per_second" in found}
        if "ours" not in engines:
            return
        ours = engines["ours"]
        measured = f"ours {ours['tokens_per_second']:,.0f} tokens/s, {_percent(ours['of_floor'])} of the floor's"
        others = [
            f"{_name(name, found)} {found['tokens_per_second']:,.0f}"
            for name, found in engines.items()
            if name != "ours"
        ]
        if "vllm" in engines:
            others.append(f"ours is {ours['tokens_per_second'] / engines['vllm']['tokens_per_second']:.2f} of vLLM")
        yield f"serving {model}, {record['workload']['requests']} requests", measured, "; ".join(others)

    return rows


def _loop(record: Record) -> Iterator[Row]:
    steps = {name: found["step"] for name, found in record["loops"].items() if "step" in found}
    if "ours" not in steps:
        return
    work = record["work"]
    beside = f"TRL {steps['trl']:.2f} s: ours takes {steps['ours'] / steps['trl']:.2f} of it" if "trl" in steps else ""
    measured = f"ours {steps['ours']:.2f} s" + (
        f", with our engine {steps['engine']:.2f} s" if "engine" in steps else ""
    )
    yield f"a step of the loop, {work['prompts']} prompts x {work['samples']}", measured, beside


def _scale(model: str) -> Callable[[Record], Iterator[Row]]:
    def rows(record: Record) -> Iterator[Row]:
        for row in record["rows"]:
            if "step" not in row:
                continue
            kind = "" if row["ranks"] == 1 else {"strong": ", work shared", "weak": ", work each"}[row["scaling"]]
            what = f"a step on {row['ranks']} GPU{'s' * (row['ranks'] > 1)}{kind}: {model}, ZeRO-{row['zero_stage']}"
            measured = f"{row['step']:.2f} s; {row['memory']['most']:.0f} GiB at most, {row['memory']['train']:.0f} in training"
            shown = row["ranks"] > 1 and "efficiency" in row
            beside = f"{_percent(row['efficiency'])} of perfect scaling; " if shown else ""
            sync = row["sync"]
            yield (
                what,
                measured,
                f"{beside}sync {sync['bytes_per_second'] / 1e9:.0f} GB/s, {_percent(sync['of_copy'])} of a copy",
            )

    return rows


def _capstone(record: Record) -> Iterator[Row]:
    found = record["summary"]
    accuracy, receipts, seconds = found["held_out"], found["receipts"], found["seconds"]["a_step"]["step"]
    learned = f"held out {accuracy['first']:.2f}, {accuracy['best']:.2f} at best, {accuracy['last']:.2f} at the end"
    beside = f"{receipts['clean']} of {receipts['all']} receipts clean"
    yield "the capstone", f"{learned}; {found['steps']} steps of {seconds:.2f} s", beside


def _algorithms(record: Record) -> Iterator[Row]:
    runs = record["runs"]
    first = runs[0]["held_out"][0][-1]
    best = [max(accuracy for *_, accuracy in run["held_out"]) for run in runs]
    minutes = [run["seconds"] / 60 for run in runs]
    clean, steps = sum(run["clean_receipts"] for run in runs), sum(len(run["rewards"]) for run in runs)
    learned = f"held out {first:.2f}, {min(best):.2f} to {max(best):.2f} at best"
    took = f"{min(minutes):.0f} to {max(minutes):.0f} minutes"
    yield f"the capstone, {len(runs)} algorithms", f"{learned}; {took}", f"{clean} of {steps} receipts clean"


_RECORDS: dict[str, Callable[[Record], Iterator[Row]]] = {
    "serve_cpu": _serving("SmolLM2-135M"),
    "serve_smollm2_h200": _serving("SmolLM2-135M"),
    "serve_qwen3_h200": _serving("Qwen3-0.6B's shape"),
    "loop_h200": _loop,
    "algorithms_cpu": _algorithms,
    "capstone_h200": _capstone,
    "capstone_2x_h200": _capstone,
    "scale_smollm2_h200": _scale("SmolLM2-135M"),
    "scale_qwen3_4b_h200": _scale("Qwen3-4B's shape"),
}
"""The records that the README speaks of, in its order."""


def _name(engine: str, found: Record) -> str:
    return f"{'vLLM' if engine == 'vllm' else engine} {found.get('version', '')}".strip()


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.01 else 1}f} %"


def main() -> None:
    """Write the table into the README."""
    README.write_text(into_readme(README.read_text(), headline()))


if __name__ == "__main__":
    main()
