"""What the benchmark counts, and that it runs where there is no GPU."""

import json
from pathlib import Path

import pytest
import torch

from course_lib.paged_attention import benchmark
from course_lib.paged_attention.attention import paged_attention
from course_lib.paged_attention.benchmark_shapes import SHAPES, SMALL, BatchShape


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.name)
def test_floors_are_counted_from_what_is_read(shape: BatchShape) -> None:
    arguments = shape.arguments(torch.float32, "cpu")
    pairs = 0  # of a query and a key that it sees
    for keys, new in zip(shape.seq_lens, shape.query_lens, strict=True):
        pairs += int(torch.ones(new, keys).tril(keys - new).sum())
    assert shape.flops() == 2 * 2 * pairs * shape.heads * shape.head_dim
    used = sum(shape.seq_lens) * shape.kv_heads * shape.head_dim * 4
    assert shape.bytes_moved(4) == 2 * used + 2 * arguments["q"].nbytes
    assert arguments["key_cache"].nbytes >= used


def test_the_models_are_the_ones_that_are_named() -> None:
    gib = {shape.name: shape.bytes_moved(2) / 2**30 for shape in SHAPES}
    assert gib["Qwen3-0.6B, decode"] == pytest.approx(256 * 1000 * 4096 / 2**30, rel=0.01)  # 112 KiB a token, 28 layers
    assert gib["Llama-3.1-8B, decode"] == pytest.approx(32 * 4096 * 4096 / 2**30, rel=0.01)  # 128 KiB, 32 layers
    assert gib["SmolLM2-135M, decode"] == pytest.approx(64 * 512 * 768 / 2**30, rel=0.01)  # 22.5 KiB, 30 layers


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.name)
def test_the_dense_baseline_computes_the_same(shape: BatchShape) -> None:
    arguments = shape.arguments(torch.float32, "cpu")
    dense = benchmark.dense_sdpa(shape, arguments)
    if dense is None:
        assert len(set(shape.query_lens)) > 1
        return
    result = dense()
    if shape.query_lens[0] > 1:
        result = result.transpose(1, 2)
    torch.testing.assert_close(result.reshape(arguments["q"].shape), paged_attention(**arguments), atol=1e-5, rtol=1e-5)


def test_a_record_holds_what_its_table_shows(tmp_path: Path) -> None:
    record = benchmark.measure_all(SMALL[1:2], "cpu", commit="abc")
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    again = benchmark.recorded(path)
    assert again["commit"] == "abc"
    assert {"machine", "tier", "torch", "triton"} <= set(again["machine"])
    (row,) = benchmark.rows(again)
    (shape,) = again["shapes"]
    assert len(row) == len(benchmark.COLUMNS)
    assert row[0] == shape["shape"]["name"] == SMALL[1].name
    assert row[3] == f"{shape['microseconds']['triton']:.1f}"
    assert shape["max_error"] <= shape["tolerance"]


def test_the_floor_is_the_larger_of_memory_and_arithmetic() -> None:
    shape = {"shape": {"name": "x"}, "microseconds": {"triton": 40.0}, "max_error": 0.0}
    memory = shape | {"floor_microseconds": {"copy": 12.0, "nominal": 10.0, "flops": 1.0}}
    arithmetic = shape | {"floor_microseconds": {"copy": 12.0, "nominal": 10.0, "flops": 20.0}}
    unlisted = shape | {"floor_microseconds": {"copy": 12.0}}
    rows = benchmark.rows({"shapes": [memory, arithmetic, unlisted]})
    assert [row[5:7] for row in rows] == [["10.0", "25%"], ["20.0", "50%"], ["12.0", "30%"]]


def test_a_missing_record_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"benchmark --out .*nothing\.json"):
        benchmark.recorded(tmp_path / "nothing.json")


@pytest.mark.skipif(not benchmark.RECORD.is_file(), reason="nothing is recorded yet")
def test_the_recorded_kernel_is_right_and_no_faster_than_light() -> None:
    record = benchmark.recorded()
    assert {shape["shape"]["name"] for shape in record["shapes"]} == {shape.name for shape in SHAPES}
    for shape in record["shapes"]:
        assert shape["max_error"] <= shape["tolerance"]
        assert shape["microseconds"]["triton"] > shape["floor_microseconds"]["nominal"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without a GPU")
def test_without_a_gpu_only_small_shapes_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", "--tune"])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "--small" in capsys.readouterr().err
