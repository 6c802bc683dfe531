"""What every source of a model has in common: its shape, and a folder of weights, loaded and checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdo_cli.support.errors import UserError, first_line
from gdo_cli.support.files import PACKAGE, files_sha256
from gdo_cli.support.identity import NOT_IDENTITY

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ARCHITECTURES = PACKAGE / "models" / "architectures"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


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
        """Return the model and its tokenizer.

        Raises:
            UserError: weights that cannot be had or are not whole, with the way to mend it.
        """
        raise NotImplementedError

    def shape(self, name: str) -> dict[str, Any] | None:
        """Return the architecture as transformers describes it, where it is known without the weights.

        Args:
            name: the option by which the model was chosen.
        """
        return read_shape(ARCHITECTURES / f"{name}.json")

    def depth(self, name: str) -> int | None:
        """Return the number of decoder layers, where it is known without the weights."""
        shape = self.shape(name) or {}
        n = shape.get("text_config", shape).get("num_hidden_layers")
        return n if isinstance(n, int) else None


def read_shape(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None  # what is wrong with it, loading will say
    return content if isinstance(content, dict) else None


def _any_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def load_folder(
    folder: Path,
    provenance: dict[str, Any],
    tokenizer_of: Callable[[Path], PreTrainedTokenizerBase] = _any_tokenizer,
) -> Loaded:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # gdo draws its own
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder}: an adapter, whose base would be loaded from elsewhere; merge it: "
            "PeftModel.from_pretrained(base, FOLDER).merge_and_unload().save_pretrained(NEW), then put its "
            "tokenizer beside it"
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{folder}: no *.safetensors; weights in other formats are not read, because loading them "
            "can run code (convert them with transformers' save_pretrained)"
        )
    if not any(file.name in TOKENIZERS for file in folder.iterdir()):
        raise UserError(f"{folder}: no tokenizer; one of {', '.join(TOKENIZERS)} belongs beside the weights")
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, use_safetensors=True, output_loading_info=True
        )
        tokenizer = tokenizer_of(folder)
    except Exception as error:  # what is wrong with files, or not installed for them, breaks anywhere
        raise UserError(f"{folder}: cannot be loaded: {first_line(error)}") from error
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and not getattr(quantizer.quantization_config, "dequantize", False):
        raise UserError(
            f"{folder}: quantised weights, which gdo does not train; in transformers, model.dequantize() and "
            "save_pretrained make plain ones of them"
        )
    _check_whole(folder, report)
    _check_vocabulary(folder, model, tokenizer)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: the tokenizer has no EOS token, so no answer could end")
    # What adapters name as their base: a model of the hub or a package, never this machine's cache.
    public = str(provenance.get("path") or provenance.get("requirement") or folder)
    model.name_or_path = model.config.name_or_path = public
    checksum = provenance.get("sha256") or files_sha256(files)
    provenance |= {"sha256": checksum, "config_sha256": files_sha256([folder / "config.json"])}
    return Loaded(model.eval(), tokenizer, provenance, folder)


def _check_whole(folder: Path, report: dict[str, Any]) -> None:
    """Weights that are missing would be random, and nothing else would tell."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(str(key) for key in report.get(kind) or ()):
            raise UserError(
                f"{folder}: {len(keys)} {kind.replace('_', ' ')} ({', '.join(keys[:3])}, …): the weights "
                "do not belong to this architecture, or the download is not whole"
            )


def _check_vocabulary(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Every token that text can have needs a row. Control tokens may lie beyond: Gemma 3's of images do."""
    rows = model.get_input_embeddings().weight.shape[0]
    control = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    control -= {tokenizer.bos_token_id, tokenizer.eos_token_id}
    beyond = {i: token for token, i in tokenizer.get_vocab().items() if i >= rows and i not in control}
    if beyond:
        first = min(beyond)
        raise UserError(
            f"{folder}: {len(beyond)} tokens of the tokenizer ({beyond[first]!r} is {first}) have no row in "
            f"the embedding, which has {rows}: it belongs to another model, or the embedding was not "
            "resized (model.resize_token_embeddings(len(tokenizer)))"
        )
