"""``gdo plan``: what each method would add, train, hold and compute, without loading weights.

Nothing here repeats a formula: the model is built without numbers, the method prepares it as in a run,
and one training step runs through it while torch counts its floating-point operations and the tensors
that it keeps for the backward pass.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from gdo_cli.config.run_config import RunConfig
from gdo_cli.experiment.repeats import leave_out_repeats, with_repeats
from gdo_cli.experiment.weights import prepare
from gdo_cli.growth.folding import check_stock, natural_form
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.decoder import find_decoder, text_parameters
from gdo_cli.lm.device import hold_weights, pick_device
from gdo_cli.methods.base import layer_indices
from gdo_cli.methods.parameters import count_parameters
from gdo_cli.models.loading import ARCHITECTURES
from gdo_cli.runs.record import Parameters
from gdo_cli.support.errors import UserError, first_line
from gdo_cli.training.optimizers import rate_factors, state_bytes
from gdo_cli.training.updates import UpdateTracker

# Share of the measured matrix rate that a training step reaches; the rest is memory traffic.
EFFICIENCY = 0.45


@dataclass(frozen=True)
class Plan:
    """One method on one model. Memory in bytes, for one process.

    Attributes:
        counts: as :func:`gdo_cli.methods.parameters.count_parameters`.
        weights: what is held in fp32 and bf16, with what trains as it was at the start, in bf16 (a run says
            how far it moved).
        optimizer: by the name of ``train.optimizer``.
        training: gradients in fp32 and what the optimizer keeps, of what trains.
        activations: tensors kept for the backward pass of one step, vocabulary logits included.
        flops: floating-point operations of one step, forward and backward.

    What a penalty needs (a second model's logits, replayed texts) is not counted.
    """

    method: str
    counts: Parameters
    optimizer: str
    weights: int
    training: int
    activations: int
    flops: int


def plan(config: RunConfig, length: int) -> Plan:
    """Prepare the run's method on a model without numbers, and take one step of ``length`` tokens a sequence.

    Raises:
        UserError: the architecture is not known without the network.
        ValueError: the method cannot be applied to this model.
    """
    model, n_base = _planned(config)
    hold_weights(model, torch.bfloat16)
    counted = count_parameters(model, n_base)  # before a step: what is emptied for it is tied no longer
    trained = [p for p in text_parameters(model).values() if p.requires_grad]
    training = sum(4 * p.numel() + state_bytes(p, config.train.optimizer) for p in trained)
    weights = sum(p.numel() * p.element_size() for p in text_parameters(model).values())
    head = model.get_output_embeddings().weight
    weights += 2 * head.numel() if head.requires_grad else 0  # AnswerLM's bf16 copy of a trained head
    weights += sum(start.nbytes for start in UpdateTracker(model, with_rank=False).start.values())
    activations, flops = _one_step(model, config.train.batch_size, length) if trained else (0, 0)
    optimizer = config.train.optimizer
    return Plan(config.name["method"], counted, optimizer, weights, training, activations, flops)


def counts(config: RunConfig) -> Parameters:
    """Return what the method adds and trains, as :func:`plan` has it and raises; no step is taken."""
    return count_parameters(*_planned(config))


def why_not(config: RunConfig, base: PreTrainedModel | None = None) -> str | None:
    """Return why the method cannot be applied to the model, ``train.lr_scale`` to what it trains, or the end
    be exported, as far as the model's shape tells.

    Args:
        base: the model, where it has been loaded; else its shape has to be known without the weights.
    """
    if not config.method.trains:
        return None  # nothing is added; what there is to be checked needs weights
    try:
        shape = _shape(config) if base is None else base.config
    except Exception:  # it is not known, or loading will say what is wrong with it
        return None
    asked = (shape.to_json_string(), config.name["method"], repr((config.method, config.train.lr_scale)))
    if asked not in _ANSWERS:
        _ANSWERS[asked] = _why_not(copy.deepcopy(shape), config)
    return _ANSWERS[asked]


# The points of a sweep mostly ask the same.
_ANSWERS: dict[tuple[str, str, str], str | None] = {}


def _why_not(shape: PreTrainedConfig, config: RunConfig) -> str | None:
    try:
        model = _on_meta(shape)
    except Exception:  # loading will say what is wrong with it
        return None
    kind = type(model).__name__
    ids = torch.zeros(1, 1, dtype=torch.long, device="meta")
    runs = _fault(model, ids) is None  # some choose experts by numbers, of which there are none
    try:
        model = _prepared(model, config)
        rate_factors(model.named_parameters(), config.train.lr_scale)
        if natural_form(model) and runs and (fault := _fault(model, ids)):
            raise ValueError(f"{kind} cannot run so changed ({fault})")
        check_stock(model)
    except ValueError as error:
        return f"method={config.name['method']}: {error}"
    except UserError as error:
        return str(error)
    except RuntimeError:  # it takes numbers
        return None
    return None


@torch.no_grad()
def _fault(model: Any, ids: Tensor) -> str | None:
    try:  # a mask of all four dimensions is taken as it is; what makes one looks at numbers
        model(input_ids=ids, attention_mask=torch.ones_like(ids)[:, None, None].bool(), use_cache=False)
    except Exception as error:  # a model of someone else's can fail in any way
        return first_line(error)
    return None


def _shape(config: RunConfig) -> PreTrainedConfig:
    name = config.name["model"]
    content = config.model.shape(name)
    if content is None:
        known = ", ".join(sorted(p.stem for p in ARCHITECTURES.glob("*.json")))
        raise UserError(f"model={name}: its shape is not known here; plan for {known} or model.path=FOLDER")
    return AutoConfig.for_model(**content)


def _on_meta(shape: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(shape)
    return model.requires_grad_(False)


def _prepared(model: PreTrainedModel, config: RunConfig) -> Any:
    """The model as the method trains it."""
    choice: Any = getattr(config.method, "layers", "all")
    chosen = None
    if choice != "all":
        n_layers = len(find_decoder(model))
        # Which layers does not matter for what they cost: the last ones stand for any number.
        last = isinstance(choice, int)
        chosen = list(range(n_layers))[-choice:] if last else layer_indices(choice, n_layers)
    return prepare(config.method, model, chosen)


def _planned(config: RunConfig) -> tuple[Any, int]:
    """The model on the meta device, as the method trains it, and how many parameters it had before."""
    model = _on_meta(_shape(config))
    n_base = sum(p.numel() for p in text_parameters(model).values())
    return _prepared(model, config), n_base


def _one_step(model: PreTrainedModel, batch: int, length: int) -> tuple[int, int]:
    """Bytes kept for backward, and operations, of one step that learns two tokens a sequence. What the model
    ties is apart afterwards."""
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError as error:  # no documented part of torch
        raise UserError(f"torch {torch.__version__} cannot run a step without numbers: no plan") from error
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")  # fake tensors run as if on the CPU, autocast included; meta ones do not
        model.get_input_embeddings().padding_idx = None  # leaving it out has a size that data decide
        lm = AnswerLM(model, torch.bfloat16)
        ids = torch.zeros(batch, length, dtype=torch.long)
        positions = torch.zeros(2 * batch, dtype=torch.long)
        targets = torch.zeros(2 * batch, dtype=torch.long)
        head = lm.head_weight()  # the head's copy in bf16, where it has one, is no activation
        own = {id(p) for p in model.parameters()} | {id(head)}
        with FlopCounterMode(display=False) as counter, _kept_tensors(own) as kept:

            def so_far() -> tuple[int, int]:
                return sum(kept.values()), counter.get_total_flops()

            layers = leave_out_repeats(model, so_far)
            F.cross_entropy(lm(ids, positions), targets).backward()
            return with_repeats(so_far(), layers)


@contextmanager
def _kept_tensors(parameters: set[int]) -> Iterator[dict[int, int]]:
    """Sizes of the tensors that autograd keeps, by identity, parameters apart."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # identities are only unique among the living

    def pack(tensor: Tensor) -> Tensor:
        base = tensor._base if tensor._base is not None else tensor
        if id(base) not in parameters and id(tensor) not in parameters:
            alive.append(base)
            kept[id(base)] = base.numel() * base.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def matrix_rate() -> float:
    """Return operations a second of bf16 products on the device that runs go to, by half a second of them."""
    device = pick_device()
    a, b = (torch.randn(rows, 2048, dtype=torch.bfloat16).to(device) for rows in (1536, 2048))
    at_once = 1 if device.type == "cpu" else 100  # waiting for a GPU takes longer than a product
    _multiply(a, b, 1)
    n, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < 0.5:
        _multiply(a, b, at_once)
        n += at_once
    return 2 * 1536 * 2048 * 2048 * n / spent


def _multiply(a: Tensor, b: Tensor, times: int) -> None:
    """Multiply, and wait until it is done."""
    for _ in range(times):
        product = a @ b
    product[0, 0].item()
