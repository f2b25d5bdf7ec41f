"""What holds at every step of every trace, whoever else agrees; and what is refused."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.paged_attention.kv_manager import PagedKVManager
from course_lib.scheduling import Request, RequestStatus, Scheduler, SchedulerConfig

from .conftest import Ours
from .traces import draw

SMALL = SchedulerConfig(max_num_batched_tokens=8, max_num_seqs=4, max_model_len=32)


def scheduler(config: SchedulerConfig = SMALL, num_blocks: int = 16) -> Scheduler:
    return Scheduler(config, PagedKVManager(num_blocks, block_size=4))


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=60)
def test_limits_hold_and_everybody_finishes(seed: int) -> None:
    trace = draw(seed)
    ours, config = Ours(trace), trace.config
    requests: dict[str, Request] = {}
    step = 0
    while ours.unfinished or step <= trace.arrivals[-1].step:
        for place, arrival in enumerate(trace.arrivals):
            if arrival.step == step:
                ours.add(str(place), arrival)
                requests[str(place)] = ours.scheduler.requests[str(place)]
            if arrival.abort == step:
                ours.abort(str(place))
        running_before = {request.request_id: request.num_computed_tokens for request in ours.scheduler.running}
        state = ours.step()
        plan = dict(state["plan"])
        assert all(plan.values()) and sum(plan.values()) <= config.max_num_batched_tokens
        assert len(state["running"]) <= config.max_num_seqs
        # Blocks for exactly the tokens that are computed: a table is never a block short or too long.
        for request_id, computed in zip(state["running"], state["computed"], strict=True):
            assert len(state["tables"][request_id]) == -(-computed // trace.block_size)
            if request_id in running_before:
                assert computed == running_before[request_id] + plan.get(request_id, 0)
        if config.policy == "fcfs" and not state["preempted"]:
            # Who runs came before who waits, but for those that were preempted and came back.
            fresh = [request_id for request_id in state["waiting"] if not requests[request_id].num_preemptions]
            assert all(
                int(one) < int(other)
                for one in state["running"]
                for other in fresh
                if not requests[one].num_preemptions
            )
        step += 1
        assert step < 3000, "no progress"
    assert all(request.status.finished for request in requests.values())
    assert all(block.ref_cnt == 0 for block in ours.manager.pool.blocks[1:])
    assert len(ours.manager.pool.free_list) == trace.num_blocks - 1


def test_a_request_ends_at_its_stop_token_or_length() -> None:
    ours = scheduler()
    ours.add_request(Request("stops", [1, 2], 5, stop_token_ids={7}))
    ours.add_request(Request("lasts", [1, 2], 2))
    ours.schedule()
    assert ours.update({"stops": 3, "lasts": 7}) == []
    ours.schedule()
    finished = ours.update({"stops": 7, "lasts": 7})
    assert {request.request_id: request.status for request in finished} == {
        "stops": RequestStatus.FINISHED_STOPPED,
        "lasts": RequestStatus.FINISHED_LENGTH_CAPPED,
    }
    assert [request.output_token_ids for request in finished] == [[3, 7], [7, 7]]


def test_a_plan_says_who_gave_way_and_what_held_the_next_one_back() -> None:
    ours = scheduler(replace(SMALL, max_num_batched_tokens=32), num_blocks=5)
    ours.add_request(Request("a", list(range(7)), 10))
    ours.add_request(Request("b", list(range(10, 17)), 10))
    ours.add_request(Request("c", list(range(20, 27)), 10))
    output = ours.schedule()
    assert output.num_scheduled_tokens == {"a": 7, "b": 7}
    assert output.held_back == "2 blocks are needed, 1 are free"
    preempted: dict[str, str] = {}
    while not preempted:
        ours.update(dict.fromkeys(output.num_scheduled_tokens, 5))
        output = ours.schedule()
        preempted = output.preempted
    assert preempted == {"b": "a"} or preempted == {"b": "b"}
    assert ours.waiting.first().status is RequestStatus.PREEMPTED


def test_an_abort_of_somebody_unknown_is_nothing() -> None:
    ours = scheduler()
    ours.abort("nobody")
    assert not ours.has_unfinished_requests


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Request("x", [], 1), "empty prompt"),
        (lambda: Request("x", [1], 0), "max_tokens=0"),
        (lambda: scheduler().add_request(Request("x", [1] * 32, 1)), "max_model_len=32"),
        (lambda: scheduler(num_blocks=3).add_request(Request("x", [1] * 12, 5)), "3 blocks hold 12"),
        (lambda: SchedulerConfig(max_num_seqs=0), "max_num_seqs is 0"),
        (lambda: SchedulerConfig(policy="sjf"), "'sjf'"),  # type: ignore[arg-type]
        (lambda: SchedulerConfig(watermark=1.0), "watermark is 1.0"),
        (lambda: SchedulerConfig(long_prefill_token_threshold=-1), "is -1"),
        (lambda: SchedulerConfig(enable_chunked_prefill=False, max_num_batched_tokens=8), "would wait forever"),
    ],
)
def test_what_can_never_run_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_two_requests_of_one_name_are_refused() -> None:
    ours = scheduler()
    ours.add_request(Request("x", [1], 1))
    with pytest.raises(ValueError, match="here already"):
        ours.add_request(Request("x", [1], 1))
