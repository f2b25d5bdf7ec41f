"""The serving benchmark: its floor is one, its engines do the same work, and one that fails is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.fragmentation.workload import Request
from course_lib.kv_cache.cost import Hardware, ModelShape, kv_bytes_per_token, sequence_cost, weight_bytes
from course_lib.scheduling import SchedulerConfig
from course_lib.scheduling.replay import replay, roofline
from course_lib.serving.benchmark import Workload, bench_serve, floor, pool_bytes, rows
from course_lib.serving.contender import Contender, ContenderError, Job

SHAPE = ModelShape("small", 4, 64, 4, 2, 16, 128, 1000)
LENGTHS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=12)
SPEEDS = st.floats(1e9, 1e15)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, SPEEDS, SPEEDS, st.integers(8, 256))
def test_no_schedule_beats_the_floor(
    lengths: list[tuple[int, int]], flops: float, bandwidth: float, budget: int
) -> None:
    """Our scheduler on that very roofline, with any budget."""
    hardware = Hardware("any", flops, bandwidth)
    jobs = [Request(str(n), 0.0, prompt, output) for n, (prompt, output) in enumerate(lengths)]
    seen = replay(jobs, SchedulerConfig(budget, 16, max_model_len=128), 1000, roofline(SHAPE, hardware))
    assert floor(SHAPE, hardware, lengths).seconds <= seen.seconds * (1 + 1e-9)


def test_the_floor_of_one_request_is_its_cost() -> None:
    """A prompt of one token: decoding alone, whose FLOPs and bytes the cost model counts step by step."""
    hardware = Hardware("any", 1e12, 1e9)
    cost = sequence_cost(SHAPE, 1, 30, cached=True)
    found = floor(SHAPE, hardware, [(1, 30)])
    assert found.flop_seconds == pytest.approx(cost.flops / hardware.flops)
    assert found.weight_seconds == pytest.approx(cost.weight_bytes / hardware.bandwidth)
    # The cost model counts the first token's key as read back, which a fused kernel need not do.
    extra = kv_bytes_per_token(SHAPE) / hardware.bandwidth
    assert found.kv_seconds == pytest.approx(cost.kv_bytes / hardware.bandwidth - extra)


def test_a_large_batch_at_nominal_speed_is_bound_by_keys_and_values() -> None:
    """256 sequences of Qwen3-0.6B's shape on an H200: weights are the smaller part of the traffic."""
    shape = ModelShape("Qwen3-0.6B", 28, 1024, 16, 8, 128, 3072, 151936)
    found = floor(shape, Hardware("H200", 989e12, 4.8e12), Workload().lengths())
    assert found.limit == "memory"
    assert found.kv_seconds > 5 * found.weight_seconds
    assert found.weight_seconds <= 1024 * weight_bytes(shape) / 4.8e12


def test_a_workload_is_what_its_seed_says() -> None:
    load = Workload(requests=50, shortest=3, longest=9)
    assert load.lengths() == Workload(requests=50, shortest=3, longest=9).lengths()
    assert load.lengths() != Workload(requests=50, shortest=3, longest=9, seed=1).lengths()
    assert {length for pair in load.lengths() for length in pair} == set(range(3, 10))
    assert [len(prompt) for prompt in load.prompts(100)] == [prompt for prompt, _ in load.lengths()]
    assert all(0 <= token < 100 for prompt in load.prompts(100) for token in prompt)
    # The figures that others publish are of nano-vllm's requests: 133,966 output tokens.
    assert [sum(column) for column in zip(*Workload().lengths(), strict=True)] == [142_827, 133_966]


@pytest.mark.parametrize(
    ("wrong", "says"), [({"requests": 0}, "at least one"), ({"shortest": 9, "longest": 3}, "from 9 to 3")]
)
def test_a_workload_that_makes_no_sense_is_refused(wrong: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Workload(**wrong)  # type: ignore[arg-type]


def test_the_pool_has_room_for_all() -> None:
    lengths = [(17, 16), (1, 1)]
    per_token = kv_bytes_per_token(SHAPE)
    assert pool_bytes(SHAPE, lengths) >= (3 + 1) * 16 * per_token


@pytest.mark.slow
def test_the_engines_serve_the_same_requests(folder: Path) -> None:
    """Real engines, each in its process; one whose folder is none is named, and the others go on."""
    events: list[str] = []
    load = Workload(requests=4, shortest=3, longest=12)
    record = bench_serve(folder, load, Hardware("any", 1e11, 1e10), rounds=1, on_event=events.append)
    assert list(record["engines"]) == ["ours", "vllm", "transformers"]
    assert record["workload"]["output_tokens"] == sum(output for _, output in load.lengths())
    for result in record["engines"].values():
        assert "error" not in result
        assert result["of_floor"] * min(result["seconds"]) == pytest.approx(record["floor"]["seconds"])
        assert 0 < result["of_floor"] < 1
    assert len(rows(record)) == 4
    assert json.loads(json.dumps(record)) == record
    assert [event for event in events if "round" in event] == [f"{name}, round 1 of 1" for name in record["engines"]]


def test_an_engine_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    job = Job(str(tmp_path / "none"), [[1]], [1], 0.0, 1 << 20, 16, 0.3)
    with pytest.raises(ContenderError, match=r"(?s)'ours' ended with status 1.*none"):
        Contender("ours", job)


def test_an_engine_that_is_killed_is_an_error(folder: Path) -> None:
    with Contender("ours", Job(str(folder), [[5, 6]], [3], 0.0, 1 << 22, 16, 0.3)) as contender:
        assert contender.run() > 0
        os.kill(contender._process.pid, 9)
        with pytest.raises(ContenderError, match="status -9"):
            contender.run()


def test_an_engine_that_takes_too_long_is_ended(folder: Path) -> None:
    with Contender("ours", Job(str(folder), [[5, 6]], [900], 0.0, 1 << 24, 16, 0.3)) as contender:
        with pytest.raises(ContenderError, match=r"not done after 0\.2 s"):
            contender.run(limit=0.2)
        assert contender._process.wait(5) == -9


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--engines", "ours,nano"], "nano"),
        (["--policy", "random:GPT-9"], "no shape 'GPT-9'"),
        (["--policy", "./none"], "./none"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(options: list[str], says: str) -> None:
    command = [sys.executable, "-m", "course_lib", "bench", "serve", "--requests", "1", *options]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert says in answer.stdout
    assert "Traceback" not in answer.stdout + answer.stderr
