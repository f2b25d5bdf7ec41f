"""One rank of the scaling benchmark: `python -m course_lib.rl.scale_rank JOB`, with a launcher's variables set.

It takes the loop's own steps, and leaves `rank-N.json` beside the job: what each step took, and what was held meanwhile.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from course_lib import machine

machine.prepare()  # which GPU is ours has to be said before torch looks at them

import psutil  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from course_lib.kv_cache.probes import now  # noqa: E402
from course_lib.paged_attention.benchmark import copy_bandwidth  # noqa: E402
from course_lib.rl.capstone import recipe  # noqa: E402
from course_lib.rl.loop import RLLoop  # noqa: E402
from course_lib.rl.problem import Problem  # noqa: E402
from course_lib.rl.progress import NoView  # noqa: E402
from course_lib.rl.rollout import VLLMRollout  # noqa: E402
from course_lib.rl.scale_benchmark import ScaleCase, ScaleWork  # noqa: E402
from course_lib.rl.summary import PHASES  # noqa: E402
from course_lib.rl.tasks import Addition  # noqa: E402
from course_lib.training import PolicyTrainer  # noqa: E402

_NEVER = 1_000_000


def early_letters(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:  # noqa: ARG001  a reward's
    """Return the share of each completion's characters that are in the first half of the alphabet.

    Any text has some, those of random weights too. So every group of samples has a signal, and every step trains on all of
    them: rows differ by their ranks, and not by what the policy happened to know.
    """
    return [sum(character in "abcdefghijklm" for character in text.lower()) / max(1, len(text)) for text in completions]


class TimedRollout(VLLMRollout):
    """The loop's engine; `reloads` are the seconds of each reload, until the GPU is done with it."""

    def __init__(self, folder: str, **options: Any):
        self.reloads: list[float] = []
        super().__init__(folder, **options)

    def reload_weights(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Take the weights, by the clock."""
        begin = _now()
        super().reload_weights(weights)
        self.reloads.append(_now() - begin)


class Held(NoView):
    """Notes what is held at the end of each phase, in bytes: of the whole GPU, or of this process on the CPU tier.

    What torch's allocator takes in a phase it keeps to its end, so that the end shows the phase's peak.

    Attributes:
        held: of each phase, the most so far.
        peak: of torch's tensors on the GPU in any training so far.
    """

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.peak = 0
        self._phase = ""

    def phase(self, name: str) -> None:
        """End the phase before, and begin this one."""
        self.end()
        self._phase = name
        if name == "train" and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def end(self) -> None:
        """End the phase that runs, if one does."""
        if self._phase:
            self.held[self._phase] = max(self.held.get(self._phase, 0), _held())
        if self._phase == "train" and torch.cuda.is_available():
            self.peak = max(self.peak, torch.cuda.max_memory_allocated())
        self._phase = ""


def measure(folder: str, work: ScaleWork, case: ScaleCase, run: Path) -> dict[str, Any]:
    """Take the steps, and return what this rank saw; every rank has to call it.

    Keys: `steps` (of each: `seconds`, `phases`, `tokens` of all ranks' responses, `reload`, `check`, `trained`, `clean`,
    `reward`), `held` (bytes at the end of each phase), `trainer` (on a GPU: peak bytes of its tensors), `bytes` of the weights
    that a sync moves, `copy_bandwidth` (bytes/s, read and written).
    """
    bandwidth = copy_bandwidth(machine.device())
    torch.cuda.empty_cache()  # what was copied is not the loop's
    numbers = recipe(seed=work.seed, algorithm="grpo", ranks=case.ranks)
    config = replace(
        numbers.loop,
        steps=work.steps + 1,  # the last step of a run measures accuracy: it is never taken
        prompts_per_step=case.prompts(work),
        samples_per_prompt=work.samples,
        max_new_tokens=work.max_new_tokens,
        evaluate_every=_NEVER,
    )
    trainer = PolicyTrainer(
        folder,
        replace(
            numbers.trainer,
            zero_stage=case.zero_stage,
            micro_batch_tokens=work.micro_batch_tokens,
            offload_optimizer=work.offload,
        ),
    )
    before = _allocated()
    rollout = TimedRollout(folder, **numbers.rollout, sleep_mode=work.sleep)
    engine_bytes = _allocated() - before
    loop = RLLoop(trainer, rollout, Addition(), run, algorithm="grpo", reward=early_letters, config=config)
    loop.clock.view = held = Held()
    steps = []
    for _ in range(work.steps):
        begin = _now()
        record = loop.step()  # by the step, since a whole run ends with a checkpoint: of 4 billion weights, 56 GB
        held.end()
        steps.append(_seen(record, _now() - begin) | {"reload": rollout.reloads[-1]})
    found = {
        "steps": steps,
        "held": held.held,
        "bytes": sum(weight.nbytes for _, weight in trainer.named_weights()),
        "copy_bandwidth": bandwidth,
    }
    return found | ({"trainer": held.peak - engine_bytes} if torch.cuda.is_available() else {})


def _seen(record: dict[str, Any], seconds: float) -> dict[str, Any]:
    receipt = record["receipt"]
    return {
        "seconds": seconds,
        "phases": {phase: record["seconds"].get(phase, 0.0) for phase in PHASES},
        "tokens": record["tokens"],
        "check": receipt["seconds"]["check"],
        "trained": bool(record.get("applied")),
        "clean": receipt["ok"],
        "reward": record["reward"],
    }


def _held() -> int:
    if not torch.cuda.is_available():
        return int(psutil.Process().memory_info().rss)
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def _now() -> float:
    return now(torch.device(machine.device()))


def _allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def main() -> None:
    """Do the job whose file the command line names."""
    path = Path(sys.argv[1])
    rank = int(os.environ["RANK"])
    job = json.loads(path.read_text())
    found = measure(job["folder"], ScaleWork(**job["work"]), ScaleCase(**job["case"]), path.with_name("run"))
    path.with_name(f"rank-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
