"""What every grown layer is: a base layer, adapters by name, and merging into one wide layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils.quantization_utils import QuantizationBackend, resolve_quantization_backend
from torch import Tensor, nn

from gdo_cli.growth.config import GrowConfig


class GrownLayer(nn.Module, BaseTunerLayer):
    """A layer whose base stays where it is, with new weights beside it, by adapter.

    Several active adapters stand side by side: y = base + Σ_i (y_i − base), each with copies of its own.
    """

    adapter_layer_names = ("grow",)
    other_param_names = ("growth",)
    base_layer: Any
    active_adapters: list[str]
    get_base_layer: Callable[[], Any]
    quantization_backend: QuantizationBackend | None
    set_adapter: Callable[..., None]

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: GrowConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.quantization_backend = resolve_quantization_backend(base_layer)
        self.growth: dict[str, GrowConfig] = {}
        self.grow = nn.ModuleDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        # The base while a wide layer stands in for it. In a tuple it is no part of the module, whose
        # children PEFT takes for the adapter's.
        self._narrow: tuple[nn.Module, ...] = ()
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: GrowConfig) -> None:
        """Add an adapter that computes what the base computes.

        Raises:
            ValueError: another one is merged.
        """
        if self.merged:
            raise ValueError(f"adapter {adapter_name!r}: unmerge before adding another one")
        self.growth[adapter_name] = config
        self.grow[adapter_name] = self.initial_growth(config)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def initial_growth(self, config: GrowConfig) -> nn.Module:
        """Return a module with the new parameters at the start, as copies of their own."""
        raise NotImplementedError

    def widened(self, names: list[str]) -> nn.Module:
        """Return the one plain layer that equals this one with adapters."""
        raise NotImplementedError

    def padded(self, plain: nn.Module, k: int) -> nn.Module:
        """Return a plain layer like this one's base, k times as wide by units that add nothing."""
        raise NotImplementedError

    def is_width_of(self, stock: Any, k: int) -> bool:
        """Return whether a stock layer is k times as wide as this one's base."""
        raise NotImplementedError

    def join(self, names: list[str], weights: list[float], into: str) -> None:
        """Give one adapter the copies of others, side by side."""
        raise NotImplementedError

    def grown(self, names: list[str], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the output with adapters; other arguments are the base layer's."""
        raise NotImplementedError

    def copies_by_parameter(self, name: str) -> Iterator[tuple[str, Tensor, list[Tensor]]]:
        """Yield an adapter's parameters: what the base calls each, the base's own, the copies in fp32."""
        raise NotImplementedError

    def is_row(self, which: str) -> bool:
        """Return whether a parameter of the base belongs to a down-projection."""
        return False

    def set_base(self, which: str, value: Tensor) -> None:
        """Put a value into a parameter of the base; a linear layer's weight is given as (out, in)."""
        getattr(self.get_base_layer(), which).data = value

    @property
    def n_added(self) -> int:
        """Parameters by which the wide layer is larger than the base."""
        raise NotImplementedError

    @property
    def narrow(self) -> Any:
        """The base, be it merged or not."""
        return self._narrow[0] if self._narrow else self.get_base_layer()

    def copies(self, name: str) -> int:
        """Return how many copies an adapter adds; G-Train's replace the original, which counts as one."""
        growth = self.growth[name]
        return growth.k if growth.trainable == "columns" else growth.k - 1

    def keeps_old(self, names: list[str]) -> bool:
        """Return whether the base's own copy takes part; beside G-Train alone it does not."""
        return len(names) > 1 or self.growth[names[0]].trainable != "columns"

    def old_share(self, names: list[str]) -> float:
        """Return the share of the output that the base's own copy carries."""
        return 1 - sum(self.share_of(name) for name in names)

    def share_of(self, name: str) -> float:
        """Return the share of the output that an adapter's copies carry at the start."""
        return 1.0 if self.growth[name].trainable == "columns" else self.growth[name].new_share

    def factor(self, adapters: Sequence[str] | None = None) -> int:
        """Return how many times as wide the layer is with adapters, the active ones by default."""
        names = [n for n in (self.active_adapters if adapters is None else adapters) if n in self.growth]
        return self.keeps_old(names) + sum(self.copies(name) for name in names) if names else 1

    def active_here(self) -> list[str]:
        """Return the active adapters that this layer has."""
        return [name for name in self.active_adapters if name in self.growth]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        names = [] if self.disable_adapters or self.merged else self.active_here()
        return self.grown(names, x, *args, **kwargs) if names else self.ungrown(x, *args, **kwargs)

    def ungrown(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the output of the base, or of the wide layer that stands in for it."""
        out: Tensor = self.base_layer(x, *args, **kwargs)
        return out

    @torch.no_grad()
    def checked_wide(self, names: list[str], safe: bool) -> nn.Module:
        """Return :meth:`widened`.

        Raises:
            ValueError: it is not finite, and that is asked for.
        """
        plain = self.widened(names)
        if safe and not all(torch.isfinite(p).all() for p in plain.parameters()):
            told = ", ".join(names)
            raise ValueError(f"NaNs detected in the merged weights. The adapter {told} seems to be broken")
        return plain

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Let one plain, wider layer stand in for base and growth."""
        names = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.growth]
        if not names:
            return
        names = [*self.merged_adapters, *names]
        self.unmerge()
        plain = self.checked_wide(names, safe_merge)
        self._narrow, self.base_layer = (self.base_layer,), plain
        self.merged_adapters += names

    def unmerge(self) -> None:
        if self._narrow:
            (narrow,) = self._narrow
            like = next(self.base_layer.parameters())
            self._narrow, self.base_layer = (), narrow.to(like.device if self.quantization_backend else like)
            self.merged_adapters.clear()

    def __repr__(self) -> str:
        return "grow." + super().__repr__()
