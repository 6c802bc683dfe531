"""The hub is asked within the limits of its library, and believed only as far as its answers make sense."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
from conftest import tiny_model
from huggingface_hub import HfApi, hf_api
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils.tqdm import disable_progress_bars
from reliability.servers import COMMIT, HUB_KINDS, REPOSITORY, hub, point_hub_at, server

from gdo_cli.data.config import DataConfig
from gdo_cli.data.dataset import Dataset, HubDataset
from gdo_cli.data.rows import load_split
from gdo_cli.experiment.weights import save_trained
from gdo_cli.lm.tokens import Encoder
from gdo_cli.methods.grow import GFreeze
from gdo_cli.models.hub import HubModel, fetch
from gdo_cli.support.errors import UserError

RATES: Any = {"lr": 1e-3, "warmup_steps": 0}
LIMIT_S = 1.5  # for silence


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    disable_progress_bars()
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(huggingface_hub.constants, name, LIMIT_S)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Points the library at a server; what it downloads lies under ``cache``."""
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.setattr(huggingface_hub.constants, name, getattr(huggingface_hub.constants, name))
    monkeypatch.setattr(hf_api, "api", hf_api.api)
    return lambda address: point_hub_at(address, tmp_path / "cache")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What lies in the hub's only model."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "evil.py").write_text("open('pwned', 'w')\n")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    return folder


@pytest.fixture
def stand(at: Callable[[str], None], files: Path) -> Iterator[Callable[[str], None]]:
    """Puts a hub up that lies in this way."""
    with ExitStack() as stack:
        yield lambda lie: at(stack.enter_context(hub(files, lie)))


# ------------------------------------------------------------------------------------------ a good hub


def test_what_can_run_code_is_not_even_downloaded(stand: Callable[[str], None], files: Path) -> None:
    stand("")
    folder, commit = fetch(REPOSITORY, "main")
    assert commit == COMMIT
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        name: (files / name).read_bytes() for name in ("config.json", "model.safetensors")
    }


def test_a_model_of_the_hub_is_loaded_and_recorded_with_its_commit(
    stand: Callable[[str], None], files: Path, word_encoder: Encoder
) -> None:
    shutil.rmtree(files)
    tiny_model("llama").save_pretrained(files)
    word_encoder.tokenizer.save_pretrained(files)
    stand("")
    loaded = HubModel(path=REPOSITORY, revision="main", **RATES).load()
    record = loaded.provenance
    assert (record["source"], record["path"], record["commit"]) == ("hub", REPOSITORY, COMMIT)
    adapted = GFreeze().prepare(loaded.model, None)
    save_trained(adapted, files)
    saved = json.loads((files / "adapter" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == REPOSITORY  # and no place in a cache


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", ["down", "silent", "page"])
def test_a_model_that_was_had_once_is_had_without_the_hub(
    stand: Callable[[str], None], at: Callable[[str], None], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stand("")
    once = fetch(REPOSITORY, "main")
    with server(kind) as address:
        at(address)
        assert fetch(REPOSITORY, "main") == once
    said = " ".join(capsys.readouterr().err.split())
    assert "the hub cannot be reached or makes no sense" in said
    assert f"using commit {COMMIT[:12]} from the cache" in said


# ------------------------------------------------------------------------------------------- a bad one


@pytest.mark.parametrize("kind", HUB_KINDS)
def test_a_hub_that_does_not_answer_or_lies_is_told_within_the_limit(
    at: Callable[[str], None], kind: str
) -> None:
    with server(kind) as address:
        at(address)
        began = time.monotonic()
        with pytest.raises(UserError) as caught:
            fetch(REPOSITORY, "main")
    assert time.monotonic() - began < LIMIT_S + 3
    message = str(caught.value)
    assert message.startswith(f"model.path={REPOSITORY}: the hub cannot be reached or makes no sense")
    assert "model.path=FOLDER" in message
    assert "\n" not in message


@pytest.mark.faults
def test_files_that_are_not_whole_are_refused(stand: Callable[[str], None]) -> None:
    stand("short")
    with pytest.raises(UserError, match="the hub cannot be reached or makes no sense"):
        fetch(REPOSITORY, "main")


def test_the_commit_that_is_recorded_is_that_of_the_files(
    stand: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stand("moved")
    folder, commit = fetch(REPOSITORY, "main")
    assert (folder.name, commit) == (COMMIT, COMMIT)
    assert f"{COMMIT[::-1][:12]} became {COMMIT[:12]}" in " ".join(capsys.readouterr().err.split())


def test_weights_that_are_not_what_was_announced_are_refused(
    stand: Callable[[str], None], files: Path, word_encoder: Encoder
) -> None:
    shutil.rmtree(files)
    tiny_model("llama").save_pretrained(files)
    word_encoder.tokenizer.save_pretrained(files)
    stand("altered")
    with pytest.raises(UserError, match=r"model\.safetensors: not what the hub announced.*remove "):
        HubModel(path=REPOSITORY, revision="main", **RATES).load()


def refusal(kind: Any) -> Exception:
    """The hub's own exception, as its client raises it."""
    error: Exception = kind("said the server", response=SimpleNamespace(headers={}, request=None))
    return error


@pytest.mark.parametrize(
    ("error", "fragments"),
    [
        (GatedRepoError, ["is gated", f"huggingface.co/{REPOSITORY}", "hf auth login", "gemma3_270m"]),
        (RepositoryNotFoundError, ["neither a folder nor a hub repository"]),
        (RevisionNotFoundError, ["has no such revision", "v2", REPOSITORY]),
    ],
)
def test_what_the_hub_refuses_is_told_with_the_mend(
    monkeypatch: pytest.MonkeyPatch, at: Callable[[str], None], error: Any, fragments: list[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise refusal(error)

    at("http://127.0.0.1:9")
    monkeypatch.setattr(HfApi, "model_info", refuse)
    with pytest.raises(UserError) as caught:
        fetch(REPOSITORY, "v2")
    message = str(caught.value)
    assert message.startswith(("model.path=", "model.revision="))
    assert [fragment for fragment in fragments if fragment not in message] == []


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="neither a folder nor a hub repository"):
        fetch("a/b/c", "main")


# ------------------------------------------------------------------------------------------------ data

ROWS = Dataset("rows", {"train": "train"}, hub=HubDataset("org/rows"))


@pytest.mark.parametrize("kind", ["silent", "page"])
def test_data_that_do_not_come_are_told_within_the_limit(at: Callable[[str], None], kind: str) -> None:
    with server(kind) as address:
        at(address)
        began = time.monotonic()
        with pytest.raises(UserError, match=r"data=hub: cannot load org/rows.*data\.dir=FOLDER"):
            load_split(ROWS, "train", DataConfig(source="hub"))
    assert time.monotonic() - began < LIMIT_S + 3
