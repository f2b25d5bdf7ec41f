from pathlib import Path

import pytest

from course_lib.models import load_policy


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty course cache; the value is the folder in it where policies go."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "policies"


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    return load_policy("tiny")


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """From the reader's own cache, so that it is made once a machine and not once a run."""
    return load_policy("smollm2")
