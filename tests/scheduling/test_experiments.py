"""What lesson 04 measures with: dry runs, workloads, costs of preemptions, rules left out, traces side by side, planning times."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from course_lib.scheduling import Request, Scheduler, SchedulerConfig
from course_lib.scheduling.benchmark import compare
from course_lib.scheduling.comparable import comparable
from course_lib.scheduling.dry_run import dry_run
from course_lib.scheduling.preemptions import preemptions
from course_lib.scheduling.replay import replay
from course_lib.scheduling.rules import (
    RULES,
    AllToTheBack,
    FirstChunkFits,
    FirstToLast,
    FirstVictim,
    HitsAreFree,
    VictimToTheBack,
)
from course_lib.scheduling.trace import Trace, first_difference
from course_lib.scheduling.workloads import OrcaLengths, at_once, chats, with_documents

CONFIG = SchedulerConfig(max_num_batched_tokens=32, max_num_seqs=4, max_model_len=64)


def crowd(outputs: int = 16) -> list[Request]:
    return [Request(name, range(100 * place, 100 * place + 12), outputs) for place, name in enumerate("ABC")]


def test_a_dry_run_makes_every_token() -> None:
    trace = dry_run(crowd(5), CONFIG, 30)
    assert {name: sum(name in step.sampled for step in trace.steps) for name in "ABC"} == dict.fromkeys("ABC", 5)
    assert trace.steps[-1].finished.keys() <= set("ABC")


def test_a_prompt_in_parts_samples_nothing_before_its_end() -> None:
    trace = dry_run([Request("long", range(45), 3), Request("short", range(100, 104), 3)], CONFIG, 30)
    assert list(trace.steps[0].sampled) == [] and list(trace.steps[1].sampled) == ["long", "short"]
    made = [token for step in trace.steps for token in step.sampled.values()]
    assert len(set(made)) == 6


def test_a_dry_run_lets_requests_come_later() -> None:
    trace = dry_run({0: crowd(5)[:1], 3: crowd(5)[1:]}, CONFIG, 30)
    assert [step.number for step in trace.steps if step.admitted] == [0, 3]


def test_a_dry_run_is_the_scheduler_that_it_is_given() -> None:
    usual = dry_run(crowd(), CONFIG, 13)
    other = dry_run(crowd(), CONFIG, 13, scheduler=FirstVictim)
    assert "C" in next(step.preempted for step in usual.steps if step.preempted)
    assert "A" in next(step.preempted for step in other.steps if step.preempted)


def test_preemptions_are_counted_by_hand() -> None:
    """C loses 15 tokens to B, B loses 24 to itself; with caching, full blocks that were not taken are found."""
    trace = dry_run(crowd(), CONFIG, 13)
    cost = preemptions(trace)
    victims = [(victim, taker) for step in trace.steps for victim, taker in step.preempted.items()]
    assert victims == [("C", "B"), ("B", "B")]
    before = [trace.steps[step.number - 1].requests for step in trace.steps if step.preempted]
    assert cost.lost == before[0]["C"].computed + before[1]["B"].computed
    again = [cached for step in trace.steps[1:] for cached in step.admitted.values()]
    assert (cost.count, cost.own, cost.found) == (2, 1, sum(again)) and cost.found > 0
    assert cost.recomputed == cost.lost - cost.found
    assert "2 preemptions" in str(cost)


def test_a_hit_is_no_return_and_one_may_give_way_to_oneself() -> None:
    twins = [Request(name, range(12), 3) for name in "AB"]
    trace = dry_run(twins, CONFIG, 30)
    assert trace.steps[0].admitted["B"] == 8 and preemptions(trace).found == 0
    alone = preemptions(dry_run(crowd(), CONFIG, 14))
    assert (alone.count, alone.own) == (1, 1)


def test_a_first_chunk_that_fits_is_admitted_by_the_rule_left_out_alone() -> None:
    def admitted(kind: type[Scheduler]) -> list[str]:
        requests = [Request("A", range(12), 16), Request("B", range(100, 145), 2)]
        return list(dry_run(requests, CONFIG, 13, scheduler=kind).steps[0].admitted)

    assert admitted(Scheduler) == ["A"] and admitted(FirstChunkFits) == ["A", "B"]


def test_without_a_cache_all_that_was_lost_is_computed_again() -> None:
    trace = dry_run(crowd(), CONFIG, 13, enable_caching=False)
    cost = preemptions(trace)
    assert cost.found == 0 and cost.lost > 0
    computed = sum(sum(step.plan.values()) for step in trace.steps)
    assert computed == 3 * (12 + 16 - 1) + cost.recomputed
    assert preemptions(dry_run(crowd(), CONFIG, 40)).count == 0


@pytest.mark.parametrize("name", RULES)
def test_each_rule_left_out_runs_to_the_end_or_runs_dry(name: str) -> None:
    talk = chats(6, 3, system=20, said=6, pause=0.05, seed=0)
    config = SchedulerConfig(max_num_batched_tokens=24, max_num_seqs=6, max_model_len=128)
    usual = replay(talk.jobs, config, 20, lambda *_: 0.01, block_size=4, prompts=talk.prompts)
    assert usual.preemptions
    if RULES[name] is HitsAreFree:
        with pytest.raises(ValueError, match="blocks asked for"):
            replay(talk.jobs, config, 20, lambda *_: 0.01, block_size=4, prompts=talk.prompts, scheduler=RULES[name])
        return
    found = replay(talk.jobs, config, 20, lambda *_: 0.01, block_size=4, prompts=talk.prompts, scheduler=RULES[name])
    assert {job: len(times) for job, times in found.token_times.items()} == {
        job.id: job.output_tokens for job in talk.jobs
    }


@pytest.mark.parametrize("kind", [FirstVictim, VictimToTheBack, FirstToLast, AllToTheBack])
def test_a_rule_left_out_makes_a_difference(kind: type[Scheduler]) -> None:
    requests = [Request(name, range(100 * place, 100 * place + 13), 14) for place, name in enumerate("ABCDE")]
    again = [Request(name, range(100 * place, 100 * place + 13), 14) for place, name in enumerate("ABCDE")]
    assert first_difference(dry_run(requests, CONFIG, 15), dry_run(again, CONFIG, 15, scheduler=kind))


def test_orcas_lengths_fill_their_ranges() -> None:
    drawn = OrcaLengths().draw(np.random.default_rng(0), 20_000)
    assert drawn.min(axis=0).tolist() == [32, 1] and drawn.max(axis=0).tolist() == [512, 128]


def test_documents_change_the_prompts_of_a_share_and_nothing_else() -> None:
    plain, mixed = with_documents(5, 400, 0.0, 8000, seed=2), with_documents(5, 400, 0.25, 8000, seed=2)
    long = [job.prompt_tokens == 8000 for job in mixed]
    assert 70 < sum(long) < 130
    assert [replace(job, prompt_tokens=1) for job in plain] == [replace(job, prompt_tokens=1) for job in mixed]
    assert {job.arrival for job in at_once(mixed)} == {0.0}


def test_a_turn_begins_with_the_turns_before_it() -> None:
    talk = chats(3, 4, system=10, said=5, pause=1.0, seed=0)
    texts = {job.id: list(talk.prompts(job)) for job in talk.jobs}
    assert [job.arrival for job in talk.jobs] == sorted(job.arrival for job in talk.jobs)
    assert all(len(texts[job.id]) == job.prompt_tokens for job in talk.jobs)
    assert texts["1.3"][: len(texts["1.2"])] == texts["1.2"]
    assert texts["0.0"][:10] == texts["1.0"][:10] and texts["0.0"][10] != texts["1.0"][10]


def test_random_names_and_empty_steps_make_no_difference(tmp_path: Path) -> None:
    ours = dry_run(crowd(), CONFIG, 13)
    ours.save(tmp_path / "trace")
    text = (tmp_path / "trace").read_text()
    for name in "ABC":
        text = text.replace(f'"{name}"', f'"{name}-0a1b2c3d"')
    (tmp_path / "trace").write_text(text)
    theirs = Trace.load(tmp_path / "trace")
    theirs.steps.insert(4, replace(theirs.steps[4], plan={}))
    assert first_difference(ours, theirs)
    assert first_difference(comparable(ours), comparable(theirs)) == ""
    theirs.steps[0].sampled["A-0a1b2c3d"] = 5
    before = asdict(theirs)
    assert "sampled" in first_difference(comparable(ours), comparable(theirs))
    assert first_difference(comparable(ours, tokens=False), comparable(theirs, tokens=False)) == ""
    assert asdict(theirs) == before


def test_a_name_that_only_looks_alike_stays() -> None:
    trace = dry_run([Request("chat-12", [1, 2], 2)], CONFIG, 13)
    assert comparable(trace).steps[0].running == ["chat-12"]


@pytest.mark.slow
def test_both_schedulers_plan_in_a_time_of_their_own(folder: str) -> None:
    found = compare(8, folder, steps=5)
    assert found.running == 8 and found.ours > 0 and found.vllm > 0
    assert found.ratio == pytest.approx(found.ours / found.vllm)
    assert "8 running" in str(found)


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="running=0"):
        compare(0, "nowhere")
