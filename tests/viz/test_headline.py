"""The README's measured table is what the records say."""

import json
from pathlib import Path
from typing import Any

import pytest

from course_lib.machine.record import RESULTS
from course_lib.viz.headline import README, headline, into_readme

ABOUT = {"command": "course bench it", "machine": {"machine": "2 x GPU"}}


def write(folder: Path, name: str, **record: Any) -> None:
    (folder / f"{name}.json").write_text(json.dumps(ABOUT | record))


def test_the_readme_holds_the_table_of_today_s_records() -> None:
    text = README.read_text()
    assert into_readme(text, headline()) == text, "write it anew: python -m course_lib.viz.headline"
    assert (RESULTS / "serve_cpu.json").is_file()
    assert "results/serve_cpu.json" in headline()


def test_a_record_that_is_missing_has_no_row(tmp_path: Path) -> None:
    assert len(headline(tmp_path).splitlines()) == 2


def test_figures_are_the_record_s(tmp_path: Path) -> None:
    engines = {
        "ours": {"tokens_per_second": 1500.0, "of_floor": 0.3},
        "vllm": {"tokens_per_second": 2000.0, "of_floor": 0.4, "version": "0.26.0"},
        "transformers": {"error": "ended"},
    }
    write(tmp_path, "serve_qwen3_h200", workload={"requests": 256}, engines=engines)
    write(
        tmp_path, "loop_h200", work={"prompts": 64, "samples": 8}, loops={"ours": {"step": 0.8}, "trl": {"step": 2.0}}
    )
    row = {"ranks": 1, "zero_stage": 2, "scaling": "strong", "step": 2.0, "memory": {"most": 90.4, "train": 60.0}}
    sync = {"bytes_per_second": 81e9, "of_copy": 0.04}
    two = row | {"ranks": 2, "scaling": "weak", "step": 2.5, "sync": sync, "efficiency": 0.8}
    write(tmp_path, "scale_qwen3_4b_h200", rows=[row | {"sync": sync}, {"error": "no"}, two])
    serving, loop, one, weak = (line.split(" | ") for line in headline(tmp_path).splitlines()[2:])
    assert serving[2:4] == ["ours 1,500 tokens/s, 30 % of the floor's", "vLLM 0.26.0 2,000; ours is 0.75 of vLLM"]
    assert loop[2:4] == ["ours 0.80 s", "TRL 2.00 s: ours takes 0.40 of it"]
    assert one[2:4] == ["2.00 s; 90 GiB at most, 60 in training", "sync 81 GB/s, 4 % of a copy"]
    assert "2 GPUs, work each" in weak[0]
    assert weak[3].startswith("80 % of perfect scaling")
    assert "(results/scale_qwen3_4b_h200.json), `course bench it`" in weak[4]


def test_a_part_that_failed_has_no_figure(tmp_path: Path) -> None:
    write(tmp_path, "serve_cpu", workload={"requests": 8}, engines={"ours": {"error": "ended"}})
    write(
        tmp_path,
        "loop_h200",
        work={"prompts": 4, "samples": 8},
        loops={"ours": {"step": 0.8}, "trl": {"error": "late"}},
    )
    lines = headline(tmp_path).splitlines()[2:]
    assert len(lines) == 1
    assert "0.80 s" in lines[0]
    assert "TRL" not in lines[0]


def test_a_readme_without_the_table_s_place_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        into_readme("# A course\n", "| table |")
