"""The benchmarks in a terminal: `course bench ...`."""

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
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
    plot: Path | None,
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
    size = f"--requests {workload.requests} --longest {workload.longest} --rounds {rounds}"
    command = f"course bench serve --policy {policy} --engines {','.join(engines)} {size}"
    record = provenance(command, commit) | record
    console.print(_table(benchmark.heading(record), benchmark.COLUMNS, benchmark.rows(record)))
    for name, result in record["engines"].items():
        if "error" in result:
            console.print(f"{name}: {result['error']}", style="red", markup=False)
    _write(record, out, plot, console)
    return 1 if any("error" in result for result in record["engines"].values()) else 0


def bench_loop(
    policy: str,
    steps: int | None,
    loops: list[str],
    limit: float,
    out: Path | None,
    plot: Path | None,
    commit: str,
) -> int:
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
    record = (
        provenance(f"course bench loop --policy {policy} --loops {','.join(loops)} --steps {work.steps}", commit)
        | record
    )
    title = (
        f"{record['model']}: {work.prompts} prompts x {work.samples} samples, {work.max_new_tokens} new tokens at most"
    )
    console.print(_table(title, loop_benchmark.COLUMNS, loop_benchmark.rows(record)))
    if "ratio" in record:
        console.print(f"a step of ours takes {record['ratio']:.2f} of TRL's")
    _write(record, out, plot, console)
    return 1 if any("error" in result for result in record["loops"].values()) else 0


def bench_scale(
    policy: str,
    ranks: str,
    stages: str,
    changes: Mapping[str, Any],
    weak: bool,
    limit: float,
    out: Path | None,
    plot: Path | None,
    commit: str,
) -> int:
    """Measure the loop on one rank and on several, print a table, write the record; return the exit status.

    `changes` are what `ScaleWork` is to have instead of the tier's own numbers; None changes nothing.
    """
    machine.prepare()
    from course_lib.rl import scale_benchmark

    console = Console()
    usual = scale_benchmark.CPU_WORK if machine.tier() == "cpu" else scale_benchmark.GPU_WORK
    begin = time.perf_counter()
    try:
        work = replace(usual, **{name: value for name, value in changes.items() if value is not None})
        record = scale_benchmark.bench_scale(
            _folder(policy),
            work,
            _numbers(ranks),
            _numbers(stages),
            weak=weak,
            limit=limit,
            on_event=lambda event: console.print(f"{time.perf_counter() - begin:5.0f} s  {event}", markup=False),
        )
    except ValueError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    flags = [name for name, on in (("weak", weak), ("sleep", work.sleep), ("offload", work.offload)) if on]
    command = f"course bench scale --policy {policy} --ranks {ranks} --zero {stages} --steps {work.steps}"
    if work.micro_batch_tokens != usual.micro_batch_tokens:
        command += f" --micro-batch-tokens {work.micro_batch_tokens}"
    record = provenance(" ".join([command, *(f"--{flag}" for flag in flags)]), commit) | record
    title = f"{record['model']}: {work.prompts} prompts x {work.samples} samples on one rank"
    console.print(_table(title, scale_benchmark.COLUMNS, scale_benchmark.rows(record)))
    for row in record["rows"]:
        if "error" in row:
            console.print(f"{row['ranks']} ranks, ZeRO-{row['zero_stage']}: {row['error']}", style="red", markup=False)
    _write(record, out, plot, console)
    return 1 if any("error" in row for row in record["rows"]) else 0


def plot_record(path: Path, out: Path) -> int:
    """Draw a record that was written; return the exit status."""
    console = Console()
    try:
        record = json.loads(path.read_text())
        _draw(record, out)
    except (OSError, ValueError) as error:
        console.print(str(error), style="red", markup=False)
        return 2
    console.print(f"drawn in {out}")
    return 0


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} is no list of numbers; give them with commas between, such as 1,2.") from None


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


def _write(record: dict[str, Any], out: Path | None, plot: Path | None, console: Console) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n")
        console.print(f"written to {out}")
    if plot is not None:
        try:
            _draw(record, plot)
        except (OSError, ValueError) as error:  # the record is written: a plot can be made of it later
            console.print(f"no plot: {error}", style="red", markup=False)
        else:
            console.print(f"drawn in {plot}")


def _draw(record: dict[str, Any], out: Path) -> None:
    from course_lib.viz.bench_plots import bench_plot

    figure = bench_plot(record)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
