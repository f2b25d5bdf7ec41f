"""The real vLLM in this process: started with one clear message where it can't be, stopped with its memory given back."""

import contextlib
import difflib
import gc
import re
from collections.abc import Iterator
from dataclasses import fields
from os import PathLike
from typing import Any
from unittest import mock

import torch

from course_lib import machine
from course_lib.models import load_policy

CPU_KV_CACHE_BYTES = 256 << 20
"""vLLM's KV cache on the CPU tier unless told; its own default is most of the host's memory."""

CPU_BLOCK_SIZE = 32
"""vLLM's block size on the CPU tier unless told; its own is 128 there, and a prompt shorter than a block is never shared."""


class EngineError(RuntimeError):
    """vLLM can't start; the message has vLLM's reason, and which option to lower."""


def start_vllm(model: str | PathLike[str], **options: Any) -> Any:
    """Start vLLM in this process, and return its `vllm.LLM`.

    Its engine core runs in this process too, so that steps can be made by hand and its scheduler be looked at. Beside what
    the caller gives, options are `use_tqdm_on_load=False`, and on the CPU tier `CPU_KV_CACHE_BYTES` and `CPU_BLOCK_SIZE`.

    Args:
        model: a folder, or a name that `load_policy` knows.
        options: `vllm.LLM`'s.

    Raises:
        PolicyError: there is no such model; nothing was started.
        EngineError: vLLM did not start. What it had taken by then is free again.
    """
    machine.prepare()
    folder = load_policy(model)
    import vllm  # only now: it reads the environment that prepare() sets

    if machine.tier() == "cpu":
        # vLLM's CPU attention uses AMX tiles, which Linux gives to a process that asks. oneDNN asks at its first large product;
        # a short prompt that comes before one would end the process (SIGILL).
        torch.cpu._init_amx()  # noqa: SLF001  torch has no other name for it
    else:
        # vLLM has one pool for all CUDA graphs of a process, and a pool goes with the last graph in it: the next engine would
        # capture into one that is no longer there. Without one it makes its own.
        type(vllm.platforms.current_platform)._global_graph_pool = None  # noqa: SLF001  there is no other way to it
    options = default_options() | {"use_tqdm_on_load": False} | options
    try:
        with keep_threads():
            return vllm.LLM(model=str(folder), **options)
    except Exception as error:  # noqa: BLE001  vLLM, torch, pydantic and the driver each have their own
        reason = _reason(error)
    # Raised out here: an exception that knew of vLLM's would keep its frames alive, and in them what was loaded by then.
    _give_memory_back()
    raise EngineError(f"vLLM did not start on {folder.name}: {reason}")


def stop_vllm(llm: Any) -> None:
    """Shut an engine down and release its memory, whoever still holds `llm`; calling it twice is harmless.

    torch's process groups stay: DeepSpeed and other engines in this process use them.

    Args:
        llm: what `start_vllm` returned.
    """
    if llm.llm_engine is None:
        return
    with keep_process_groups():
        llm.llm_engine.engine_core.shutdown()
    llm.llm_engine = None  # a notebook's variable may keep `llm` alive
    _give_memory_back()


@contextlib.contextmanager
def vllm_engine(model: str | PathLike[str], **options: Any) -> Iterator[Any]:
    """Start vLLM as `start_vllm` does, and stop it at the end of the `with` block, whatever happens in it."""
    llm = start_vllm(model, **options)
    try:
        yield llm
    finally:
        stop_vllm(llm)


def is_vllm(llm: Any) -> bool:
    """Return whether an engine is vLLM's, and not ours."""
    return type(llm).__module__.partition(".")[0] == "vllm"


def vllm_scheduler(llm: Any) -> Any:
    """Return the scheduler of a `vllm.LLM` whose engine core runs in this process.

    Raises:
        ValueError: the engine was stopped, or its core runs in another process.
    """
    engine = getattr(llm, "llm_engine", llm)
    if engine is None:
        raise ValueError("this vLLM was stopped: start another one with start_vllm()")
    core = getattr(engine, "engine_core", None)
    scheduler = getattr(getattr(core, "engine_core", None), "scheduler", None)
    if scheduler is None:
        raise ValueError(
            "this vLLM keeps its scheduler in another process: call course_lib.machine.prepare() before the first import of "
            "vllm, which makes it stay in this one"
        )
    return scheduler


@contextlib.contextmanager
def keep_threads() -> Iterator[None]:
    """Undo what vLLM's CPU worker does to this process beyond itself: it turns `torch.set_num_threads` into a no-op."""
    set_num_threads = torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads


@contextlib.contextmanager
def keep_process_groups() -> Iterator[None]:
    """Stop vLLM from destroying torch's process groups as it leaves: DeepSpeed and other engines in this process use them."""
    from vllm.v1.engine import core

    with mock.patch.object(core, "cleanup_dist_env_and_memory", create=True):
        yield


def default_options() -> dict[str, Any]:
    """Return the options of an engine on this tier that the caller need not give."""
    if machine.tier() == "gpu":
        return {}
    return {"kv_cache_memory_bytes": CPU_KV_CACHE_BYTES, "block_size": CPU_BLOCK_SIZE}


def _give_memory_back() -> None:
    gc.unfreeze()  # vLLM hides what it holds from the collector as it starts, and older ones don't undo that
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _reason(error: BaseException) -> str:
    """Return what was wrong as one line, and what to do about it where that is known."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if isinstance(error, TypeError) and unknown:
        return _no_such_option(unknown.group(1))
    said = str(error)
    if hasattr(error, "errors"):  # pydantic's: one for each wrong field
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc'][:1]))}: {first['msg']}".removeprefix(": ").removeprefix(
            "Value error, "
        )
    said = re.split(r"\.\s+(?=[A-Z])", " ".join(said.split()))[0].rstrip(".") or type(error).__name__
    return f"{said}. {next((advice for sign, advice in _ADVICE.items() if sign in said.lower()), '')}".rstrip()


# What a complaint of vLLM's or torch's says, and what to do about it; the first that fits.
_ADVICE = {
    "kv cache is needed": "Lower max_model_len (-1 takes the longest that fits), or raise kv_cache_memory_bytes or (on a GPU) "
    "gpu_memory_utilization.",
    "for the cache blocks": "Raise kv_cache_memory_bytes or (on a GPU) gpu_memory_utilization, or lower max_model_len.",
    "max_model_len": "Lower max_model_len.",
    "memory": "Lower kv_cache_memory_bytes, max_num_seqs, max_model_len or (on a GPU) gpu_memory_utilization, or stop another "
    "engine with stop_vllm().",
}


def _no_such_option(name: str) -> str:
    from vllm import EngineArgs

    names = [field.name for field in fields(EngineArgs)]
    close = difflib.get_close_matches(name, names, n=1)
    return f"it has no option {name!r}.{f' Did you mean {close[0]!r}?' if close else ''}"
