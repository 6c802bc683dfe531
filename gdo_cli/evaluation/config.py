"""When and on how much a run is measured: the Hydra group ``evaluation``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from gdo_cli.support.errors import require, require_one_of
from gdo_cli.support.identity import IF_SET, NOT_IDENTITY


@dataclass(frozen=True)
class EvaluationConfig:
    """When and on how much a run is measured, the untouched model (step 0) and the end included.

    Attributes:
        every: steps between evaluations on the validation split.
        items: validation items of the task each time; None for all. The subset is always the same.
        final_items: test items of the task after the last step; None for all, 0 for none.
        ranks: record the effective rank of each layer's change between evaluations (Figure 5). It changes
            no score, but a run without ranks does not stand in for one with them.
        kl_prompts: prompts on which the divergence from the base model is measured; 0 for none.
        half: which rows the probes ask: ``explore``, looked at while methods and settings were chosen,
            or ``holdout``, others, for what is to confirm a finding.
        token_budget: tokens of one scoring batch, padding included.
    """

    identity_name: ClassVar[str] = "gdo_cli.schema.EvaluationConfig"
    every: int = 50
    items: int | None = 256
    final_items: int | None = None
    kl_prompts: int = 32
    ranks: bool = field(default=False, metadata=IF_SET)
    half: str = field(default="explore", metadata=IF_SET)
    token_budget: int = field(default=8192, metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        require_one_of("evaluation.half", self.half, ("explore", "holdout"))
        for name in ("every", "items", "token_budget"):
            value = getattr(self, name)
            require(value is None or value > 0, f"evaluation.{name}={value}: must be positive")
        for name in ("final_items", "kl_prompts"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"evaluation.{name}={value}: must not be negative")
