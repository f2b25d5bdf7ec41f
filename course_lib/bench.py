"""The benchmarks in a terminal: `course bench ...`."""

import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from course_lib import machine
from course_lib.kv_cache.cost import MODELS, Hardware, listed_hardware
from course_lib.machine.record import provenance

_RANDOM = re.compile(r"random:(.+)")


def bench_serve(
    policy: str,
    requests: int | None,
    longest: int | None,
    rounds: int,
    engines: list[str],
    limit: float,
    out: Path | None,
    commit: str,
) -> int:
    """Measure the engines side by side, print a table, write the record; return the exit status."""
    machine.prepare()
    from course_lib.serving import benchmark

    console = Console()
    cpu = machine.tier() == "cpu"
    workload = benchmark.CPU_WORKLOAD if cpu else benchmark.GPU_WORKLOAD
    try:
        if requests is not None:
            workload = replace(workload, requests=requests)
        if longest is not None:
            workload = replace(workload, longest=longest, shortest=min(workload.shortest, longest))
        folder = _folder(policy)
        begin = time.perf_counter()
        with console.status("measuring"):  # a line an event as well: a log shows no spinner
            record = benchmark.bench_serve(
                folder,
                workload,
                _hardware(),
                engines=engines,
                rounds=rounds,
                limit=limit,
                on_event=lambda event: console.print(f"{time.perf_counter() - begin:5.0f} s  {event}", markup=False),
            )
    except ValueError as error:
        console.print(f"[red]{error}[/]")
        return 2
    command = f"course bench serve --policy {policy} --requests {workload.requests} --longest {workload.longest} --rounds {rounds}"
    record = provenance(command, commit) | record
    console.print(_table(benchmark.heading(record), benchmark.COLUMNS, benchmark.rows(record)))
    for name, result in record["engines"].items():
        if "error" in result:
            console.print(f"{name}: {result['error']}", style="red", markup=False)
    _write(record, out, console)
    return 1 if any("error" in result for result in record["engines"].values()) else 0


def bench_loop(policy: str, steps: int | None, loops: list[str], limit: float, out: Path | None, commit: str) -> int:
    """Measure the loops one after the other, print a table, write the record; return the exit status."""
    machine.prepare()
    from course_lib.rl import loop_benchmark

    console = Console()
    work = loop_benchmark.CPU_WORK if machine.tier() == "cpu" else loop_benchmark.GPU_WORK
    begin = time.perf_counter()
    try:
        work = work if steps is None else replace(work, steps=steps)
        record = loop_benchmark.bench_loop(
            _folder(policy),
            work,
            loops,
            limit,
            on_event=lambda event: console.print(f"{time.perf_counter() - begin:5.0f} s  {event}", markup=False),
        )
    except ValueError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    record = provenance(f"course bench loop --policy {policy} --steps {work.steps}", commit) | record
    title = (
        f"{record['model']}: {work.prompts} prompts x {work.samples} samples, {work.max_new_tokens} new tokens at most"
    )
    console.print(_table(title, loop_benchmark.COLUMNS, loop_benchmark.rows(record)))
    if "ratio" in record:
        console.print(f"a step of ours takes {record['ratio']:.2f} of TRL's")
    _write(record, out, console)
    return 1 if any("error" in result for result in record["loops"].values()) else 0


def _folder(policy: str) -> Path:
    """Return a policy's folder; `random:NAME` is one in the shape of a known model."""
    from course_lib.models import PolicyError, load_policy
    from course_lib.serving.random_model import random_model

    named = _RANDOM.fullmatch(policy)
    if named is None:
        try:
            return load_policy(policy)
        except PolicyError as error:
            raise ValueError(str(error)) from error
    if named[1] not in MODELS:
        raise ValueError(f"no shape {named[1]!r}; a random model is one of {', '.join(MODELS)}.")
    return random_model(MODELS[named[1]])


def _hardware() -> Hardware:
    """Return the data sheet's speeds of a GPU that it lists, and measured ones of any other machine."""
    import torch

    from course_lib.kv_cache.measure import measure_hardware

    listed = listed_hardware(torch.cuda.get_device_name()) if machine.device() == "cuda" else None
    return listed or measure_hardware(machine.device(), torch.bfloat16)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _write(record: dict[str, Any], out: Path | None, console: Console) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n")
        console.print(f"written to {out}")
