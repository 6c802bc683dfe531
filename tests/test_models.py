"""Claims about weights: they are whole and the right ones, or the message says how to get them."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers, trainers
from tokenizers import models as bpe
from transformers import AutoTokenizer, GemmaTokenizer, PreTrainedTokenizerFast

from gdo_cli.data.rows import SAMPLE_DIR
from gdo_cli.lm.tokens import Encoder
from gdo_cli.models import hub
from gdo_cli.models import pypi as from_pypi
from gdo_cli.models.hub import HubModel
from gdo_cli.models.loading import Loaded
from gdo_cli.models.pypi import PyPIModel
from gdo_cli.models.tiny import TinyModel
from gdo_cli.support.errors import UserError
from gdo_cli.support.files import cache_dir

RATES: Any = {"lr": 1e-3, "warmup_steps": 0}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, word_encoder: Encoder) -> Path:
    """Folders ``llama`` and ``gemma3_multimodal`` with weights and a tokenizer; copy before changing."""
    root = tmp_path_factory.mktemp("checkpoints")
    for family in ("llama", "gemma3_multimodal"):
        tiny_model(family).save_pretrained(root / family)
        word_encoder.tokenizer.save_pretrained(root / family)
    return root


@pytest.fixture
def folder(checkpoints: Path, tmp_path: Path) -> Path:
    """A Llama of one's own, to be spoilt."""
    return Path(shutil.copytree(checkpoints / "llama", tmp_path / "llama"))


def load(folder: Path) -> Loaded:
    return HubModel(path=str(folder), **RATES).load()


def assert_same_weights(model: Any, expected: Any) -> None:
    found = model.state_dict()
    wanted = {name: tensor.to(torch.bfloat16) for name, tensor in expected.state_dict().items()}
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


# ----------------------------------------------------------------------------------------- a folder


@pytest.mark.parametrize("family", ["llama", "gemma3_multimodal"])
def test_a_folder_gives_exactly_its_weights_in_bf16(checkpoints: Path, family: str) -> None:
    loaded = load(checkpoints / family)
    assert_same_weights(loaded.model, tiny_model(family))
    assert not loaded.model.training
    assert (loaded.tokenizer.bos_token, loaded.tokenizer.eos_token) == ("<bos>", "<eos>")


def test_a_multimodal_checkpoint_is_loaded_with_its_wrapper(checkpoints: Path) -> None:
    loaded = load(checkpoints / "gemma3_multimodal")
    assert type(loaded.model).__name__ == "Gemma3ForConditionalGeneration"
    assert type(loaded.model.get_decoder()).__name__ == "Gemma3TextModel"


def test_a_folder_is_recorded_with_the_checksum_of_its_weights(folder: Path) -> None:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    config = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    said = {"source": "folder", "path": str(folder), "sha256": digest, "config_sha256": config}
    assert load(folder).provenance == said


def test_a_folder_in_the_home_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load(Path("~/llama")).provenance["source"] == "folder"


def test_missing_weights_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing keys \(model\.layers\.0\.mlp\.up_proj\.weight"):
        load(folder)


def test_weights_that_belong_nowhere_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file(load_file(file) | {"model.extra.weight": torch.zeros(2)}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"1 unexpected keys \(model\.extra\.weight"):
        load(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file(load_file(file) | {"model.norm.weight": torch.zeros(7)}, file, {"format": "pt"})
    with pytest.raises(UserError, match=str(folder)):
        load(folder)


def test_weights_of_another_model_are_refused(folder: Path, checkpoints: Path) -> None:
    shutil.copy(checkpoints / "gemma3_multimodal" / "model.safetensors", folder)
    with pytest.raises(UserError, match="the weights do not belong to this architecture"):
        load(folder)


def test_a_file_cut_short_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=str(folder)):
        load(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    """transformers would make one up of its special tokens."""
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match=r"no tokenizer; one of tokenizer\.json"):
        load(folder)


def test_a_configuration_that_contradicts_itself_is_refused_with_the_reason(folder: Path) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"num_hidden_layers": 6, "layer_types": ["full_attention"] * 4}))
    with pytest.raises(UserError, match=r"cannot be loaded: .*num_hidden_layers"):
        load(folder)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
def test_a_folder_without_what_it_needs_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(UserError, match=str(folder)):
        load(folder)


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("beside_safetensors", [False, True])
def test_a_pickle_is_never_read(folder: Path, tmp_path: Path, beside_safetensors: bool) -> None:
    torch.save({"weight": Bomb(tmp_path / "exploded")}, folder / "pytorch_model.bin")
    if beside_safetensors:
        load(folder)
    else:
        (folder / "model.safetensors").unlink()
        with pytest.raises(UserError, match=r"no \*\.safetensors; .* loading them can run code"):
            load(folder)
    assert not (tmp_path / "exploded").exists()


def test_code_in_a_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'exploded')!r})\n")
    config = (folder / "config.json").read_text()
    mapped = '{"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}, "model_type": "evil", '
    (folder / "config.json").write_text(
        config.replace("{", mapped, 1).replace('"model_type": "llama"', '"was": 1')
    )
    with pytest.raises(UserError, match=str(folder)):
        load(folder)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "~/nowhere", "../nowhere"])
def test_a_path_that_is_no_folder_is_not_looked_for_on_the_hub(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "fetch", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match=f"model.path={path}: no such folder"):
        HubModel(path=path, **RATES).load()


# --------------------------------------------------------------------------------------------- PyPI

CONTENT = b"first part, second part"
GOOD = hashlib.sha256(CONTENT).hexdigest()


def pypi(package: str, file: str | None = None, sha256: str = GOOD) -> PyPIModel:
    return PyPIModel(package=package, requirement=f"{package}==1.0", sha256=sha256, file=file, **RATES)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GDO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A stand-in for a package of weights in two parts."""
    name = "weights_in_parts"
    folder = tmp_path / "site" / name
    folder.mkdir(parents=True)
    code = "from pathlib import Path\nHERE = Path(__file__).parent\n"
    code += "def chunk_paths(): return [HERE / 'part0', HERE / 'part1']\n"
    (folder / "__init__.py").write_text(code)
    (folder / "part0").write_bytes(CONTENT[:10])
    (folder / "part1").write_bytes(CONTENT[10:])
    monkeypatch.syspath_prepend(folder.parent)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def site(package: str, tmp_path: Path) -> Path:
    """The folder of the stand-in package."""
    return tmp_path / "site" / package


@pytest.fixture
def converted(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Stands in for the conversion: notes the GGUF that it is given, and makes a Llama of it."""
    given: list[bytes] = []

    def convert(folder: Path, file: str, target: Path) -> None:
        given.append((folder / file).read_bytes())
        shutil.copytree(checkpoints / "llama", target)

    monkeypatch.setattr(from_pypi, "_convert_gguf", convert)
    return given


def test_the_parts_are_put_together_and_converted_once(
    package: str, cache: Path, converted: list[bytes]
) -> None:
    first, second = pypi(package).load(), pypi(package).load()
    assert converted == [CONTENT]
    assert_same_weights(first.model, tiny_model("llama"))
    assert first.provenance == second.provenance
    record = first.provenance
    assert (record["source"], record["requirement"]) == ("pypi", f"{package}==1.0")
    assert record["gguf_sha256"] == GOOD
    assert first.model.name_or_path == f"{package}==1.0"  # which adapters name; no place in a cache
    assert [path.name for path in cache.iterdir()] == [f"{package}-{GOOD[:12]}-bf16"]


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_a_converted_tokenizer_is_what_auto_tokenizer_gives_and_is_exported_as_that(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma's class builds its tokenizer anew from the vocabulary; ours reads the file that it wrote."""
    texts = [
        row for file in sorted(SAMPLE_DIR.glob("*/*.jsonl")) for row in file.read_text("utf-8").split("\n")
    ]
    backend = Tokenizer(bpe.BPE(byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    special = [*names.values(), "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    parts = json.loads(backend.to_str())["model"]
    merges = [tuple(merge) for merge in parts["merges"]]
    written = GemmaTokenizer(vocab=parts["vocab"], merges=merges, **names)

    def convert(_folder: Path, _file: str, target: Path) -> None:
        model = tiny_model("gemma3")
        model.resize_token_embeddings(len(written))
        model.save_pretrained(target)
        written.save_pretrained(target)

    monkeypatch.setattr(from_pypi, "_convert_gguf", convert)
    loaded = pypi(package).load()
    wanted = AutoTokenizer.from_pretrained(pypi(package).cached)
    assert (type(wanted), type(loaded.tokenizer)) == (GemmaTokenizer, PreTrainedTokenizerFast)
    asked = [*texts, "<bos>a<eos>  b<pad>\n\t é 漢字 😀", " ", ""]
    for plain in (True, False):
        found = loaded.tokenizer(asked, add_special_tokens=plain)["input_ids"]
        assert found == wanted(asked, add_special_tokens=plain)["input_ids"]
    assert loaded.tokenizer.batch_decode(found) == wanted.batch_decode(found)
    assert loaded.tokenizer.get_vocab() == wanted.get_vocab()
    assert loaded.tokenizer.special_tokens_map == wanted.special_tokens_map
    loaded.save_tokenizer(tmp_path / "exported")
    assert type(AutoTokenizer.from_pretrained(tmp_path / "exported")) is GemmaTokenizer


def test_other_weights_of_a_package_have_a_cache_of_their_own(package: str, cache: Path) -> None:
    assert pypi(package).cached != pypi(package, sha256="0" * 64).cached
    assert pypi(package).cached.parent == cache


def test_a_wrong_checksum_is_refused_with_the_mend(package: str, cache: Path, converted: list[bytes]) -> None:
    with pytest.raises(UserError) as caught:
        pypi(package, sha256="0" * 64).load()
    message = str(caught.value)
    assert f"checksum {GOOD[:12]}… instead of 000000000000…" in message
    assert f"pip install --force-reinstall {package}==1.0" in message
    assert (converted, list(cache.iterdir())) == ([], [])


@pytest.mark.parametrize(("file", "flags"), [(None, ""), ("model.gguf", "--no-deps ")])
def test_a_package_that_is_not_there_is_named_with_its_command(
    cache: Path, file: str | None, flags: str
) -> None:
    with pytest.raises(UserError, match=f"pip install {flags}no_such_weights==1.0"):
        pypi("no_such_weights", file).load()
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("converted")
@pytest.mark.parametrize("spoil", ["a part without its file", "a part without its package"])
def test_a_package_that_is_not_whole_is_named_with_its_command(
    package: str, site: Path, cache: Path, spoil: str
) -> None:
    (site / "part1").unlink()
    if spoil == "a part without its package":
        (site / "__init__.py").write_text("def chunk_paths():\n    import no_such_part\n")
    with pytest.raises(UserError, match=f"pip install .*{package}==1.0"):
        pypi(package).load()
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("cache")
def test_a_single_file_is_read_without_importing_its_package(
    package: str, site: Path, converted: list[bytes]
) -> None:
    (site / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (site / "model.gguf").write_bytes(CONTENT)
    pypi(package, "model.gguf").load()
    assert converted == [CONTENT]
    assert package not in sys.modules


@pytest.mark.usefixtures("cache", "converted")
def test_a_single_file_that_is_not_there_is_named_with_its_command(package: str) -> None:
    with pytest.raises(UserError, match=f"pip install .*{package}==1.0"):
        pypi(package, "model.gguf").load()


@pytest.mark.usefixtures("converted")
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_interrupted_conversion_leaves_no_half_of_a_model(
    package: str, cache: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def crash(_folder: Path, _file: str, target: Path) -> None:
        target.mkdir()
        (target / "config.json").write_text("{}")
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(from_pypi, "_convert_gguf", crash)
        with pytest.raises(error):
            pypi(package).load()
    assert list(cache.iterdir()) == []
    assert pypi(package).load().provenance["source"] == "pypi"


def test_a_conversion_that_another_process_finished_first_is_used(
    package: str, cache: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(_folder: Path, _file: str, target: Path) -> None:
        for place in (pypi(package).cached, target):
            shutil.copytree(checkpoints / "llama", place)

    monkeypatch.setattr(from_pypi, "_convert_gguf", convert)
    assert_same_weights(pypi(package).load().model, tiny_model("llama"))
    assert [path.name for path in cache.iterdir()] == [pypi(package).cached.name]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"GDO_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/gdo")),
        ({"HOME": "/c"}, Path("/c/.cache/gdo")),
    ],
)
def test_the_cache_is_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], expected: Path
) -> None:
    for name in ("GDO_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == expected


# --------------------------------------------------------------------------------------- the tiny one


def test_the_tiny_model_is_the_same_every_time(tiny_loaded: Loaded) -> None:
    torch.manual_seed(123)
    again = TinyModel(**RATES).load()
    assert again.provenance == tiny_loaded.provenance
    assert again.tokenizer.get_vocab() == tiny_loaded.tokenizer.get_vocab()
    assert_same_weights(again.model, tiny_loaded.model)


def test_making_the_tiny_model_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    TinyModel(vocab_size=300, num_hidden_layers=1, **RATES).load()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_the_tiny_model_is_the_same_in_every_process(tiny_loaded: Loaded) -> None:
    code = (
        "import hashlib, json; from gdo_cli.models.loading import TinyModel\n"
        "loaded = TinyModel(lr=1, warmup_steps=0).load()\n"
        "words = json.dumps(loaded.tokenizer.get_vocab(), sort_keys=True)\n"
        "print(loaded.provenance['sha256'], hashlib.sha256(words.encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    words = json.dumps(tiny_loaded.tokenizer.get_vocab(), sort_keys=True)
    expected = [tiny_loaded.provenance["sha256"], hashlib.sha256(words.encode()).hexdigest()]
    assert done.stdout.split() == expected


def test_the_tiny_tokenizer_gives_back_what_it_was_given(tiny_loaded: Loaded) -> None:
    text = "English: l'été, 3 € – 中文\nFrench:  two  spaces"
    ids = tiny_loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tiny_loaded.tokenizer.decode(ids) == text


def test_the_tiny_model_is_as_large_as_asked_for() -> None:
    loaded = TinyModel(hidden_size=32, num_hidden_layers=2, vocab_size=300, **RATES).load()
    config = loaded.model.config
    assert (config.hidden_size, config.num_hidden_layers, len(loaded.tokenizer)) == (32, 2, 300)
    assert config.vocab_size == 300
