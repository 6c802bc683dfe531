"""The trained weights of a run: kept, and put back onto the base model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdo_cli.errors import UserError
from gdo_cli.methods import Method, load_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from gdo_cli.results import RunResult

FILE = "parameters.safetensors"


def save_trained(model: Any, folder: Path) -> None:
    """Keep what was trained, in fp32: ``adapter/`` (PEFT's own format) where an adapter is all of it,
    else every trainable parameter by name in ``trained/``."""
    from peft import PeftModel
    from safetensors.torch import save_file

    trained = {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad}
    if isinstance(model, PeftModel) and all(model.base_model.prefix in name for name in trained):
        model.save_pretrained(folder / "adapter")
    elif trained:
        (folder / "trained").mkdir(exist_ok=True)
        save_file({name: t.contiguous() for name, t in trained.items()}, folder / "trained" / FILE)


def load_trained(base: PreTrainedModel, method: Method, run: RunResult) -> PreTrainedModel:
    """The model as it was at the end of the run, on the base that it started from.

    Raises:
        UserError: the weights were not kept, or are not those of this method.
    """
    if not method.trains:
        return method.prepare(base, None)
    folder = run.weights
    if folder is None:
        raise UserError(f"{run.title}: its weights were not kept; run it again: gdo train --force …")
    if folder.name == "adapter":
        import gdo_cli.growth  # noqa: F401  (PEFT learns what a grown adapter is)

        return load_adapter(base, folder)
    from safetensors.torch import load_file

    chosen = run.record["layers"]["chosen"]
    model = method.prepare(base, None if chosen == "all" else chosen)
    report = model.load_state_dict(load_file(folder / FILE), strict=False)
    if report.unexpected_keys:
        raise UserError(f"{folder / FILE}: not the weights of this method: {report.unexpected_keys[:3]}")
    return model
