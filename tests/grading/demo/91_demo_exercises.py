# %% [markdown]
# # 91 Exercises: small things
#
# Write what is asked, then run the check under it.

# %%
from course_lib.grading import check

# %% [markdown] exercise="91.double"
# ## Twice a number
#
# Write `double`, which returns twice its argument.
#
# **Expected**: `double(4)` is 8.
#
# <details><summary>Hint 1: which operator?</summary>Multiply.</details>
# <details><summary>Hint 2: what about negative numbers?</summary>The same.</details>


# %% exercise="91.double"
def double(number: int) -> int:
    """Return twice the number."""
    # SOLUTION
    times = 2
    return number * times
    # END SOLUTION


# %% exercise="91.double"
print(double)

# %% exercise="91.double"
check("91.double", double)

# %% [markdown] exercise="91.stack"
# ## A stack
#
# Write `Stack`.
#
# **Expected**: what was pushed last is popped first.
#
# <details><summary>Hint 1: which type?</summary>A list.</details>
# <details><summary>Hint 2: which methods?</summary>append and pop.</details>


# %% exercise="91.stack"
class Stack:
    """Last in, first out."""

    def __init__(self) -> None:
        self.things: list[int] = []

    def push(self, thing: int) -> None:
        """Put a thing on top."""
        # SOLUTION
        self.things.append(thing)
        # END SOLUTION

    def pop(self) -> int:
        """Take the thing on top."""
        # SOLUTION
        return self.things.pop()
        # END SOLUTION


# %% exercise="91.stack"
check("91.stack", Stack)

# %% [markdown]
# One more thing to come.

# %% [markdown] exercise="91.total"
# ## The sum of a list
#
# Write `total`.
#
# **Expected**: `total([1, 2])` is 3.
#
# <details><summary>Hint 1: where to start?</summary>At zero.</details>
# <details><summary>Hint 2: a builtin?</summary>There is one.</details>


# %% exercise="91.total"
def total(numbers: list[int]) -> int:
    """Return the sum."""
    # SOLUTION
    return sum(number for number in numbers)
    # END SOLUTION


# %% exercise="91.total"
check("91.total", total)
