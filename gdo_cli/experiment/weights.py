"""The trained weights of a run: kept, put back onto the base model, and taken by other methods."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gdo_cli.config.build import build_part
from gdo_cli.config.run_config import RunConfig
from gdo_cli.lm.device import hold_weights, pick_device
from gdo_cli.methods.base import Method
from gdo_cli.methods.interpolation import OfRun
from gdo_cli.runs.find import find_run
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import UserError
from gdo_cli.support.files import files_sha256
from gdo_cli.support.identity import identity
from gdo_cli.training.optimizers import check_optimizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "parameters.safetensors"
ADAPTER = "adapter_model.safetensors"  # PEFT's name


def check_method(config: RunConfig) -> RunResult | None:
    """Refuse a run that its method or its optimizer cannot do, before anything is loaded.

    Returns:
        The finished run that the method takes its weights from; None where it takes none.
    Raises:
        UserError: with the reason.
    """
    method, name = config.method, config.name["model"]
    method.check(config.task, config.train)
    if method.trains:
        check_optimizer(config.train.optimizer, pick_device())
    if not isinstance(method, OfRun):
        return None
    source = find_run(method.run, method.results_dir)
    try:
        if not source.record.steps:
            raise UserError(f"{source.title} trained nothing; name a run that did")
        kept_weights(source)
        if source.name["model"] != name:
            raise UserError(f"a run of model={source.name['model']}, not of {name}")
        if source.record.config["model"] != identity(config.model):
            raise UserError(f"its model={name} had other settings")
    except UserError as error:
        raise UserError(f"method.run={method.run}: {error}") from error
    method.check_source(_method_of(source))
    return source


def kept_weights(run: RunResult) -> Path:
    """Return the folder of a run's trained weights.

    Raises:
        UserError: they were not kept.
    """
    if run.weights is None:
        again = f"gdo train --force {shlex.join(run.record.overrides)}"
        raise UserError(f"{run.title}: its weights were not kept; run it again: {again}")
    return run.weights


def save_trained(model: Any, folder: Path) -> str | None:
    """Keep what was trained, in fp32: ``adapter/`` (PEFT's own format) where an adapter is all of it,
    else every trainable parameter by name in ``trained/``. Returns the file's checksum."""
    from peft import PeftModel
    from safetensors.torch import save_file

    trained = {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        return None  # interpolated weights are those of the run they come from
    if isinstance(model, PeftModel) and all(model.base_model.prefix in name for name in trained):
        # Not the model's own state_dict, for which FSDP would cut the weights up again. Some tuners look
        # for what their layers share under the name that it has outside them.
        state = dict(model.named_parameters(remove_duplicate=False))
        state |= dict(model.named_buffers(remove_duplicate=False))
        # By default PEFT asks the hub about the base's vocabulary, which no method here resizes.
        model.save_pretrained(folder / "adapter", state_dict=state, save_embedding_layers=False)
        return files_sha256([folder / "adapter" / ADAPTER])
    (folder / "trained").mkdir(exist_ok=True)
    save_file({name: t.contiguous() for name, t in trained.items()}, folder / "trained" / FILE)
    return files_sha256([folder / "trained" / FILE])


def prepare(method: Method, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
    """Return the model as the method changes it; one that is made of a run's weights is handed that run's."""
    if not isinstance(method, OfRun):
        return method.prepare(model, layers)
    source = find_run(method.run, method.results_dir)
    return method.combine(lambda alpha: load_trained(model, _method_of(source), source, alpha))


def _method_of(run: RunResult) -> Method:
    """The run's method with the settings that it ran with, whatever has become of its YAML file."""
    # OmegaConf takes plain dictionaries alone.
    method: Method = build_part(identity(run.record.config["method"]), "method", Method)
    return method


def load_trained(
    base: PreTrainedModel, method: Method, run: RunResult, alpha: float = 1.0
) -> PreTrainedModel:
    """Return the model as it was at the end of the run, on the base that it started from.

    Args:
        alpha: how far on the straight way there from where its training began, 1 being all of it.
    Raises:
        UserError: the weights were not kept, are damaged, or are not those of this method.
    """
    hold_weights(base.requires_grad_(False), getattr(torch, run.record.precision))
    torch.manual_seed(run.seed)  # what started at random starts at the same numbers
    model = prepare(method, base, run.record.layers.indices)
    if not method.trains:
        return model
    folder = kept_weights(run)
    trains = [p for p in model.parameters() if p.requires_grad]
    for parameter in trains:
        parameter.data = parameter.data.float()  # as it was trained, whatever the base is held in
    start = [p.detach().clone() for p in trains] if alpha != 1 else []
    _restore(model, folder, run.record.trained_sha256)
    with torch.no_grad():
        for parameter, before in zip(trains, start, strict=False):
            parameter.copy_(before.lerp(parameter, alpha))
    return model


def _restore(model: Any, folder: Path, checksum: str | None) -> None:
    """Put saved weights in the place of those that the method has just prepared.

    Args:
        checksum: of the file when it was written; older results hold none.
    """
    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    # PEFT's own format, read here: PEFT itself would take a pickle where there is no safetensors file.
    adapter = folder.name == "adapter"
    file = folder / (ADAPTER if adapter else FILE)
    try:
        if checksum not in (None, files_sha256([file])):
            raise OSError("its checksum is not what the run recorded")
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read ({error}); run it again: gdo train --force …") from error
    if adapter:
        report = set_peft_model_state_dict(model, weights)
    else:
        report = model.load_state_dict(weights, strict=False)
    # Some tuners save buffers beside what trains, under names that they do not load them by.
    buffers = {part for name, _ in model.named_buffers() for part in name.split(".")}
    strange = [name for name in report.unexpected_keys if name.rpartition(".")[2] not in buffers]
    # What layers share has several names, of which one is enough.
    trains = [(n, p) for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]
    restored = {id(p) for name, p in trains if name not in report.missing_keys}
    strange += sorted({name for name, p in trains if id(p) not in restored})
    if strange:
        raise UserError(f"{folder}: not the weights of this method: {', '.join(strange[:3])}")
