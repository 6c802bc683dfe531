"""Claims about rows: where they come from, which split is which, and that no bad one passes unseen."""

import dataclasses
import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import datasets
import huggingface_hub
import pytest
import sacrebleu.utils
from datasets.packaged_modules.json.json import Json
from hypothesis import given
from hypothesis import strategies as st

from gdo_cli.commands.doctor import hub_answers
from gdo_cli.config.build import load_run
from gdo_cli.config.options import options, options_with
from gdo_cli.data.config import DataConfig
from gdo_cli.data.dataset import Dataset, HubDataset, Row, Split
from gdo_cli.data.fields import text
from gdo_cli.data.rows import convert, load_split, read_jsonl
from gdo_cli.experiment.reopen import read_run_data
from gdo_cli.support.errors import UserError


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GDO_DATA_DIR", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def write(folder: Path, name: str, rows: list[Any]) -> Path:
    """A data set ``numbers`` under the folder with a split of the name."""
    file = folder / "numbers" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(r if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in rows))
    return file


def load(folder: Path, spec: str) -> Split:
    dataset = Dataset("numbers", {"train": spec})
    return load_split(dataset, "train", DataConfig(source="local", dir=str(folder)))


def numbers(n: int, start: int = 0) -> list[Row]:
    return [{"n": i} for i in range(start, start + n)]


# -------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("a", list(range(10))),
        ("a[:]", list(range(10))),
        ("a[:-5]", [0, 1, 2, 3, 4]),
        ("a[-5:]", [5, 6, 7, 8, 9]),
        ("a[3:]", [3, 4, 5, 6, 7, 8, 9]),
        ("a[2:4]", [2, 3]),
        ("a[:100]", list(range(10))),
        ("a+b", [*range(10), 50, 51, 52, 53]),
        ("a[:2]+b[3:]", [0, 1, 53]),
        ("b[3:]+a[:2]", [53, 0, 1]),
        ("a[-2:]+a[:1]", [8, 9, 0]),
    ],
)
def test_a_split_is_its_slice_of_the_files(tmp_path: Path, spec: str, expected: list[int]) -> None:
    write(tmp_path, "a", numbers(10))
    write(tmp_path, "b", numbers(4, start=50))
    split = load(tmp_path, spec)
    assert [row["n"] for row in split.rows] == expected
    assert (split.provenance["split"], split.provenance["rows"]) == (spec, len(expected))


@given(st.lists(st.integers(), min_size=1, max_size=20), st.integers(-25, 25), st.integers(-25, 25))
def test_slices_are_pythons_own(
    tmp_path_factory: pytest.TempPathFactory, items: list[int], start: int, stop: int
) -> None:
    folder = tmp_path_factory.mktemp("slices")
    write(folder, "a", [{"n": i} for i in items])
    if items[start:stop]:
        assert [row["n"] for row in load(folder, f"a[{start}:{stop}]").rows] == items[start:stop]
    else:
        with pytest.raises(UserError, match="holds no rows"):
            load(folder, f"a[{start}:{stop}]")


@pytest.mark.parametrize("spec", ["", "a[5]", "a[:50%]", "a+", "a[:-5", "a b", "../a", "a[1:2:3]", "a[x:]"])
def test_a_split_that_cannot_be_read_is_refused(tmp_path: Path, spec: str) -> None:
    write(tmp_path, "a", numbers(3))
    with pytest.raises(UserError, match=r"write it as train, train\[:-500\]"):
        load(tmp_path, spec)


def test_every_row_knows_its_line(tmp_path: Path) -> None:
    write(tmp_path, "a", [{"n": 0}, b"\n", {"n": 1}, b"broken\n", {"n": 2}])
    split = load(tmp_path, "a[1:]")
    assert split.where == ["numbers/a.jsonl:3", "numbers/a.jsonl:5"]


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 12))
def test_a_broken_line_counts_in_the_one_slice_that_it_stands_in(
    tmp_path_factory: pytest.TempPathFactory, whole: list[bool], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    write(folder, "a", [{"n": i} if ok else b"broken\n" for i, ok in enumerate(whole)])
    if not 0 < cut < sum(whole):
        return
    first, second = load(folder, f"a[:{cut}]"), load(folder, f"a[{cut}:]")
    assert sorted(first.rejected + second.rejected) == sorted(load(folder, "a").rejected)
    ends = int(first.where[-1].split(":")[1])  # the line of its last row
    assert all(int(told.split(":")[1]) < ends for told in first.rejected)
    assert all(int(told.split(":")[1]) > ends for told in second.rejected)


def test_the_checksum_is_that_of_the_files(tmp_path: Path) -> None:
    first, second = write(tmp_path, "a", numbers(3)), write(tmp_path, "b", numbers(2))
    expected = hashlib.sha256(first.read_bytes() + second.read_bytes()).hexdigest()
    assert load(tmp_path, "a+b").provenance["sha256"] == expected


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n  \n"])
def test_line_ends_do_not_matter(tmp_path: Path, end: bytes) -> None:
    write(tmp_path, "a", [b'{"n": 0}' + (end or b"\n"), b'{"n": 1}' + end])
    split = load(tmp_path, "a")
    assert ([row["n"] for row in split.rows], split.rejected) == ([0, 1], [])


# ------------------------------------------------------------------------------------ what is missing


def test_without_a_folder_local_data_are_asked_for() -> None:
    with pytest.raises(UserError, match=r"set GDO_DATA_DIR, or data\.dir=FOLDER"):
        load_split(Dataset("numbers", {"train": "a"}), "train", DataConfig(source="local"))


def test_a_missing_data_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.dir=.*nowhere: no such folder"):
        load(tmp_path / "nowhere", "a")


def test_a_missing_data_set_is_named_with_its_nearest(tmp_path: Path) -> None:
    (tmp_path / "number").mkdir()
    with pytest.raises(UserError, match=r"no data set 'numbers' in .*did you mean 'number'\?"):
        load(tmp_path, "a")


def test_a_missing_file_is_named_with_its_nearest(tmp_path: Path) -> None:
    write(tmp_path, "valid", numbers(1))
    with pytest.raises(UserError, match=r"validation\.jsonl: no such file; did you mean 'valid'\?"):
        load(tmp_path, "validation")


def test_a_role_that_a_data_set_does_not_have_is_named(tmp_path: Path) -> None:
    dataset = Dataset("numbers", {"train": "a", "test": "b"})
    with pytest.raises(UserError, match="no 'trian'; did you mean 'train'"):
        load_split(dataset, "trian", DataConfig(source="local", dir=str(tmp_path)))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", [])
    with pytest.raises(UserError, match="split 'a' holds no rows"):
        load(tmp_path, "a")


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "a", numbers(2))
    assert len(load(Path("~"), "a").rows) == 2


# ------------------------------------------------------------------------------------------- bad rows

BAD_LINES = {
    b'{"n": "\xff"}': "not UTF-8",
    b"nonsense": "not JSON",
    b'{"n": ': "not JSON",
    b"[1, 2]": "not a JSON object",
    b'"text"': "not a JSON object",
    b"null": "not a JSON object",
    b'{"n": 1, "n": 2}': "a key stands twice",
    b'{"n": {"m": 1, "m": 2}}': "a key stands twice",
    b'{"n": 1} {"n": 2}': "not JSON",
    b'{"n": "\\ud800"}': "surrogate",
    b"[" * 100_000: "",
    b'{"n": ' + b"1" * 5000 + b"}": "",
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.items(), ids=lambda v: str(v)[:24])
def test_a_bad_line_is_left_out_and_named(tmp_path: Path, line: bytes, reason: str) -> None:
    file = write(tmp_path, "a", [{"n": 0}, line + b"\n", {"n": 1}])
    rows, where, rejected = read_jsonl(file)
    assert [row["n"] for row in rows] == [0, 1]
    assert where == ["numbers/a.jsonl:1", "numbers/a.jsonl:3"]
    ((_, complaint),) = rejected
    assert complaint.startswith("numbers/a.jsonl:2: ")
    assert reason in complaint


def word(row: Row) -> str:
    return text(row, "word")


BAD_ROWS: list[tuple[Row, str]] = [
    ({}, "field 'word' is missing"),
    ({"word": None}, "field 'word' is missing"),
    ({"word": ""}, "field 'word' is empty"),
    ({"word": " \n"}, "field 'word' is empty"),
    ({"word": 3}, "field 'word' is no text"),
    ({"word": ["a"]}, "field 'word' is no text"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS, ids=str)
def test_a_bad_row_is_left_out_counted_and_named(tmp_path: Path, row: Row, reason: str) -> None:
    write(tmp_path, "a", [{"word": "one"}, row, {"word": "two"}])
    split = load(tmp_path, "a")
    assert convert(split, word, max_bad=0.5) == ["one", "two"]
    assert split.provenance["skipped_rows"] == 1
    assert split.provenance["skipped"] == [f"numbers/a.jsonl:2: {reason}"]


def test_bad_lines_and_bad_rows_are_counted_together(tmp_path: Path) -> None:
    write(tmp_path, "a", [{"word": "one"}, b"nonsense\n", {"word": ""}])
    split = load(tmp_path, "a")
    assert convert(split, word, max_bad=1) == ["one"]
    assert split.provenance["skipped_rows"] == 2


@pytest.mark.parametrize(("bad", "allowed"), [(1, True), (2, False)])
def test_more_bad_rows_than_allowed_are_refused(tmp_path: Path, bad: int, allowed: bool) -> None:
    write(tmp_path, "a", [{"word": "good"}] * (100 - bad) + [{"word": ""}] * bad)
    split = load(tmp_path, "a")
    if allowed:
        assert len(convert(split, word, max_bad=0.01)) == 99
        return
    with pytest.raises(UserError, match=r"2 of 100 rows .* data\.max_bad_rows=0\.01 .*numbers/a\.jsonl:99: "):
        convert(split, word, max_bad=0.01)


def test_without_one_good_row_nothing_is_returned(tmp_path: Path) -> None:
    write(tmp_path, "a", [{"word": ""}])
    with pytest.raises(UserError, match="1 of 1 rows cannot be used"):
        convert(load(tmp_path, "a"), word, max_bad=1)


def test_the_record_of_bad_rows_stays_short(tmp_path: Path) -> None:
    write(tmp_path, "a", [{"word": "good"}] + [{"word": ""}] * 500)
    split = load(tmp_path, "a")
    convert(split, word, max_bad=1)
    assert (split.provenance["skipped_rows"], len(split.provenance["skipped"])) == (500, 20)


def test_a_mistake_of_the_code_is_no_bad_row() -> None:
    def broken(row: Row) -> str:
        return str(row["nothing"])

    with pytest.raises(KeyError):
        convert(Split([{}], ["a:1"], {}), broken, max_bad=1)


# ---------------------------------------------------------------------------------------- the sample


def sample(dataset: Dataset, role: str) -> Split:
    return load_split(dataset, role, DataConfig(source="sample"))


@pytest.mark.few(3)
@pytest.mark.parametrize("option", [task for task in options("task") if task != "jsonl"])
def test_every_task_can_be_learnt_from_the_sample(option: str) -> None:
    task = load_run(["model=tiny", f"task={option}"]).task
    seen: dict[str, list[str]] = {}
    for role in ("train", "validation", "test"):
        split = sample(task.dataset, role)
        assert len(convert(split, task.example, max_bad=0)) == len(split.rows) > 0
        assert split.provenance["source"] == "sample"
        seen[role] = split.where
    assert [place for place in seen["train"] if place in {*seen["validation"], *seen["test"]}] == []


OF_THE_SAMPLE = [
    p for p in options("probe") if p not in {*options_with("probe", "path"), *options_with("probe", "tasks")}
]


@pytest.mark.parametrize("option", OF_THE_SAMPLE)
def test_every_probe_can_be_asked_of_the_sample(option: str) -> None:
    probe = load_run(["model=tiny", f"probe=[{option}]"]).probe[option]
    rows = sample(probe.dataset, "eval").rows
    assert [row for row in rows if probe.queries(row, [])]
    if probe.shots:
        assert len(sample(probe.dataset, "shots").rows) >= probe.shots


# ------------------------------------------------------------------------------------------ own files


def own_task(file: Path, *words: str) -> Any:
    return load_run(["model=tiny", "task=jsonl", f"task.path={file}", "probe=[]", "data=sample", *words])


def test_an_own_file_of_rows_needs_yaml_only(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(f'{{"prompt": "p{i}", "completion": "c{i}"}}\n' for i in range(1000)))
    material = read_run_data(own_task(file, "evaluation.items=null"))
    assert [len(part) for part in (material.train, material.validation, material.test)] == [600, 200, 200]
    assert (material.train[0].prompt, material.test[-1].answer) == ("p0", " c999")


@pytest.mark.parametrize("name", ["my-data.jsonl", "data.v2.jsonl", "my data (1).jsonl"])
def test_an_own_file_may_be_called_anything(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("".join(f'{{"prompt": "p{i}", "completion": "c{i}"}}\n' for i in range(500)))
    config = own_task(tmp_path / "x.jsonl")
    dataset = replace(config.task.dataset, path=str(file))
    assert len(load_split(dataset, "train", config.data).rows) == 100


def test_an_own_file_that_is_too_small_for_its_splits_says_so(tmp_path: Path) -> None:
    file = tmp_path / "small.jsonl"
    file.write_text('{"prompt": "p", "completion": "c"}\n' * 50)
    with pytest.raises(UserError, match=r"split 'all\[:-400\]' holds none of its 50 rows; choose others"):
        read_run_data(own_task(file))


def test_an_own_folder_is_read_by_its_files(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        rows = "".join(f'{{"prompt": "{name}{i}", "completion": "c"}}\n' for i in range(3))
        (tmp_path / f"{name}.jsonl").write_text(rows)
    splits = "task.dataset.splits={train: train, validation: 'dev[:1]', test: 'dev[1:]'}"
    material = read_run_data(own_task(tmp_path, splits))
    parts = (material.train, material.validation, material.test)
    assert [sorted(e.prompt for e in part) for part in parts] == [
        ["train0", "train1", "train2"],
        ["dev0"],
        ["dev1", "dev2"],
    ]
    assert material.provenance["train"]["source"] == "file"


def test_an_own_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        read_run_data(own_task(tmp_path / "nowhere.jsonl"))


# ------------------------------------------------------------------------------------------------ hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that takes connections where the hub would be."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}/")
        yield


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to connect fails the test."""

    def connect(*_: Any, **__: Any) -> None:
        pytest.fail("connected")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.mark.parametrize(("folder", "source"), [("rows", "local"), (None, "hub")])
@pytest.mark.usefixtures("no_network")
def test_auto_is_decided_without_asking_anything(folder: str | None, source: str) -> None:
    assert DataConfig(dir=folder).resolve() == DataConfig(source=source, dir=folder)


@pytest.mark.parametrize("network", ["hub", "no_hub"])
def test_the_same_command_is_the_same_run_with_and_without_a_network(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    request.getfixturevalue(network)
    monkeypatch.delenv("GDO_DATA_DIR", raising=False)
    assert load_run(["model=tiny"]).id == load_run(["model=tiny", "data=hub"]).id


@pytest.mark.usefixtures("hub")
def test_an_offline_switch_that_is_off_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert hub_answers()


@pytest.mark.parametrize("source", ["local", "hub", "sample"])
@pytest.mark.usefixtures("no_network")
def test_what_was_chosen_is_not_decided_again(source: str) -> None:
    assert DataConfig(source=source, dir="rows").resolve().source == source


def test_the_hub_is_waited_for_no_longer_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, float]] = []

    def connect(address: Any, timeout: float) -> None:
        asked.append((address, timeout))
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    assert not hub_answers()
    assert asked[0][0] == ("huggingface.co", 443)
    assert 0 < asked[0][1] <= 5


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("https://mirror.example", ("mirror.example", 443)),
        ("https://mirror.example/hf/", ("mirror.example", 443)),
        ("http://mirror.example", ("mirror.example", 80)),
        ("http://mirror.example:8080/x", ("mirror.example", 8080)),
        ("http://[::1]:8080", ("::1", 8080)),
    ],
)
def test_another_endpoint_is_asked_at_its_own_port(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, address: tuple[str, int]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    connect = create_autospec(socket.create_connection, side_effect=OSError)
    monkeypatch.setattr(socket, "create_connection", connect)
    hub_answers()
    assert connect.call_args.args[0] == address


def test_an_endpoint_that_is_no_address_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://localhost:notaport")
    assert not hub_answers()


HUB = DataConfig(source="hub")
REMOTE = Dataset(
    "numbers", {"train": "a[:2]"}, hub=HubDataset("org/numbers", "small", "v1", {"train": "b[:2]"})
)
COMMIT = "0123abcd"


class HubStandIn:
    """Stands in for ``load_dataset`` and ``HfApi``; calls that the real ones refuse are refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = [{"n": 1}, {"n": 2}]
        self.load = create_autospec(datasets.load_dataset)
        self.give(rows)
        self.api = create_autospec(huggingface_hub.HfApi, instance=True)
        self.api.dataset_info.return_value = SimpleNamespace(sha=COMMIT)
        monkeypatch.setattr(datasets, "load_dataset", self.load)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self.api)

    def give(self, rows: list[Any]) -> None:
        loaded = datasets.Dataset.from_list(rows)
        loaded.info.splits = datasets.SplitDict(
            {name: datasets.SplitInfo(name, num_examples=4) for name in "ab"}
        )
        self.load.return_value = loaded


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> HubStandIn:
    return HubStandIn(monkeypatch)


def test_the_commit_of_a_branch_is_loaded_and_recorded(remote: HubStandIn) -> None:
    split = load_split(REMOTE, "train", HUB)
    assert remote.api.dataset_info.call_args.kwargs["revision"] == "v1"
    assert remote.load.call_args.args[:2] == ("org/numbers", "small")
    assert remote.load.call_args.kwargs == {"split": "b[:2]", "revision": COMMIT}
    assert [row["n"] for row in split.rows] == [1, 2]
    assert split.where == ["org/numbers/b[0]", "org/numbers/b[1]"]
    record = split.provenance
    assert (record["source"], record["commit"], record["split"]) == ("hub", COMMIT, "b[:2]")
    assert (record["rows"], len(record["sha256"])) == (2, 64)


def test_the_question_for_the_commit_has_a_time_limit(remote: HubStandIn) -> None:
    load_split(REMOTE, "train", HUB)
    assert 0 < remote.api.dataset_info.call_args.kwargs["timeout"] <= 60


def test_a_split_that_has_its_name_on_the_hub_keeps_it(remote: HubStandIn) -> None:
    load_split(dataclasses.replace(REMOTE, hub=HubDataset("org/numbers")), "train", HUB)
    assert remote.load.call_args.kwargs["split"] == "a[:2]"


def test_other_rows_have_another_checksum(remote: HubStandIn) -> None:
    first = load_split(REMOTE, "train", HUB).provenance["sha256"]
    remote.give([{"n": 1}, {"n": 3}])
    assert load_split(REMOTE, "train", HUB).provenance["sha256"] != first


@pytest.mark.parametrize("where", ["load", "info"])
@pytest.mark.parametrize(
    "error",
    [ConnectionError("refused\nmore"), ValueError("Unknown split"), TimeoutError()],
    ids=["connection", "value", "no text"],
)
def test_what_the_hub_cannot_give_is_named_with_a_mend(
    remote: HubStandIn, where: str, error: Exception
) -> None:
    target = remote.load if where == "load" else remote.api.dataset_info
    target.side_effect = error
    with pytest.raises(UserError) as caught:
        load_split(REMOTE, "train", HUB)
    message = str(caught.value)
    assert f"data=hub: cannot load org/numbers ({type(error).__name__}" in message
    for way_out in ("data.dir=FOLDER", "numbers/a.jsonl", "data=sample", "download org/numbers"):
        assert way_out in message
    assert "\n" not in message


@pytest.mark.usefixtures("no_network")
def test_rows_that_were_had_once_are_had_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "rows.jsonl").write_text('{"n": 1}\n{"n": 2}\n{"n": 3}\n')
    earlier = Json(
        dataset_name="numbers",
        config_name="small",
        hash=COMMIT,
        data_files={"b": [str(tmp_path / "rows.jsonl")]},
        cache_dir=str(tmp_path / "cache"),
    )
    earlier.download_and_prepare()
    cached = (tmp_path / "cache/numbers").rename(tmp_path / "cache/org___numbers")
    next(cached.iterdir()).rename(cached / "small")  # as it is named for files of the hub
    remote = dataclasses.replace(REMOTE, hub=HubDataset("org/numbers", "small", "main", {"train": "b[:2]"}))
    found = load_split(remote, "train", HUB)
    assert ([row["n"] for row in found.rows], found.provenance["commit"]) == ([1, 2], COMMIT)
    pinned = dataclasses.replace(REMOTE, hub=HubDataset("org/numbers", "small", "another", {"train": "b"}))
    with pytest.raises(BaseException, match=r"cannot load|connected"):  # that one has to be asked for
        load_split(pinned, "train", HUB)


def test_a_data_set_that_is_not_on_the_hub_says_so() -> None:
    with pytest.raises(UserError, match="numbers is not on the hub; use data=local or data=sample"):
        load_split(Dataset("numbers", {"train": "a"}), "train", HUB)


@pytest.mark.usefixtures("no_network")
def test_offline_refuses_the_hub_before_it_is_asked(remote: HubStandIn) -> None:
    with pytest.raises(UserError, match="offline"):
        load_split(REMOTE, "train", dataclasses.replace(HUB, offline=True))
    assert not remote.load.called


# ------------------------------------------------------------------------------------------ sacrebleu

MTNT = Dataset("mtnt", {"train": "train[1:]", "test": "test"}, hub=HubDataset("sacrebleu:mtnt1.1"))
Translations = Callable[[str, str], None]


@pytest.fixture
def translations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Translations:
    """Sets the texts that sacrebleu would have downloaded; asked for anything else, it fails."""
    files = (tmp_path / "en", tmp_path / "fr")

    def source(test_set: str, pair: str) -> str:
        assert (test_set.partition("/")[0], pair) == ("mtnt1.1", "en-fr")
        return str(files[0])

    monkeypatch.setattr(sacrebleu.utils, "get_source_file", source)
    monkeypatch.setattr(sacrebleu.utils, "get_reference_files", lambda *_: [str(files[1])])

    def put(english: str, french: str) -> None:
        for file, content in zip(files, (english, french), strict=True):
            file.write_text(content, "utf-8")

    return put


def test_mtnt_comes_through_sacrebleu(translations: Translations) -> None:
    translations("one\ntwo\nthree\n", "un\ndeux\ntrois\n")
    split = load_split(MTNT, "train", HUB)
    assert split.rows == [{"en": "two", "fr": "deux"}, {"en": "three", "fr": "trois"}]
    record = split.provenance
    assert (record["source"], record["path"], record["split"]) == ("sacrebleu", "mtnt1.1", "train[1:]")
    assert (record["rows"], len(record["sha256"])) == (2, 64)


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0c", "\x1c"])
def test_only_line_breaks_break_lines(translations: Translations, mark: str) -> None:
    translations(f"one{mark}more\ntwo\n", "un\ndeux\n")
    rows = load_split(MTNT, "test", HUB).rows
    assert [row["fr"] for row in rows] == ["un", "deux"]
    assert rows[1]["en"] == "two"


def test_texts_of_unequal_length_are_refused(translations: Translations) -> None:
    translations("one\ntwo\n", "un\n")
    with pytest.raises(UserError, match=r"mtnt1\.1"):
        load_split(MTNT, "test", HUB)


@pytest.mark.parametrize("error", [OSError("no network"), SystemExit(1), Exception("No such test set")])
def test_what_sacrebleu_cannot_fetch_is_named_with_a_mend(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(
        sacrebleu.utils, "get_source_file", create_autospec(lambda *_: None, side_effect=error)
    )
    with pytest.raises(UserError, match=r"cannot load mtnt1\.1/test .*data\.dir=FOLDER.*mtnt/.*data=sample"):
        load_split(MTNT, "test", HUB)


def test_sacrebleu_knows_every_split_of_mtnt() -> None:
    dataset = load_run(["model=tiny", "task=mtnt"]).task.dataset
    turned = load_run(["model=tiny", "task=mtnt_reverse"]).task.dataset.hub.splits["train"]
    reverse = [name.removesuffix("_reverse") for name in turned.split("+")]
    assert reverse == ["valid", "test"]
    for split in (*dataset.splits.values(), *reverse):
        known = sacrebleu.DATASETS[f"{dataset.hub.path.removeprefix('sacrebleu:')}/{split}"]
        assert "fr-en" in known.langpairs
        assert "en-fr" in known.langpairs
