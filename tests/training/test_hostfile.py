"""Hostfiles: what DeepSpeed's reader accepts or nothing, with an answer where it goes on without a word."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import machine
from course_lib.training import read_hostfile

LINES = st.lists(
    st.one_of(
        st.sampled_from(
            ["", "# a comment", "worker-0", "worker-0 slots=", "worker-0 slots=x", "slots=2", "a slots=2 b"]
        ),
        st.builds(
            "{}{} slots={}{}".format,
            st.sampled_from(["", "  "]),
            st.sampled_from(["localhost", "worker-0", "worker-1", "10.0.0.7"]),
            st.integers(0, 9),
            st.sampled_from(["", " ", "  # the big one"]),
        ),
    ),
    max_size=4,
)


@given(lines=LINES)
@settings(max_examples=200, deadline=None)
def test_it_reads_what_deepspeed_reads(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    machine.prepare()
    from deepspeed.launcher.runner import fetch_hostfile

    path = tmp_path_factory.getbasetemp() / "hostfile"
    path.write_text("\n".join(lines))
    try:
        theirs = dict(fetch_hostfile(str(path)))
    except ValueError:
        theirs = None
    try:
        ours = read_hostfile(path)
    except ValueError:
        ours = None
        # Stricter where a job would start without a machine, or on a line that says more than was read.
        assert theirs is None or 0 in theirs.values() or any("slots=2 b" in line for line in lines)
    if ours is not None:
        assert list(ours.items()) == list((theirs or {}).items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worker-0 slots=2\nworker-1", r"line 2: 'worker-1' is not like 'worker-0 slots=4'"),
        ("worker-0 slots=2\n\nworker-0 slots=2", r"line 3: worker-0 was named before"),
        ("# none\nworker-0 slots=0", r"line 2: worker-0 has 0 slots"),
        ("# none\n", r"names no host"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "hostfile").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_hostfile(tmp_path / "hostfile")


def test_no_hostfile_is_an_error_and_not_this_machine_alone(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"can't be read .*give a file of lines like 'worker-0 slots=4'"):
            read_hostfile(path)
