"""Weights and tokenizers: from PyPI, the hub or a folder; and what must hold before they are used.

To add a model: a YAML under conf/model that names one of the sources below.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gdo_cli.errors import UserError, brief, require
from gdo_cli.hub import announced_sha256, fetch
from gdo_cli.identity import NOT_IDENTITY

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Loaded:
    """A pre-trained model in bf16, its tokenizer, and the record of where they came from.

    Attributes:
        folder: where their files lie; None if there are none.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    provenance: dict[str, Any]
    folder: Path | None = None

    def save_tokenizer(self, target: Path) -> None:
        """Write the tokenizer's files as ``AutoTokenizer`` has them: its class, its template for chats."""
        (_any_tokenizer(self.folder) if self.folder else self.tokenizer).save_pretrained(target)


@dataclass(frozen=True)
class ModelSource:
    """Base of all sources.

    Attributes:
        lr: learning rate that this model learns SciTail with at little cost (see its YAML).
        warmup_steps: its warm-up.
    """

    lr: float = field(metadata=NOT_IDENTITY)  # train.lr is what counts; these are its defaults
    warmup_steps: int = field(metadata=NOT_IDENTITY)

    def load(self) -> Loaded:
        """The model and its tokenizer.

        Raises:
            UserError: weights that cannot be had or are not whole, with the way to mend it.
        """
        raise NotImplementedError

    def shape(self, name: str) -> dict[str, Any] | None:
        """The architecture as transformers describes it, where it is known without the weights.

        Args:
            name: the option by which the model was chosen.
        """
        return _read_shape(ARCHITECTURES / f"{name}.json")

    def depth(self, name: str) -> int | None:
        """Number of decoder layers, where it is known without the weights."""
        shape = self.shape(name) or {}
        n = shape.get("text_config", shape).get("num_hidden_layers")
        return n if isinstance(n, int) else None


def _read_shape(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None  # what is wrong with it, loading will say
    return content if isinstance(content, dict) else None


ARCHITECTURES = Path(__file__).parent / "architectures"
CHECKSUM = "weights.sha256"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def cache_dir() -> Path:
    """Where converted weights are kept: ``GDO_CACHE_DIR``, else ``~/.cache/gdo``."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gdo"
    return Path(os.environ.get("GDO_CACHE_DIR", default))


@dataclass(frozen=True)
class PyPIModel(ModelSource):
    """A GGUF carried by a PyPI package in parts; checked, dequantised to bf16 and cached once.

    Attributes:
        package: import name of the package; it has ``chunk_paths()`` or a file under ``file``.
        requirement: what ``pip install`` is to be given.
        sha256: checksum of the whole GGUF.
        file: path of a single GGUF inside the package, where it is not in parts.
    """

    identity_name: ClassVar[str] = "gdo_cli.models.PyPIModel"
    package: str = ""
    requirement: str = ""
    sha256: str = ""
    file: str | None = None

    def load(self) -> Loaded:
        folder = self.converted()
        provenance = {"source": "pypi", "requirement": self.requirement, "gguf_sha256": self.sha256}
        provenance["quantisation"] = "GGUF, dequantised to bf16"
        # Noted at the conversion, so that a start need not read the file twice.
        if (folder / CHECKSUM).is_file():
            provenance["sha256"] = (folder / CHECKSUM).read_text().strip()
        return _load_folder(folder, provenance, _converted_tokenizer)

    @property
    def cached(self) -> Path:
        """Folder of the converted weights; it exists only when they are whole."""
        return cache_dir() / "models" / f"{self.package}-{self.sha256[:12]}-bf16"

    def converted(self) -> Path:
        """The cached conversion, made now if need be (about a minute)."""
        if self.cached.is_dir():
            return self.cached
        print(f"preparing {self.requirement} once, in {self.cached} …", file=sys.stderr)
        self.cached.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".converting-", dir=self.cached.parent))
        try:
            self._assemble(work / "model.gguf")
            _convert_gguf(work, "model.gguf", work / "model")
            checksum = files_sha256(sorted((work / "model").glob("*.safetensors")))
            (work / "model" / CHECKSUM).write_text(f"{checksum}\n")
            try:
                (work / "model").rename(self.cached)
            except OSError:  # another process was faster
                require(self.cached.is_dir(), f"cannot write the model cache {self.cached}")
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return self.cached

    def _assemble(self, target: Path) -> None:
        digest = hashlib.sha256()
        parts = self._parts()
        if missing := [part.name for part in parts if not part.is_file()]:
            raise self._incomplete(f"no {missing[0]}")
        with target.open("wb") as out:
            for part in parts:
                with part.open("rb") as stream:
                    while block := stream.read(1 << 20):
                        digest.update(block)
                        out.write(block)
        if digest.hexdigest() != self.sha256:
            raise self._incomplete(f"checksum {digest.hexdigest()[:12]}… instead of {self.sha256[:12]}…")

    def _parts(self) -> list[Path]:
        from importlib import import_module
        from importlib.util import find_spec

        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            flags = "--no-deps " if self.file else ""
            raise UserError(
                f"the weights are not installed: pip install {flags}{self.requirement} (or use "
                "model=tiny, which needs none)"
            )
        if self.file:
            # The package itself is not imported: it may need libraries that are not wanted here.
            return [Path(spec.origin).parent / self.file]
        try:
            parts: list[Path] = import_module(self.package).chunk_paths()
        except ImportError as error:
            raise self._incomplete(brief(error)) from error
        return parts

    def _incomplete(self, reason: str) -> UserError:
        flags = "--no-deps " if self.file else ""
        return UserError(
            f"{self.requirement} is not whole ({reason}); reinstall it: "
            f"pip install --force-reinstall {flags}{self.requirement}"
        )


def _convert_gguf(folder: Path, file: str, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that cannot be switched off
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=file,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
    # What is saved is an ordinary bf16 model; the note on its quantisation would be wrong.
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)


@dataclass(frozen=True)
class HubModel(ModelSource):
    """A model of the hub, or a local folder in its format.

    Attributes:
        path: hub id or folder.
        revision: branch, tag or commit; the commit is resolved and recorded.
    """

    identity_name: ClassVar[str] = "gdo_cli.models.HubModel"
    path: str = ""
    revision: str = "main"

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "model.path=: name a folder or a hub id")

    def shape(self, name: str) -> dict[str, Any] | None:
        folder = Path(self.path).expanduser()
        return _read_shape(folder / "config.json") if folder.is_dir() else super().shape(name)

    def load(self) -> Loaded:
        folder = Path(self.path).expanduser()
        if folder.is_dir():
            return _load_folder(folder, {"source": "folder", "path": self.path})
        if self.path.startswith((".", "/", "~")):
            raise UserError(f"model.path={self.path}: no such folder")
        snapshot, commit = fetch(self.path, self.revision)
        return _load_folder(snapshot, {"source": "hub", "path": self.path, "commit": commit})


@dataclass(frozen=True)
class TinyModel(ModelSource):
    """A random Gemma 3 with a tokenizer trained on the bundled sample; the same one every time."""

    identity_name: ClassVar[str] = "gdo_cli.models.TinyModel"
    hidden_size: int = 64
    num_hidden_layers: int = 4
    vocab_size: int = 1024

    def shape(self, name: str) -> dict[str, Any]:
        return {
            "model_type": "gemma3_text",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": 2 * self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "max_position_embeddings": 1024,
            "sliding_window": 512,
        }

    def load(self) -> Loaded:
        import torch
        from transformers import Gemma3ForCausalLM, Gemma3TextConfig

        tokenizer = _tiny_tokenizer(self.vocab_size)
        config = Gemma3TextConfig(
            **(self.shape("tiny") | {"vocab_size": len(tokenizer)}),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Gemma3ForCausalLM(config).eval()
        for parameter in model.parameters():  # not the buffers: rounded rotary frequencies hurt
            parameter.data = parameter.data.to(torch.bfloat16)
        return Loaded(model, tokenizer, {"source": "random", "sha256": _state_sha256(model)})


def _tiny_tokenizer(vocab_size: int) -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from gdo_cli.data import SAMPLE_DIR

    files = sorted(str(file) for file in SAMPLE_DIR.glob("*/*.jsonl"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<eos>", "<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train(files, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )


# ---------------------------------------------------------------------------------------- loading


def _any_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def _converted_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Encodes and decodes as ``AutoTokenizer`` of a converted model does, and is there in 1 s instead of 5.

    That one takes the vocabulary in Gemma's 33 MB apart in Python and puts it together again. The conversion
    wrote them with this very library: all is in ``tokenizer.json`` but the names of the special tokens.
    """
    from transformers import PreTrainedTokenizerFast

    named = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    special = {key: value for key, value in named.items() if key.endswith("_token")}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)


def _load_folder(
    folder: Path,
    provenance: dict[str, Any],
    tokenizer_of: Callable[[Path], PreTrainedTokenizerBase] = _any_tokenizer,
) -> Loaded:
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # gdo draws its own

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{folder}: no *.safetensors; weights in other formats are not read, because loading them "
            "can run code (convert them with transformers' save_pretrained)"
        )
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, use_safetensors=True, output_loading_info=True
        )
        if not any(file.name in TOKENIZERS for file in folder.iterdir()):
            raise UserError(
                f"{folder}: no tokenizer; one of {', '.join(TOKENIZERS)} belongs beside the weights"
            )
        tokenizer = tokenizer_of(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"{folder}: cannot be loaded: {brief(error)}") from error
    _check_whole(folder, report)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: the tokenizer has no EOS token, so no answer could end")
    checksum = provenance.get("sha256") or files_sha256(files)
    return Loaded(model.eval(), tokenizer, provenance | {"sha256": checksum}, folder)


def _check_whole(folder: Path, report: dict[str, Any]) -> None:
    """Weights that are missing would be random, and nothing else would tell."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(str(key) for key in report.get(kind) or ()):
            raise UserError(
                f"{folder}: {len(keys)} {kind.replace('_', ' ')} ({', '.join(keys[:3])}, …): the weights "
                "do not belong to this architecture, or the download is not whole"
            )


def files_sha256(files: list[Path]) -> str:
    """Checksum of all of them together; each is compared with what the hub's cache knows of it."""
    digest = hashlib.sha256()
    for file in files:
        own, announced = hashlib.sha256(), announced_sha256(file)
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
                if announced:
                    own.update(block)
        if announced and own.hexdigest() != announced:
            raise UserError(
                f"{file}: not what the hub announced, or damaged since (checksum {own.hexdigest()[:12]}… "
                f"instead of {announced[:12]}…): remove {file.resolve()} to have it fetched again"
            )
    return digest.hexdigest()


def _state_sha256(model: PreTrainedModel) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
