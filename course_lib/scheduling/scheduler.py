"""vLLM's scheduler: at each step, who computes how many tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from course_lib.paged_attention.block_table import num_blocks_for
from course_lib.paged_attention.kv_manager import PagedKVManager
from course_lib.paged_attention.prefix_cache import BlockHash
from course_lib.scheduling.config import SchedulerConfig
from course_lib.scheduling.queue import WaitingQueue
from course_lib.scheduling.request import Request, RequestStatus


@dataclass
class SchedulerOutput:
    """One step's plan.

    Attributes:
        num_scheduled_tokens: the requests that run, in order, and how many tokens each computes.
        preempted: the requests that lost their blocks, each with the request that needed them.
        held_back: why the first waiting request was not admitted; empty where none was left, or none was looked at.
    """

    num_scheduled_tokens: dict[str, int] = field(default_factory=dict)
    preempted: dict[str, str] = field(default_factory=dict)
    held_back: str = ""

    @property
    def total_tokens(self) -> int:
        """How many tokens the step computes."""
        return sum(self.num_scheduled_tokens.values())


class Scheduler:
    """Plans steps over a block pool. `schedule` says what to compute, `update` takes in what came of it.

    There is no prefill phase and no decode phase. Each request has a number of tokens, and a number of them that are computed;
    a step lets the second catch up with the first, for as many requests as the token budget and the blocks allow. A prompt is
    far behind, a chunk of it catches up a part, a running request is one token behind, and a preempted one is behind by all
    its tokens. (The comment at the head of vLLM's own `schedule` says the same.)

    Args:
        config: the limits.
        kv_manager: hands out blocks, and finds cached ones.
    """

    def __init__(self, config: SchedulerConfig, kv_manager: PagedKVManager):
        self.config = config
        self.kv_manager = kv_manager
        self.requests: dict[str, Request] = {}
        self.waiting = WaitingQueue(config.policy)
        self.running: list[Request] = []
        self._usable_blocks = kv_manager.pool.num_free_blocks

    def add_request(self, request: Request) -> None:
        """Let a request wait for its turn.

        Raises:
            ValueError: its id is in use, or it can never run: it is too long for the model, or for the pool.
        """
        limit, block_size = self.config.max_model_len, self.kv_manager.block_size
        if request.request_id in self.requests:
            raise ValueError(f"request {request.request_id!r} is here already; give each request an id of its own")
        if request.num_prompt_tokens >= limit:
            raise ValueError(
                f"request {request.request_id!r} has {request.num_prompt_tokens} prompt tokens; expected fewer than "
                f"max_model_len={limit}, to leave room for one to generate. Shorten the prompt or raise max_model_len."
            )
        # The last token that is generated needs no slot: nobody attends to it.
        longest = min(request.num_prompt_tokens + request.max_tokens, limit) - 1
        if num_blocks_for(longest, block_size) > self._usable_blocks:
            raise ValueError(
                f"request {request.request_id!r} may grow to {longest} tokens in the KV cache, and its "
                f"{self._usable_blocks} blocks hold {self._usable_blocks * block_size}. Shorten the prompt, lower "
                "max_tokens or make the pool larger."
            )
        self.requests[request.request_id] = request
        self.waiting.add(request)

    def schedule(self) -> SchedulerOutput:
        """Plan the next step, and give its tokens their slots."""
        output = SchedulerOutput()
        budget = self._schedule_running(output, self.config.max_num_batched_tokens)
        # Blocks are short, as the preemption has just shown: nobody new gets any in this step.
        if not output.preempted:
            self._schedule_waiting(output, budget)
        for request_id, num_new in output.num_scheduled_tokens.items():
            self.requests[request_id].num_computed_tokens += num_new
        return output

    def update(self, sampled: Mapping[str, int]) -> list[Request]:
        """Take in the step's sampled tokens, and return the requests that they finish.

        Args:
            sampled: `{request_id: token}` in the plan's order, for each request that caught up: one whose prompt is not
                computed to its end samples nothing.
        """
        finished = []
        for request_id, token in sampled.items():
            request = self.requests[request_id]
            if request.append(token, self.config.max_model_len):
                finished.append(request)
                self._remove(request)
        return finished

    def abort(self, request_id: str) -> None:
        """End a request before its time; one that is not here (any more) is none of ours."""
        request = self.requests.get(request_id)
        if request is not None:
            self._remove(request)
            request.status = RequestStatus.FINISHED_ABORTED

    @property
    def has_unfinished_requests(self) -> bool:
        """Whether there is anything left to do."""
        return bool(self.requests)

    def __repr__(self) -> str:
        return f"Scheduler({len(self.running)} running, {len(self.waiting)} waiting, {self.kv_manager.pool})"

    def _schedule_running(self, output: SchedulerOutput, budget: int) -> int:
        """Let the running requests catch up, preempting others for their blocks; return what is left of the budget."""
        index, caching, block_size = 0, self.kv_manager.enable_caching, self.kv_manager.block_size
        while index < len(self.running) and budget:
            request = self.running[index]
            num_new = min(self._behind(request), budget)
            if not num_new:  # nothing of it can be computed yet
                index += 1
                continue
            num_tokens = request.num_computed_tokens + num_new
            hashes = request.block_hashes(block_size) if caching else ()
            while self.kv_manager.allocate_slots(request.request_id, num_tokens, hashes) is None:
                victim = self._victim()
                index -= self.running.index(victim) < index
                # Its tokens may have been planned already: they come off the plan, and back into the budget.
                budget += output.num_scheduled_tokens.pop(victim.request_id, 0)
                self._preempt(victim)
                output.preempted[victim.request_id] = request.request_id
                if victim is request:
                    return budget
            output.num_scheduled_tokens[request.request_id] = num_new
            budget -= num_new
            index += 1
        return budget

    def _schedule_waiting(self, output: SchedulerOutput, budget: int) -> None:
        """Admit waiting requests in order until one can't be: those behind it wait, lest it starve."""
        while self.waiting:
            if not budget:
                output.held_back = "the token budget is used up"
            elif len(self.running) == self.config.max_num_seqs:
                output.held_back = "max_num_seqs requests are running"
            else:
                output.held_back = self._admit(self.waiting.first(), output, budget)
            if output.held_back:
                return
            budget -= output.num_scheduled_tokens[self.running[-1].request_id]

    def _admit(self, request: Request, output: SchedulerOutput, budget: int) -> str:
        """Move a request from the queue to the running ones, or return why not."""
        hashes = self._hashes(request)
        computed = self.kv_manager.get_computed_blocks(hashes, request.num_tokens)
        num_cached = len(computed) * self.kv_manager.block_size
        behind = self._capped(request.num_tokens - num_cached)
        if behind > budget and not self.config.enable_chunked_prefill:
            return f"{behind} tokens are to be computed at once, and the budget has {budget} left"
        num_new = min(behind, budget)
        # All of its tokens must fit, not only this chunk; and what runs must be able to grow.
        to_fit = request.num_tokens if self.config.scheduler_reserve_full_isl else num_cached + num_new
        needed = self.kv_manager.num_blocks_needed(request.request_id, to_fit, computed)
        spare = int(self.config.watermark * len(self.kv_manager.pool.blocks)) if self.running else 0
        free = self.kv_manager.pool.num_free_blocks
        if needed + spare > free:
            return f"{needed} blocks are needed{f' and {spare} kept free' if spare else ''}, {free} are free"
        self.kv_manager.allocate_slots(request.request_id, num_cached + num_new, hashes, computed)
        self.waiting.remove(request)
        self.running.append(request)
        request.status = RequestStatus.RUNNING
        request.num_computed_tokens = request.num_cached_tokens = num_cached
        output.num_scheduled_tokens[request.request_id] = num_new
        return ""

    def _preempt(self, request: Request) -> None:
        """Take a running request's blocks; it computes its tokens again, or finds them in the prefix cache."""
        self.running.remove(request)
        self.kv_manager.free(request.request_id)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0
        request.num_preemptions += 1
        self.waiting.put_back(request)

    def _victim(self) -> Request:
        """Return the running request that gives its blocks: the last to come, or the least important."""
        if self.config.policy == "priority":
            return max(self.running, key=lambda request: (request.priority, request.arrival_time))
        return self.running[-1]

    def _remove(self, request: Request) -> None:
        """Let go of a request, wherever it is."""
        if request in self.running:
            self.running.remove(request)
            self.kv_manager.free(request.request_id)
        else:
            self.waiting.remove(request)
        del self.requests[request.request_id]

    def _behind(self, request: Request) -> int:
        """Return how many of a running request's tokens it may compute now."""
        num_new = len(request.token_ids) - request.num_computed_tokens
        return num_new if num_new == 1 else self._capped(num_new)

    def _capped(self, num_new: int) -> int:
        """Return how many of these tokens a request may compute in one step beside others."""
        threshold = self.config.long_prefill_token_threshold
        return min(num_new, threshold) if threshold and len(self.requests) > 1 else num_new

    def _hashes(self, request: Request) -> list[BlockHash]:
        manager = self.kv_manager
        return request.block_hashes(manager.block_size) if manager.enable_caching else []
