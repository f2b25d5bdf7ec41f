"""The bug zoo: eight bugs that people really ship in RL loops, each with one switch and with what catches it.

    lab = BugLab(load_policy("smollm2"))
    caught = [catch(bug, lab) for bug in BUGS.values()]

A bug is not imitated: its switch runs the faulty code, on the real engines.
"""

from dataclasses import dataclass

from course_lib.rl.bugs.bug import Bug, Evidence
from course_lib.rl.bugs.engine_bugs import ENGINE_BUGS
from course_lib.rl.bugs.lab import BugLab
from course_lib.rl.bugs.loss_bugs import LOSS_BUGS

__all__ = ["BUGS", "Bug", "BugLab", "Caught", "Evidence", "catch"]

BUGS: dict[str, Bug] = {bug.name: bug for bug in (*ENGINE_BUGS, *LOSS_BUGS)}
"""All bugs by name."""


@dataclass(frozen=True)
class Caught:
    """What an experiment with a bug showed.

    Attributes:
        bug: the bug.
        healthy: what its detector saw without it.
        broken: what it saw with it; the same weights, prompts and seed.
        absent: why the bug can't show in this lab, or None.
    """

    bug: Bug
    healthy: Evidence
    broken: Evidence
    absent: str | None = None

    @property
    def name(self) -> str:
        """The bug's."""
        return self.bug.name

    @property
    def by(self) -> str:
        """What catches it."""
        return self.bug.detector

    @property
    def detected(self) -> bool:
        """True where the detector named this very bug."""
        return (self.broken.finding or "").startswith(self.bug.title)

    @property
    def false_alarm(self) -> bool:
        """True where the detector found something without the bug."""
        return self.healthy.finding is not None

    @property
    def message(self) -> str:
        """What the detector said, or why it had nothing to say."""
        return self.broken.finding or self.absent or "nothing was found"

    def __str__(self) -> str:
        verdict = "caught" if self.detected else ("cannot show here" if self.absent else "NOT caught")
        alarm = f" FALSE ALARM without the bug: {self.healthy.finding}." if self.false_alarm else ""
        return (
            f"{self.name}: {verdict}. {self.bug.figure}: {self.healthy.figure:.4g} healthy, {self.broken.figure:.4g}"
            f" broken. {self.message}.{alarm}"
        )


def catch(bug: Bug | str, lab: BugLab) -> Caught:
    """Run the lab's loop with a bug and without, and return what its detector saw.

    The lab is right again afterwards, its weights in trainer and engine alike.

    Args:
        bug: one of `BUGS`, or its name.
        lab: a lab; experiments on one lab may come in any order.

    Raises:
        ValueError: there is no bug of that name.
    """
    if isinstance(bug, str):
        if bug not in BUGS:
            raise ValueError(f"there is no bug {bug!r}; take one of {', '.join(BUGS)}.")
        bug = BUGS[bug]
    bug.prepare(lab)
    with bug.switch(lab):
        broken = bug.look(lab)
    return Caught(bug, bug.look(lab), broken, bug.absent(lab))
