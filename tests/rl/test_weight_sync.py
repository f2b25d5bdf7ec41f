"""The receipt on the real engines: a clean sync gets a clean one, and each fault is named."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from course_lib.rl import Receipt, SyncError, VLLMRollout, WeightSync
from course_lib.rl.readback import columns, read_back
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


@pytest.fixture
def trainer(make_trainer: Callable[..., PolicyTrainer]) -> PolicyTrainer:
    """Its first step is large enough to move a norm's weights: around 1.0 bf16 has steps of 0.004."""
    return make_trainer(learning_rate=1e-2)


@pytest.fixture
def faulty(trainer: PolicyTrainer, engine: VLLMRollout, equalize: Any, train: Train) -> Callable[[type], Receipt]:
    """The receipt of a faulty sync after a real step; everything before it is right."""

    def push(kind: type[WeightSync]) -> Receipt:
        equalize(trainer)
        sync = kind(trainer, engine)
        train(trainer)
        return sync.push()

    return push


def test_no_sync_at_all(faulty: Any) -> None:
    receipt = faulty(NoSync)
    assert receipt.culprit.startswith("no sync")
    assert receipt.changed > 0.5


def test_head_not_packed_again(faulty: Any) -> None:
    receipt = faulty(NoRepack)
    assert receipt.culprit.startswith("stale lm_head")
    assert receipt.stale == (HEAD,)


def test_prefix_cache_not_reset(faulty: Any) -> None:
    receipt = faulty(NoReset)
    assert receipt.culprit.startswith("stale prefix cache")
    assert receipt.cached_tokens > 0
    assert receipt.stale == ()


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


def test_nan_of_a_faulty_sync_does_not_outlive_it(trainer: PolicyTrainer, engine: VLLMRollout) -> None:
    """vLLM's CPU attention lets a NaN in a KV block through its mask, to whatever request uses the block next."""

    def spoil(worker: Any) -> None:
        for cache in worker.model_runner.kv_caches:
            cache.fill_(torch.nan)

    NoSync(trainer, engine, noise_floor=0.0).push()  # a receipt that fails
    engine.llm.collective_rpc(spoil)
    assert WeightSync(trainer, engine, noise_floor=1.0).push().ok


def test_wrong_temperature(make_trainer: Any, raw_engine: VLLMRollout, train: Train) -> None:
    trainer = make_trainer()
    sync = WeightSync(trainer, raw_engine, temperature=0.6)
    train(trainer)
    receipt = sync.push()
    assert str(receipt.culprit).startswith("wrong temperature: the engine's logprobs are those of temperature 1,")
    assert receipt.stale == ()


@pytest.mark.parametrize(("stage", "temperature"), [(2, 1.0), (3, 1.0), (2, 0.6)])
def test_clean_syncs(
    make_trainer: Any, equalize: Any, engine: VLLMRollout, train: Train, stage: int, temperature: float
) -> None:
    trainer = equalize(make_trainer(zero_stage=stage))
    sync = WeightSync(trainer, engine, temperature)
    assert 0 < sync.noise_floor < 0.1
    version = engine.weight_version
    for step in range(1, 4):
        train(trainer)
        receipt = sync.push().raise_if_failed()
        assert receipt.version == version + step
        assert receipt.changed > 0.5
        assert (receipt.stale, receipt.cached_tokens, receipt.tensors) == ((), 0, 25)
        assert set(receipt.seconds) == {"reload", "check"}


def test_nothing_changed_is_clean(make_trainer: Any, equalize: Any, engine: VLLMRollout, train: Train) -> None:
    trainer = equalize(make_trainer(learning_rate=0.0))
    sync = WeightSync(trainer, engine)
    for _ in range(2):
        train(trainer)
        receipt = sync.push().raise_if_failed()
        assert receipt.changed == 0.0


def test_inspect_finds_a_stale_engine_and_a_synced_one(
    trainer: PolicyTrainer, engine: VLLMRollout, equalize: Any, train: Train
) -> None:
    equalize(trainer)
    sync = WeightSync(trainer, engine)
    assert sync.inspect().ok  # the canaries are in the prefix cache by now, and rightly so
    train(trainer)
    stale = sync.inspect()
    assert stale.culprit is not None
    assert stale.culprit.startswith("no sync")
    train(trainer)
    assert sync.push().ok
    assert sync.inspect().ok


def test_deepspeeds_own_call_syncs_and_checks(
    trainer: PolicyTrainer, engine: VLLMRollout, equalize: Any, train: Train
) -> None:
    equalize(trainer)
    WeightSync(trainer, engine)
    train(trainer)
    engine.sync_weights(1)
    assert engine.weight_sync.inspect().ok
    NoSync(trainer, engine, noise_floor=1.0)._sent = engine.weight_sync._sent
    train(trainer)
    with pytest.raises(SyncError):
        engine.sync_weights(2)
    WeightSync(trainer, engine, noise_floor=1.0).push()


def test_no_noise_floor_between_different_weights(trainer: PolicyTrainer, engine: VLLMRollout, train: Train) -> None:
    """A floor measured so would be as high as a fault, and every receipt would pass."""
    train(trainer)
    with pytest.raises(SyncError, match="different weights"):
        WeightSync(trainer, engine)


def test_read_back_equals_the_files(make_trainer: Any, equalize: Any, engine: VLLMRollout, tiny: Path) -> None:
    equalize(make_trainer())
    found = engine.llm.apply_model(read_back)[0]
    files = load_file(tiny / "model.safetensors")
    assert set(found) == set(files) | {HEAD}
    for name, value in found.items():
        wanted = files[EMBED if name == HEAD else name]
        if wanted.dim() == 2:
            wanted = wanted[:, columns(wanted.shape[1])]
        assert torch.equal(value, wanted), name


def test_read_back_follows_the_trainer(
    trainer: PolicyTrainer, equalize: Any, engine: VLLMRollout, train: Train
) -> None:
    before = {name: weight.clone() for name, weight in trainer.named_weights()}
    train(trainer)
    equalize(trainer)
    found = engine.llm.apply_model(read_back)[0]
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
