"""The tables of a run, as HTML and as text."""

import math
import re
from types import SimpleNamespace

from course_lib.rl import Problem
from course_lib.viz import answers_table, receipt_table, samples_table

HOSTILE = '<script>alert("x")</script><|im_end|>\nsecond & last'


def samples(*completions: str, reward: float = 0.5) -> dict:
    shared = {"question": "What is 1+1?", "answer": "2", "reward": reward, "advantage": -0.5}
    return {"step": 3, "samples": [shared | {"completion": text} for text in completions]}


def test_text_is_escaped() -> None:
    page = samples_table(samples(HOSTILE))._repr_html_()
    assert "<script" not in page
    assert "&lt;|im_end|&gt;↵ second &amp; last" in page
    page = answers_table([Problem(HOSTILE, HOSTILE)], [HOSTILE], [HOSTILE])._repr_html_()
    assert "<script" not in page
    assert "<svg" not in page


def test_styles_are_those_that_an_untrusted_notebook_keeps_and_a_dark_page_can_show() -> None:
    page = answers_table([Problem("1+1?", "2")], ["3"], ["2"])._repr_html_()
    colors = re.findall(r"(?:color:|solid) *([^;]+);", page)
    # JupyterLab's sanitizer drops a colour of any other form, currentColor among them.
    assert colors and all(re.fullmatch(r"rgba\(\d+, \d+, \d+, 0\.\d+\)", color) for color in colors)


def test_answers_are_marked_by_sign_and_by_word() -> None:
    table = answers_table([Problem("1+1?", "2"), Problem("2+2?", "4")], ["3", "4"], ["2", " 4 "])
    assert table.caption == "Right answers: 1 of 2 before, 2 of 2 after"
    assert "✗ 3" in repr(table)
    assert "✓ 2" in repr(table)
    page = table._repr_html_()
    assert page.count('title="right"') == 3
    assert page.count('title="wrong"') == 1


def test_long_completions_are_shortened() -> None:
    cell = samples_table(samples("a" * 5000)).rows[0][2].text
    assert len(cell) == 160
    assert cell.endswith("…")


def test_samples_name_their_question_once_a_group() -> None:
    table = samples_table(samples("2", "3", "4"), limit=2)
    assert [row[0].text for row in table.rows] == ["What is 1+1?", ""]
    assert "2 of 3 samples" in table.caption
    assert samples_table(samples("2", reward=math.nan)).rows[0][3].text == "-"


def test_a_receipt_a_row(make: SimpleNamespace) -> None:
    text = repr(receipt_table(make.run(3)))
    assert "3 of 3 receipts clean" in text
    assert text.count("✓ clean") == 3
    assert "273 / 273" in text
    assert "3.00%" in text


def test_a_failed_receipt_is_never_left_out(make: SimpleNamespace) -> None:
    records = make.run(60)
    records[30]["receipt"] = make.receipt(30, 0.4, "stale lm_head: the output matrix is the old one")
    table = receipt_table(records, limit=6)
    assert [row[0].text for row in table.rows] == ["1", "2", "3", "…", "30", "…", "58", "59", "60"]
    assert str(table.rows[4][-1]) == "✗ stale lm_head: the output matrix is the old one"
    assert table.rows[4][1].text == "272 / 273"
    assert sum(int(row[-1].text.split()[0]) for row in table.rows if row[0].text == "…") == 53


def test_a_run_without_a_sync_has_an_empty_table(make: SimpleNamespace) -> None:
    table = receipt_table([make.measurement()])
    assert table.rows == []
    assert "0 of 0" in repr(table)
    assert "<table" in table._repr_html_()
