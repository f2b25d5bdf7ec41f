import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.paged_attention import num_blocks_for, slot, slot_mapping

block_sizes = st.integers(1, 33)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[int], int]:
    return draw(st.lists(st.integers(0, 40), min_size=1, max_size=8, unique=True)), draw(block_sizes)


@settings(deadline=None)
@given(tables())
def test_each_token_has_its_own_slot_in_a_block_of_its_table(case: tuple[list[int], int]) -> None:
    table, block_size = case
    slots = [slot(table, position, block_size) for position in range(len(table) * block_size)]
    # The slots are exactly those of the table's blocks, and stand in logical order block by block.
    assert slots == [block * block_size + offset for block in table for offset in range(block_size)]
    assert slot_mapping(table, range(len(slots)), block_size).tolist() == slots


@settings(deadline=None)
@given(tables(), st.data())
def test_positions_come_in_any_order(case: tuple[list[int], int], data: st.DataObject) -> None:
    table, block_size = case
    positions = data.draw(st.lists(st.integers(0, len(table) * block_size - 1)))
    expected = [slot(table, position, block_size) for position in positions]
    assert slot_mapping(table, torch.tensor(positions, dtype=torch.int32), block_size).tolist() == expected


def test_the_formula_without_the_block_size_puts_two_tokens_in_one_slot() -> None:
    table, size = [5, 2, 7], 4
    wrong = [table[position // size] + position % size for position in range(12)]
    assert len(set(wrong)) < 12 == len({slot(table, position, size) for position in range(12)})


@settings(deadline=None)
@given(st.integers(0, 500), block_sizes)
def test_blocks_for_tokens(tokens: int, block_size: int) -> None:
    blocks = num_blocks_for(tokens, block_size)
    assert (blocks - 1) * block_size < tokens <= blocks * block_size


@pytest.mark.parametrize("position", [-1, 8, 100])
def test_a_position_outside_the_table_is_refused(position: int) -> None:
    with pytest.raises(ValueError, match=f"position {position} is not in the table: 2 blocks of 4 slots"):
        slot([3, 1], position, 4)
    with pytest.raises(ValueError, match=f"position {position} "):
        slot_mapping([3, 1], [0, position], 4)


def test_blocks_have_slots() -> None:
    with pytest.raises(ValueError, match="block_size is 0"):
        slot([3], 0, 0)
    with pytest.raises(ValueError, match="block_size is 0"):
        num_blocks_for(3, 0)
    with pytest.raises(ValueError, match="tokens is -1"):
        num_blocks_for(-1, 4)
