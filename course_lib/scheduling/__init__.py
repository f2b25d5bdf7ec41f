"""Who runs in the next step: requests, their queue, and vLLM's iteration-level scheduler."""

from course_lib.scheduling.async_scheduler import AsyncScheduler, planning_ahead
from course_lib.scheduling.config import SchedulerConfig
from course_lib.scheduling.queue import WaitingQueue
from course_lib.scheduling.request import IN_FLIGHT, Request, RequestStatus
from course_lib.scheduling.scheduler import Scheduler, SchedulerOutput

__all__ = [
    "IN_FLIGHT",
    "AsyncScheduler",
    "Request",
    "RequestStatus",
    "Scheduler",
    "SchedulerConfig",
    "SchedulerOutput",
    "WaitingQueue",
    "planning_ahead",
]
