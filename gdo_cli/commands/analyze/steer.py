"""``gdo analyze steer``: whether the function vector makes a model do the task that it is not shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gdo_cli.commands.analyze.function_vectors import Array
from gdo_cli.commands.analyze.fv import read_vectors
from gdo_cli.commands.analyze.prompts import TaskPrompts
from gdo_cli.commands.analyze.skeleton import Analysis
from gdo_cli.config.run_config import RunConfig
from gdo_cli.experiment.reopen import Opened
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.tokens import Encoded, Ends
from gdo_cli.runs.record import RunResult
from gdo_cli.stats.outcomes import Outcome, mean
from gdo_cli.support.console import Reporter
from gdo_cli.support.errors import UserError, require


@dataclass(frozen=True)
class Steering(Analysis):
    """How a model is steered."""

    kind: ClassVar = "steer"
    layers: tuple[int, ...]  # behind which the vector is added, one at a time
    scale: float = 1.0  # what it is multiplied by
    prompts: int = 100  # zero-shot
    seed: int = 0  # draws the prompts and the direction of the control

    def __post_init__(self) -> None:
        require(isfinite(self.scale), f"--scale {self.scale}: must be a finite number")

    def configure(self, run: RunResult, config_dir: Path | None) -> RunConfig:
        read_vectors(run)  # before anything slow
        return super().configure(run, config_dir)

    def measure(self, opened: Opened, run: RunResult, reporter: Reporter) -> dict[str, Any]:
        """Add function vectors to the run's and its base's residual stream.

        The base gets its own vector; the run its own and its base's; both, as a control, a random one of
        the same length.
        """
        vectors, depth = read_vectors(run), len(opened.layers)
        if wrong := [layer for layer in self.layers if not 0 <= layer < depth]:
            raise UserError(f"--layer {wrong[0]}: the model has layers 0 to {depth - 1}")
        task = TaskPrompts(opened.data, opened.encoder, opened.config.train.max_length)
        (sample,) = task.samples(1, 0, self.prompts, 0, self.seed)
        ends = opened.encoder.ends(opened.config.task.multiline)
        effects: list[dict[str, Any]] = []
        for who, make, own in (("base", opened.base, ("base",)), ("run", opened.tuned, ("run", "base"))):
            lm = make()
            tried = {f"{name}'s vector": vectors[name] for name in own}
            tried["random vector"] = _random_like(vectors[who], self.seed)
            places = [(None, "nothing"), *((layer, name) for layer in self.layers for name in tried)]
            for layer, name in places:
                told = reporter.part_of(f"{who}, {name}", len(sample))
                steering = None
                if layer is not None:
                    steering = opened.layers[layer], self.scale * torch.from_numpy(tried[name])
                measured = zero_shot(lm, sample.clean, ends, steering, told)
                effects.append({"model": who, "layer": layer, "added": name} | measured)
            del lm
        lengths = {name: float(np.linalg.norm(vector)) for name, vector in vectors.items()}
        return {"effects": effects, "vector_lengths": lengths}


def _random_like(vector: Array, seed: int) -> Array:
    """A vector of the same length in a random direction."""
    drawn = np.random.default_rng(seed).normal(size=vector.shape)
    return (drawn * np.linalg.norm(vector) / np.linalg.norm(drawn)).astype(np.float32)


@torch.no_grad()
def zero_shot(
    lm: AnswerLM,
    queries: Sequence[Encoded],
    ends: Ends,
    steering: tuple[nn.Module, Tensor] | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, float]:
    """``probability`` of the right answer's first token, and ``exact_match`` of the greedy answer, with
    their standard errors; ``relative_length``, of what is added over the mean length of what it is added to.

    Args:
        steering: a layer, and what is added behind it at the prompt's last token alone; the answer's own
            tokens follow unsteered.
    """
    probabilities, exact = [], []
    lengths: list[float] = []
    for query in queries:
        tokens, start, n = query.context + query.continuation, len(query.context) - 1, len(query.continuation)
        places = torch.arange(start, start + n + 1, device=lm.device)
        with added(*steering, start, lengths) if steering else nullcontext():
            logits = lm(torch.tensor([tokens], device=lm.device), places)
        likeliest = logits.argmax(-1).tolist()
        right = ends.complete(query.continuation, likeliest)
        probabilities.append(Outcome(float(logits[0].softmax(-1)[query.continuation[0]])))
        exact.append(Outcome(float(right)))
        advance(1)
    found = {"probability": mean(probabilities), "exact_match": mean(exact)}
    values = {name: average.value for name, average in found.items()}
    if steering:
        values["relative_length"] = float(steering[1].norm()) / float(np.mean(lengths))
    return values | {f"{name}_se": average.se for name, average in found.items()}


@contextmanager
def added(
    layer: nn.Module, vector_D: Tensor, position: int, lengths: list[float] | None = None
) -> Iterator[None]:
    """While this holds, the layer's output at one position of every sequence has the vector added.

    Args:
        lengths: takes the lengths of the outputs there, before.
    """

    def add(_: nn.Module, __: Any, output: Any) -> Any:
        hidden_BTD = (output[0] if isinstance(output, tuple) else output).clone()
        if lengths is not None:
            lengths.extend(hidden_BTD[:, position].float().norm(dim=-1).tolist())
        hidden_BTD[:, position] += vector_D.to(hidden_BTD)
        return (hidden_BTD, *output[1:]) if isinstance(output, tuple) else hidden_BTD

    with layer.register_forward_hook(add):
        yield
