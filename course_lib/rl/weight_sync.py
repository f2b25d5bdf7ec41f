"""Weight sync: the trainer's weights into the running engine, in place, with a receipt."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from course_lib.rl.readback import fingerprint
from course_lib.rl.receipt import TOLERANCE, Receipt, SyncError, count_differences, diagnose, find_stale
from course_lib.rl.rollout_batch import Rollout, RolloutError, SamplingConfig, request
from course_lib.rl.rollout_engine import PolicyRollout
from course_lib.rl.world import World
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
"""Fixed prompts. Of each a KV block and one token are used: the shortest that a prefix cache which was not reset is hit by, and
the samples of a prompt share all of it but that token."""

_CANARY_TOKENS = 3
_CANARY_SAMPLES = 5
_TEMPERATURES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)


class WeightSync:
    """Moves the trainer's weights into the engine, and measures the noise floor that receipts are compared with.

    Make it while trainer and engine hold the same weights from the same files: the disagreement that is left then is the
    noise of two implementations in bf16, and it becomes the noise floor.

    With several ranks each has an engine and a WeightSync of its own, and all of them make it and call it together. Whatever
    happens on one rank, no other is left waiting: `push` returns on all of them or raises on all of them.

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
        self, trainer: PolicyTrainer, rollout: PolicyRollout, temperature: float = 1.0, noise_floor: float | None = None
    ):
        self.trainer = trainer
        self.rollout = rollout
        rollout.weight_sync = self
        self.world = World(trainer.engine.global_rank, trainer.world_size)
        self.temperature = temperature
        texts = [rollout.tokenizer.encode(" ".join(text.split())) for text in CANARIES]
        longest = rollout.block_size + 1
        self.canaries = request([(ids * (1 + longest // len(ids)))[:longest] for ids in texts])
        self._sent: dict[str, Tensor] | None = None
        self.noise_floor = math.nan if noise_floor is None else noise_floor
        if noise_floor is None:
            self._sent = {name: fingerprint(weight) for name, weight in trainer.named_weights()}
            self.noise_floor = self._measure_noise_floor(self._sent)

    def push(self) -> Receipt:
        """Sync the weights and sign the receipt. Read it: `push().raise_if_failed()`.

        What the engine refuses is in the receipt too.

        Raises:
            SyncError: another rank's sync raised.
        """
        start = time.perf_counter()
        before = self._sent
        sent: dict[str, Tensor] = {}
        seen = self._look(lambda seen: self._sync(sent, seen))
        self._sent = sent
        receipt = self._sign(before, sent, seen, just_synced=True)
        self.rollout.suspect = not receipt.ok
        receipt.seconds.update(reload=seen.synced - start, check=time.perf_counter() - seen.synced)
        return receipt

    def inspect(self) -> Receipt:
        """Return a receipt of what the engine holds now, without syncing: a trainer that moved on finds its engine stale."""
        now = {name: fingerprint(weight) for name, weight in self.trainer.named_weights()}
        return self._sign(self._sent, now, self._look(), just_synced=False)

    def reload(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Hand the weights to the engine, which loads them into the memory that it computes with."""
        self.rollout.reload_weights(weights)

    def repack_tied_head(self) -> None:
        """Have the engine pack its output matrix again, where it keeps a copy of the tied embedding that the reload misses."""
        self.rollout.repack_tied_head()

    def reset_prefix_cache(self) -> None:
        """Have the engine forget the keys and values of the old weights."""
        self.rollout.reset_prefix_cache()

    def __repr__(self) -> str:
        return f"WeightSync({self.trainer!r} to {self.rollout!r}, noise floor {self.noise_floor:.4f} nats)"

    def _sync(self, sent: dict[str, Tensor], seen: "_Seen") -> None:
        """Take the steps of a sync, in their order."""
        weights = self._stream(sent)
        try:
            if self.rollout.suspect:
                self.rollout.erase_kv_cache()
                self.rollout.forget_plan()
            self.rollout.suspect = True  # until the receipt is clean
            self.reload(weights)
            self.rollout.hollow = False
        except RolloutError as error:
            seen.refused = str(error)
        finally:
            for _ in weights:  # under ZeRO-3 the other ranks would wait in each gather that this one leaves out
                pass
        self.repack_tied_head()
        self.reset_prefix_cache()
        seen.cached = self.rollout.cached_tokens()
        self.rollout.weight_version += 1
        seen.synced = time.perf_counter()

    def _stream(self, sent: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, weight in self.trainer.named_weights():
            sent[name] = fingerprint(weight)
            yield name, weight

    def _look(self, sync: Callable[["_Seen"], None] | None = None) -> "_Seen":
        """Sync, then look at what the engine holds and says.

        Raises:
            SyncError: another rank raised here.
            Exception: this rank did.
        """
        seen, failed = _Seen(time.perf_counter()), None
        try:
            if sync is not None:
                sync(seen)
            seen.weights = self.rollout.read_back()
            seen.canaries = self._generate_canaries()
        except RolloutError as error:
            seen.refused = seen.refused or str(error)
        except Exception as error:  # noqa: BLE001  raised below, when the other ranks know
            failed = error
        ranks = self.world.gather((failed is not None, seen.canaries is None))
        if failed is not None:
            raise failed
        if any(raised for raised, _ in ranks):
            raise SyncError("the weight sync failed on another rank, whose own message says why.")
        seen.comparable = not any(silent for _, silent in ranks)
        return seen

    def _sign(
        self, before: dict[str, Tensor] | None, sent: dict[str, Tensor], seen: "_Seen", just_synced: bool
    ) -> Receipt:
        stale = find_stale(sent, seen.weights) if seen.weights else ()
        differ = count_differences({name: (before[name], value) for name, value in sent.items()} if before else {})
        moved = {name for name, count in differ.items() if count}
        if "lm_head.weight" in seen.weights and any(name.endswith("embed_tokens.weight") for name in moved):
            moved.add("lm_head.weight")
        cached = seen.cached
        if just_synced and seen.canaries is not None:  # later the canaries of the check before are rightly in the cache
            cached = max(cached, int(seen.canaries.cached_tokens[0]))
        gap, fitting = 0.0, None
        if seen.comparable:
            gap = self._gap(seen.canaries, self.temperature)
            suspicious = gap > TOLERANCE * self.noise_floor and not stale and not cached
            if self.world.any(suspicious):  # the trainer computes on all ranks or on none
                fitting = self._fitting_temperature(seen.canaries)
        culprit = diagnose(stale, moved, cached, gap, self.noise_floor, fitting, self.temperature)
        if seen.refused:
            culprit = f"{culprit}; {seen.refused}" if stale else seen.refused
        elif culprit is None and not seen.comparable:
            culprit = "not checked: another rank's engine gave no canaries"
        changed = sum(differ.values()) / max(1, sum(value.numel() for value in sent.values()))
        version, tensors = self.rollout.weight_version, len(seen.weights)
        return Receipt(version, tensors, stale, changed, cached, gap, self.noise_floor, culprit)

    def _measure_noise_floor(self, held: dict[str, Tensor]) -> float:
        seen = self._look()
        if seen.refused:
            held = {}
        stale = find_stale(held, seen.weights)
        if self.world.any(bool(stale)) or not seen.comparable:
            what = f"({len(stale)} tensors, {stale[0]} for one)" if stale else "on another rank"
            raise SyncError(
                seen.refused
                or f"trainer and engine hold different weights {what}, so the noise floor can't be measured: make both from the"
                " same folder, or first push the trainer's weights with WeightSync(trainer, rollout, temperature,"
                " noise_floor=1.0).push()."
            )
        # An engine that ignores the temperature agrees with the trainer at 1. Its gap at the loop's temperature is a fault
        # and no noise: a floor as high as that would let every receipt pass.
        return min(self._gap(seen.canaries, temperature) for temperature in {self.temperature, 1.0})

    def _generate_canaries(self) -> Rollout:
        sampling = SamplingConfig(
            max_new_tokens=_CANARY_TOKENS,
            temperature=self.temperature,
            n_samples_per_prompt=_CANARY_SAMPLES,
            seed=0,
            stop_at_eos=False,
        )
        return self.rollout.generate(self.canaries, sampling)

    def _gap(self, canaries: Rollout | None, temperature: float) -> float:
        assert canaries is not None  # or the ranks would not be comparable
        prompts, responses = canaries.prompts(), canaries.responses()
        rows = range(0, len(prompts), _CANARY_SAMPLES)
        groups = [
            Group(prompts[row], responses[row : row + _CANARY_SAMPLES], list(range(row, row + _CANARY_SAMPLES)))
            for row in rows
        ]
        trained = self.trainer.logprobs(groups, temperature)
        gaps = [trained[row] - canaries.logprobs[row, : len(response)] for row, response in enumerate(responses)]
        return float(torch.cat(gaps).abs().median())

    def _fitting_temperature(self, canaries: Rollout | None) -> float | None:
        gaps = {temperature: self._gap(canaries, temperature) for temperature in _TEMPERATURES}
        best = min(gaps, key=lambda temperature: gaps[temperature])
        return best if gaps[best] <= TOLERANCE * self.noise_floor and best != self.temperature else None


@dataclass
class _Seen:
    """What a look at the engine found.

    Attributes:
        synced: when the sync before it was over.
        weights: fingerprints of the engine's weights; empty where it refused to show them.
        canaries: its samples of the canaries; None where it refused to generate.
        cached: tokens that its prefix cache still knew right after the sync.
        refused: why it did not do what it was asked.
        comparable: whether there are canaries on all ranks, so that their trainers can compute the logprobs together.
    """

    synced: float
    weights: dict[str, Tensor] = field(default_factory=dict)
    canaries: Rollout | None = None
    cached: int = 0
    refused: str = ""
    comparable: bool = False
