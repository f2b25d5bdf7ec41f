"""The receipt on the real engines: a clean sync gets a clean one, and each fault is named."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from course_lib.rl import EngineRollout, Receipt, RolloutError, SamplingConfig, SyncError, VLLMRollout, WeightSync
from course_lib.rl.readback import columns
from course_lib.rl.rollout import request
from course_lib.rl.rollout_engine import PolicyRollout
from course_lib.training import PolicyTrainer

pytestmark = pytest.mark.slow
HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"
Train = Callable[[PolicyTrainer], None]


class NoSync(WeightSync):
    def reload(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        list(weights)

    def repack_tied_head(self) -> None: ...


class NoRepack(WeightSync):
    def repack_tied_head(self) -> None: ...


class NoReset(WeightSync):
    def reset_prefix_cache(self) -> None: ...


@pytest.fixture(scope="module", params=[VLLMRollout, EngineRollout])
def rollout(request: Any, engine: VLLMRollout, tiny: Path) -> Iterator[PolicyRollout]:
    if request.param is VLLMRollout:
        yield engine
        return
    ours = EngineRollout(tiny, kv_cache_bytes=64 << 20)
    yield ours
    ours.shutdown()


@pytest.fixture
def align(rollout: PolicyRollout) -> Callable[[PolicyTrainer], PolicyTrainer]:
    """Give the engine a trainer's weights, as if both had just been made from the same files."""

    def push(trainer: PolicyTrainer) -> PolicyTrainer:
        WeightSync(trainer, rollout, noise_floor=1.0).push().raise_if_failed()
        return trainer

    return push


@pytest.fixture
def trainer(make_trainer: Callable[..., PolicyTrainer]) -> PolicyTrainer:
    """Its first step is large enough to move a norm's weights: around 1.0 bf16 has steps of 0.004."""
    return make_trainer(learning_rate=1e-2)


@pytest.fixture
def faulty(trainer: PolicyTrainer, rollout: PolicyRollout, align: Any, train: Train) -> Callable[[type], Receipt]:
    """The receipt of a faulty sync after a real step; everything before it is right."""

    def push(kind: type[WeightSync]) -> Receipt:
        align(trainer)
        sync = kind(trainer, rollout)
        train(trainer)
        return sync.push()

    return push


def test_no_sync_at_all(faulty: Any) -> None:
    receipt = faulty(NoSync)
    assert receipt.culprit.startswith("no sync")
    assert receipt.changed > 0.5


def test_head_not_packed_again(faulty: Any, rollout: PolicyRollout) -> None:
    receipt = faulty(NoRepack)
    if rollout.name == "engine":  # which packs what it loads
        assert receipt.ok
        return
    assert receipt.culprit.startswith("stale lm_head")
    assert receipt.stale == (HEAD,)


def test_prefix_cache_not_reset(faulty: Any) -> None:
    receipt = faulty(NoReset)
    assert receipt.culprit.startswith("stale prefix cache")
    assert receipt.cached_tokens > 0
    assert receipt.stale == ()


def test_a_stale_cache_that_has_lost_the_canaries(tiny: Path, trainer: PolicyTrainer, train: Train) -> None:
    """A step's samples push the canaries out of a small cache: no canary is hit then, but the step's prompts would be."""
    small = EngineRollout(tiny, kv_cache_bytes=20 * 32 << 10)
    sync = NoReset(trainer, small)
    prompts = torch.randint(3, 500, (40, 40), generator=torch.Generator().manual_seed(0)).tolist()
    small.generate(request(prompts), SamplingConfig(max_new_tokens=2, seed=1))
    train(trainer)
    receipt = sync.push()
    assert str(receipt.culprit).startswith("stale prefix cache")
    assert 0 < receipt.cached_tokens <= 20 * 32


def test_a_failed_receipt_ends_the_engines_shorter_way(
    trainer: PolicyTrainer, rollout: PolicyRollout, align: Any, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    align(trainer)
    asked: list[bool] = []
    monkeypatch.setattr(rollout, "forget_plan", lambda: asked.append(True))
    train(trainer)
    assert WeightSync(trainer, rollout, noise_floor=1.0).push().ok
    assert NoSync(trainer, rollout, noise_floor=0.0).push().culprit
    assert not asked
    assert WeightSync(trainer, rollout, noise_floor=1.0).push().ok
    assert WeightSync(trainer, rollout, noise_floor=1.0).push().ok
    assert asked == [True]


def test_what_the_engine_refuses_is_in_the_receipt(
    trainer: PolicyTrainer, rollout: PolicyRollout, align: Any, train: Train
) -> None:
    class Renamed(WeightSync):
        def reload(self, weights: Iterator[tuple[str, Tensor]]) -> None:
            super().reload((name.replace("norm.weight", "nrm.weight"), value) for name, value in weights)

    class Closed(WeightSync):
        def reset_prefix_cache(self) -> None:
            raise RolloutError("requests are running")

    align(trainer)
    train(trainer)
    receipt = Renamed(trainer, rollout, noise_floor=1.0).push()
    assert f"{type(rollout).__name__} did not take the weights" in str(receipt.culprit)
    assert WeightSync(trainer, rollout, noise_floor=1.0).push().ok
    assert Closed(trainer, rollout, noise_floor=1.0).push().culprit == "requests are running"
    assert WeightSync(trainer, rollout, noise_floor=1.0).push().ok


def test_a_sync_of_ones_own_that_raises(trainer: PolicyTrainer, rollout: PolicyRollout, align: Any) -> None:
    class Broken(WeightSync):
        def reload(self, weights: Iterator[tuple[str, Tensor]]) -> None:
            next(weights)
            raise KeyError("mine")

    sync = Broken(align(trainer), rollout, noise_floor=1.0)
    with pytest.raises(KeyError, match="mine"):
        sync.push()
    assert WeightSync(trainer, rollout, noise_floor=1.0).push().ok


@pytest.mark.parametrize(
    "skipped",
    [
        "model.norm.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.1.self_attn.q_norm.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.1.self_attn.o_proj.weight",
        EMBED,
    ],
)
def test_one_tensor_that_did_not_arrive(faulty: Any, skipped: str) -> None:
    class Skip(WeightSync):
        def reload(self, weights: Iterator[tuple[str, Tensor]]) -> None:
            super().reload((name, value) for name, value in weights if name != skipped)

    receipt = faulty(Skip)
    assert receipt.culprit.startswith("missing tensor: ")
    assert skipped in receipt.culprit
    assert not receipt.ok
    with pytest.raises(SyncError, match="missing tensor"):
        receipt.raise_if_failed()


def test_nan_of_a_faulty_sync_does_not_outlive_it(trainer: PolicyTrainer, rollout: PolicyRollout) -> None:
    """vLLM's CPU attention lets a NaN in a KV block through its mask, to whatever request uses the block next."""

    def spoil(worker: Any) -> None:
        for cache in worker.model_runner.kv_caches:
            cache.fill_(torch.nan)

    NoSync(trainer, rollout, noise_floor=0.0).push()  # a receipt that fails
    if isinstance(rollout, VLLMRollout):
        rollout.llm.collective_rpc(spoil)
    else:
        rollout.llm.llm_engine.runner.cache.kv.fill_(torch.nan)
    assert WeightSync(trainer, rollout, noise_floor=1.0).push().ok


@pytest.mark.parametrize("kind", [VLLMRollout, EngineRollout])
def test_wrong_temperature(kind: Any, tiny: Path, make_trainer: Any, train: Train) -> None:
    """The engine is made the wrong way: its logprobs are those before the temperature."""
    trainer, raw = make_trainer(), kind(tiny, kv_cache_bytes=16 << 20, logprobs_mode="raw_logprobs")
    sync = WeightSync(trainer, raw, temperature=0.6)
    train(trainer)
    receipt = sync.push()
    raw.shutdown()
    assert str(receipt.culprit).startswith("wrong temperature: the engine's logprobs are those of temperature 1,")
    assert receipt.stale == ()


@pytest.mark.parametrize(("stage", "temperature"), [(2, 1.0), (3, 1.0), (2, 0.6)])
def test_clean_syncs(
    make_trainer: Any, align: Any, rollout: PolicyRollout, train: Train, stage: int, temperature: float
) -> None:
    trainer = align(make_trainer(zero_stage=stage))
    sync = WeightSync(trainer, rollout, temperature)
    assert 0 < sync.noise_floor < 0.1
    version = rollout.weight_version
    for step in range(1, 4):
        train(trainer)
        receipt = sync.push().raise_if_failed()
        assert receipt.version == version + step
        assert receipt.changed > 0.5
        assert (receipt.stale, receipt.cached_tokens, receipt.tensors) == ((), 0, 25)
        assert set(receipt.seconds) == {"reload", "check"}


def test_nothing_changed_is_clean(make_trainer: Any, align: Any, rollout: PolicyRollout, train: Train) -> None:
    trainer = align(make_trainer(learning_rate=0.0))
    sync = WeightSync(trainer, rollout)
    for _ in range(2):
        train(trainer)
        receipt = sync.push().raise_if_failed()
        assert receipt.changed == 0.0


def test_inspect_finds_a_stale_engine_and_a_synced_one(
    trainer: PolicyTrainer, rollout: PolicyRollout, align: Any, train: Train
) -> None:
    align(trainer)
    sync = WeightSync(trainer, rollout)
    assert sync.inspect().ok  # the canaries are in the prefix cache by now, and rightly so
    train(trainer)
    stale = sync.inspect()
    assert stale.culprit is not None
    assert stale.culprit.startswith("no sync")
    train(trainer)
    assert sync.push().ok
    assert sync.inspect().ok


def test_deepspeeds_own_call_syncs_and_checks(
    trainer: PolicyTrainer, rollout: PolicyRollout, align: Any, train: Train
) -> None:
    align(trainer)
    WeightSync(trainer, rollout)
    train(trainer)
    rollout.sync_weights(1)
    assert rollout.weight_sync.inspect().ok
    NoSync(trainer, rollout, noise_floor=1.0)._sent = rollout.weight_sync._sent
    train(trainer)
    with pytest.raises(SyncError):
        rollout.sync_weights(2)
    WeightSync(trainer, rollout, noise_floor=1.0).push()


def test_no_noise_floor_between_different_weights(trainer: PolicyTrainer, rollout: PolicyRollout, train: Train) -> None:
    """A floor measured so would be as high as a fault, and every receipt would pass."""
    train(trainer)
    with pytest.raises(SyncError, match="different weights"):
        WeightSync(trainer, rollout)


def test_read_back_equals_the_files(make_trainer: Any, align: Any, rollout: PolicyRollout, tiny: Path) -> None:
    align(make_trainer())
    found = rollout.read_back()
    files = load_file(tiny / "model.safetensors")
    assert set(found) == set(files) | {HEAD}
    for name, value in found.items():
        wanted = files[EMBED if name == HEAD else name]
        if wanted.dim() == 2:
            wanted = wanted[:, columns(wanted.shape[1])]
        assert torch.equal(value, wanted), name


def test_read_back_follows_the_trainer(
    trainer: PolicyTrainer, align: Any, rollout: PolicyRollout, train: Train
) -> None:
    before = {name: weight.clone() for name, weight in trainer.named_weights()}
    train(trainer)
    align(trainer)
    found = rollout.read_back()
    for name, weight in trainer.named_weights():
        chosen = columns(weight.shape[1]) if weight.dim() == 2 else slice(None)
        assert torch.equal(found[name], weight[..., chosen]), name
        assert not torch.equal(found[name], before[name][..., chosen]), name


def test_columns_are_the_same_at_every_sync() -> None:
    for width in (8, 64, 768):
        chosen = columns(width).tolist()
        assert len(set(chosen)) == min(width, 32)
        assert set(chosen) <= set(range(width))
        assert chosen == columns(width).tolist()
