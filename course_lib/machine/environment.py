"""The one place that sets the process environment that vLLM and DeepSpeed need to share a kernel."""

import os
import secrets
import socket
import sys
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from course_lib.machine.allocator import keep_freed_memory
from course_lib.machine.tier import named_gpus, tier


def cache_dir() -> Path:
    """Return the folder of what the course makes once: `$COURSE_CACHE`, else `llm-rl-course` in the user's cache."""
    override = os.environ.get("COURSE_CACHE")
    if override:
        return Path(override).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llm-rl-course"


def prepare() -> None:
    """Set this process's environment for vLLM and DeepSpeed; call it before either is imported.

    Calling it twice is harmless. Values that are already set are kept, so a launcher's ranks and a reader's own
    settings win.
    """
    keep_to_own_gpu()
    os.environ.setdefault("TIER", tier())
    if tier() == "cpu":
        keep_freed_memory()
    # One process holds scheduler, worker and trainer: the loop hands live tensors over and can step by hand.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # The engines warn each other of names that torch will drop one day; a reader can do nothing about it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(vllm|deepspeed|torch\.distributed)\.")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if tier() == "gpu" else "cpu")
    if find_spec("flashinfer") is None:
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    # A kernel started as .venv/bin/python has no ninja on its PATH, and DeepSpeed builds its ops with it.
    bin_dir = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    if bin_dir not in path.split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join(filter(None, [bin_dir, path]))
    # DeepSpeed asks for a launcher's variables even where there is one rank. Port 0 is any free one, taken when the rank
    # listens: a number chosen here would be inherited by child processes, which then want the port of a living parent.
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in alone.items():
        os.environ.setdefault(name, value)


def keep_to_own_gpu() -> None:
    """Where a launcher started this process as one rank of several on a machine's GPUs, see only the GPU that is its own.

    DeepSpeed's launcher shows all GPUs to every rank, and an engine in this process would take the first one, like the
    engines of all other ranks. To be called before torch looks at the GPUs; harmless twice, and where there is one rank.
    """
    visible = named_gpus() or []
    own = int(os.environ.get("LOCAL_RANK", "0"))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and own < len(visible) and len(visible) > 1:
        os.environ |= {"CUDA_VISIBLE_DEVICES": visible[own], "LOCAL_RANK": "0"}


def free_port() -> int:
    """Return a port of this machine that nobody listens on now.

    It lies below the ports that systems give to outgoing connections (from 32768 on Linux, 49152 elsewhere), so that none
    of these takes it in the seconds before its user listens.
    """
    while True:
        port = secrets.randbelow(16_000) + 16_000
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
