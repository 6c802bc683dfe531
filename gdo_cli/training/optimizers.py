"""What takes the steps: optimizers by name, the rate of each parameter, and what they keep between steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gdo_cli.support.errors import UserError, first_line, suggest
from gdo_cli.training.config import TrainConfig

Named = Iterable[tuple[str, nn.Parameter]]
Groups = list[dict[str, Any]]

# bitsandbytes keeps tensors below this size in fp32, and a scale for each block of a larger one.
MIN_8BIT, BLOCK_8BIT = 4096, 256


def build_optimizer(named: Named, config: TrainConfig) -> Optimizer:
    """Return the optimizer of the parameters that train.

    Each of its groups holds those of one ``factor`` on the rate, under that key.

    Args:
        named: all parameters of the model by name; those that are frozen are left out.
    Raises:
        UserError: ``train.lr_scale`` names none of them, or one twice.
    """
    groups: dict[float, dict[str, Any]] = {}
    trained = dict(named)
    for name, factor in rate_factors(trained.items(), config.lr_scale).items():
        group = groups.setdefault(factor, {"params": [], "lr": config.lr * factor, "factor": factor})
        group["params"].append(trained[name])
    return _MAKERS[config.optimizer](list(groups.values()), config)


def rate_factors(named: Named, scale: dict[str, float] | None) -> dict[str, float]:
    """Return the factor on the rate of each parameter that trains, by its name.

    Args:
        named: all parameters of the model by name.
        scale: factors by the names of modules, or the ends of them: ``gate_proj``, ``layers.3.mlp``.
    Raises:
        UserError: no parameter is in a module of that name, or one is in two of them.
    """
    factors = {name: 1.0 for name, parameter in named if parameter.requires_grad}
    scaled: dict[str, str] = {}
    for part, factor in (scale or {}).items():
        found = [name for name in factors if f".{part}." in f".{name}."]
        if not found:
            hint = suggest(part, _telling_parts(list(factors)))
            raise UserError(f"train.lr_scale.{part}: no part of any parameter that trains; {hint}")
        for name in found:
            if name in scaled:
                raise UserError(
                    f"train.lr_scale: {scaled[name]} and {part} both name {name}; give one of them"
                )
            scaled[name], factors[name] = part, factor
    return factors


def _telling_parts(names: list[str]) -> set[str]:
    """The words that names are made of, but for numbers and those that all of them have."""
    words = [{word for word in name.split(".") if not word.isdigit()} for name in names]
    every = set[str]().union(*words)
    return every.difference(every.intersection(*words)) or every


def _adam(groups: Groups, config: TrainConfig) -> Optimizer:
    return torch.optim.AdamW(groups, fused=True, **_adam_settings(config))


def _sgd(groups: Groups, config: TrainConfig) -> Optimizer:
    """Plain gradient descent: no momentum, no state."""
    return torch.optim.SGD(groups, lr=config.lr, weight_decay=config.weight_decay)


def _adafactor(groups: Groups, config: TrainConfig) -> Optimizer:
    """Adafactor (Shazeer & Stern, 2018) as ``optax.adafactor(lr)`` has it, up to the differences below.

    Both divide the gradient G by the root of a second moment V, a running mean of G² with decay 1 - t^-0.8,
    of which a matrix keeps the means over rows and over columns alone; shrink the result to an RMS of 1
    where it has a larger one (clipping); and step by it times lr · max(1e-3, RMS(θ)). Neither has momentum
    or steps that shrink with time. With these arguments they agree for matrices, vectors and scalars
    (tests/test_optimizers.py), but for:

    - ε: optax adds 1e-30 to G²; torch bounds V from below by ε² and the mean of G² by ε. Its own ε, 1.2e-7 in
      fp32, would make too much of matrices whose gradients have an RMS below 3e-4. At 1e-18 the bounds are
      met below an RMS of 1e-9, and ε² is not yet zero in fp32.
    - Small matrices: with a side below 128 (LoRA's) optax keeps all of V, torch its means. Of random
      gradients of 640 × 16 their steps differ by 0.6 of their size at first, 0.17 at step 20, 0.08 at 120.
    - Arrays: each matrix counts for itself here. Google's own Gemma has gate and up in one array, of one RMS,
      and takes the means over rows and columns of q, k, v and o head by head.
    - lr: torch takes 1/√t where that is less; TrainConfig refuses such rates.
    - Weight decay: torch takes lr · weight_decay of a weight off, optax its weight_decay_rate.
    - RMS in fp32: one thread of a CPU finds that of an embedding's 1.7e8 entries 2 % too small, θ's and the
      update's alike: clipped steps are right to 0.3 %, others 2 % too small.
    """
    return torch.optim.Adafactor(
        groups, lr=config.lr, beta2_decay=-0.8, eps=(1e-18, 1e-3), d=1.0, weight_decay=config.weight_decay
    )


def _adam8bit(groups: Groups, config: TrainConfig) -> Optimizer:
    """Adam with moments in 8 bits a number (Dettmers et al., 2022), by bitsandbytes."""
    settings = _adam_settings(config)
    made: Optimizer = _bitsandbytes().AdamW8bit(groups, min_8bit_size=MIN_8BIT, **settings)
    return made


def _adam_settings(config: TrainConfig) -> dict[str, Any]:
    betas = config.adam_beta1, config.adam_beta2
    return {"lr": config.lr, "betas": betas, "eps": config.adam_epsilon, "weight_decay": config.weight_decay}


_MAKERS: dict[str, Callable[[Groups, TrainConfig], Optimizer]] = {
    "adam": _adam,
    "adafactor": _adafactor,
    "sgd": _sgd,
    "adam8bit": _adam8bit,
}


def _bitsandbytes() -> Any:
    try:
        from bitsandbytes import optim
    except ModuleNotFoundError as error:
        raise UserError(
            "train.optimizer=adam8bit: bitsandbytes is not installed: pip install 'gdo-cli[adam8bit]'"
        ) from error
    return optim


@cache
def check_optimizer(name: str, device: torch.device) -> None:
    """Refuse an optimizer that cannot run here, before anything is loaded: only a step tells.

    Raises:
        UserError: it is not installed, or does not run on the device.
    """
    if name != "adam8bit":
        return
    try:
        parameter = nn.Parameter(torch.ones(MIN_8BIT, device=device))
        optimizer = _adam8bit([{"params": [parameter]}], TrainConfig(optimizer=name))
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    except UserError:
        raise
    except Exception as error:  # a library that does not load breaks in its own ways
        raise UserError(
            f"train.optimizer=adam8bit: bitsandbytes does not run here, on {device.type} "
            f"({first_line(error)}); choose train.optimizer=adam or adafactor"
        ) from error


def state_bytes(parameter: Tensor, optimizer: str) -> int:
    """Return what an optimizer keeps of a parameter between steps, in bytes, counters and tables apart."""
    n = parameter.numel()
    if optimizer == "sgd":
        return 0
    if optimizer == "adafactor":
        if parameter.ndim < 2:
            return 4 * n
        *others, rows, columns = parameter.shape
        return 4 * math.prod(others) * (rows + columns)
    if optimizer == "adam8bit" and n >= MIN_8BIT:
        return 2 * (n + 4 * math.ceil(n / BLOCK_8BIT))
    return 2 * 4 * n
