"""The machine a run computes on, and in what precision."""

from __future__ import annotations

import contextlib
import gc
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from gdo_cli.lm.lm_head import look_up_in_fp32
from gdo_cli.support.errors import UserError

_CLEAR_REFS = Path("/proc/self/clear_refs")


def pick_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the machine computes bf16 in hardware (AMX or AVX-512 on a CPU)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capability = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(capability.get("amx_bf16") or capability.get("avx512_bf16"))
    return False


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products: ``auto`` is bf16 where the machine has it, else fp32."""
    if precision == "auto":
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    if precision == "bf16" and device.type == "mps":
        raise UserError("train.precision=bf16: not on this device; use fp32")
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def hold_weights(model: PreTrainedModel, compute: torch.dtype) -> None:
    """Keep each weight in the precision its part needs.

    What trains is held in fp32: at lr 1e-5 an Adam step moves only a tenth of bf16 weights. Frozen
    linear weights are held in the compute dtype, which is what autocast would make of them at every
    use. So is a frozen vocabulary that loses nothing by it; its rows are looked up as fp32. The rest
    (norms, positions) is fp32, so that every method starts from the same numbers.
    """
    vocabulary = model.get_input_embeddings()
    look_up_in_fp32(vocabulary)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            low = not parameter.requires_grad and (
                _loses_nothing(parameter, compute)
                if parameter is vocabulary.weight
                else isinstance(module, nn.Linear)
            )
            parameter.data = parameter.data.to(compute if low else torch.float32)


def _loses_nothing(parameter: nn.Parameter, dtype: torch.dtype) -> bool:
    if parameter.dtype == dtype or parameter.is_meta:
        return True
    return torch.equal(parameter.to(dtype).float(), parameter.float())


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak so far, and what it left behind: a sweep runs many runs in one process."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_REFS.exists():
        with contextlib.suppress(OSError):  # not everywhere allowed; the peak is then the process's
            _CLEAR_REFS.write_text("5")  # proc(5): resets the peak resident set size


def peak_memory(device: torch.device) -> int:
    """Return the bytes since the reset: of the GPU's allocator, or of this process where there is none."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if _CLEAR_REFS.exists():
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what a reader needs to judge a timing; no host name, no paths."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": device.type,
        "gpu": gpu,
        "cpu": _cpu_name(),
        "cores": torch.get_num_threads(),
        "bf16": has_fast_bf16(device),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
