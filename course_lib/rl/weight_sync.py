"""Weight sync: the trainer's weights into the running engine, in place, with a receipt."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from course_lib import machine
from course_lib.rl.readback import fingerprint, read_back
from course_lib.rl.receipt import TOLERANCE, Receipt, SyncError, changed_share, diagnose, find_stale
from course_lib.rl.rollout import Rollout, SamplingConfig, VLLMRollout, request
from course_lib.training import Group, PolicyTrainer

CANARIES = [
    """The first rule of a good experiment is to change one thing at a time and to write down what you expected before you
    look. Whoever changes two things learns about neither, and whoever looks first will remember having known it. So""",
    """A library keeps its books on shelves, and a catalogue says on which shelf each book stands. When a book moves and the
    catalogue does not follow, the reader finds the wrong book and rarely notices. The same happens when""",
    """Two cooks share one kitchen: the first writes the recipe, the second cooks it, and every evening the first improves
    it a little. One day the second goes on cooking from the old page, and nobody can say why the soup""",
    """In spring the river carries more water than its bed can hold, and the meadows on both sides become a lake for weeks.
    The farmers know the date within a few days, because their parents wrote down every year when""",
]
"""Fixed prompts, each over two KV blocks long, so that a prefix cache that was not reset would be hit."""

_CANARY_TOKENS = 4
_CANARY_SAMPLES = 4
_TEMPERATURES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)


class WeightSync:
    """Moves the trainer's weights into the engine, and measures the noise floor that receipts are compared with.

    Make it while trainer and engine hold the same weights from the same files: the disagreement that is left then is the
    noise of two implementations in bf16, and it becomes the noise floor.

    Args:
        trainer: where the weights come from.
        rollout: where they go.
        temperature: of the loop's sampling; the canaries are sampled at it.
        noise_floor: median |difference of logprobs| at equal weights, in nats, where it is known from an earlier start of the
            same run (trainer and engine no longer hold the same weights when a run resumes); None measures it now.

    Raises:
        SyncError: the noise floor is to be measured, but trainer and engine hold different weights.
    """

    def __init__(
        self, trainer: PolicyTrainer, rollout: VLLMRollout, temperature: float = 1.0, noise_floor: float | None = None
    ):
        self.trainer = trainer
        self.rollout = rollout
        rollout.weight_sync = self
        self.temperature = temperature
        self.canaries = request([rollout.tokenizer.encode(" ".join(text.split()))[:96] for text in CANARIES])
        self._sent: dict[str, Tensor] | None = None
        if noise_floor is None:
            self._sent = {name: fingerprint(weight) for name, weight in trainer.named_weights()}
            noise_floor = self._measure_noise_floor(self._sent)
        self.noise_floor = noise_floor

    def push(self) -> Receipt:
        """Sync the weights and sign the receipt. Read it: `push().raise_if_failed()`."""
        start = time.perf_counter()
        if self.rollout.suspect and machine.tier() == "cpu":
            self.rollout.llm.collective_rpc(_zero_kv_cache)
        before = self._sent
        self._sent = {}
        self.reload(self._stream(self._sent))
        self.repack_tied_head()
        self.reset_prefix_cache()
        self.rollout.weight_version += 1
        reloaded = time.perf_counter()
        receipt = self._check(before, self._sent)
        self.rollout.suspect = not receipt.ok
        receipt.seconds.update(reload=reloaded - start, check=time.perf_counter() - reloaded)
        return receipt

    def inspect(self) -> Receipt:
        """Return a receipt of what the engine holds now, without syncing: a trainer that moved on finds its engine stale."""
        now = {name: fingerprint(weight) for name, weight in self.trainer.named_weights()}
        return self._check(self._sent, now, just_synced=False)

    def reload(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Hand the weights to vLLM, which loads them layer by layer into the memory that it computes with."""
        self.rollout.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})

    def repack_tied_head(self) -> None:
        """Pack `lm_head` again on the CPU tier, where vLLM keeps a packed copy of its own of the tied embedding.

        The stream has no entry for a tied `lm_head`, so the reload does not touch that copy, and warns of nothing.
        """
        if machine.tier() == "cpu":
            self.rollout.llm.apply_model(_repack_lm_head)

    def reset_prefix_cache(self) -> None:
        """Forget the keys and values of the old weights; vLLM leaves that to its caller.

        Raises:
            RuntimeError: requests are still running.
        """
        if not self.rollout.llm.reset_prefix_cache():
            raise RuntimeError(
                "the prefix cache can't be reset while requests are running: let generate() return first."
            )

    def _stream(self, sent: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, weight in self.trainer.named_weights():
            sent[name] = fingerprint(weight)
            yield name, weight

    def _check(self, before: dict[str, Tensor] | None, sent: dict[str, Tensor], just_synced: bool = True) -> Receipt:
        actual: dict[str, Tensor] = self.rollout.llm.apply_model(read_back)[0]
        stale = find_stale(sent, actual)
        moved = {name for name, value in sent.items() if before is not None and not torch.equal(before[name], value)}
        if "lm_head.weight" in actual and any(name.endswith("embed_tokens.weight") for name in moved):
            moved.add("lm_head.weight")
        canaries = self._generate_canaries()
        # Right after a sync the cache has to be empty; later the canaries of the check before are rightly in it.
        cached = int(canaries.cached_tokens[0]) if just_synced else 0
        gap = self._gap(canaries, self.temperature)
        fitting = None
        if gap > TOLERANCE * self.noise_floor and not stale and not cached:
            fitting = self._fitting_temperature(canaries)
        culprit = diagnose(stale, moved, cached, gap, self.noise_floor, fitting, self.temperature)
        changed = changed_share(before, sent)
        return Receipt(self.rollout.weight_version, len(actual), stale, changed, cached, gap, self.noise_floor, culprit)

    def _measure_noise_floor(self, held: dict[str, Tensor]) -> float:
        stale = find_stale(held, self.rollout.llm.apply_model(read_back)[0])
        if stale:
            raise SyncError(
                f"trainer and engine hold different weights ({len(stale)} tensors, {stale[0]} for one), so the noise floor can't"
                " be measured: make both from the same folder, or first push the trainer's weights with"
                " WeightSync(trainer, rollout, temperature, noise_floor=1.0).push()."
            )
        canaries = self._generate_canaries()
        # An engine that ignores the temperature agrees with the trainer at 1. Its gap at the loop's temperature is a fault
        # and no noise: a floor as high as that would let every receipt pass.
        return min(self._gap(canaries, temperature) for temperature in {self.temperature, 1.0})

    def _generate_canaries(self) -> Rollout:
        sampling = SamplingConfig(
            max_new_tokens=_CANARY_TOKENS,
            temperature=self.temperature,
            n_samples_per_prompt=_CANARY_SAMPLES,
            seed=0,
            stop_at_eos=False,
        )
        return self.rollout.generate(self.canaries, sampling)

    def _gap(self, canaries: Rollout, temperature: float) -> float:
        prompts, responses = canaries.prompts(), canaries.responses()
        rows = range(0, len(prompts), _CANARY_SAMPLES)
        groups = [
            Group(prompts[row], responses[row : row + _CANARY_SAMPLES], list(range(row, row + _CANARY_SAMPLES)))
            for row in rows
        ]
        trained = self.trainer.logprobs(groups, temperature)
        gaps = [trained[row] - canaries.logprobs[row, : len(response)] for row, response in enumerate(responses)]
        return float(torch.cat(gaps).abs().median())

    def _fitting_temperature(self, canaries: Rollout) -> float | None:
        gaps = {temperature: self._gap(canaries, temperature) for temperature in _TEMPERATURES}
        best = min(gaps, key=lambda temperature: gaps[temperature])
        return best if gaps[best] <= TOLERANCE * self.noise_floor and best != self.temperature else None


def _repack_lm_head(model: Any) -> None:
    head = getattr(model, "lm_head", None)
    if head is not None:
        head.quant_method.process_weights_after_loading(head)


def _zero_kv_cache(worker: Any) -> None:
    """Erase keys and values after a faulty sync, which may have left NaN in them.

    A layer that got only some of its tensors computes with memory that nobody has set. vLLM's CPU attention multiplies what
    it masks in a block by 0, and 0 * NaN is NaN: without this, requests go wrong long after the weights are right again.
    """
    for cache in worker.model_runner.kv_caches:
        cache.zero_()
