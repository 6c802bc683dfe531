"""What a run is made of: plain, checked dataclasses. No Hydra, no torch.

Fields marked NOT_IDENTITY do not change what a run computes and stay out of its hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from gdo_cli.errors import UserError, require, require_one_of
from gdo_cli.identity import IF_SET, NOT_IDENTITY, identity

if TYPE_CHECKING:
    from gdo_cli.methods import Method
    from gdo_cli.models import ModelSource
    from gdo_cli.probes import Probe
    from gdo_cli.tasks import Task

PILOT_RULES = ("pilot", "relative", "worst")
LAYER_RULES = (*PILOT_RULES, "snr", "first", "last", "spread", "random")


@dataclass(frozen=True)
class DataConfig:
    """Where rows come from.

    Attributes:
        source: ``local`` (JSON Lines under ``dir``), ``hub`` (the ``datasets`` library), ``sample``
            (bundled), or ``auto``: local if ``dir`` is set, else the hub. Nothing is asked and nothing
            stands in for what is not there, so that a command is the same run everywhere.
        dir: folder of data sets for ``local`` (default: ``GDO_DATA_DIR``).
        max_bad_rows: share of malformed or too long rows that may be skipped before it is an error.
        offline: never ask the hub.
    """

    identity_name: ClassVar[str] = "gdo_cli.schema.DataConfig"
    source: str = "auto"
    dir: str | None = field(default=None, metadata=NOT_IDENTITY)
    max_bad_rows: float = 0.01
    offline: bool = field(default=False, metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        require_one_of("data.source", self.source, ("auto", "local", "hub", "sample"))
        require(0 <= self.max_bad_rows <= 1, f"data.max_bad_rows={self.max_bad_rows}: a share, 0 to 1")

    def resolve(self) -> DataConfig:
        """Return the configuration with ``auto`` decided, which a run's id is made of."""
        if self.source != "auto":
            return self
        return dataclasses.replace(self, source="local" if self.dir else "hub")


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
        """Optimizer steps, from ``steps`` or from ``epochs`` over the given number of examples."""
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
        token_budget: tokens of one scoring batch, padding included.
    """

    identity_name: ClassVar[str] = "gdo_cli.schema.EvaluationConfig"
    every: int = 50
    items: int | None = 256
    final_items: int | None = None
    kl_prompts: int = 32
    ranks: bool = field(default=False, metadata=IF_SET)
    token_budget: int = field(default=8192, metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        for name in ("every", "items", "token_budget"):
            value = getattr(self, name)
            require(value is None or value > 0, f"evaluation.{name}={value}: must be positive")
        for name in ("final_items", "kl_prompts"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"evaluation.{name}={value}: must not be negative")


@dataclass(frozen=True)
class WandbConfig:
    """The optional mirror of a run on Weights & Biases; local files stay the source of truth."""

    identity_name: ClassVar[str] = "gdo_cli.schema.WandbConfig"
    mode: str = "disabled"
    project: str = "gdo"
    entity: str | None = None

    def __post_init__(self) -> None:
        require_one_of("wandb.mode", self.mode, ("disabled", "offline", "online"))


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run. Two runs with the same :attr:`id` and seed are the same run.

    Attributes:
        name: the chosen options by group, e.g. ``{"model": "gemma3_270m", "method": "sft", …}``.
        overrides: the words that it was composed from.
        layers: ``all``, a number of layers, or a list of layer indices.
        layer_rule: which ones, where a number is given: the ``pilot`` run's largest updates (the
            paper's rule), the largest ``relative`` ones, its ``worst``, the weights with most signal over
            noise (``snr``), or ``first``, ``last``, ``spread``, ``random``.
        results_dir: folder that holds ``runs/`` and ``figures/``.
        save_weights: whether the trained weights are kept in the run folder.
    """

    identity_name: ClassVar[str] = "gdo_cli.schema.RunConfig"
    model: ModelSource
    task: Task
    method: Method
    data: DataConfig
    train: TrainConfig
    evaluation: EvaluationConfig
    probe: dict[str, Probe]
    name: dict[str, str] = field(metadata=NOT_IDENTITY)
    overrides: list[str] = field(metadata=NOT_IDENTITY)
    layers: Any = "all"
    layer_rule: str = "pilot"
    seed: int = 0
    results_dir: str = field(default="results", metadata=NOT_IDENTITY)
    save_weights: bool = field(default=True, metadata=NOT_IDENTITY)
    wandb: WandbConfig = field(default_factory=WandbConfig, metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        require_one_of("layer_rule", self.layer_rule, LAYER_RULES)

    @property
    def id(self) -> str:
        """Hash of what decides the numbers, the seed apart: eight hexadecimal digits."""
        content = identity(self)
        del content["seed"]
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:8]
