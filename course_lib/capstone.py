"""`course capstone`: the notebook's loop with a live view in the terminal."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

RUNS = Path("runs")


def newest_folder() -> Path:
    """Return the run in `runs/` that was written to last, or `runs/capstone` where there is none."""
    from course_lib.grading.report import (
        newest_run,  # with it comes Hypothesis, a second that a fresh run need not wait
    )

    return newest_run(RUNS) or RUNS / "capstone"


def run_capstone(policy: str, steps: int | None, seed: int, run: Path | None, resume: bool) -> int:
    """Run the capstone, show it as it goes, and say where everything is. Return the exit status."""
    console = Console(stderr=True)
    with console.status("Starting DeepSpeed and vLLM (about half a minute) ..."):
        try:
            from course_lib.models import PolicyError
            from course_lib.rl import capstone, errors, free_folder
            from course_lib.rl.run_folder import saved_decisions
            from course_lib.rl.summary import summarize
            from course_lib.viz import TerminalView, run_figure

            folder = run or (newest_folder() if resume else free_folder(RUNS, "capstone"))
            before = saved_decisions(folder, resume)  # before the engines start, which takes a while
            if before is not None:
                steps, seed = steps or before["steps"], before["seed"]
            loop = capstone.make_loop(policy, folder, capstone.recipe(steps, seed), resume)
        except (PolicyError, *errors.ALL, ValueError) as error:
            print(error, file=sys.stderr)
            return 1
    console.print(f"{loop!r}\n", markup=False, highlight=False)
    start = time.perf_counter()
    try:
        records = loop.run(TerminalView(history=loop.records()))
    except errors.ALL as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    summary = summarize(records, time.perf_counter() - start)
    finished = loop.completed == loop.config.steps
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    run_figure(records, folder / "plot.png")
    if finished:
        loop.export()
    _report(folder, summary)
    if not finished:
        print(
            f"\nThe run stopped before its end. Go on with: course capstone --policy {policy} --run {folder} --resume"
        )
    return 0


def _report(folder: Path, summary: dict[str, Any]) -> None:
    held_out, receipts, seconds = summary["held_out"], summary["receipts"], summary["seconds"]
    print(
        f"\nheld-out accuracy {held_out['first']:.2f} -> {held_out['last']:.2f} in {summary['steps']} steps and"
        f" {seconds['run']:.0f} s; {receipts['clean']} of {receipts['all']} weight syncs with a clean receipt; at most"
        f" {summary['peak_memory']['host']:.1f} GiB of memory\n"
    )
    places = {"metrics": "metrics.jsonl", "samples": "samples.jsonl", "plot": "plot.png", "summary": "summary.json"}
    if (folder / "policy").exists():
        places["policy"] = "policy (a Hugging Face model folder: load it in vLLM or transformers)"
    for name, place in places.items():
        print(f"  {name:<8} {folder / place}")
