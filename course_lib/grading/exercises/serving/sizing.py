"""The KV pool: how many blocks the memory has room for, and how many requests run in them at once."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake, recognise
from course_lib.grading.judge import call, for_all
from course_lib.kv_cache import ModelShape, kv_bytes_per_token
from course_lib.serving.capacity import KVPool, predict_pool
from course_lib.viz.tables import Cell, Table

kv_pool = Exercise("05.kv_pool", "kv_pool", "How many requests fit?", difficulty=2, importance=5, minutes=15)


@dataclass(frozen=True)
class _GPU:
    """A GPU, what is on it, and the requests to come: the learner's arguments, in order."""

    shape: ModelShape
    gpu_bytes: int
    utilization: float
    weights: int
    activations: int
    block_size: int
    bytes_per_number: int
    prompt: int
    output: int

    @property
    def block_bytes(self) -> int:
        return self.block_size * kv_bytes_per_token(self.shape, self.bytes_per_number)

    @property
    def left(self) -> int:
        return int(self.gpu_bytes * self.utilization) - self.weights - self.activations

    def requests(self, tokens: int, usable: int) -> int:
        return usable // -(-tokens // self.block_size)


@st.composite
def _gpus(draw: st.DrawFn) -> _GPU:
    """Draw a GPU on which some blocks fit, and a part of one more, so that no rounding of the share decides it."""
    kv_heads, percent = draw(st.integers(1, 3)), draw(st.integers(5, 9)) * 10
    shape = ModelShape("drawn", draw(st.integers(2, 4)), 64, 3 * kv_heads, kv_heads, 16, 96, 500)
    size, number = draw(st.sampled_from([8, 16])), draw(st.sampled_from([2, 1, 4]))
    block_bytes = size * kv_bytes_per_token(shape, number)
    weights = block_bytes * draw(st.integers(3, 12))
    activations = block_bytes * draw(st.integers(2, 6))
    taken = weights + activations + block_bytes * draw(st.integers(2, 40)) + block_bytes // 2
    hundredth = -(-taken // percent)
    activations += hundredth * percent - taken
    prompt, output = draw(st.integers(16, 50)), draw(st.integers(2, 40))
    return _GPU(shape, 100 * hundredth, percent / 100, weights, activations, size, number, prompt, output)


@kv_pool.part(4, "blocks: what weights and activations leave of the share, in blocks of all layers' keys and values")
def _blocks(answer: Answer) -> None:
    for_all(lambda gpu: _compare(answer, gpu, 0), examples=80, gpu=_gpus())


@kv_pool.part(4, "requests: each in whole blocks, for its prompt and for what it will make; none in block 0")
def _requests(answer: Answer) -> None:
    for_all(lambda gpu: _compare(answer, gpu, 1), examples=120, gpu=_gpus())


@kv_pool.part(2, "a ValueError where weights and activations leave nothing")
def _nothing_left(answer: Answer) -> None:
    def test(gpu: _GPU) -> None:
        given = replace(gpu, weights=2 * gpu.gpu_bytes)
        try:
            got = answer(**vars(given))
        except ValueError:
            return
        except NotImplementedError:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {error}; a ValueError tells the caller what to change"
            raise WrongAnswer("another-error", said, _table(given, None)) from error
        said = f"{-given.left:,} bytes are missing before the first block, and {got!r} came; vLLM refuses to start"
        raise WrongAnswer("no-error", said, _table(given, None))

    for_all(test, examples=20, gpu=_gpus())


def _compare(answer: Answer, gpu: _GPU, which: int) -> None:
    got = call(answer, **vars(gpu))
    if not isinstance(got, tuple) or len(got) != 2 or not all(type(number) is int for number in got):
        raise WrongAnswer("no-whole-numbers", f"two ints were expected, blocks and requests, and {got!r} came")
    blocks = predict_pool(gpu.shape, gpu.left, gpu.block_size, gpu.bytes_per_number).num_blocks
    # Who has the wrong number of blocks may know all the same how many requests would run in as many.
    pool = KVPool(max(1, got[0]), gpu.block_size, gpu.block_bytes, null_block=True)
    right = (blocks, pool.requests(gpu.prompt + gpu.output - 1))
    if got[which] == right[which] or (which == 1 and got[0] < 1):
        return
    mistake = recognise(
        lambda given: answer(**vars(given)),
        _MISTAKES[which],
        [(given,) for given in [*_INPUTS, gpu]],
        lambda one, mistaken: bool(one[which] == mistaken(one[0])),
    )
    name = mistake.name if mistake else ("wrong-blocks", "wrong-requests")[which]
    why = mistake.why if mistake else "go through the table by hand"
    said = f"{('blocks', 'requests')[which]}: {right[which]} expected, {got[which]} came; {why}"
    raise WrongAnswer(name, said, _table(gpu, got[0] if which else None))


def _table(gpu: _GPU, blocks: int | None) -> Table:
    shape = gpu.shape
    rows: list[list[Cell | str]] = [
        ["the GPU's bytes", f"{gpu.gpu_bytes:,}"],
        ["utilization", f"{gpu.utilization:.0%}"],
        ["weights", f"{gpu.weights:,} bytes"],
        ["activations", f"{gpu.activations:,} bytes"],
        [
            "layers, query heads, KV heads, head_dim",
            f"{shape.layers}, {shape.heads}, {shape.kv_heads}, {shape.head_dim}",
        ],
        ["bytes a number", str(gpu.bytes_per_number)],
        ["block_size", f"{gpu.block_size} tokens"],
    ]
    if blocks is not None:
        rows += [["your blocks", str(blocks)], ["prompt + output", f"{gpu.prompt} + {gpu.output} tokens"]]
    return Table("The GPU, the model and the requests", ["what", ">value"], rows)


def _of(left: Callable[[_GPU], float], block_bytes: Callable[[_GPU], int]) -> Callable[[_GPU], Callable[[int], int]]:
    return lambda gpu: lambda _: int(left(gpu) // block_bytes(gpu))


def _in(requests: Callable[[_GPU, int], int]) -> Callable[[_GPU], Callable[[int], int]]:
    return lambda gpu: lambda blocks: requests(gpu, blocks)


def _whole(gpu: _GPU) -> int:
    return gpu.block_bytes


_SHAPES = (ModelShape("one", 3, 64, 4, 2, 16, 96, 500), ModelShape("two", 5, 64, 3, 1, 32, 96, 500))
_INPUTS = [
    _GPU(shape, 4_000_000, share, 900_000, 555_000, size, number, prompt, output)
    for shape in _SHAPES
    for share, size, number, prompt, output in ((0.9, 16, 2, 40, 30), (0.6, 8, 4, 33, 16), (0.8, 16, 1, 48, 65))
]
_MISTAKES: tuple[list[Mistake], list[Mistake]] = (
    [
        Mistake(
            "share-of-the-rest",
            "the share was taken of what is free; it is a share of the whole GPU, and weights and activations come off it",
            _of(lambda gpu: (gpu.gpu_bytes - gpu.weights - gpu.activations) * gpu.utilization, _whole),
        ),
        Mistake(
            "share-ignored",
            "the whole GPU was used; vLLM fills the share that it was told, others may need the rest",
            _of(lambda gpu: gpu.gpu_bytes - gpu.weights - gpu.activations, _whole),
        ),
        Mistake(
            "weights-forgotten",
            "the weights take their bytes first, out of the same share",
            _of(lambda gpu: gpu.left + gpu.weights, _whole),
        ),
        Mistake(
            "activations-forgotten",
            "a step needs memory of its own: without it the first large prompt runs out of memory",
            _of(lambda gpu: gpu.left + gpu.activations, _whole),
        ),
        Mistake(
            "keys-only", "a token leaves a key and a value", _of(lambda gpu: gpu.left, lambda g: g.block_bytes // 2)
        ),
        Mistake(
            "one-layer",
            "that is a block of one layer; a block's tokens have keys and values in every layer",
            _of(lambda gpu: gpu.left, lambda gpu: gpu.block_bytes // gpu.shape.layers),
        ),
        Mistake(
            "query-heads",
            "the query heads were counted; queries are not kept",
            _of(lambda gpu: gpu.left, lambda gpu: gpu.block_bytes // gpu.shape.kv_heads * gpu.shape.heads),
        ),
        Mistake(
            "two-bytes-always",
            "bytes_per_number was not used: an fp8 cache holds twice as much",
            _of(lambda gpu: gpu.left, lambda gpu: gpu.block_bytes // gpu.bytes_per_number * 2),
        ),
        Mistake(
            "counts-tokens",
            "these are the tokens that fit; blocks were asked for",
            _of(lambda gpu: gpu.left, lambda gpu: gpu.block_bytes // gpu.block_size),
        ),
        Mistake(
            "rounds-up",
            "a part of a block is no block",
            _of(lambda gpu: gpu.left + gpu.block_bytes - 1, _whole),
        ),
    ],
    [
        Mistake(
            "shared-blocks",
            "all slots were dealt out to all requests; a block belongs to one request, and what is left in its last one is lost",
            _in(lambda gpu, blocks: (blocks - 1) * gpu.block_size // (gpu.prompt + gpu.output - 1)),
        ),
        Mistake(
            "prompt-only",
            "the answers need slots, too: with these many, requests throw each other out as they grow",
            _in(lambda gpu, blocks: gpu.requests(gpu.prompt, blocks - 1)),
        ),
        Mistake(
            "null-block-given-away",
            "block 0 is vLLM's null block, which no request gets",
            _in(lambda gpu, blocks: gpu.requests(gpu.prompt + gpu.output - 1, blocks)),
        ),
        Mistake(
            "slot-for-the-last-token",
            "the last token of an answer is never an input of the model: nothing of it is kept",
            _in(lambda gpu, blocks: gpu.requests(gpu.prompt + gpu.output, blocks - 1)),
        ),
        Mistake(
            "rounds-blocks-down",
            "the tokens behind a request's last full block need a block, too",
            _in(lambda gpu, blocks: (blocks - 1) // ((gpu.prompt + gpu.output - 1) // gpu.block_size)),
        ),
    ],
)
