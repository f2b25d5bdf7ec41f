"""`load_policy`: every way in, and what each wrong name gets told."""

import json
import shutil
import socket
import time
from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors

from course_lib.models import PolicyError, describe, load_policy


@pytest.fixture
def model_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "mine"))


def test_a_folder_is_taken_as_it_is(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_policy(str(model_folder)) == model_folder
    assert load_policy(model_folder) == model_folder
    monkeypatch.chdir(model_folder.parent)
    assert load_policy("mine") == Path("mine")
    assert load_policy("./mine/") == Path("mine")
    monkeypatch.setenv("HOME", str(model_folder.parent))
    assert load_policy("~/mine") == model_folder


def test_a_name_of_the_course_wins_over_a_folder(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_policy("tiny") == tiny_folder
    with pytest.raises(PolicyError, match=r"config.json is missing"):
        load_policy("./tiny")


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("config.json", "not a whole model folder: config.json is missing. Expected"),
        ("tokenizer.json", "the tokenizer is missing .tokenizer.json or tokenizer.model or vocab.json with merges.txt"),
        (
            "model.safetensors",
            "the weights are missing .model.safetensors, or model.safetensors.index.json and its parts",
        ),
    ],
)
def test_a_folder_with_a_file_missing(model_folder: Path, gone: str, message: str) -> None:
    (model_folder / gone).unlink()
    with pytest.raises(PolicyError, match=message):
        load_policy(model_folder)


def test_an_empty_folder_names_all_three(tmp_path: Path) -> None:
    with pytest.raises(
        PolicyError, match=r"config.json is missing; the tokenizer is missing .*; the weights are missing"
    ):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not a JSON object"), ("[]", "is not a JSON object"), ("{}", "no model_type")]
)
def test_a_config_that_is_none(model_folder: Path, text: str, message: str) -> None:
    (model_folder / "config.json").write_text(text)
    with pytest.raises(PolicyError, match=rf"config.json {'has ' if 'no ' in message else ''}{message}"):
        load_policy(model_folder)


def test_weights_cut_short(model_folder: Path) -> None:
    weights = model_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(PolicyError, match=r"model.safetensors is damaged or cut short"):
        load_policy(model_folder)


def test_weights_in_parts(model_folder: Path, tiny_folder: Path) -> None:
    index = model_folder / "model.safetensors.index.json"
    (model_folder / "model.safetensors").rename(model_folder / "model-00001-of-00005.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00005.safetensors"}}))
    assert load_policy(model_folder) == model_folder
    assert describe(model_folder) == describe(tiny_folder)
    index.write_text(json.dumps({"weight_map": {str(n): f"model-0000{n}-of-00005.safetensors" for n in range(1, 6)}}))
    with pytest.raises(
        PolicyError, match=r"4 of 5 weight files are missing \(model-00002.*model-00004-of-00005.safetensors, \.\.\.\)"
    ):
        load_policy(model_folder)
    index.write_text("{}")
    with pytest.raises(PolicyError, match=r"index.json has no weight_map"):
        load_policy(model_folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "smollm",
            "no policy 'smollm'. Did you mean 'smollm2'. A policy is 'tiny' .*'smollm2' .*a folder .*a hub name",
        ),
        ("SmolLM2", "Did you mean 'smollm2'"),
        ("tinny", "Did you mean 'tiny'"),
        ("gpt", r"no policy 'gpt'\. A policy is 'tiny'"),
        ("", r"no policy ''\. A policy is"),
        ("./nope", "no folder './nope' .looked for /.*nope"),
        ("~/nope", "no folder '~/nope' .looked for /"),
        ("a/b/c", "no folder 'a/b/c'"),
        ("/no/such", "no folder '/no/such'"),
    ],
)
def test_wrong_names(name: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        load_policy(name)


def test_a_file(model_folder: Path) -> None:
    with pytest.raises(PolicyError, match=rf"is a file, and a policy is the folder around it: give '{model_folder}'"):
        load_policy(model_folder / "config.json")


class Hub:
    """Stands for the hub's client: `first` is what asking raises, `snapshot` what is on disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: Exception | None, snapshot: Path | Exception) -> None:
        self.first, self.snapshot, self.local_only = first, snapshot, False
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", self.model_info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)

    def model_info(self, name: str, timeout: float) -> None:
        assert timeout <= 10
        if self.first is not None:
            raise self.first

    def snapshot_download(self, name: str, local_files_only: bool = False, **_: object) -> str:
        self.local_only = local_files_only
        if isinstance(self.snapshot, Exception):
            raise self.snapshot
        return str(self.snapshot)


def _answer(kind: type[errors.HfHubHTTPError]) -> errors.HfHubHTTPError:
    return kind("refused", response=httpx.Response(403, request=httpx.Request("GET", "http://hub.invalid")))


NOT_HERE = errors.LocalEntryNotFoundError("not in the cache")


def test_hub_gives_a_snapshot(monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> None:
    hub = Hub(monkeypatch, None, model_folder)
    assert load_policy("org/name") == model_folder
    assert not hub.local_only


def test_hub_is_down_but_the_model_is_here(monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> None:
    hub = Hub(monkeypatch, ConnectionError("Name or service not known"), model_folder)
    assert load_policy("org/name") == model_folder
    assert hub.local_only


def test_hub_gives_half_a_model(monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    Hub(monkeypatch, None, model_folder)
    with pytest.raises(PolicyError, match=r"the weights are missing"):
        load_policy("org/name")


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (
            ConnectionError("Name or service not known"),
            "hub failed: ConnectionError: Name or service not known. Check the network",
        ),
        (TimeoutError(), "hub failed: TimeoutError. Check the network"),
        (
            _answer(errors.RepositoryNotFoundError),
            "hub has no model 'org/name' .*no folder is called 'org/name'.*Check the spelling",
        ),
        (_answer(errors.GatedRepoError), "only to people who accepted its licence.*HF_TOKEN"),
        (_answer(errors.HfHubHTTPError), "hub failed: HfHubHTTPError: refused. Check the network"),
    ],
)
def test_hub_refuses(monkeypatch: pytest.MonkeyPatch, first: Exception, message: str) -> None:
    Hub(monkeypatch, first, NOT_HERE)
    with pytest.raises(PolicyError, match=rf"{message}.*Use 'smollm2', which needs no network, or give a folder"):
        load_policy("org/name")


def test_hub_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    started = time.monotonic()
    with pytest.raises(PolicyError, match=r"HF_HUB_OFFLINE is set, and the model is not in the hub client's cache"):
        load_policy("no-such-org/no-such-model")
    assert time.monotonic() - started < 5


def test_impossible_hub_name() -> None:
    with pytest.raises(PolicyError, match=r"'a--b/c..d' is neither a folder nor a possible hub name"):
        load_policy("a--b/c..d")


def test_a_hub_that_stays_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("course_lib.models.hub._PATIENCE", 0.5)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = huggingface_hub.HfApi(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: client)
        started = time.monotonic()
        with pytest.raises(PolicyError, match=r"Timeout.*Check the network"):
            load_policy("no-such-org/no-such-model")
        assert time.monotonic() - started < 10
