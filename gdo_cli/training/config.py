"""How a model is trained: the Hydra group ``train``."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import ClassVar

from gdo_cli.support.errors import UserError, require, require_one_of
from gdo_cli.support.identity import IF_SET, NOT_IDENTITY


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation. The paper: Adam at a constant 1e-3; batch size and schedule unstated.

    Attributes:
        optimizer: ``adam``, ``adafactor``, ``sgd`` or ``adam8bit`` (:mod:`gdo_cli.training.optimizers`).
        lr: learning rate after warm-up; Adafactor's is a share of each parameter's own size.
        lr_scale: factors on the rate, by the names of modules; a name stands for every module that it is
            the end of, as in PEFT's ``target_modules``, and for all parameters in it.
        lr_scheduler: a name known to ``transformers.get_scheduler``; ``linear`` falls to zero.
        steps: number of optimizer steps; or give ``epochs``.
        batch_size: examples in one forward pass, over all processes together; an optimizer step sees
            ``batch_size · gradient_accumulation_steps`` of them.
        max_grad_norm: global-norm clipping threshold; None for none.
        weight_decay: decoupled; a step takes the rate times this off each weight.
        token_weights: how much each token counts in the loss: ``equal``, ``dft`` (its own probability) or
            ``likely`` (only tokens of ``least_probability`` or more); see training/token_weights.py.
        least_probability: for ``token_weights=likely``.
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
            pieces over them (FSDP2) instead of a copy in each (DDP); for Adam and SGD.
    """

    identity_name: ClassVar[str] = "gdo_cli.schema.TrainConfig"
    optimizer: str = field(default="adam", metadata=IF_SET)
    lr: float = 2e-5
    lr_scale: dict[str, float] | None = field(default=None, metadata=IF_SET)
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
    token_weights: str = field(default="equal", metadata=IF_SET)
    least_probability: float = field(default=0.4, metadata=IF_SET)
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
        require_one_of("train.token_weights", self.token_weights, TOKEN_WEIGHTS)
        least = f"train.least_probability={self.least_probability}"
        require(0 < self.least_probability < 1, f"{least}: must be above 0 and below 1")
        if self.least_probability != 0.4 and self.token_weights != "likely":
            raise UserError(f"{least}: counts with train.token_weights=likely alone; leave it out")
        if self.precision == "fp16":
            raise UserError("train.precision=fp16: Gemma 3's activations overflow in fp16; use bf16 or fp32")
        require_one_of("train.precision", self.precision, ("auto", "bf16", "fp32"))
        require_one_of("train.compile", self.compile, ("auto", "always", "never"))
        require_one_of("train.lr_scheduler", self.lr_scheduler, SCHEDULERS)
        require_one_of("train.optimizer", self.optimizer, OPTIMIZERS)
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
        require(self.lr_scale != {}, "train.lr_scale={}: names nothing; give names with factors, or null")
        for name, factor in (self.lr_scale or {}).items():
            require(0 < factor < math.inf, f"train.lr_scale.{name}={factor}: must be positive and finite")
        self._check_optimizer()
        if self.steps is not None:
            self._check_rate(self.steps)

    def _check_optimizer(self) -> None:
        """Refuse what the optimizer has no use for, or cannot do."""
        chosen = f"train.optimizer={self.optimizer}"
        if not self.optimizer.startswith("adam"):
            for f in (f for f in dataclasses.fields(self) if f.name.startswith("adam_")):
                value = getattr(self, f.name)
                require(value == f.default, f"train.{f.name}={value}: {chosen} has none; leave it out")
        if self.shard and self.optimizer not in SHARDED:
            raise UserError(
                f"train.shard=true: {chosen} needs its matrices whole; leave it out (every process then has "
                f"a copy), or choose train.optimizer={' or '.join(SHARDED)}"
            )

    def _check_rate(self, steps: int) -> None:
        """Refuse a rate of Adafactor's that torch would not take: it takes 1/√step where that is less."""
        fastest = self.lr * max([1.0, *(self.lr_scale or {}).values()])
        if self.optimizer == "adafactor" and fastest * math.sqrt(steps) > 1:
            raise UserError(
                f"train.lr={self.lr}: train.optimizer=adafactor takes a share of each parameter's size; "
                f"in {steps} steps at most {1 / math.sqrt(steps):.2g}, train.lr_scale included (usual: 1e-3)"
            )

    def total_steps(self, n_examples: int) -> int:
        """Return optimizer steps, from ``steps`` or from ``epochs`` over the given number of examples.

        Raises:
            UserError: the rate is too high for so many steps.
        """
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        per_epoch = n_examples / (self.batch_size * self.gradient_accumulation_steps)
        steps = max(1, round(self.epochs * per_epoch))
        self._check_rate(steps)
        return steps


OPTIMIZERS = ("adam", "adafactor", "sgd", "adam8bit")
SHARDED = ("adam", "sgd")  # those that step on pieces of a matrix as on the whole
TOKEN_WEIGHTS = ("equal", "dft", "likely")
SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "inverse_sqrt",
)
