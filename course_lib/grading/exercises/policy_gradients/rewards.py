"""Groups of rewards, as inputs of the exercises on advantages."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Rewards:
    """Rewards, a row for each group."""

    rows: tuple[tuple[float, ...], ...]

    @property
    def tensor(self) -> Tensor:
        """The rewards `[groups, samples]`."""
        return torch.tensor(self.rows)

    def arguments(self) -> tuple[Any, ...]:
        """Return what an answer is called with."""
        return (self.tensor,)

    def places(self) -> tuple[list[str], list[list[str]]]:
        """Return a table's columns, and a row for each reward."""
        return [">group", ">sample", ">reward"], [
            [str(group), str(sample), f"{reward:g}"]
            for group, row in enumerate(self.rows)
            for sample, reward in enumerate(row)
        ]

    def __str__(self) -> str:
        return f"rewards {[list(row) for row in self.rows]}"


def reward_groups(count: int) -> st.SearchStrategy[tuple[tuple[float, ...], ...]]:
    """Draw up to `count` groups of 2 to 5 rewards in quarters, no group of equal ones."""
    quarters = st.integers(-4, 8).map(lambda number: number / 4)
    return st.integers(2, 5).flatmap(
        lambda samples: st.lists(
            st.tuples(*[quarters] * samples).filter(lambda row: len(set(row)) > 1), min_size=1, max_size=count
        ).map(tuple)
    )


CASES = (
    Rewards(((0.0, 1.0, 3.0), (2.0, 2.5, 0.5))),
    Rewards(((1.0, 0.0, 0.0, 0.25), (5.0, 3.0, 4.0, 5.0), (-1.0, 0.0, 1.0, 1.5))),
    Rewards(((1.0, 0.0, 0.5, 0.75), (0.25, 1.0, 0.0, 0.5))),
)
