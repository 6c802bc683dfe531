"""How a model is trained: the Hydra group ``train``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from gdo_cli.support.errors import UserError, require, require_one_of
from gdo_cli.support.identity import NOT_IDENTITY


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation. The paper: Adam at a constant 1e-3; batch size and schedule unstated.

    Attributes:
        lr: learning rate after warm-up.
        lr_scheduler: a name known to ``transformers.get_scheduler``.
        steps: number of optimizer steps; or give ``epochs``.
        batch_size: examples in one forward pass, over all processes together; an optimizer step sees
            ``batch_size · gradient_accumulation_steps`` of them.
        max_grad_norm: global-norm clipping threshold; None for none.
        loss_on: ``answer`` (answer and end of sequence only) or ``sequence`` (prompt too).
        max_length: longest example in tokens; longer ones are left out and counted, never cut.
        precision: ``bf16`` computes in bf16 on fp32 masters; ``auto`` does where the machine can.
        compile: whether torch.compile fuses elementwise work in training steps: ``auto`` (where a
            compiler is and it pays), ``always`` or ``never``.
        token_budget: tokens that go through the model at once, padding included; a step's examples are then
            put together by length in as many parts as that takes. None for ``batch_size`` examples.
        gradient_checkpointing: compute each layer again in the backward pass instead of keeping its
            activations: a third more time, much less memory.
        checkpoint_every: steps between checkpoints, of which the last is kept until the run is done; 0
            for none; None for one a minute, or less often where it would cost more than a twentieth of
            the time.
        shard: where several processes work on the run, keep its weights, gradients and Adam's moments in
            pieces over them (FSDP2) instead of a copy in each (DDP).
    """

    identity_name: ClassVar[str] = "gdo_cli.schema.TrainConfig"
    lr: float = 2e-5
    lr_scheduler: str = "constant_with_warmup"
    warmup_steps: int = 0
    steps: int | None = 300
    epochs: float | None = None
    batch_size: int = 16
    gradient_accumulation_steps: int = 1
    max_grad_norm: float | None = None
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    loss_on: str = "answer"
    max_length: int = 512
    precision: str = "auto"
    compile: str = field(default="auto", metadata=NOT_IDENTITY)
    token_budget: int | None = field(default=None, metadata=NOT_IDENTITY)
    gradient_checkpointing: bool = field(default=False, metadata=NOT_IDENTITY)
    checkpoint_every: int | None = field(default=None, metadata=NOT_IDENTITY)
    shard: bool = field(default=False, metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        require_one_of("train.loss_on", self.loss_on, ("answer", "sequence"))
        if self.precision == "fp16":
            raise UserError("train.precision=fp16: Gemma 3's activations overflow in fp16; use bf16 or fp32")
        require_one_of("train.precision", self.precision, ("auto", "bf16", "fp32"))
        require_one_of("train.compile", self.compile, ("auto", "always", "never"))
        require_one_of("train.lr_scheduler", self.lr_scheduler, SCHEDULERS)
        require(0 < self.lr < math.inf, f"train.lr={self.lr}: must be positive and finite")
        if (self.steps is None) == (self.epochs is None):
            raise UserError("give train.steps or train.epochs: one, and the other as null")
        positive = ("steps", "epochs", "batch_size", "gradient_accumulation_steps", "max_length")
        for name in (*positive, "max_grad_norm", "token_budget"):
            value = getattr(self, name)
            require(value is None or 0 < value < math.inf, f"train.{name}={value}: must be positive")
        for name in ("warmup_steps", "weight_decay", "adam_epsilon", "checkpoint_every"):
            value = getattr(self, name)
            require(value is None or 0 <= value < math.inf, f"train.{name}={value}: must not be negative")
        for name in ("adam_beta1", "adam_beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"train.{name}={value}: must be from 0 up to, not including, 1")

    def total_steps(self, n_examples: int) -> int:
        """Return optimizer steps, from ``steps`` or from ``epochs`` over the given number of examples."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        per_epoch = n_examples / (self.batch_size * self.gradient_accumulation_steps)
        return max(1, round(self.epochs * per_epoch))


SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "inverse_sqrt",
)
