"""One Triton kernel, two ways to run it: compiled for a GPU, or in Triton's interpreter on a CPU."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from inspect import signature
from typing import Any
from unittest.mock import patch

import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction, interpreter_semantic


class Kernel:
    """A Triton kernel, launched as `kernel[grid](...)` like any other: tensors on a GPU compile it, others interpret it.

    Triton's own switch, the environment variable TRITON_INTERPRET, holds for a whole process, has to be set before triton is
    imported, and changes every other library's kernels too. This class chooses at each launch and leaves the rest of the
    process alone, vLLM included. The interpreter runs one program after another in NumPy: right, and thousands of times slower.
    Launches from several threads at once are not safe in the interpreter, which patches `triton.language` while it runs.

    Args:
        function: the kernel; its first argument is a tensor. It calls no other jitted function but those of `triton.language`
            in `_in_interpreter`. Arguments named `num_...` change from call to call: Triton is told not to compile the kernel
            anew where one becomes 1 or a multiple of 16.
    """

    def __init__(self, function: Callable[..., None]):
        counts = [name for name in signature(function).parameters if name.startswith("num_")]
        self.compiled = triton.jit(function, do_not_specialize=counts)
        self.interpreted = InterpretedFunction(function)

    def __repr__(self) -> str:
        return f"Kernel({self.interpreted.fn.__name__})"

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *args: Any, **kwargs: Any) -> None:
        if args[0].is_cuda:
            self.compiled[grid](*args, **kwargs)
            return
        with ExitStack() as stack:
            for name, function in _in_interpreter().items():
                stack.enter_context(patch.object(tl, name, function))
            self.interpreted[grid](*args, **kwargs)


def _in_interpreter() -> dict[str, Callable[..., Any]]:
    # These are jitted functions themselves, written with tl.reduce and tl.associative_scan. The interpreter runs those two,
    # but cannot call a jitted function that was meant for a GPU when triton was imported. So it gets their definitions.
    add, larger = tl.standard._sum_combine, tl.standard._elementwise_max  # noqa: SLF001

    def dot(a: Any, b: Any, **options: Any) -> Any:
        # NumPy has no bf16: the interpreter holds its bits as integers, and would multiply those. In fp32 products are exact.
        return tl.core.dot(a.to(tl.float32), b.to(tl.float32), **options, _semantic=interpreter_semantic)

    return {
        "sum": lambda x, axis=None: tl.reduce(x, axis, add),
        "max": lambda x, axis=None: tl.reduce(x, axis, larger),
        "cumsum": lambda x, axis=0: tl.associative_scan(x, axis, add),
        "dot": dot,
    }
