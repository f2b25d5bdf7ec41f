import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.paged_attention import block_hashes

tokens = st.lists(st.integers(0, 3), max_size=40)


@settings(deadline=None)
@given(tokens, tokens, st.integers(1, 5))
def test_hashes_are_equal_as_far_as_the_tokens_are(one: list[int], other: list[int], block_size: int) -> None:
    ours, theirs = block_hashes(one, block_size), block_hashes(other, block_size)
    assert len(ours) == len(one) // block_size
    for number, (a, b) in enumerate(zip(ours, theirs, strict=False), start=1):
        assert (a == b) == (one[: number * block_size] == other[: number * block_size])


@settings(deadline=None)
@given(tokens, st.integers(1, 5), st.data())
def test_a_chain_goes_on_from_what_is_known(sequence: list[int], block_size: int, data: st.DataObject) -> None:
    whole = block_hashes(sequence, block_size)
    known = data.draw(st.integers(0, len(whole)))
    assert block_hashes(sequence, block_size, whole[:known]) == whole


def test_blocks_have_slots() -> None:
    with pytest.raises(ValueError, match="block_size is 0"):
        block_hashes([1], 0)
