"""A pretended card: tensors that say ``cuda:0`` and keep their numbers in the CPU's memory.

``python pretended.py libcard.so OVERRIDES…`` makes a run on it and prints, as JSON, what came of it. The
library is card.cpp, which has to be loaded before torch is. What kernels do is not simulated: numerics of
the card, streams, memory.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections import Counter
from itertools import pairwise
from typing import Any

ctypes.CDLL(sys.argv[1])

import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map_only  # noqa: E402

WAITS = Counter[str]()  # where the processor would wait for the card
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2")
ACROSS = ("aten::copy_", "aten::index")  # take tensors of both devices


class Card(torch.Tensor):
    """A tensor on the pretended card; ``raw`` has its numbers."""

    __torch_function__: Any = torch._C._disabled_torch_function_impl
    raw: torch.Tensor

    def __new__(cls, raw: torch.Tensor) -> Card:
        self = torch.Tensor._make_wrapper_subclass(
            cls, raw.shape, raw.stride(), dtype=raw.dtype, device=torch.device("cuda:0")
        )
        self.raw = raw
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        new = Card(self.raw.clone()).requires_grad_(self.requires_grad)
        new._is_param = getattr(self, "_is_param", False)
        return memo.setdefault(id(self), new)

    def _set_data(self, new: Card) -> None:
        vars(torch._C.TensorBase)["data"].__set__(self, new)
        self.raw = new.raw

    data = property(lambda self: Card(self.raw.detach()), _set_data)

    def untyped_storage(self) -> Any:
        return self.raw.untyped_storage()

    def tolist(self) -> Any:
        return self.to("cpu").tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a tensor of the card is pickled: move it to the CPU first")

    @classmethod
    def __torch_dispatch__(cls, *call: Any) -> Any:
        return pretended().__torch_dispatch__(*call)


class Pretended(TorchDispatchMode):
    """Within, what is made on or moved to ``cuda`` is a :class:`Card`, and devices do not mix."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func._schema.name
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        to = torch.device(kwargs["device"]).type if kwargs.get("device") else None
        if to != "cuda" and not any(isinstance(t, Card) for t in tensors):
            return func(*args, **kwargs)
        moves = (to and name == "aten::_to_copy") or name in ACROSS
        if not moves and any(t.dim() and not isinstance(t, Card) for t in tensors):
            raise RuntimeError(f"{name}: all tensors have to be on one device")
        if name in READS or to == "cpu":
            WAITS[name] += 1
        raw_args, raw_kwargs = tree_map_only(
            Card, lambda t: t.raw, (args, kwargs | ({"device": "cpu"} if to else {}))
        )
        out = func(*raw_args, **raw_kwargs)
        if name == "aten::_local_scalar_dense" or to == "cpu":
            return out
        out = tree_map_only(torch.Tensor, Card, out)
        if func.is_view or func._schema.is_mutable:
            return return_and_correct_aliasing(func, args, kwargs, out)
        return out


def pretended() -> Any:
    mode: Any = Pretended  # torch's class has no types
    return mode()


def install() -> None:
    """Let torch say that there is a card."""
    said: dict[str, Any] = {
        "is_available": True,
        "is_bf16_supported": True,
        "device_count": 1,
        "get_device_name": "pretended",
        "max_memory_allocated": 1,
        "get_rng_state_all": [torch.get_rng_state()],
        "_lazy_init": None,
        "reset_peak_memory_stats": None,
        "set_rng_state_all": None,
    }
    for name, value in said.items():
        setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_swap_module_params_on_conversion(True)


def waits_of_steps(loop: Any) -> list[int]:
    """Note at the beginning of each step how often the card has been waited for."""
    backward, waits = loop._backward, []

    def counted(*args: Any) -> Any:
        waits.append(WAITS.total())
        return backward(*args)

    loop._backward = counted
    return waits


def plant(fault: str) -> None:
    """Put a fault of one kind into gdo, as a slip would."""
    from gdo_cli.experiment import checkpoints
    from gdo_cli.lm.answer_lm import AnswerLM

    lm: Any = AnswerLM
    loss = lm.loss
    if fault == "to":  # targets that are not moved
        lm.loss = lambda self, hidden, targets, *rest: loss(self, hidden, targets.to("cpu"), *rest)
    elif fault == "device":  # a tensor made where the model is not
        lm.loss = lambda *given: loss(*given) * torch.ones(1)
    elif fault == "cpu":  # a checkpoint that still hangs on the card
        checkpoints._whole = lambda tensor: tensor.detach()


def main() -> None:
    install()
    words = sys.argv[2:]
    faults = [word.removeprefix("fault=") for word in words if word.startswith("fault=")]
    with pretended():
        from gdo_cli.config.build import load_run
        from gdo_cli.experiment.run import run
        from gdo_cli.training import loop

        for fault in faults:
            plant(fault)
        waits = waits_of_steps(loop)
        done = run(load_run([word for word in words if not word.startswith("fault=")]), force=True)
    told = {
        "device": done.record.machine["device"],
        "loss": done.final["task/loss"],
        "steps": [after - before for before, after in pairwise(waits)],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
