"""The block explorer: what it says of a block, a request or a token is what the tables say."""

import re
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.paged_attention import slot
from course_lib.paged_attention.snapshot import BlockView, PoolSnapshot
from course_lib.viz import block_explorer
from course_lib.viz.block_tables import payload, visible


def decoded(data: dict) -> list[PoolSnapshot]:
    return [
        PoolSnapshot(
            frame["event"],
            data["block_size"],
            tuple(
                BlockView(number, block["refs"], tuple(block["tokens"]), block["key"])
                for number, block in enumerate(frame["blocks"])
            ),
            {request: tuple(table) for request, table in frame["tables"].items()},
            frame["lengths"],
            tuple(frame["free"]),
        )
        for frame in data["frames"]
    ]


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_the_payload_holds_the_whole_pool(make: SimpleNamespace, data: st.DataObject) -> None:
    shots = data.draw(make.pools())
    told = payload(shots, "")
    assert decoded(told) == shots
    assert {request for shot in shots for request in shot.tables} == set(told["owners"])


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_the_widget_finds_the_slot_that_the_room_finds(
    make: SimpleNamespace, node: Callable, data: st.DataObject
) -> None:
    told = payload(data.draw(make.pools()), "")
    size = told["block_size"]
    found = node(
        "blocks.mjs",
        "data.frames.map(({ tables, lengths, blocks }) => ({ slots: Object.entries(tables).map(([request, table]) => "
        "Array.from({ length: lengths[request] }, (_, position) => asset.whereabouts(table, position, data.block_size))), "
        "filled: Object.entries(tables).map(([request, table]) => "
        "table.map((_, logical) => asset.tokensIn(lengths[request], logical, data.block_size))), "
        "holders: blocks.map((_, id) => asset.holders(tables, id)) }))",
        told,
    )
    for frame, answers in zip(told["frames"], found, strict=True):
        for request, places, filled in zip(frame["tables"], answers["slots"], answers["filled"], strict=True):
            table = frame["tables"][request]
            assert [place["slot"] for place in places] == [
                slot(table, at, size) for at in range(frame["lengths"][request])
            ]
            assert all(place["block"] == table[place["logical"]] for place in places)
            assert sum(filled) == frame["lengths"][request]
            assert all(full == size for full in filled[:-1])
        for number, (block, holders) in enumerate(zip(frame["blocks"], answers["holders"], strict=True)):
            assert len(holders) == block["refs"]
            assert all(frame["tables"][held["request"]][held["logical"]] == number for held in holders)


def test_sentences_work_the_address_out(make: SimpleNamespace, node: Callable) -> None:
    frame = payload(make.shared_prefix, "")["frames"][1]
    targets = [
        {"request": "A", "logical": 1, "offset": 1},
        {"request": "B"},
        {"request": "B", "logical": 0},
        {"block": 0},
        {"block": 5},
    ]
    said = node("blocks.mjs", "data[1].map((target) => asset.sentence(data[0], 4, target))", [frame, targets])
    table = frame["tables"]["A"]
    place = slot(table, 5, 4)
    assert said[0] == f"A's token 5: table[5 // 4] * 4 + 5 % 4 = table[1] * 4 + 1 = {table[1]} * 4 + 1 = slot {place}"
    assert "5 tokens in 2 blocks of 4 slots" in said[1] and "3 slots empty" in said[1]
    assert said[2] == "B's logical block 0, tokens 0 to 3, is physical block 0; held by A too"
    assert "reference count 2, held by A's logical block 0 and B's logical block 0" in said[3]
    assert "held by nobody, number" in said[4]


@pytest.mark.parametrize(
    ("before", "now", "word"),
    [
        ((0, [], ""), (1, [], ""), "new"),
        ((0, ["x"], "ab"), (1, ["x"], "ab"), "found"),
        ((1, ["x"], "ab"), (0, ["x"], "ab"), "given back"),
        ((1, ["x"], "ab"), (2, ["x"], "ab"), "shared"),
        ((2, ["x"], "ab"), (1, ["x"], "ab"), "let go"),
        ((1, ["x"], ""), (1, ["x", "y"], ""), "written"),
        ((1, ["x"], ""), (1, ["x"], ""), ""),
    ],
)
def test_a_block_says_what_became_of_it(node: Callable, before: tuple, now: tuple, word: str) -> None:
    blocks = [dict(zip(("refs", "tokens", "key"), block, strict=True)) for block in (before, now)]
    assert node("blocks.mjs", "asset.change(data[0], data[1])", blocks) == word


@given(st.data())
@settings(max_examples=5, deadline=None)
def test_the_strip_writes_every_table_down(make: SimpleNamespace, data: st.DataObject) -> None:
    shots = data.draw(make.pools())
    texts = [text.get_text() for text in block_explorer(shots[-1:], "The pool").figure().axes[0].texts]
    assert [text for text in texts if re.fullmatch(r"→ \d+", text)] == [
        f"→ {block}" for table in shots[-1].tables.values() for block in table
    ]
    assert sum(text.startswith("ref ") for text in texts) == len(shots[-1].blocks)
    assert sum(text.endswith("· cached") for text in texts) == sum(bool(block.key) for block in shots[-1].blocks)


def test_a_large_pool_is_drawn_as_far_as_it_is_used() -> None:
    blocks = tuple(BlockView(number, int(number == 70), ("x",) if number == 70 else ()) for number in range(100))
    shot = PoolSnapshot("one of many", 16, blocks, {"A": (70,)}, {"A": 1}, tuple(n for n in range(100) if n != 70))
    texts = [text.get_text() for text in block_explorer([shot]).figure().axes[0].texts]
    assert "70" in texts
    assert any("99 blocks not drawn" in text for text in texts)


def test_control_characters_are_made_visible() -> None:
    assert visible("a\n\tb") == "a↵→b"


def test_pools_that_contradict_themselves_are_refused(make: SimpleNamespace) -> None:
    shot = make.shared_prefix[0]
    with pytest.raises(ValueError, match="at least one"):
        block_explorer([])
    with pytest.raises(ValueError, match="one pool at a time"):
        block_explorer([shot, replace(shot, blocks=shot.blocks[:-1])])
    with pytest.raises(ValueError, match=r"names blocks \[8\] of a pool of 8"):
        block_explorer([replace(shot, tables={"A": (8,)})])
    with pytest.raises(ValueError, match="hold 0 to 8"):
        block_explorer([replace(shot, lengths={"A": 9})])


def test_any_token_can_be_drawn(recwarn: pytest.WarningsRecorder) -> None:
    tokens = ("$x_1$ costs $", "🙂", "\x00\n", "中")
    shot = PoolSnapshot("says $a$ 🙂", 4, (BlockView(0, 1, tokens),), {"$A$": (0,)}, {"$A$": 4}, ())
    texts = [text.get_text() for text in block_explorer([shot], "$ 🙂").figure().axes[0].texts]
    assert {"says $a$ □", "$A$", "$ □", "□"} <= set(texts)
    assert list(recwarn) == []
