"""What else DeepSpeed offers: each feature in two sentences, and a run that tries it on this machine.

`python -m course_lib.training.features --out FILE` tries all of them and writes what came out; `recorded(path)` reads it back.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from course_lib.machine import Tier
from course_lib.machine.first_build import comm_op_path
from course_lib.machine.record import provenance, read_record
from course_lib.training.launch import LaunchError, launch

_RUNS = "course_lib.training.feature_runs"
_BLOGS = "https://github.com/deepspeedai/DeepSpeed/blob/master/blogs"


@dataclass(frozen=True)
class Feature:
    """One of DeepSpeed's features.

    Attributes:
        name: what `try_feature` takes.
        what: what it does.
        when: when to reach for it.
        source: the paper, or DeepSpeed's own page on it.
        tiers: the tiers that it is made for.
        ranks: how many ranks a trial needs.
        live: whether a trial is done in seconds on the CPU tier; the others compile first, or say only why they can't.
    """

    name: str
    what: str
    when: str
    source: str
    tiers: tuple[Tier, ...]
    ranks: int = 1
    live: bool = False

    def run(self, timeout: float = 60) -> "Outcome":
        """Try it; see `try_feature`."""
        return try_feature(self.name, timeout)


@dataclass(frozen=True)
class Outcome:
    """What trying a feature gave.

    Attributes:
        name: the feature.
        worked: whether it did what it is for.
        text: what was measured, or why it did not work, in a sentence.
        seconds: of the trial, without the start of its processes.
    """

    name: str
    worked: bool
    text: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.name}: {'' if self.worked else 'not here; '}{self.text}"


FEATURES: list[Feature] = [
    Feature(
        name="offload_states",
        what="Moves weights, gradients and the optimizer's state of a live engine to the host, and `reload_states` brings"
        " them back. Training goes on as if nothing had been.",
        when="When trainer and vLLM take turns on one GPU: the trainer's state leaves before generation, and vLLM sleeps"
        " while the trainer works.",
        source="https://deepspeed.readthedocs.io/en/latest/zero3.html#offload-states",
        tiers=("gpu", "cpu"),
        live=True,
    ),
    Feature(
        name="autotp",
        what="Splits each layer's matrices over the ranks (tensor parallelism) by reading the Hugging Face model, with no"
        " change to its code. It combines with ZeRO 1 and 2.",
        when="When one layer's activations or weights are too large for one GPU, and the GPUs of a host are well"
        " connected: it communicates in every layer.",
        source=f"{_BLOGS}/huggingface-tp/README.md",
        tiers=("gpu", "cpu"),
        ranks=2,
        live=True,
    ),
    Feature(
        name="deepcompile",
        what="Compiles the model with ZeRO's gathers and reductions inside the graph, so that the compiler can move them"
        " apart from their use. It decides from measured memory what to prefetch and what to keep.",
        when="When ZeRO-3 on several GPUs waits for communication, and the shapes stay the same long enough to pay for"
        " minutes of compiling.",
        source="Tanaka et al. 2025, DeepCompile, arXiv 2504.09983",
        tiers=("gpu",),
    ),
    Feature(
        name="zenflow",
        what="Offloads the optimizer, but applies the columns of the gradient that matter most at once on the GPU. The host"
        " adds up the rest and applies it every few steps, beside the next forward passes.",
        when="When the optimizer has to live on the host and the GPU stands idle for it, and you accept updates that come"
        " late for the small gradients.",
        source="Lan et al. 2025, ZenFlow, arXiv 2505.12242",
        tiers=("gpu", "cpu"),
    ),
    Feature(
        name="superoffload",
        what="Offloads ZeRO-3's optimizer to a process of its own on the host, which starts on gradients as they come. It"
        " takes the step back where clipping or a NaN turns up later, so the result is exact.",
        when="On chips whose CPU and GPU share a fast link (GH200, GB200), where ZeRO-Offload, made for PCIe, leaves the link"
        " unused.",
        source="Lian et al. 2026, SuperOffload, ASPLOS, arXiv 2509.21271",
        tiers=("gpu",),
    ),
    Feature(
        name="muon",
        what="An optimizer that makes each matrix's update orthogonal, from one moment instead of AdamW's two. Embeddings,"
        " norms and heads stay with Adam.",
        when="When the optimizer's memory is what does not fit, or for training from the start, where it is reported to need"
        " fewer steps; to fine-tune a model that Adam trained, measure first.",
        source=f"Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; {_BLOGS}/muon-optimizer/README.md",
        tiers=("gpu", "cpu"),
        live=True,
    ),
]


def try_feature(name: str, timeout: float = 60) -> Outcome:
    """Use a feature on the tiny policy in processes of its own, and return what came out, whatever that is.

    Args:
        name: one of `FEATURES`.
        timeout: seconds, the start of the processes and any compiling counted; a first trial may need more.

    Raises:
        ValueError: there is no such feature.
    """
    known = {feature.name: feature for feature in FEATURES}
    if name not in known:
        raise ValueError(f"there is no feature {name!r}; there are {', '.join(known)}.")
    start = time.time() - 1  # a file's time is a little behind the clock's
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "outcome.json"
        try:
            launch(_RUNS, ranks=known[name].ranks, arguments=[name, str(out)], timeout=timeout)
        except (LaunchError, ValueError) as error:  # it died, hung, or there are fewer GPUs than ranks
            _release_builds(start)
            return Outcome(name, False, str(error).split("\n")[0], 0.0)
        return Outcome(name=name, **json.loads(out.read_text()))


def _release_builds(start: float) -> None:
    """Remove the locks of compilations that a trial began and did not end: torch would wait for them for ever."""
    for lock in comm_op_path().parent.parent.glob("*/lock"):
        if lock.stat().st_mtime >= start:
            lock.unlink(missing_ok=True)


def recorded(path: str | Path) -> list[Outcome]:
    """Return the outcomes that another machine's trial wrote.

    Raises:
        FileNotFoundError: there is none.
    """
    found = read_record(path, "python -m course_lib.training.features")
    return TypeAdapter(list[Outcome]).validate_python(found["outcomes"])


def write_outcomes(path: str | Path, outcomes: Iterable[Outcome], command: str, commit: str = "") -> None:
    """Write outcomes with the machine that they come from."""
    record: dict[str, Any] = provenance(command, commit) | {"outcomes": [asdict(outcome) for outcome in outcomes]}
    Path(path).write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    """Try every feature, print what came out, and write the record."""
    parser = argparse.ArgumentParser(description="Try what else DeepSpeed offers on this machine.")
    parser.add_argument("--out", required=True, help="the record to write")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for each feature")
    parser.add_argument("--commit", default="", help="the commit to name, where git is not there to be asked")
    options = parser.parse_args()
    found = []
    for feature in FEATURES:
        found.append(feature.run(options.timeout))
        print(found[-1], flush=True)
    command = f"python -m course_lib.training.features --timeout {options.timeout:g} --out {Path(options.out).name}"
    write_outcomes(options.out, found, command, options.commit)


if __name__ == "__main__":
    main()
