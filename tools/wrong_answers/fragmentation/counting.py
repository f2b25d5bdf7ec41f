"""Wrong answers to 02.waste."""

# The mistakes are the content here: unused arguments and missing docstrings are what people write.
# ruff: noqa: ARG005

from course_lib.fragmentation import Waste
from wrong_answers import wrong


def counted(used, reserved, internal, external):
    """Return a count of waste; each part takes the sums of used, needed and held slots, and the size."""

    def answer(size, holdings):
        sums = (
            sum(item.used for item in holdings),
            sum(item.needed for item in holdings),
            sum(item.length for item in holdings),
            size,
        )
        return Waste(used(*sums), reserved(*sums), internal(*sums), external(*sums))

    return answer


RIGHT = {
    "used": lambda used, needed, held, size: used / size,
    "reserved": lambda used, needed, held, size: (needed - used) / size,
    "internal": lambda used, needed, held, size: (held - needed) / size,
    "external": lambda used, needed, held, size: (size - held) / size,
}

wrong("02.waste", "slots-not-shares", "Counts slots and does not divide by the size.")(
    counted(
        lambda used, needed, held, size: used,
        lambda used, needed, held, size: needed - used,
        lambda used, needed, held, size: held - needed,
        lambda used, needed, held, size: size - held,
    )
)
wrong("02.waste", "share-of-what-is-held", "Divides by the slots that requests hold.")(
    counted(
        lambda used, needed, held, size: used / max(1, held),
        lambda used, needed, held, size: (needed - used) / max(1, held),
        lambda used, needed, held, size: (held - needed) / max(1, held),
        lambda used, needed, held, size: (size - held) / max(1, held),
    )
)
wrong("02.waste", "reserved-counts-the-used", "Counts all that a request needs as reserved.")(
    counted(**{**RIGHT, "reserved": lambda used, needed, held, size: needed / size})
)
wrong("02.waste", "reserved-is-all-that-is-empty", "Counts every empty slot of a request as reserved.")(
    counted(**{**RIGHT, "reserved": lambda used, needed, held, size: (held - used) / size})
)
wrong("02.waste", "internal-counts-the-reserved", "Counts every empty slot of a request as internal.")(
    counted(**{**RIGHT, "internal": lambda used, needed, held, size: (held - used) / size})
)
wrong("02.waste", "used-counts-the-future", "Counts tokens that are still to come as used.")(
    counted(**{**RIGHT, "used": lambda used, needed, held, size: needed / size, "reserved": lambda *_: 0.0})
)
wrong("02.waste", "swaps-reserved-and-internal", "Confuses reserved and internal.")(
    counted(**{**RIGHT, "reserved": RIGHT["internal"], "internal": RIGHT["reserved"]})
)
wrong("02.waste", "external-counts-what-is-held", "Counts every empty slot as external.")(
    counted(**{**RIGHT, "external": lambda used, needed, held, size: (size - used) / size})
)
