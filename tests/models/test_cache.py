"""The cached folder is whole or not there, whatever happens while it is made."""

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from course_lib.models import PolicyError
from course_lib.models.cache import MANIFEST, Recipe, fault, materialise

CONTENT = {"config.json": b'{"model_type": "toy"}\n', "model.safetensors": bytes(range(256)) * 40}


class Toy:
    """A recipe that counts its builds."""

    def __init__(self) -> None:
        self.builds = 0
        self.recipe = Recipe("toy-1", self.build, doing="Making toy.")

    def build(self) -> dict[str, bytes]:
        self.builds += 1
        return dict(CONTENT)


def whole(folder: Path) -> bool:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST} == CONTENT


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if ".new-" in path.name]


def test_builds_once_and_says_so(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy = Toy()
    folder = materialise(toy.recipe)
    assert folder == cache / "toy-1"
    assert whole(folder)
    assert capsys.readouterr() == ("", "Making toy.\n")
    assert materialise(toy.recipe) == folder
    assert toy.builds == 1
    assert capsys.readouterr() == ("", "")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("name", [*CONTENT, MANIFEST])
@pytest.mark.parametrize("damage", [_flip, _truncate, Path.unlink, lambda path: path.write_bytes(b"")])
def test_damage_is_seen_and_mended(
    cache: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], object]
) -> None:
    toy = Toy()
    folder = materialise(toy.recipe)
    capsys.readouterr()
    damage(folder / name)
    wrong = fault(folder)
    assert wrong is not None
    assert name in wrong or MANIFEST in wrong
    assert materialise(toy.recipe) == folder
    assert whole(folder)
    assert fault(folder) is None
    assert toy.builds == 2
    assert capsys.readouterr().err == f"{folder} is broken ({wrong}): building it again.\nMaking toy.\n"
    assert leftovers(cache) == []


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"files": {}}', '{"files": 3}', '{"files": {"a": 1}}', '{"files": {"a": {"bytes": 1}}}']
)
def test_manifest_of_another_shape(cache: Path, text: str) -> None:
    folder = materialise(Toy().recipe)
    (folder / MANIFEST).write_text(text)
    assert fault(folder) == f"{MANIFEST} is missing or unreadable"


def test_failing_build_leaves_nothing(cache: Path) -> None:
    def fails() -> dict[str, bytes]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        materialise(Recipe("toy-1", fails))
    assert not (cache / "toy-1").exists()
    assert leftovers(cache) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(cache: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "model.safetensors":
            write(path, data[:100])
            raise OSError(code, os.strerror(code), str(path))
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(PolicyError, match=r"is full .* nothing half-made was left.*COURSE_CACHE"):
            materialise(Toy().recipe)
    assert not (cache / "toy-1").exists()
    assert leftovers(cache) == []
    assert whole(materialise(Toy().recipe))


def test_cache_that_is_no_folder(cache: Path) -> None:
    cache.parent.write_text("a file where the cache should be")
    with pytest.raises(PolicyError, match=r"can't be written .*Set COURSE_CACHE"):
        materialise(Toy().recipe)


def test_lock_that_is_never_released(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("course_lib.models.cache._LOCK_SECONDS", 0.05)
    cache.mkdir(parents=True)
    with filelock.FileLock(cache / ".toy-1.lock"), pytest.raises(PolicyError, match=r"Another process has held"):
        materialise(Toy().recipe)


RANK = textwrap.dedent("""
    import os, signal, sys, time
    from pathlib import Path
    from course_lib.models.cache import Recipe, materialise

    log, dies = Path(sys.argv[1]), sys.argv[2] == "dies"

    def build():
        with log.open("a") as file:
            file.write("built\\n")
        time.sleep(0.3)
        return {"config.json": b'{"model_type": "toy"}\\n', "model.safetensors": bytes(range(256)) * 40}

    if dies:
        def killed(self, data):
            with self.open("wb") as file:
                file.write(data[:7])
            os.kill(os.getpid(), signal.SIGKILL)
        Path.write_bytes = killed
    print(materialise(Recipe("toy-1", build)))
""")


def _rank(log: Path, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", RANK, str(log), mode], stdout=subprocess.PIPE, text=True)


def test_a_killed_builder_and_then_two_ranks_at_once(cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    killed = _rank(log, "dies")
    killed.communicate()
    assert killed.returncode == -9
    assert not (cache / "toy-1").exists()
    assert len(leftovers(cache)) == 1
    ranks = [_rank(log, "lives") for _ in range(2)]
    answers = {rank.communicate()[0].strip() for rank in ranks}
    assert answers == {str(cache / "toy-1")}
    assert whole(cache / "toy-1")
    assert log.read_text() == "built\n" * 2  # the killed one, and one of the two
    assert leftovers(cache) == []
