"""Growing the MLP: the paper's two methods, and what they are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gdo_cli.methods.base import Method, add_adapter
from gdo_cli.support.console import warn
from gdo_cli.support.errors import require, require_one_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Grow(Method):
    """Base of the methods that grow layers.

    Attributes:
        layers: which MLPs grow: ``all``, a number, or a list of indices.
        k: copies in the grown MLP, the original included.
    """

    layers: Any = "all"
    k: int = 2

    def __post_init__(self) -> None:
        require(self.k >= 2, f"method.k={self.k}: growing needs at least 2 copies")

    def choices(self) -> dict[str, Any]:
        """Return the fields of the tuner's configuration that make this method."""
        return {}

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        return self.grow_linears(model, layers_to_transform=layers, **self.choices())

    def grow_linears(self, model: PreTrainedModel, **choices: Any) -> PreTrainedModel:
        """Return the model with the tuner of :mod:`gdo_cli.growth`, MLPs by default."""
        from gdo_cli.growth import GrowConfig

        return add_adapter(model, GrowConfig(task_type="CAUSAL_LM", k=self.k, **choices))

    def exact(self) -> bool:
        return self.k == 2  # 1/3 is not a binary fraction


@dataclass(frozen=True)
class GFreeze(Grow):
    """Train the new weights alone: new gate, up and down (section 3, "G-Freeze").

    The grown layer is ½·MLP(x) + ½·MLP'(x) with MLP frozen and MLP' a fully tuned copy.
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.grow.GFreeze"
    label: ClassVar[str] = "G-Freeze"


@dataclass(frozen=True)
class GTrain(Grow):
    """Train all copies of gate and up; the down-projection stays frozen (section 3, "G-Train").

    The copies start equal and receive equal gradients, so this trains the ungrown gate and up
    (tests/test_equivalences.py) and folds back to the original size.
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.grow.GTrain"
    label: ClassVar[str] = "G-Train"

    def choices(self) -> dict[str, Any]:
        return {"trainable": "columns"}


@dataclass(frozen=True)
class OutputMix(Grow):
    """(1-λ)·MLP(x) + λ·MLP'(x): the frozen MLP and a trained copy, mixed. G-Freeze is λ = ½.

    Attributes:
        share: λ, how much of the output the trained copy carries.
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.grow.OutputMix"
    share: float = 0.25
    label: ClassVar[str] = "Output mix"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.share <= 1, f"method.share={self.share}: above 0, at most 1")

    def choices(self) -> dict[str, Any]:
        return {"share": self.share}

    def exact(self) -> bool:
        return self.k == 2 and self.share == 0.5


@dataclass(frozen=True)
class ZeroInit(Grow):
    """New MLP units whose contribution starts at zero: new rows of the down-projection are 0 (C.2).

    The paper does not say how the new up-projection starts, nor whether "layers" are MLP width or
    blocks (for the latter see :class:`gdo_cli.methods.blocks.ZeroBlock`).

    Attributes:
        columns: the new gate and up: ``copy``, ``random``, or ``zero``. All zero has zero gradient
            for ever: with train=new nothing is learnt.
        train: ``new`` weights alone (Figure 7b), or ``all``, old and new (Figure 7a).
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.grow.ZeroInit"
    columns: str = "random"
    train: str = "new"
    label: ClassVar[str] = "Zero init"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("method.columns", self.columns, ("copy", "random", "zero"))
        require_one_of("method.train", self.train, ("new", "all"))

    def choices(self) -> dict[str, Any]:
        return {"share": 0.0, "init_columns": self.columns}

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        if self.columns == "zero":
            warn("method.columns=zero: gate, up and down are all 0 and so are their gradients, for ever")
        from gdo_cli.lm.decoder import text_decoder

        decoder, head = text_decoder(model), model.get_output_embeddings()
        model = super().prepare(model, layers)
        if self.train == "all":
            decoder.requires_grad_(True)
            head.requires_grad_(True)
        return model

    def exact(self) -> bool:
        return True  # x·0 adds nothing, whatever k


@dataclass(frozen=True)
class AttentionGrow(Grow):
    """Grow attention instead of, or besides, the MLP (C.3).

    ``heads``: whole GQA groups are copied; the new heads stand behind the old ones, each query head
    with the copy of its own key-value head, and o reads all of them, scaled by 1/k (exact at k = 2).
    ``head_dim``: every head gets k times as wide, interleaved so that rotary positions, norms and
    scale are kept (up to rounding; :mod:`gdo_cli.growth.head_dim`).

    Attributes:
        grow: ``heads`` or ``head_dim``.
        with_mlp: grow the MLP too.
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.grow.AttentionGrow"
    grow: str = "heads"
    with_mlp: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("method.grow", self.grow, ("heads", "head_dim"))

    @property
    def label(self) -> str:  # type: ignore[override]
        what = "Attention heads" if self.grow == "heads" else "Head dimension"
        return f"{what} + MLP" if self.with_mlp else what

    def exact(self) -> bool:
        return self.k == 2 and self.grow == "heads"

    def prepare(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        if self.grow == "head_dim":
            return self._wider_heads(model, layers)
        from gdo_cli.lm.decoder import attention_projections, mlp_projections

        columns, rows = attention_projections(model, layers)
        if self.with_mlp:
            more = mlp_projections(model, layers)
            columns, rows = columns + more[0], rows + more[1]
        return self.grow_linears(model, target_modules=columns + rows, row_modules=rows)

    def _wider_heads(self, model: PreTrainedModel, layers: list[int] | None) -> PreTrainedModel:
        from gdo_cli.growth.head_dim import widen_heads
        from gdo_cli.lm.decoder import find_decoder

        blocks = find_decoder(model).layers
        model.requires_grad_(False)
        chosen = range(len(blocks)) if layers is None else layers
        new = [p for index in chosen for p in widen_heads(blocks[index].self_attn, self.k)]
        if self.with_mlp:
            model = self.grow_linears(model, layers_to_transform=layers)
        for parameter in new:
            parameter.requires_grad_(True)
        return model
