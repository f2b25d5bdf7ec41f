"""A step ahead: plan the next step while this one's tokens are still being computed."""

from collections.abc import Callable, Iterable

from course_lib.scheduling.request import Request
from course_lib.scheduling.scheduler import Scheduler


class AsyncScheduler(Scheduler):
    """A `Scheduler` that can plan a step before it was told the tokens of the one before it.

    A plan needs to know how many tokens a request has, and not which. So after a step was launched, `expect` counts the token
    that it will bring to each request, and `schedule` goes on from there, while the device still works: the host's time and
    the device's overlap instead of adding up. Two things are not known in advance. A stop token is found one step late: its
    request is in one step more, whose token nobody takes in. And a block's hash needs its tokens, so the prefix cache learns
    of a block one step later. The lengths at which requests end are known, and nothing is computed beyond them.

    As vLLM's `AsyncScheduler` does (vllm/v1/core/sched/async_scheduler.py), with its placeholders.
    """

    def expect(self, request_ids: Iterable[str]) -> None:
        """Count on a token of each of these, which a step that was launched will bring."""
        for request_id in request_ids:
            self.requests[request_id].expect()

    def _behind(self, request: Request) -> int:
        if request.num_in_flight and request.is_full(self.config.max_model_len):
            return 0  # its last token is on its way
        return super()._behind(request)


def planning_ahead(scheduler: Callable[..., Scheduler]) -> Callable[..., Scheduler]:
    """Return a scheduler's kind that plans ahead: ours has one.

    Raises:
        ValueError: this one can't.
    """
    if scheduler is Scheduler:
        return AsyncScheduler
    if isinstance(scheduler, type) and issubclass(scheduler, AsyncScheduler):
        return scheduler
    raise ValueError(
        f"async_scheduling needs a scheduler that plans ahead, and {scheduler!r} is no AsyncScheduler: derive it from that, or "
        "leave async_scheduling out."
    )
