# ruff: noqa: D101, D102  (what each gets wrong stands in its decorator; a stub's names are given)
"""The scheduler that takes short prompts first."""

from course_lib.scheduling import Scheduler
from wrong_answers import wrong

AGEING = 8


class Ranked(Scheduler):
    """A right one, for the wrong ones to spoil."""

    def __init__(self, config, kv_manager):
        super().__init__(config, kv_manager)
        self.step = 0
        self.came = {}

    def add_request(self, request):
        super().add_request(request)
        self.came[request.request_id] = self.step

    def schedule(self):
        self.sort()
        self.step += 1
        return super().schedule()

    def sort(self):
        for request in sorted(self.waiting, key=self.rank):
            self.waiting.remove(request)
            self.waiting.add(request)

    def rank(self, request):
        return request.num_prompt_tokens + AGEING * self.came[request.request_id]


@wrong("08.scheduler", "first-come", "Leaves the queue as it is.")
class FirstCome(Scheduler):
    pass


@wrong("08.scheduler", "longest-first", "Takes the longest prompt first.")
class LongestFirst(Ranked):
    def rank(self, request):
        return -super().rank(request)


@wrong("08.scheduler", "starves", "Takes the shortest prompt first, however long the others wait.")
class Starves(Ranked):
    def rank(self, request):
        return request.num_prompt_tokens


@wrong("08.scheduler", "rewards-the-late", "Takes the age off where it should be added.")
class RewardsTheLate(Ranked):
    def rank(self, request):
        return request.num_prompt_tokens - AGEING * self.came[request.request_id]


@wrong("08.scheduler", "whole-text", "Counts the tokens that were generated, too.")
class WholeText(Ranked):
    def rank(self, request):
        return request.num_tokens + AGEING * self.came[request.request_id]


@wrong("08.scheduler", "ages-anew", "Lets a request that gave way begin to wait anew.")
class AgesAnew(Ranked):
    def _preempt(self, request):
        super()._preempt(request)
        self.came[request.request_id] = self.step


@wrong("08.scheduler", "front-of-the-queue", "Sorts when a request comes, and not when one comes back.")
class SortsOnce(Ranked):
    def add_request(self, request):
        super().add_request(request)
        self.sort()

    def schedule(self):
        self.step += 1
        return Scheduler.schedule(self)


@wrong("08.scheduler", "overtakes", "Lets in whoever fits, past the first one that does not.")
class Overtakes(Ranked):
    def _schedule_waiting(self, output, budget):
        for request in list(self.waiting):
            room = budget and len(self.running) < self.config.max_num_seqs
            if room and not self._admit(request, output, budget):
                budget -= output.num_scheduled_tokens[request.request_id]


@wrong("08.scheduler", "over-budget", "Gives the newcomers a budget of their own.")
class OverBudget(Ranked):
    def _schedule_waiting(self, output, budget):  # noqa: ARG002  that is the mistake
        super()._schedule_waiting(output, self.config.max_num_batched_tokens)


@wrong("08.scheduler", "loses-requests", "Keeps only requests in the queue that never ran.")
class Loses(Ranked):
    def sort(self):
        for request in sorted(self.waiting, key=self.rank):
            self.waiting.remove(request)
            if not request.num_preemptions:
                self.waiting.add(request)
