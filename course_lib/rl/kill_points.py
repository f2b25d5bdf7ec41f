"""kill -9 at any moment, resume, and compare: `python -m course_lib.rl.kill_points --points 10 --out report.json`.

One run is left alone. Each of the others is killed, at a random time of it or at one of the `MOMENTS` that leave something
half done, and is resumed by a fresh process. Its metrics and samples have to be those of the undisturbed run, every step
once, to the last bit.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Timer
from typing import Any

from course_lib import machine
from course_lib.rl.durable import json_lines
from course_lib.rl.kill_child import MOMENTS, Life

_MEASURED = (
    "seconds",
    "tokens_per_second",
    "peak_memory",
    "timeline",
    "kv",
    "weight_version",
)  # no two runs share these


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        signal: the signal that ended it, None where it ended by itself.
        phase: the phase that the run was in.
        step: the last step that was done; 0 before the first.
        seconds: from the run's start, with both engines up, to the last that was heard of it.
        begun: the second at which each phase began, from the run's start.
    """

    signal: str | None
    phase: str
    step: int
    seconds: float
    begun: tuple[float, ...] = ()

    def place(self, second: float) -> tuple[int, float]:
        """Return how many phases had begun at a second of this run, and how long ago the last one had."""
        count = max(1, bisect_right(self.begun, second))
        return count, second - self.begun[count - 1]


@dataclass(frozen=True)
class Point:
    """A run that was killed and resumed.

    Attributes:
        moment: a name of `MOMENTS`, or a second of the undisturbed run: it was killed at the same place.
        killed: how the first process ended.
        resumed_from: step of the checkpoint that the second process went on from; None where there was none yet.
        differences: where the finished run is not the undisturbed one; empty where nothing was lost.
    """

    moment: str | float
    killed: Ended
    resumed_from: int | None
    differences: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        when = f"at {self.moment:.2f} s" if isinstance(self.moment, float) else self.moment
        begin = "the beginning" if self.resumed_from is None else f"step {self.resumed_from}"
        end = "EQUAL" if not self.differences else f"DIFFERENT: {self.differences[0]}"
        return f"{self.killed.signal} {when} (after step {self.killed.step}, {self.killed.phase}); from {begin}: {end}"


def live(life: Life, log: Path, kill_at: tuple[int, float] | None = None) -> Ended:
    """Run a process through a run, or until it dies.

    Args:
        life: the run.
        log: file for what the engines say.
        kill_at: in which of its phases it gets SIGKILL, counted from 1, and how many seconds after that began; None lets it be.

    Raises:
        RuntimeError: it failed, instead of finishing or being killed.
    """
    start, seconds, step, phase, last = time.perf_counter(), 0.0, 0, "start", ""
    begun: list[float] = []
    place, delay = kill_at or (0, 0.0)
    command = [sys.executable, "-m", "course_lib.rl.kill_child", life.to_json()]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True) as child,
    ):
        timer = Timer(delay, _kill, [child.pid])
        for line in child.stdout or ():
            last, _, word = line.strip().partition(" ")
            if last == "started":
                start = time.perf_counter()
            elif last == "phase":
                phase = word
                begun.append(time.perf_counter() - start)
                if len(begun) == place:
                    timer.start()
            elif last == "step":
                step = int(word)
            seconds = time.perf_counter() - start  # what comes after its last word are the engines that shut down
        code = child.wait()
    timer.cancel()
    if code > 0 or (code == 0 and last != "finished"):
        raise RuntimeError(f"a run ended with exit code {code}:\n{log.read_text()[-3000:]}")
    name = signal.Signals(-code).name if code else None
    return Ended(name, phase, step, round(seconds, 2), tuple(begun))


def kill_and_resume(life: Life, moment: str | float, calm: Life, undisturbed: Ended) -> Point:
    """Kill a run, resume it, and compare it with the undisturbed one.

    Args:
        life: the run; its folder is new.
        moment: a name of `MOMENTS`, or a second of the undisturbed run.
        calm: the undisturbed run.
        undisturbed: how it went.

    Raises:
        RuntimeError: the run has no such moment, or one of its processes failed.
    """
    run = Path(life.run)
    log = run.with_suffix(".log")
    place = None if isinstance(moment, str) else undisturbed.place(moment)
    killed = live(replace(life, moment=moment if isinstance(moment, str) else None), log, place)
    if killed.signal is None:
        if isinstance(moment, str):
            raise RuntimeError(f"the run was to die {moment}, and finished: give it 6 steps or more.")
        shutil.rmtree(run)  # its last phase was faster than the undisturbed run's
        return kill_and_resume(life, round(moment / 2, 2), calm, undisturbed)
    checkpoints = sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step_*") if path.suffix == "")
    live(replace(life, resume=True), log)
    resumed_from = checkpoints[-1] if checkpoints else None
    lost = list(differences(run, Path(calm.run)))
    point = Point(moment, replace(killed, begun=()), resumed_from, lost)
    shutil.rmtree(run / "checkpoints")  # of a large policy they would fill the disk
    return point


def differences(run: Path, undisturbed: Path) -> Iterator[str]:
    """Yield where two runs' records differ, beside what was measured: times, memory, the number of syncs."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        found, wanted = _records(run / name), _records(undisturbed / name)
        steps, expected = ([record["step"] for record in records] for records in (found, wanted))
        if steps != expected:
            yield f"{name} has the steps {steps}, not {expected}"
            continue
        for ours, theirs in zip(found, wanted, strict=True):
            for key in sorted(ours.keys() | theirs.keys()):
                # As text: NaN is equal to itself there.
                if json.dumps(ours.get(key)) != json.dumps(theirs.get(key)):
                    yield f"{name}, step {ours['step']}: {key} is {ours.get(key)!r:.60}, not {theirs.get(key)!r:.60}"


def kill_points(
    policy: str, steps: int, points: int, moments: Sequence[str], folder: Path, seed: int = 0, jobs: int = 1
) -> dict[str, Any]:
    """Kill runs at random times and at chosen moments, resume each, and return the report, JSON-ready.

    Args:
        policy: a name for `load_policy`.
        steps: of each run.
        points: number of random times.
        moments: names of `MOMENTS`.
        folder: where the runs go; new.
        seed: of the random times.
        jobs: runs at the same time.
    """
    folder.mkdir(parents=True)
    calm = Life(str(folder / "undisturbed"), policy, steps)
    undisturbed = live(calm, folder / "undisturbed.log")
    print(f"undisturbed: {steps} steps in {undisturbed.seconds:.1f} s", flush=True)
    rng = random.Random(seed)
    kills: list[str | float] = [round(rng.uniform(0, undisturbed.seconds), 2) for _ in range(points)]
    kills += moments

    def one(number: int) -> Point:
        life = replace(calm, run=str(folder / f"run-{number}"))
        point = kill_and_resume(life, kills[number], calm, undisturbed)
        print(f"{number + 1}/{len(kills)} {point}", flush=True)
        return point

    with ThreadPoolExecutor(jobs) as pool:
        done = list(pool.map(one, range(len(kills))))
    return {
        "what": f"{len(done)} runs of {steps} steps on {policy}, each killed once and resumed, against an undisturbed one",
        "equal": sum(not point.differences for point in done),
        "points": [asdict(point) for point in done],
        "undisturbed": asdict(undisturbed),
        "machine": machine.versions(),
    }


def main() -> int:
    """Read the command line, kill, and write the report; return 1 where a curve differs."""
    parser = argparse.ArgumentParser(
        prog="python -m course_lib.rl.kill_points", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--points", type=int, default=10, help="random times to kill at")
    parser.add_argument(
        "--moments", choices=("all", "none"), default="all", help="also kill at the moments known to be nasty"
    )
    parser.add_argument("--policy", default="tiny")
    parser.add_argument("--steps", type=int, default=6, help="of each run; 6 or more for all moments to come")
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--out", type=Path, default=None, help="the report, as JSON")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        moments = list(MOMENTS) if chosen.moments == "all" else []
        report = kill_points(
            chosen.policy, chosen.steps, chosen.points, moments, Path(place) / "runs", chosen.seed, chosen.jobs
        )
    print(f"{report['equal']} of {len(report['points'])} curves equal")
    if chosen.out is not None:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if report["equal"] == len(report["points"]) else 1


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):  # it ended by itself
        os.killpg(process, signal.SIGKILL)


def _records(file: Path) -> list[dict[str, Any]]:
    records = [record or {"step": "unreadable"} for _, record in json_lines(file)]
    for record in records:
        for name in _MEASURED:
            record.pop(name, None)
        for name in ("seconds", "version"):
            record.get("receipt", {}).pop(name, None)
    return records


if __name__ == "__main__":
    sys.exit(main())
