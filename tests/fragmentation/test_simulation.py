"""The serving loop: nobody is lost, nobody overtakes, and any memory will do."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.fragmentation import (
    BestFit,
    Buddy,
    FirstFit,
    Request,
    StepTime,
    Waste,
    poisson_requests,
    reserve_exact,
    reserve_max,
    reserve_nothing,
    reserve_pow2,
    serve,
    simulate,
    uniform,
)
from course_lib.fragmentation.simulation import Step

LIMIT = 64
REQUESTS = st.builds(
    lambda rows: [Request(f"r{i}", arrival, prompt, output) for i, (arrival, prompt, output) in enumerate(rows)],
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 32), st.integers(1, 32)), min_size=1, max_size=15),
)


class Counting:
    """A memory that is one heap of slots: as if where they lie never mattered. It checks that it is called as promised."""

    def __init__(self, size: int):
        self.size = size
        self.left: dict[str, int] = {}
        self.used: dict[str, int] = {}
        self.events: list[tuple[str, str]] = []

    def admit(self, request: Request) -> bool:
        if sum(self.used.values()) + request.prompt_tokens > self.size:
            return False
        assert request.id not in self.used
        self.used[request.id], self.left[request.id] = request.prompt_tokens, request.output_tokens
        self.events.append(("admit", request.id))
        return True

    def grow(self, request_id: str) -> bool:
        if sum(self.used.values()) == self.size:
            return False
        self.used[request_id] += 1
        self.left[request_id] -= 1
        assert self.left[request_id] >= 0, "it makes more tokens than it wants"
        return True

    def release(self, request_id: str) -> None:
        self.events.append(("end" if self.left[request_id] == 0 else "preempt", request_id))
        del self.used[request_id], self.left[request_id]

    def waste(self) -> Waste:
        used = sum(self.used.values()) / self.size
        return Waste(used, 0.0, 0.0, 1 - used)


@given(requests=REQUESTS, size=st.integers(64, 200))
def test_any_memory_serves_every_request_to_its_end(requests: list[Request], size: int) -> None:
    memory = Counting(size)
    result = serve(requests, memory)
    ended = [name for event, name in memory.events if event == "end"]
    assert sorted(ended) == sorted(request.id for request in requests)
    assert result.finished == len(requests)
    assert result.preempted == sum(event == "preempt" for event, _ in memory.events)
    assert result.tokens == sum(request.output_tokens for request in requests)
    first = list(dict.fromkeys(name for event, name in memory.events if event == "admit"))
    assert first == [request.id for request in sorted(requests, key=lambda request: request.arrival)], (
        "somebody overtook"
    )
    assert not memory.used


@given(
    requests=REQUESTS,
    kind=st.sampled_from([FirstFit, BestFit, Buddy]),
    reserve=st.sampled_from([reserve_max, reserve_pow2, reserve_exact, reserve_nothing]),
    size=st.integers(LIMIT, 300),
)
def test_contiguous_memory_serves_every_request(requests, kind, reserve, size) -> None:
    allocator = kind(max(size, 2 * LIMIT))  # a buddy memory of 127 slots has no block of 64 behind its first
    result = simulate(requests, allocator, reserve, LIMIT, max_snapshots=1000)
    assert result.finished == len(requests)
    assert result.tokens == sum(request.output_tokens for request in requests)
    assert not allocator.held
    total = result.waste.used + result.waste.reserved + result.waste.internal + result.waste.external
    assert total == pytest.approx(1)
    if reserve is not reserve_nothing:
        assert result.preempted == 0
        starts = [shot for shot in result.snapshots if shot.event.endswith("starts")]
        assert len(starts) == len(requests)


def test_a_preempted_request_comes_back_before_those_that_wait() -> None:
    memory = Counting(20)
    requests = [Request(name, arrival, 8, 6) for name, arrival in (("a", 0.0), ("b", 0.0), ("c", 0.001))]
    assert serve(requests, memory).preempted > 0
    order = [name for event, name in memory.events if event == "admit"]
    assert order[:4] == ["a", "b", "b", "c"]


def test_who_waits_is_refused_once_and_not_at_every_step() -> None:
    requests = [Request("a", 0.0, 10, 20), Request("b", 0.0, 10, 5)]
    result = simulate(requests, FirstFit(40), reserve_exact, LIMIT)
    assert [shot.event.split()[0] for shot in result.snapshots if shot.refused] == ["b"]


def test_one_request_by_hand() -> None:
    seen: list[Step] = []

    def step_time(step: Step) -> float:
        seen.append(step)
        return 0.5

    result = simulate([Request("r", 3.0, 10, 4)], FirstFit(40), reserve_exact, LIMIT, step_time=step_time)
    assert seen == [Step(1, 10, 11), Step(1, 0, 12), Step(1, 0, 13), Step(1, 0, 14)]
    assert (result.seconds, result.mean_batch, result.tokens_per_second) == (2.0, 1.0, 2.0)
    assert result.waste.used == pytest.approx((11 + 12 + 13 + 14) / 4 / 40)
    assert result.waste.reserved == pytest.approx((3 + 2 + 1 + 0) / 4 / 40)
    assert result.waste.external == pytest.approx(26 / 40)
    assert [shot.time for shot in result.snapshots] == [3.0, 5.0]


def test_means_weigh_steps_by_their_time() -> None:
    requests = [Request("a", 0.0, 4, 2), Request("b", 0.0, 4, 1)]
    result = simulate(requests, FirstFit(16), reserve_exact, LIMIT, step_time=lambda step: float(step.batch))
    assert result.seconds == 3.0
    assert result.mean_batch == pytest.approx((2 * 2 + 1 * 1) / 3)
    assert result.waste.used == pytest.approx((2 * 10 + 1 * 6) / 3 / 16)


def test_the_batch_is_bounded() -> None:
    requests = [Request(f"r{i}", 0.0, 2, 3) for i in range(10)]
    assert simulate(requests, FirstFit(1000), reserve_exact, LIMIT, max_batch=2).mean_batch == 2.0


def test_warmup_and_end_bound_what_is_measured() -> None:
    requests = poisson_requests(50.0, 2000, uniform(4, 20), seed=1)
    step_time = StepTime(fixed=0.05)
    whole = simulate(requests, FirstFit(200), reserve_exact, LIMIT, step_time=step_time)
    part = simulate(requests, FirstFit(200), reserve_exact, LIMIT, step_time=step_time, warmup=5.0, until=20.0)
    assert whole.finished == 2000 > part.finished > 0
    assert part.seconds == pytest.approx(15.0, abs=0.5)


def test_a_full_queue_makes_step_time_cancel() -> None:
    requests = [Request(f"r{i}", 0.0, 10 + i % 7, 5 + i % 23) for i in range(300)]
    runs = [
        simulate(requests, BestFit(500), reserve_exact, LIMIT, step_time=StepTime(seconds, 0.0, 0.0, 0.0))
        for seconds in (0.01, 7.0)
    ]
    assert runs[0].mean_batch == pytest.approx(runs[1].mean_batch)
    assert runs[0].waste.used == pytest.approx(runs[1].waste.used)


def test_a_request_that_can_never_fit_is_refused_with_a_reason() -> None:
    with pytest.raises(
        ValueError, match=r"request r \(30 \+ 30 tokens\) does not fit in the empty memory Reservations"
    ):
        simulate([Request("r", 0.0, 30, 30)], FirstFit(50), reserve_exact, LIMIT)


def test_a_memory_without_progress_is_refused_with_a_reason() -> None:
    with pytest.raises(ValueError, match="there is no slot for a single token of it"):
        simulate([Request("r", 0.0, 8, 2)], FirstFit(8), lambda request, limit: request.prompt_tokens, LIMIT)


def test_nobody_comes() -> None:
    result = simulate([], FirstFit(50), reserve_exact)
    assert (result.finished, result.mean_batch, result.tokens_per_second) == (0, 0.0, 0.0)


def test_step_time() -> None:
    time = StepTime(1.0, 0.1, 0.01, 0.001)
    assert time(Step(2, 3, 4)) == pytest.approx(1 + 0.2 + 0.03 + 0.004)
    assert time.slower(3)(Step(2, 3, 4)) == pytest.approx(3 * time(Step(2, 3, 4)))
    assert math.isclose(StepTime().fixed, 26e9 / 1.555e12, rel_tol=0.01)
