# ruff: noqa: ARG002, D101, D102  (what each gets wrong stands in its decorator)
"""The whole scheduler."""

from course_lib.scheduling import RequestStatus, Scheduler, SchedulerOutput
from wrong_answers import wrong


class _Right(Scheduler):
    """The right scheduler in small methods, for the wrong ones to be wrong in one place each."""

    def schedule(self):
        self.output, self.budget = SchedulerOutput(), self.config.max_num_batched_tokens
        self.run_on()
        if not self.output.preempted:
            self.let_in()
        self.count()
        return self.output

    def count(self):
        for name, new in self.output.num_scheduled_tokens.items():
            self.requests[name].num_computed_tokens += new

    def run_on(self):
        for request in list(self.running):
            if request in self.running:
                self.grow(request, min(self.behind(request), self.budget))

    def behind(self, request):
        return request.num_tokens - request.num_computed_tokens

    def grow(self, request, new):
        hashes = request.block_hashes(self.kv_manager.block_size)
        while (
            new
            and self.kv_manager.allocate_slots(request.request_id, request.num_computed_tokens + new, hashes) is None
        ):
            victim = self.victim()
            self.budget += self.output.num_scheduled_tokens.pop(victim.request_id, 0)
            self._preempt(victim)
            self.output.preempted[victim.request_id] = request.request_id
            if victim is request:
                return
        self.plan(request, new)

    def victim(self):
        return self.running[-1]

    def plan(self, request, new):
        if new:
            self.output.num_scheduled_tokens[request.request_id] = new
            self.budget -= new

    def let_in(self):
        while self.waiting and self.budget and len(self.running) < self.config.max_num_seqs:
            if not self.begin(self.waiting.first()):
                return

    def begin(self, request):
        manager = self.kv_manager
        hashes = request.block_hashes(manager.block_size)
        hits = self.hits(hashes, request)
        cached = len(hits) * manager.block_size
        new = min(request.num_tokens - cached, self.budget)
        if self.needed(request, cached + new, hits) > manager.pool.num_free_blocks:
            return False
        manager.allocate_slots(request.request_id, cached + new, hashes, hits)
        self.waiting.remove(request)
        self.running.append(request)
        request.status = RequestStatus.RUNNING
        request.num_computed_tokens = request.num_cached_tokens = cached
        self.plan(request, new)
        return True

    def hits(self, hashes, request):
        return self.kv_manager.get_computed_blocks(hashes, request.num_tokens)

    def needed(self, request, chunk, hits):
        return self.kv_manager.num_blocks_needed(request.request_id, request.num_tokens, hits)


@wrong("04.scheduler", "never-counts", "Plans, and does not count the plan as computed.")
class NeverCounts(_Right):
    def count(self):
        pass


@wrong("04.scheduler", "one-token-each", "Gives each running request one token, be its prompt computed or not.")
class OneEach(_Right):
    def behind(self, request):
        return 1


@wrong("04.scheduler", "newcomers-first", "Admits before it plans those who run, as engines with a prefill phase do.")
class NewcomersFirst(_Right):
    def schedule(self):
        self.output, self.budget = SchedulerOutput(), self.config.max_num_batched_tokens
        before = list(self.running)
        self.let_in()
        for request in before:
            if request in self.running:
                self.grow(request, min(self.behind(request), self.budget))
        self.count()
        return self.output


@wrong("04.scheduler", "forgets-places", "Never looks at max_num_seqs.")
class NoPlaces(_Right):
    def let_in(self):
        while self.waiting and self.budget and self.begin(self.waiting.first()):
            pass


@wrong("04.scheduler", "no-chunks", "Lets a prompt wait until the budget has room for all of it.")
class NoChunks(_Right):
    def begin(self, request):
        cached = len(self.hits(request.block_hashes(self.kv_manager.block_size), request)) * self.kv_manager.block_size
        return request.num_tokens - cached <= self.budget and super().begin(request)


@wrong("04.scheduler", "first-victim", "Preempts the request that has run longest.")
class FirstVictim(_Right):
    def victim(self):
        return self.running[0]


@wrong("04.scheduler", "back-of-the-queue", "Sends a victim to the end of the queue.")
class ToTheBack(_Right):
    def _preempt(self, request):
        super()._preempt(request)
        self.waiting.remove(request)
        self.waiting.add(request)


@wrong("04.scheduler", "admits-after-preemption", "Looks at the queue in every step.")
class AlwaysAdmits(_Right):
    def schedule(self):
        self.output, self.budget = SchedulerOutput(), self.config.max_num_batched_tokens
        self.run_on()
        self.let_in()
        self.count()
        return self.output


@wrong("04.scheduler", "first-chunk-fits", "Asks for the blocks of the first chunk.")
class FirstChunk(_Right):
    def needed(self, request, chunk, hits):
        return self.kv_manager.num_blocks_needed(request.request_id, chunk, hits)


@wrong("04.scheduler", "no-hits", "Does not ask the prefix cache.")
class NoHits(_Right):
    def hits(self, hashes, request):
        return []


@wrong("04.scheduler", "hits-are-free", "Does not count hits against the free blocks.")
class FreeHits(_Right):
    def needed(self, request, chunk, hits):
        blocks = -(-request.num_tokens // self.kv_manager.block_size)
        return blocks - len(hits)


@wrong("04.scheduler", "overtakes", "Lets a request begin before one that waits for blocks.")
class Overtakes(_Right):
    def let_in(self):
        for request in list(self.waiting):
            if self.budget and len(self.running) < self.config.max_num_seqs:
                self.begin(request)
