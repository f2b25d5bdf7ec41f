"""What a bug of the zoo is, and what looking at it yields."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from course_lib.rl.bugs.lab import BugLab


@dataclass(frozen=True)
class Evidence:
    """What a detector saw, once.

    Attributes:
        signature: what a plot of the bug shows; see `Bug.signature`.
        figure: the detector's figure.
        finding: what the detector says is wrong, beginning with the bug's title, or None.
    """

    signature: Float[Tensor, " values"]
    figure: float
    finding: str | None

    def __repr__(self) -> str:
        return f"Evidence({len(self.signature)} values, figure {self.figure:.4g}, {self.finding or 'nothing found'})"


def _nowhere_else(_: "BugLab") -> str | None:
    return None


def _nothing(_: "BugLab") -> None:
    return None


@dataclass(frozen=True)
class Bug:
    """A bug that people ship: one switch that turns it on, and a detector that a real loop could run.

    Attributes:
        name: its key in `BUGS`.
        title: its name in words, which the detector's finding begins with.
        what: what goes wrong, in a sentence or two.
        source: who shipped it.
        detector: what catches it.
        figure: the detector's figure, with its unit.
        signature: what `Evidence.signature` holds: of each response token the `log_ratio`, trainer against sampler in nats, or
            the `token_weight`, what its logprob gets of the gradient, where 1 is right; or the `weight_difference` of some
            of a tensor's values, engine minus trainer.
        switch: `with bug.switch(lab): ...` runs the lab's loop with the bug.
        look: runs the loop's code and the detector.
        prepare: what the loop does before, bug or no bug.
        absent: why the bug can't show in this lab, or None.
    """

    name: str
    title: str
    what: str
    source: str
    detector: str
    figure: str
    signature: Literal["log_ratio", "token_weight", "weight_difference"]
    switch: Callable[["BugLab"], AbstractContextManager[object]]
    look: Callable[["BugLab"], Evidence]
    prepare: Callable[["BugLab"], None] = _nothing
    absent: Callable[["BugLab"], str | None] = _nowhere_else

    def __repr__(self) -> str:
        return f"Bug({self.name}: {self.what})"
