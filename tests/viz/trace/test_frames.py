"""What is drawn of a step is what its record says, in Python and in the widget's JavaScript."""

import copy
import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.scheduling.trace import Progress, Step, Trace
from course_lib.viz.picture import ASSETS, pack, unpack
from course_lib.viz.time_travel import TraceViewer
from course_lib.viz.trace_events import events
from course_lib.viz.trace_frames import FREE_SHOWN, MOST_BLOCKS, MOST_STEPS, STATES, cells, names, short_names, view

SEEDS = st.integers(0, 10_000)


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_the_payload_holds_what_the_trace_says(runs: SimpleNamespace, seed: int) -> None:
    trace = runs.recorded(seed)
    data = unpack(TraceViewer(trace).payload["packed"])
    requests, (shown,) = data["requests"], data["views"]
    assert (shown["source"], shown["block_size"], shown["blocks"]) == (trace.source, trace.block_size, trace.blocks)
    assert len(shown["frames"]) == len(trace.steps)
    line = shown["timeline"]
    for number, (step, frame) in enumerate(zip(trace.steps, shown["frames"], strict=True)):
        rows = {requests[row["request"]]: row for row in frame["running"]}
        assert list(rows) == step.running
        assert {name: Progress(row["prompt"], row["known"], row["computed"]) for name, row in rows.items()} == {
            name: step.requests[name] for name in step.running
        }
        assert {name: row["tokens"] for name, row in rows.items() if row["tokens"]} == step.plan
        assert {name: row["cached"] for name, row in rows.items() if row["cached"] is not None} == step.admitted
        assert {name for name, row in rows.items() if row["sampled"]} == set(step.sampled)
        assert [(requests[one["request"]], one["known"]) for one in frame["waiting"]] == [
            (name, step.requests[name].known) for name in step.waiting
        ]
        assert dict(zip(step.running, frame["tables"], strict=True)) == step.tables
        assert (frame["free"], frame["free_count"]) == (step.free[:FREE_SHOWN], len(step.free))
        assert frame["cached"] == step.cached
        assert line["prefill"][number] + line["decode"][number] == sum(step.plan.values())
        assert line["output"][number] == len(step.sampled)
        assert (line["preempted"][number], line["finished"][number]) == (len(step.preempted), len(step.finished))
        assert line["kv"][number] == pytest.approx(1 - len(step.free) / len(trace.blocks), abs=1e-4)


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_marks_are_the_changes_of_the_pool(runs: SimpleNamespace, seed: int) -> None:
    trace = runs.recorded(seed)
    everybody = names([trace])
    before: set[int] = set()
    for step, frame in zip(trace.steps, view(trace, everybody, everybody).frames, strict=True):
        held = {block for table in step.tables.values() for block in table}
        words = {word: {block for block, mark in frame.marks.items() if mark == word} for word in frame.marks.values()}
        assert words.get("evicted", set()) == set(step.evicted)
        assert words.get("freed", set()) == before - held - set(step.evicted)
        assert held - before <= set(frame.marks)
        for name, spared in step.admitted.items():
            found = spared // trace.block_size
            assert all(frame.marks[block] in ("taken", "evicted") for block in step.tables[name][found:])
            assert all(block in frame.marks for block in step.tables[name])
        if not step.admitted:
            assert words.get("hit", set()) == set()
            # Nobody else's block is given to a request that runs on.
            assert words.get("taken", set()) | set(step.evicted) >= held - before
        before = held


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_lives_tell_every_step_of_every_request(runs: SimpleNamespace, seed: int) -> None:
    trace = runs.recorded(seed)
    everybody = names([trace])
    shown = view(trace, everybody, everybody)
    told = {}
    for request, first, last, state in shown.timeline.lives:
        for step in range(first, last + 1):
            assert told.setdefault((step, request), STATES[state]) == STATES[state]
    lost: set[str] = set()
    for number, step in enumerate(trace.steps):
        lost = (lost | set(step.preempted)) - set(step.admitted)
        for name in step.waiting:
            assert told.pop((number, everybody.index(name))) == ("preempted" if name in lost else "waiting")
        for name in step.running:
            state = told.pop((number, everybody.index(name)))
            assert (state == "idle") == (name not in step.plan)
            if state == "decode":
                assert step.plan[name] == 1 and step.requests[name].known >= step.requests[name].prompt
                assert name in step.sampled
    assert not told


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_words_name_everybody_to_whom_something_happened(runs: SimpleNamespace, seed: int) -> None:
    trace = runs.recorded(seed)
    everybody = names([trace])
    came: list[str] = []
    uncounted = 0
    for step, frame in zip(trace.steps, view(trace, everybody, everybody).frames, strict=True):
        told = {event.kind: event.text for event in frame.events}
        assert ("Preempted" in told) == bool(step.preempted)
        assert ("Admitted" in told) == bool(step.admitted)
        assert ("Finished" in told) == bool(step.finished)
        assert ("Evicted" in told) == bool(step.evicted)
        assert ("Idle" in told) == (not step.plan)
        if step.held_back and step.waiting:
            assert told["Held back"] == f"{step.waiting[0]}: {step.held_back}"
        for kind, who in (("Preempted", step.preempted), ("Admitted", step.admitted), ("Finished", step.finished)):
            parts = told.get(kind, "").split("; ")
            assert all(part.startswith(f"{name}") for part, name in zip(parts, list(who)[:6], strict=False))
        for name, spared in list(step.admitted.items())[:6]:
            assert f"({spared} of {step.requests[name].known} tokens from the prefix cache)" in told["Admitted"]
        arrived = [part.split(" ") for part in told.get("Arrived", "").split("; ") if part]
        came += [words[0] for words in arrived if words[0] != "and"]
        uncounted += sum(int(words[1]) for words in arrived if words[0] == "and")
    assert len(came) == len(set(came)) and set(came) <= set(everybody)
    assert len(came) + uncounted == len(everybody)


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_the_widget_works_out_the_same(runs: SimpleNamespace, node: Callable, seed: int) -> None:
    viewer = TraceViewer(runs.recorded(seed))
    (shown,) = viewer.views
    expected = {
        "cells": [[vars(cell) for cell in cells(frame, shown.blocks, shown.block_size)] for frame in shown.frames],
        "speed": shown.timeline.throughput(),
        "progress": [[row.computed, max(row.known, row.computed)] for frame in shown.frames for row in frame.running],
        "same": json.loads(json.dumps(viewer.data(), default=vars)),
    }
    found = node(
        "trace_data.mjs",
        f"await (async () => {{ const {{ unpack }} = await import('{(ASSETS / 'shared.mjs').as_uri()}');"
        "const same = await unpack(data); const [view] = same.views;"
        "const sum = (parts) => parts.reduce((one, [, count]) => one + count, 0);"
        "return { same, speed: asset.throughput(view.timeline), "
        "cells: view.frames.map((frame) => asset.cells(frame, view.blocks, view.block_size)), "
        "progress: view.frames.flatMap(({ running }) => running.map(asset.progress)).map((parts) => "
        "[sum(parts.filter(([kind]) => kind !== 'left')), sum(parts)]) }; })()",
        viewer.payload["packed"],
    )
    assert found == expected


def test_seconds_make_a_throughput(runs: SimpleNamespace, node: Callable) -> None:
    trace = runs.served()
    for step in trace.steps:
        step.seconds = {"schedule": 0.001, "step": 0.5}
    (shown,) = TraceViewer(trace).views
    assert shown.timeline.throughput() == [2 * len(step.sampled) for step in trace.steps]
    assert node("trace_data.mjs", "asset.throughput(data)", vars(shown.timeline)) == shown.timeline.throughput()
    # Lines beside each other have one unit.
    beside = TraceViewer(trace, runs.served()).views
    assert all(one.timeline.throughput() == [len(step.sampled) for step in trace.steps] for one in beside)
    for step in trace.steps:
        step.seconds = {"schedule": 0.0001, "step": 0.0002}  # no model
    (shown,) = TraceViewer(trace).views
    assert shown.timeline.throughput() == [len(step.sampled) for step in trace.steps]


def test_what_javascript_says_and_finds(node: Callable) -> None:
    marks = [0, 1, 0, 2]
    assert node("trace_data.mjs", "[0, 1, 2, 3].map((from) => asset.nextMark(data, from))", marks) == [1, 3, 3, 1]
    assert node("trace_data.mjs", "asset.nextMark([0, 0], 1)", None) == -1
    path = node("trace_data.mjs", "asset.bars([0, 0.5], [0.5, 0.5], (step) => 10 * step, 100, 20)", None)
    assert path == "M0.00 110.00H10.00V120.00H0.00Z"
    words = "data.map((cell) => asset.cellWords(cell, 7, 4, ['A', 'B']))"
    said = node(
        "trace_data.mjs",
        words,
        [
            {"state": "held", "who": [0], "filled": 3, "mark": "taken"},
            {"state": "shared", "who": [0, 1], "filled": 4, "mark": "hit"},
            {"state": "cached", "who": [], "filled": 0, "mark": "freed"},
            {"state": "free", "who": [], "filled": 0, "mark": ""},
        ],
    )
    assert said[0] == "block 7: held by A, 3 of 4 slots computed; newly taken in this step"
    assert said[1] == "block 7: shared by A, B; found in the prefix cache in this step"
    assert "in the prefix cache" in said[2] and said[2].endswith("given back since the step before")
    assert said[3] == "block 7: free"
    row = {"prompt": 4, "known": 6, "computed": 6, "tokens": 2, "state": "prefill", "cached": 4, "sampled": True}
    assert node("trace_data.mjs", "asset.rowWords(data, 'A')", row) == (
        "A: prefill of 2 tokens; 6 of 6 tokens in the KV cache (4 of prompt and 2 of output); admitted in this step with "
        "4 tokens from the prefix cache; a token came of it"
    )


def step(number: int, running: list[str], waiting: list[str] = (), **rest: object) -> Step:  # type: ignore[assignment]
    progress = {name: Progress(4, 5, 5) for name in [*running, *waiting]}
    plan = dict.fromkeys(running, 1)
    return Step(number, plan, running, list(waiting), progress, {name: [0] for name in running}, [], [], **rest)  # type: ignore[arg-type]


def test_events_say_why() -> None:
    before = step(0, ["A", "B", "C"], ["D"], finished={"C": "finished: length"})
    now = step(1, ["A"], ["B"], preempted={"B": "A"})
    told = [str(event) for event in events(now, before, {"A", "B", "C", "D"}, set())]
    assert told == [
        "Aborted: D",
        "Preempted: B, because A needs its blocks",
        "Held back: B: nobody is admitted in a step that preempts",
    ]
    (itself, _) = events(step(1, ["A"], ["B"], preempted={"B": "B"}), None, {"A", "B"}, set())
    assert "nobody is left to give way but itself" in itself.text
    unknown = events(step(1, ["A"], ["B"], preempted={"B": ""}), None, {"A", "B"}, set())
    assert unknown[0].text == "B"  # vLLM does not say for whom
    again = events(step(1, ["A"], admitted={"A": 4}, evicted=[3]), None, {"A"}, {"A"})
    assert [str(event) for event in again] == [
        "Admitted: A again (4 of 5 tokens from the prefix cache)",
        "Evicted: block 3: the prefix cache forgets its tokens",
    ]
    (ended,) = events(step(1, ["A"], sampled={"A": 1}, finished={"A": "finished: stop token"}), None, {"A"}, set())
    assert str(ended) == "Finished: A (stop token, 2 tokens out)"
    crowd = [f"r{number}" for number in range(9)]
    (many,) = events(step(0, ["x"], crowd), None, {"x"}, set())
    assert many.text.endswith("r5 (4 prompt tokens); and 3 more")
    assert [event.kind for event in events(step(0, []), None, set(), set())] == ["Idle"]


def test_a_request_that_comes_back_has_two_lives() -> None:
    steps = [step(0, ["A"]), step(1, ["B"]), step(2, ["A"])]
    shown = view(Trace("x", 4, [0], steps), ["A", "B"], ["A", "B"])
    assert [life[:3] for life in shown.timeline.lives] == [[0, 0, 0], [1, 1, 1], [0, 2, 2]]


def test_short_names() -> None:
    assert short_names(["A", "long5"]) == ["A", "long5"]
    assert short_names(["0-3f2a9c1b", "1-77aa01ff"]) == ["0", "1"]
    assert short_names(["request-7", "request-8"]) == ["7", "8"]
    assert short_names(["something", "something else"]) == ["#0", "#1"]
    assert short_names([]) == []


def test_a_long_trace_and_a_large_pool_are_cut(runs: SimpleNamespace) -> None:
    trace = runs.served()
    large = Trace(trace.source, trace.block_size, list(range(MOST_BLOCKS + 500)))
    for one in trace.steps * (MOST_STEPS // len(trace.steps) + 1):
        large.steps.append(copy.replace(one) if hasattr(copy, "replace") else copy.copy(one))
        large.steps[-1].free = [*one.free, *range(24, MOST_BLOCKS + 500)]
    viewer = TraceViewer(large)
    (shown,) = viewer.views
    assert len(shown.frames) == MOST_STEPS and shown.hidden_steps == len(large.steps) - MOST_STEPS
    used = {block for one in trace.steps for table in one.tables.values() for block in table}
    assert shown.blocks == sorted(used) and shown.hidden_blocks == MOST_BLOCKS + 500 - len(used)
    assert len(json.dumps(viewer.payload)) < 1_000_000


def test_a_large_run_stays_small(runs: SimpleNamespace) -> None:
    trace = runs.served(requests=80, num_blocks=200, block_size=16, budget=64, longest=400)
    assert len(trace.steps) > 200
    assert len(json.dumps(TraceViewer(trace).payload)) < 300_000
    data = {"text": "ü", "numbers": [1, None]}
    assert unpack(pack(data)) == data
