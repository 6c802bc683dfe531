"""Full fine-tuning that is held back: by a penalty on what changes, or by rehearsing what came before.

The two families that the paper sets growth against (sections 1 and 5).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from gdo_cli.data.dataset import Dataset
from gdo_cli.methods.sft import SFT
from gdo_cli.support.errors import UserError, require, require_one_of
from gdo_cli.support.identity import IF_SET

if TYPE_CHECKING:
    from gdo_cli.lm.answer_lm import AnswerLM
    from gdo_cli.lm.tokens import Encoded
    from gdo_cli.tasks.base import Task
    from gdo_cli.training.config import TrainConfig
    from gdo_cli.training.penalties import Penalty


@dataclass(frozen=True)
class Penalized(SFT):
    """Full fine-tuning with something added to each batch's loss."""

    def check(self, task: Task, train: TrainConfig) -> None:
        if train.token_budget is not None:  # parts of different sizes would count alike
            raise UserError(
                f"train.token_budget={train.token_budget}: not with {self.label}, whose "
                "penalty is one of whole batches; use train.batch_size and train.gradient_accumulation_steps"
            )


@dataclass(frozen=True)
class L2SP(Penalized):
    """Full fine-tuning with ½·α·‖θ - θ₀‖² added to the loss (L2-SP; Xuhong Li et al., 2018).

    Attributes:
        alpha: weight of the penalty.
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.regularized.L2SP"
    alpha: float = 0.1
    label: ClassVar[str] = "L2-SP"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha > 0, f"method.alpha={self.alpha}: must be positive; without a penalty it is sft")

    def check(self, task: Task, train: TrainConfig) -> None:
        super().check(task, train)
        if train.shard:
            raise UserError("train.shard=true: not with method=l2_sp, whose penalty is on whole weights")

    def penalty(self, lm: AnswerLM, replay: list[Encoded], seed: int) -> Penalty:
        from gdo_cli.training.penalties import SquaredDistance

        return SquaredDistance(lm, self.alpha)


@dataclass(frozen=True)
class KLToBase(Penalized):
    """Full fine-tuning with β·KL(base ‖ model) on the new task's own texts added to the loss.

    On prompts it is learning without forgetting (Li & Hoiem, 2017) with the base's own predictions of
    running text. On answers it resembles the penalty of reinforcement learning from human feedback, which
    is KL(model ‖ base) on the model's own samples; here the answers are given.

    Attributes:
        beta: weight of the penalty, a mean over places in nats.
        at: ``prompt`` or ``answer``.
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.regularized.KLToBase"
    beta: float = 1.0
    at: str = "prompt"
    label: ClassVar[str] = "KL to base"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta > 0, f"method.beta={self.beta}: must be positive; without a penalty it is sft")
        require_one_of("method.at", self.at, ("prompt", "answer"))

    def penalty(self, lm: AnswerLM, replay: list[Encoded], seed: int) -> Penalty:
        from gdo_cli.training.penalties import Divergence

        return Divergence(lm, self.beta, self.at)


@dataclass(frozen=True)
class Replay(Penalized):
    """Full fine-tuning with general text beside every batch, standing in for the pre-training data.

    The loss is the task's plus ``weight`` times the text's, each a mean over its own tokens.

    Attributes:
        dataset: rows with a field ``text``, in the role ``replay``.
        items: texts beside every batch.
        min_characters: shorter rows (headings, blank lines) are left out.
        max_tokens: where a text is cut.
        weight: of the text's loss.
        control_tokens: whether WikiText's ``<unk>`` and the like stand for the tokens of these names, as they
            did in the first runs; if not, they are text.
        path: file of one's own texts, of which the dataset's path is made (conf/method/replay_own.yaml).
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.regularized.Replay"
    dataset: Dataset = field(default_factory=lambda: Dataset("wikitext2"))
    items: int = 4
    min_characters: int = 200
    max_tokens: int = 96
    weight: float = 1.0
    control_tokens: bool = field(default=True, metadata=IF_SET)
    path: str | None = field(default=None, metadata=IF_SET)
    label: ClassVar[str] = "Replay"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("items", "min_characters", "max_tokens", "weight"):
            value = getattr(self, name)
            require(value > 0, f"method.{name}={value}: must be positive")

    def penalty(self, lm: AnswerLM, replay: list[Encoded], seed: int) -> Penalty:
        from gdo_cli.training.penalties import Rehearsal

        cut = [type(t)(t.context, t.continuation[: self.max_tokens]) for t in replay]
        return Rehearsal(cut, self.weight, self.items, seed)


@dataclass(frozen=True)
class SelfReplay(Penalized):
    """Full fine-tuning with texts that the base itself has written beside every batch (Huang et al., 2024).

    They are drawn before the first step, token by token from beginning of sequence, the same ones for a seed.

    Attributes:
        samples: how many texts the base writes.
        items: texts beside every batch.
        max_tokens: their length.
        temperature: of the draws.
        weight: of the texts' loss.
    """

    identity_name: ClassVar[str] = "gdo_cli.methods.regularized.SelfReplay"
    samples: int = 128
    items: int = 4
    max_tokens: int = 96
    temperature: float = 1.0
    weight: float = 1.0
    label: ClassVar[str] = "Self-replay"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "items", "max_tokens", "temperature", "weight"):
            value = getattr(self, name)
            require(value > 0, f"method.{name}={value}: must be positive")

    def penalty(self, lm: AnswerLM, replay: list[Encoded], seed: int) -> Penalty:
        from gdo_cli.lm.generation import sample_texts
        from gdo_cli.training.penalties import Rehearsal

        written = sample_texts(lm, self.samples, self.max_tokens, self.temperature, seed)
        return Rehearsal(written, self.weight, self.items, seed)
