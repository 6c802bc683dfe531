"""Weights that a PyPI package carries: checked, converted once, kept in the cache."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from gdo_cli.models.loading import Loaded, ModelSource, load_folder
from gdo_cli.support.errors import UserError, first_line, require
from gdo_cli.support.files import cache_dir, files_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHECKSUM = "weights.sha256"


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
        provenance |= {"quantisation": "GGUF, dequantised to bf16"}
        # Noted at the conversion, so that a start need not read the file twice.
        if (folder / CHECKSUM).is_file():
            provenance["sha256"] = (folder / CHECKSUM).read_text().strip()
        return load_folder(folder, provenance, _converted_tokenizer)

    @property
    def cached(self) -> Path:
        """Folder of the converted weights; it exists only when they are whole."""
        return cache_dir() / "models" / f"{self.package}-{self.sha256[:12]}-bf16"

    def converted(self) -> Path:
        """Return the cached conversion, made now if need be (about a minute)."""
        if self.cached.is_dir():
            return self.cached
        print(f"preparing {self.requirement} once, in {self.cached} …", file=sys.stderr)
        self.cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".converting-", dir=self.cached.parent, ignore_cleanup_errors=True
        ) as work:
            self._assemble(Path(work) / "model.gguf")
            model = Path(work) / "model"
            _convert_gguf(Path(work), "model.gguf", model)
            (model / CHECKSUM).write_text(f"{files_sha256(sorted(model.glob('*.safetensors')))}\n")
            try:
                model.rename(self.cached)
            except OSError:  # another process was faster
                require(self.cached.is_dir(), f"cannot write the model cache {self.cached}")
        return self.cached

    def _assemble(self, target: Path) -> None:
        parts = self._parts()
        if missing := [part.name for part in parts if not part.is_file()]:
            raise self._incomplete(f"no {missing[0]}")
        with target.open("wb") as out:
            for part in parts:
                with part.open("rb") as stream:
                    shutil.copyfileobj(stream, out, 1 << 20)
        if (checksum := files_sha256([target])) != self.sha256:
            raise self._incomplete(f"checksum {checksum[:12]}… instead of {self.sha256[:12]}…")

    def _parts(self) -> list[Path]:
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise UserError(
                f"the weights are not installed: pip install {self._to_install} (or use model=tiny, which "
                "needs none)"
            )
        if self.file:
            # The package itself is not imported: it may need libraries that are not wanted here.
            return [Path(spec.origin).parent / self.file]
        try:
            parts: list[Path] = import_module(self.package).chunk_paths()
        except ImportError as error:
            raise self._incomplete(first_line(error)) from error
        return parts

    def _incomplete(self, reason: str) -> UserError:
        return UserError(
            f"{self.requirement} is not whole ({reason}); reinstall it: "
            f"pip install --force-reinstall {self._to_install}"
        )

    @property
    def _to_install(self) -> str:
        return f"--no-deps {self.requirement}" if self.file else self.requirement


def _convert_gguf(folder: Path, file: str, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that cannot be switched off
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
    # What is saved is an ordinary bf16 model; the note on its quantisation would be wrong.
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)


def _converted_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Encodes and decodes as ``AutoTokenizer`` of a converted model does, and is there in 1 s instead of 5.

    That one takes the vocabulary in Gemma's 33 MB apart in Python and puts it together again. The conversion
    wrote them with this very library: all is in ``tokenizer.json`` but the names of the special tokens.
    """
    from transformers import PreTrainedTokenizerFast

    named = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    special = {key: value for key, value in named.items() if key.endswith("_token")}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)
