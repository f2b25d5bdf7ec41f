"""A scheduler of the learner's beside the course's, which is vLLM's step by step: who computes what, on the same requests."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from course_lib.grading.exercise import WrongAnswer
from course_lib.grading.judge import call
from course_lib.paged_attention import PagedKVManager
from course_lib.scheduling import Request, Scheduler, SchedulerConfig

Make = Callable[[SchedulerConfig, PagedKVManager], Scheduler]
_SIZE, _LONGEST, _MOST_STEPS = 4, 40, 400


@dataclass(frozen=True)
class Traced:
    """Requests, and what they run on.

    Attributes:
        config: the limits.
        blocks: in the pool.
        caching: whether requests share blocks.
        arrivals: of each request, the step before which it comes, its prompt, and how many tokens it makes.
    """

    config: SchedulerConfig
    blocks: int
    caching: bool
    arrivals: tuple[tuple[int, tuple[int, ...], int], ...]

    @classmethod
    def draw(cls, seed: int, *, small: bool, shared: bool = False, chunks: bool = True, places: int = 8) -> "Traced":
        """Draw requests.

        Args:
            seed: the same seed gives the same ones.
            small: a pool in which they have to give way to one another.
            shared: beginnings in common, and a prefix cache.
            chunks: a budget that is less than the prompts.
            places: requests that run at once.
        """
        chance = random.Random(seed)
        budget = chance.randint(places, 20) if chunks else 512
        config = SchedulerConfig(max_num_batched_tokens=budget, max_num_seqs=places, max_model_len=_LONGEST)
        beginning = [chance.randint(0, 2) for _ in range(_LONGEST)]
        arrivals, step = [], 0
        for place in range(chance.randint(2, 7)):
            length = chance.randint(1, 24)
            begins = chance.randint(0, length) if shared else 0
            own = [100 * (place + 1) + position for position in range(length - begins)]
            arrivals.append((step, (*beginning[:begins], *own), chance.randint(1, 12)))
            step += chance.choice([0, 0, 1, 4]) if chunks else 0
        blocks = _LONGEST // _SIZE + (chance.randint(0, 3) if small else 60)
        return cls(config, blocks, shared, tuple(arrivals))

    def start(self, make: Make) -> Scheduler:
        """Return a scheduler for these requests, without any yet."""
        return call(make, self.config, PagedKVManager(self.blocks, _SIZE, self.caching))

    def add(self, scheduler: Scheduler, step: int) -> None:
        """Add the requests that come before this step."""
        for place, (comes, prompt, makes) in enumerate(self.arrivals):
            if comes == step:
                scheduler.add_request(Request("ABCDEFG"[place], prompt, makes, (), 0, float(place)))

    def __str__(self) -> str:
        lengths = ", ".join(
            f"{'ABCDEFG'[place]} before step {comes}: {len(prompt)} + {makes} tokens"
            for place, (comes, prompt, makes) in enumerate(self.arrivals)
        )
        config = self.config
        return f"budget {config.max_num_batched_tokens}, {config.max_num_seqs} places, {self.blocks} blocks of {_SIZE}, {lengths}"


def steps(make: Make, trace: Traced, most: int = _MOST_STEPS) -> list[dict[str, object]]:
    """Run a scheduler, and return what each step looked like; it ends after `most` steps, finished or not."""
    scheduler = trace.start(make)
    last = max(comes for comes, _, _ in trace.arrivals)
    found: list[dict[str, object]] = []
    for step in range(most):
        trace.add(scheduler, step)
        if step > last and not scheduler.requests:
            break
        output = call(scheduler.schedule)
        plan = getattr(output, "num_scheduled_tokens", None)
        if plan is None:
            raise WrongAnswer("no-output", f"schedule() returned {output!r}; expected a SchedulerOutput")
        running = [request.request_id for request in scheduler.running]
        found.append(
            {
                "plan": list(plan.items()),
                "preempted": sorted(output.preempted),
                "running": running,
                "waiting": [request.request_id for request in scheduler.waiting],
                "computed": {name: request.num_computed_tokens for name, request in scheduler.requests.items()},
                "tables": {name: _table(scheduler, name) for name in running},
            }
        )
        known = [scheduler.requests[name] for name in plan if name in scheduler.requests]
        done = [one.request_id for one in known if one.num_computed_tokens == one.num_tokens]
        scheduler.update(dict.fromkeys(done, 1000 + step))
    return found


def _table(scheduler: Scheduler, name: str) -> list[int]:
    try:
        return scheduler.kv_manager.table(name)
    except ValueError:  # it runs without slots
        return []


def difference(make: Make, trace: Traced) -> str:
    """Return in words where a scheduler parts from vLLM's; empty where it does not."""
    right = steps(Scheduler, trace)
    got = steps(make, trace, len(right) + 1)
    for number, (theirs, mine) in enumerate(zip(right, got, strict=False)):
        for key, value in theirs.items():
            if mine[key] != value:
                return f"{trace}. Step {number}, {key}: {value} expected, {mine[key]} came"
    if len(got) != len(right):
        return f"{trace}. All requests end after {len(right)} steps, and here they do not"
    return ""
