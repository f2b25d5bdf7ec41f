"""Wrong answers to 02.batching."""

# The mistakes are the content here: unused arguments and missing docstrings are what people write.
# ruff: noqa: ARG001, D103

from wrong_answers import wrong


@wrong("02.batching", "static", "Starts the next requests when the whole batch has ended.")
def static(output_tokens, rows):
    ends, clock = [], 0
    for first in range(0, len(output_tokens), rows):
        batch = output_tokens[first : first + rows]
        ends += [clock + length for length in batch]
        clock += max(batch)
    return ends


@wrong("02.batching", "round-robin", "Gives request i to row i modulo rows, free or not.")
def round_robin(output_tokens, rows):
    clocks, ends = [0] * rows, []
    for number, length in enumerate(output_tokens):
        clocks[number % rows] += length
        ends.append(clocks[number % rows])
    return ends


@wrong("02.batching", "one-after-the-other", "Lets one request run at a time.")
def serial(output_tokens, rows):
    return [sum(output_tokens[: number + 1]) for number in range(len(output_tokens))]


@wrong("02.batching", "all-at-once", "Lets all requests run at once.")
def unbounded(output_tokens, rows):
    return list(output_tokens)


def filled(output_tokens, rows, pause=0):
    clocks, ends = [0] * rows, []
    for length in output_tokens:
        row = clocks.index(min(clocks))
        ends.append(clocks[row] + length)
        clocks[row] += length + pause
    return ends


@wrong("02.batching", "idle-step-between", "Leaves a step between a request's end and the next one's start.")
def pausing(output_tokens, rows):
    return filled(output_tokens, rows, pause=1)


@wrong("02.batching", "gives-the-starts", "Returns when requests start.")
def starts(output_tokens, rows):
    return [end - length for end, length in zip(filled(output_tokens, rows), output_tokens, strict=True)]


@wrong("02.batching", "counts-from-zero", "Counts the first step as step 0.")
def from_zero(output_tokens, rows):
    return [end - 1 for end in filled(output_tokens, rows)]


@wrong("02.batching", "shortest-first", "Lets short requests overtake.")
def shortest_first(output_tokens, rows):
    order = sorted(range(len(output_tokens)), key=lambda number: output_tokens[number])
    ends = dict(zip(order, filled([output_tokens[number] for number in order], rows), strict=True))
    return [ends[number] for number in range(len(output_tokens))]
