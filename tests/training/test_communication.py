"""The log of collectives, on collectives whose size is known."""

from typing import Any

import pytest

from course_lib.training import CommunicationLog

NUMBERS = 4 * 1000  # bytes of holdings_worker.NUMBERS in fp32


@pytest.fixture(scope="module")
def counted(two_ranks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rank["collectives"] for rank in two_ranks]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "calls", "size"),
    [
        ("all-reduce", 2, 2 * 2 * NUMBERS),  # each a reduce-scatter and an all-gather
        ("all-gather", 2, 2 * NUMBERS),
        ("reduce-scatter", 1, NUMBERS),
        ("broadcast", 1, NUMBERS),
    ],
)
def test_each_collective_counts_its_whole_tensor(
    counted: list[dict[str, Any]], kind: str, calls: int, size: int
) -> None:
    for rank in counted:
        assert rank[kind] == {"kind": kind, "calls": calls, "bytes": size}


@pytest.mark.slow
def test_nothing_else_counts(counted: list[dict[str, Any]]) -> None:
    for rank in counted:
        assert rank["all"] == 8 * NUMBERS
        assert set(rank) - {"all", "said", "barrier"} == {"all-reduce", "all-gather", "reduce-scatter", "broadcast"}
        assert "2 x all-reduce 0.0 MiB" in rank["said"]


def test_a_log_of_nothing() -> None:
    log = CommunicationLog()
    assert log.bytes == 0
    assert list(log) == []
