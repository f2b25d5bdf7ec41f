"""What a serving loop asks of a KV memory, and the memory of engines before paging: one reservation for each request."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from course_lib.fragmentation.contiguous import Allocator
from course_lib.fragmentation.memory_map import Holding, Snapshot, snapshot
from course_lib.fragmentation.workload import LIMIT, Request

Reserve = Callable[[Request, int], int]
"""Takes a request and the longest sequence's tokens, returns how many slots to reserve for it."""


@dataclass(frozen=True)
class Waste:
    """What a memory's slots are doing, as shares of it. `used`, `reserved`, `internal` and `external` add up to 1.

    The terms are those of the paper's Figure 2. Its last bar is called "external fragmentation and others" and holds the
    allocator's rounding too, which textbooks count as internal; `rounding` says how much of `external` that is.

    Attributes:
        used: hold keys and values of tokens.
        reserved: will hold tokens that their request has not made yet.
        internal: reserved for a request that will never make so many tokens.
        external: everything else: holes, and what the allocator gave on top of what was asked.
        rounding: the part of `external` that the allocator gave on top.
    """

    used: float
    reserved: float
    internal: float
    external: float
    rounding: float = 0.0

    def __repr__(self) -> str:
        parts = ("used", "reserved", "internal", "external", "rounding")
        return f"Waste({', '.join(f'{part} {getattr(self, part):.1%}' for part in parts)})"


class Memory(Protocol):
    """A KV memory as a serving loop sees it: `serve` calls these and nothing else.

    A paged memory implements them as well as a contiguous one: `grow` takes a block where the last one is full, and
    returns False where none is free.
    """

    def admit(self, request: Request) -> bool:
        """Make room for the prompt and whatever is reserved with it; return False where there is not enough, changing nothing."""

    def grow(self, request_id: str) -> bool:
        """Make room for one more token of a request that was admitted; return False where there is none, changing nothing."""

    def release(self, request_id: str) -> None:
        """Take back everything that the request holds."""

    def waste(self) -> Waste:
        """Return what the slots are doing now. Called at every step: it should not go through all requests."""


def reserve_max(_request: Request, limit: int) -> int:
    """Reserve for the longest sequence that the model takes: nothing is known of the request. The paper's Orca (Max)."""
    return limit


def reserve_pow2(request: Request, limit: int) -> int:
    """Reserve the prompt, and the output's length rounded up to a power of two: as if it could be guessed so. Orca (Pow2)."""
    return min(limit, request.prompt_tokens + (1 << (request.output_tokens - 1).bit_length()))


def reserve_exact(request: Request, _limit: int) -> int:
    """Reserve what the request will need, to the token: as if the output's length were known. Orca (Oracle)."""
    return request.tokens


def reserve_nothing(request: Request, _limit: int) -> int:
    """Take the slots of the prompt and of the next token alone; every later one must find the slot behind the last one free."""
    return request.prompt_tokens + 1


class Reservations:
    """A contiguous memory: each request's slots lie in a row, and are reserved when it is admitted.

    Args:
        allocator: gives out the runs of slots.
        reserve: says how many slots a request gets.
        limit: the longest sequence in tokens.
    """

    def __init__(self, allocator: Allocator, reserve: Reserve, limit: int = LIMIT):
        self.allocator, self.reserve, self.limit = allocator, reserve, limit
        self.holdings: dict[str, Holding] = {}
        self._used = self._reserved = self._asked = self._rounding = 0

    def __repr__(self) -> str:
        reserve = getattr(self.reserve, "__name__", repr(self.reserve))
        return f"Reservations({self.allocator!r}, {reserve}, limit {self.limit}, {len(self.holdings)} requests)"

    def admit(self, request: Request) -> bool:
        """Reserve slots for the request and fill in its prompt; return False where there is no such run of slots.

        Raises:
            ValueError: the request is longer than the limit, or the reservation is too short for its prompt.
        """
        if request.tokens > self.limit:
            raise ValueError(
                f"request {request.id} has {request.prompt_tokens} + {request.output_tokens} tokens, more than the limit "
                f"of {self.limit}: draw shorter lengths or raise the limit"
            )
        length = self.reserve(request, self.limit)
        if length < request.prompt_tokens:
            raise ValueError(
                f"{length} slots reserved for request {request.id}, whose prompt has {request.prompt_tokens}"
            )
        start = self.allocator.allocate(request.id, length)
        if start is None:
            return False
        self.holdings[request.id] = Holding(start, length, request.prompt_tokens, request.tokens)
        self._count(self.holdings[request.id], 1)
        return True

    def grow(self, request_id: str) -> bool:
        """Use one more of the request's slots; behind its last one, ask the allocator for more in place."""
        holding = self.holdings[request_id]
        if holding.used == holding.length:
            if not self.allocator.grow(request_id, holding.length + 1):
                return False
            self._count(holding, -1)
            holding.length += 1
            self._count(holding, 1)
        holding.used += 1
        self._used += 1
        self._reserved -= 1
        return True

    def release(self, request_id: str) -> None:
        """Give the request's slots back."""
        holding = self.holdings.pop(request_id)
        self.allocator.free(request_id)
        self._count(holding, -1)

    def waste(self) -> Waste:
        """Return what the slots are doing now."""
        size = self.allocator.size
        internal = self._asked - self._used - self._reserved
        return Waste(
            self._used / size,
            self._reserved / size,
            internal / size,
            (size - self._asked) / size,
            self._rounding / size,
        )

    def snapshot(self, time: float, event: str, refused: bool = False) -> Snapshot:
        """Return who holds what now."""
        return snapshot(time, event, self.allocator.size, self.holdings, self.allocator.holes(), refused)

    def _count(self, holding: Holding, sign: int) -> None:
        self._used += sign * holding.used
        self._reserved += sign * (min(holding.needed, holding.length) - holding.used)
        self._asked += sign * holding.length
        # What is neither asked for nor in a hole was given on top. Allocators need not say what they round to.
        self._rounding = self.allocator.size - self._asked - sum(length for _, length in self.allocator.holes())
