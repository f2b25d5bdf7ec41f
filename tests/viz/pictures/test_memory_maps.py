"""The memory map: every slot of every snapshot is in the payload, in the strip and in the widget's rows."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import Rectangle

from course_lib.fragmentation import FirstFit, poisson_requests, reserve_pow2, sharegpt, simulate
from course_lib.fragmentation.memory_map import Segment, Snapshot
from course_lib.viz import memory_map
from course_lib.viz.memory_maps import payload
from course_lib.viz.memory_strip import STATES, filmstrip, row_length, shares


def decoded(data: dict) -> list[Snapshot]:
    def segment(start: int, length: int, state: int, owner: int) -> Segment:
        return Segment(start, length, STATES[state], data["owners"][owner] if owner >= 0 else "")

    return [
        Snapshot(
            frame["time"],
            frame["event"],
            data["size"],
            tuple(segment(*parts) for parts in frame["segments"]),
            frame["refused"],
        )
        for frame in data["frames"]
    ]


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_the_payload_holds_every_segment(make: SimpleNamespace, data: st.DataObject) -> None:
    shots = data.draw(make.memories())
    assert decoded(payload(shots, "title")) == shots
    for shot in shots:
        assert sum(shares(shot).values()) == pytest.approx(1)


def test_a_real_simulation_can_be_drawn() -> None:
    run = simulate(poisson_requests(8, 40, sharegpt(512), seed=1), FirstFit(2048), reserve_pow2, 512)
    picture = memory_map(run.snapshots)
    assert decoded(picture.payload) == run.snapshots
    assert "refused" in picture.words()


@given(st.data())
@settings(max_examples=10, deadline=None)
def test_the_widget_cuts_rows_so_that_no_slot_is_lost(
    make: SimpleNamespace, node: Callable, data: st.DataObject
) -> None:
    shots = data.draw(make.memories())
    frames, size = payload(shots, "")["frames"], shots[0].size
    row = row_length(size)
    found = node(
        "memory_map.mjs",
        "{ row: asset.rowLength(data.size), frames: data.frames.map((frame) => [asset.pieces(frame.segments, data.row), "
        "asset.slotsByState(frame.segments), asset.holes(frame.segments)]), states: asset.STATES }",
        {"size": size, "row": row, "frames": frames},
    )
    assert found["row"] == row
    assert tuple(found["states"]) == STATES
    for shot, frame, (pieces, slots, holes) in zip(shots, frames, found["frames"], strict=True):
        owner_of = {}
        for piece in pieces:
            assert piece["offset"] + piece["length"] <= row
            for slot in range(
                piece["row"] * row + piece["offset"], piece["row"] * row + piece["offset"] + piece["length"]
            ):
                assert slot not in owner_of
                owner_of[slot] = [piece["state"], piece["owner"]]
        assert owner_of == {
            slot: [state, owner]
            for start, length, state, owner in frame["segments"]
            for slot in range(start, start + length)
        }
        assert [piece["whole"] for piece in pieces if piece["first"]] == [segment.length for segment in shot.segments]
        assert [count / size for count in slots] == pytest.approx(list(shares(shot).values()))
        free = "".join("." if owner_of[slot][0] == STATES.index("free") else "#" for slot in range(size))
        assert holes == [len(run) for run in free.split("#") if run]


@given(st.data())
@settings(max_examples=10, deadline=None)
def test_the_strip_draws_every_slot_once(make: SimpleNamespace, data: st.DataObject) -> None:
    shot = data.draw(make.memories())[0]
    axes = filmstrip([shot]).axes[0]
    drawn = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    inch = 8.15 / row_length(shot.size)
    assert sum(patch.get_width() for patch in drawn) == pytest.approx(shot.size * inch)


def test_what_is_refused_is_said_in_words(make: SimpleNamespace) -> None:
    picture = memory_map(make.full_memory, "No room for D")
    assert "No room for D: 200 slots, 3 event(s)" in picture.words()
    assert (
        "refused: D (60 tokens) does not fit: used 60.0%, reserved 5.0%, internal 0.0%, free 35.0%" in picture.words()
    )
    texts = [text.get_text() for text in picture.figure().axes[0].texts]
    assert "No room for D" in texts
    assert any("✗ refused: D (60 tokens) does not fit" in text for text in texts)


def test_a_picture_of_nothing_or_of_a_torn_memory_is_refused(make: SimpleNamespace) -> None:
    shot = make.full_memory[0]
    with pytest.raises(ValueError, match="at least one"):
        memory_map([])
    with pytest.raises(ValueError, match="one memory at a time"):
        memory_map([shot, replace(shot, size=300)])
    with pytest.raises(ValueError, match="should start at slot 50"):
        memory_map([replace(shot, segments=(shot.segments[0], *shot.segments[2:]))])
    with pytest.raises(ValueError, match="cover 160 of 200"):
        memory_map([replace(shot, segments=shot.segments[:3])])
