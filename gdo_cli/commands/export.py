"""``gdo export``: a run as a checkpoint that plain transformers loads, without this package."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from gdo_cli.config.build import rebuild
from gdo_cli.experiment.reopen import Opened, measure, require_same_rows
from gdo_cli.growth.folding import FORMS, average, fold, natural_form, widen
from gdo_cli.models.hub import HubModel
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import RunFailed, UserError, first_line, require, require_one_of
from gdo_cli.support.markdown import rate

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Largest difference of logits after reloading, times the largest logit: rounding of the weights
# (2^-8 and 2^-24) that adds up over the layers.
TOLERANCE = {"bf16": 0.05, "fp32": 1e-4}
_PROMPTS = ("The capital of France is", "Premise: Water boils at 100 degrees.\nHypothesis: Water")


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    form: str
    difference: float  # the largest, of logits from the run's own model
    exact: bool


def export(run: RunResult, target: Path, form: str | None, dtype: str, config_dir: Path | None) -> Exported:
    """Write the run's model to a folder, reload it, and compare.

    Args:
        form: one of FORMS for a grown model; None chooses: folded where that is exact, else grown.
        dtype: ``bf16`` or ``fp32``.
    Raises:
        UserError: a form that the run does not have, or a target that is not empty.
        RunFailed: the reloaded model computes something else; nothing is left behind.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    require_one_of("--dtype", dtype, DTYPES)
    empty = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    require(empty, f"{target}: exists and is not empty; name another folder")
    opened = Opened(rebuild(run, config_dir), run)
    loaded = opened.loaded
    tokens = [loaded.tokenizer(text, return_tensors="pt")["input_ids"] for text in _PROMPTS]
    model = in_fp32(opened.trained_model())
    before = _logits(model, tokens)
    form = _choose(model, form, run)
    try:
        plain: Any = _FORM[form](model)
    except ValueError as error:
        raise UserError(f"{run.title}: {error}") from error
    exact = form != "averaged"
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = tempfile.TemporaryDirectory(prefix=".exporting-", dir=target.parent, ignore_cleanup_errors=True)
    with beside as private:
        work = Path(private) / target.name  # with the rights that a folder is made with here
        work.mkdir()
        plain.to(DTYPES[dtype]).save_pretrained(work)
        loaded.save_tokenizer(work)
        (work / "README.md").write_text(model_card(run, form), "utf-8")
        difference = _difference(before, _reloaded_logits(work, tokens))
        if exact and not difference <= TOLERANCE[dtype]:
            raise RunFailed(
                f"the exported model differs from the run's by {difference:.2g} of the largest logit "
                f"({TOLERANCE[dtype]:g} allowed); nothing was written"
                + "; rounding to bf16 may be all of it (experts chosen anew): try --dtype fp32"
                * (dtype == "bf16")
            )
        if target.is_dir():
            target.rmdir()
        work.rename(target)
    return Exported(target, form, difference, exact)


def in_fp32(model: Any) -> Any:
    """Return the model as transformers makes it in fp32, for comparison.

    Gemma's scale of the embeddings is the square root of their width; loading in bf16 rounds it (640:
    25.25, not 25.30), loading in fp32 does not, and no checkpoint holds it.
    """
    for module in model.modules():
        if hasattr(module, "scalar_embed_scale"):
            module.embed_scale = torch.tensor(module.scalar_embed_scale)
    return model.float().eval()


def _choose(model: Any, form: str | None, run: RunResult) -> str:
    natural = natural_form(model)
    if form is None:
        return natural or "plain"
    require(bool(natural), f"{run.title}: nothing has grown, so there is one form only; leave --form out")
    require_one_of("--form", form, FORMS)
    return form


def _plain(model: Any) -> Any:
    """A model without growth: other adapters are merged, whole models are as they are."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


_FORM = {"grown": widen, "folded": fold, "averaged": average, "plain": _plain}


@torch.no_grad()
def _logits(model: Any, tokens: list[Tensor]) -> list[Tensor]:
    return [model(input_ids=ids).logits.float() for ids in tokens]


def _reloaded_logits(folder: Path, tokens: list[Tensor]) -> list[Tensor]:
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # whatever it is, such a checkpoint is of no use
        raise RunFailed(f"the exported checkpoint does not load ({first_line(error)})") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(kind):
            raise RunFailed(f"the exported checkpoint has {kind.replace('_', ' ')}: {report[kind]}")
    return _logits(model.eval(), tokens)


def _difference(before: list[Tensor], after: list[Tensor]) -> float:
    pairs = zip(before, after, strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def cost(run: RunResult, folder: Path, config_dir: Path | None) -> dict[str, float]:
    """Measure the run's own task and probes on the exported checkpoint."""
    config = rebuild(run, config_dir)
    model = HubModel(config.model.lr, config.model.warmup_steps, path=str(folder.resolve()))
    opened = Opened(replace(config, model=model))
    require_same_rows(run, opened.data.provenance)
    return measure(opened)


def push_to_hub(folder: Path, repository: str) -> str:
    """Upload a folder with the account of ``hf auth login``; returns the address.

    Raises:
        UserError: the hub refuses or cannot be reached; the folder stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        api = HfApi()
        api.create_repo(repository, exist_ok=True, private=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder))
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise UserError(
            f"--push {repository}: not uploaded ({type(error).__name__}: {first_line(error)}); {folder} is "
            "complete, run 'hf auth login' and try again"
        ) from error


def model_card(run: RunResult, form: str) -> str:
    """README.md of the exported checkpoint: what it is, and the numbers of its run."""
    record = run.record
    numbers = {key: value for key, value in run.final.items() if not key.endswith("_se")}
    rows = "\n".join(f"| {key} | {value:.3f} |" for key, value in numbers.items())
    return (
        f"---\n{yaml.safe_dump(front_matter(run), sort_keys=False)}---\n\n"
        f"# {run.name['model']}, fine-tuned on {run.name['task']} with {run.label}\n\n"
        f"Form: {form}. Layers: {record.layers.chosen}. "
        f"Trained {record.parameters.trainable:,} of {record.parameters.base:,} parameters, "
        f"{record.steps} steps at a learning rate of {rate(record.config['train']['lr'])}. "
        f"Data: {record.data['source']}. Run {run.title}.\n\n"
        "Measured at the end of that run (task: test items; probes: what the base model knew):\n\n"
        f"| measure | value |\n| --- | ---: |\n{rows}\n\n"
        f"Made by:\n\n```sh\ngdo train {shlex.join(record.overrides)}\ngdo export {run.title} FOLDER\n```\n"
    )


def front_matter(run: RunResult) -> dict[str, Any]:
    """Return what a hub reads of a card: the base and the data set are named where the hub has them."""
    config, record = run.record.config, run.record
    found: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if record.weights.get("source") == "hub":
        found["base_model"] = record.weights["path"]
    rows = (config["task"].get("dataset") or {}).get("hub") or {}
    if rows.get("path") and record.data["source"] in ("hub", "local"):  # a sample is not the data set
        found["datasets"] = [rows["path"]]
    found["metrics"] = [run.task_score.partition("/")[2]]
    found["tags"] = ["gdo", run.name["method"], run.name["task"]]
    return found
