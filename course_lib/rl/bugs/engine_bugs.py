"""Five bugs between trainer and engine: what the engine computes with is not what the trainer thinks."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor

from course_lib import machine
from course_lib.rl.bugs.bug import Bug, Evidence
from course_lib.rl.bugs.lab import BugLab
from course_lib.rl.readback import fingerprint
from course_lib.rl.receipt import Receipt

_ERRORS = 4.0
"""A mean that is this many standard errors off is no chance."""
_SHOWN = 2000
"""Values of a tensor that a signature has at most."""


def _no_sync(lab: BugLab) -> AbstractContextManager[object]:
    def reload(weights: Iterator[tuple[str, Tensor]]) -> None:
        for _ in weights:  # gathered, sent, and never loaded
            pass

    return patch.multiple(lab.sync, reload=reload, repack_tied_head=lambda: None)


def _stale_prefix_cache(lab: BugLab) -> AbstractContextManager[object]:
    return patch.object(lab.sync, "reset_prefix_cache", lambda: None)


def _stale_lm_head(lab: BugLab) -> AbstractContextManager[object]:
    return patch.object(lab.sync, "repack_tied_head", lambda: None)


@contextmanager
def _wrong_temperature(lab: BugLab) -> Iterator[None]:
    """Switch vLLM's default `logprobs_mode` on in the live engine."""
    lab.rollout.llm.collective_rpc(_set_logprobs_mode, args=("raw_logprobs",))
    try:
        yield
    finally:
        lab.rollout.llm.collective_rpc(_set_logprobs_mode, args=("processed_logprobs",))


def _set_logprobs_mode(worker: Any, mode: str) -> None:
    sampler = worker.model_runner.sampler
    for part in (sampler, getattr(sampler, "topk_topp_sampler", None)):
        if part is not None:
            part.logprobs_mode = mode


def _top_p(lab: BugLab) -> AbstractContextManager[object]:
    return patch.object(lab.sampling, "top_p", 0.8)


def _synced(figure: Callable[[Receipt], float]) -> Callable[[BugLab], Evidence]:
    """Return a look at a sync: its receipt, and trainer against sampler after it."""

    def look(lab: BugLab) -> Evidence:
        receipt = lab.sync.push()
        return Evidence(lab.log_ratios(), figure(receipt), receipt.culprit)

    return look


def _head(lab: BugLab) -> Evidence:
    """After a single update the logprobs of a stale head are lost in the noise: the tensor itself is not."""
    receipt = lab.sync.push()
    trained = {name.rpartition("embed_tokens")[1] or name: weight for name, weight in lab.trainer.named_weights()}
    wanted = fingerprint(trained.get("lm_head.weight", trained["embed_tokens"])).float()
    held = lab.rollout.read_back().get("lm_head.weight", wanted).float()  # a GPU's engine has no copy to read
    differences = (held - wanted).flatten()
    return Evidence(differences[:: 1 + len(differences) // _SHOWN], len(receipt.stale), receipt.culprit)


def _inspected(lab: BugLab) -> Evidence:
    receipt = lab.sync.inspect()
    return Evidence(lab.log_ratios(), receipt.gap / receipt.noise_floor, receipt.culprit)


def _kept_mass(lab: BugLab) -> Evidence:
    """The mean of p_trainer / p_sampler over tokens that the sampler drew is the trainer's mass on what could be drawn: 1."""
    log_ratios = lab.log_ratios()
    ratios = log_ratios.double().exp()
    mean, error = float(ratios.mean()), float(ratios.std()) / math.sqrt(len(ratios))
    low = mean + _ERRORS * error < 1
    finding = (
        f"top-p bias: the mean ratio is {mean:.3f} ± {error:.3f}, and over all tokens that could be drawn it is 1: the sampler"
        f" drew from {mean:.1%} of the trainer's probability mass and gives logprobs scaled up to that; sample with top_p=1"
    )
    return Evidence(log_ratios, mean, finding if low else None)


def _train(lab: BugLab) -> None:
    lab.train()


def _sample_and_train(lab: BugLab) -> None:
    lab.sample()  # now the prompts' keys and values under the old weights are in the cache
    lab.train()


def _head_not_packed(lab: BugLab) -> str | None:
    if machine.tier() != "cpu":
        return "vLLM packs weights into a form of their own on the CPU only: a GPU's lm_head is the embedding itself"
    if "lm_head.weight" in dict(lab.trainer.named_weights()):
        return (
            f"the lm_head of {lab.trainer.folder.name} is not tied to its embedding, so the stream has an entry for it"
        )
    return None


ENGINE_BUGS = (
    Bug(
        name="no_sync",
        title="no sync",
        what="The update never reaches the engine, which goes on sampling from the old policy.",
        source="simple_GRPO wraps load_weights in a bare except, so that a failed sync is invisible",
        detector="the receipt reads tensors back from the engine",
        figure="tensors that are not the trainer's",
        signature="log_ratio",
        switch=_no_sync,
        look=_synced(lambda receipt: len(receipt.stale)),
        prepare=_train,
    ),
    Bug(
        name="stale_prefix_cache",
        title="stale prefix cache",
        what="The engine has the new weights, and reads the prompts' keys and values of the old ones from its prefix cache.",
        source="NeMo-RL issue 4018 (17 updates old), prime-rl issue 1650, vLLM issue 9744",
        detector="the receipt asks a prompt that was cached before the sync",
        figure="prompt tokens cached before the sync",
        signature="log_ratio",
        switch=_stale_prefix_cache,
        look=_synced(lambda receipt: receipt.cached_tokens),
        prepare=_sample_and_train,
    ),
    Bug(
        name="stale_lm_head",
        title="stale lm_head",
        what="The embedding arrives, but the output matrix tied to it stays the old one: vLLM's CPU build keeps a packed copy.",
        source="found while this course was made; vLLM's reload names the limit (model_loader/reload, tied parameters)",
        detector="the receipt reads columns back through the engine's own kernel",
        figure="tensors that are not the trainer's",
        signature="weight_difference",
        switch=_stale_lm_head,
        look=_head,
        prepare=_train,
        absent=_head_not_packed,
    ),
    Bug(
        name="wrong_temperature",
        title="wrong temperature",
        what="The engine samples at one temperature and reports the logprobs of another: those before it, vLLM's default.",
        source="TRL issue 4159; vLLM's default logprobs_mode is raw_logprobs",
        detector="the receipt finds the temperature that would explain the gap",
        figure="gap of the logprobs, in noise floors",
        signature="log_ratio",
        switch=_wrong_temperature,
        look=_inspected,
    ),
    Bug(
        name="top_p_bias",
        title="top-p bias",
        what="The sampler cuts off the unlikely tokens and scales the others up; the trainer does not know.",
        source="TRL issues 6789 and 7269; vLLM takes top_p from a model's generation_config.json (0.8 for Qwen3-4B-Instruct-2507)",
        detector="the mean trainer/sampler ratio is below 1 by more than chance",
        figure="mean ratio = probability mass that could be drawn",
        signature="log_ratio",
        switch=_top_p,
        look=_kept_mass,
    ),
)
"""Bugs between trainer and engine."""
