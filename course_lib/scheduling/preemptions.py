"""What preemptions cost, read off a trace."""

from dataclasses import dataclass

from course_lib.scheduling.trace import Trace


@dataclass(frozen=True)
class Preemptions:
    """The price of too small a pool.

    Attributes:
        count: how often a request lost its blocks.
        lost: tokens whose keys and values had been computed for the victims.
        found: of these, how many their prefix was found to hold when they came back.
        own: how many preempted requests gave way to themselves: they were the last to come, and could not grow.
    """

    count: int
    lost: int
    found: int
    own: int

    @property
    def recomputed(self) -> int:
        """Tokens that were computed again."""
        return self.lost - self.found

    def __str__(self) -> str:
        share = f", {self.found / self.lost:.0%} of them found again in the prefix cache" if self.lost else ""
        return f"{self.count} preemptions, {self.lost} tokens lost{share}"


def preemptions(trace: Trace) -> Preemptions:
    """Return what a run's preemptions cost. A victim that never came back counts as nothing found."""
    computed: dict[str, int] = {}
    gone: dict[str, int] = {}
    count = lost = found = own = 0
    for step in trace.steps:
        for name, reason in step.preempted.items():
            count += 1
            own += name == reason
            gone[name] = computed[name]
            lost += gone[name]
        for name, cached in step.admitted.items():
            found += min(cached, gone.pop(name, 0))
        computed = {name: step.requests[name].computed for name in step.running}
    return Preemptions(count, lost, found, own)
