"""How far a model has moved from the base: KL divergence on prompts of the new task, and on general text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.batching import pad
from gdo_cli.lm.tokens import Encoded
from gdo_cli.stats.outcomes import Outcome, mean

KL_POSITIONS = 8
ROWS = 64  # places whose distributions over the vocabulary are made at a time


class Reference:
    """The base model's next-token distributions on prompts of the new task.

    ``kl/answer`` is KL(base ‖ model) where the answer begins, ``kl/prompt`` its mean over seven
    places spread over the prompt, which the loss does not count unless ``train.loss_on=sequence``
    (``kl_to_base`` has its penalty there).
    """

    def __init__(self, lm: AnswerLM, prompts: list[list[int]]) -> None:
        self.prompts = prompts
        self._logprobs = [self._log_probabilities(lm, prompt) for prompt in prompts]

    @torch.no_grad()
    def _log_probabilities(self, lm: AnswerLM, prompt: list[int]) -> Tensor:
        """(KL_POSITIONS, V), the last row where the answer begins."""
        last = len(prompt) - 1
        places = [round(last * (i + 1) / KL_POSITIONS) for i in range(KL_POSITIONS)]
        with lm.autocast():
            hidden = lm.hidden(pad([prompt]).to(lm.device), torch.tensor(places, device=lm.device))
        return lm.logits(hidden).log_softmax(-1)

    def divergence(self, lm: AnswerLM) -> dict[str, float]:
        at_answer, in_prompt = [], []
        for prompt, base in zip(self.prompts, self._logprobs, strict=True):
            now = self._log_probabilities(lm, prompt)
            kl = (base.exp() * (base - now)).sum(-1)
            at_answer.append(Outcome(float(kl[-1])))
            in_prompt.append(Outcome(float(kl[:-1].mean())))
        answer, inside = mean(at_answer), mean(in_prompt)
        return {
            "kl/answer": answer.value,
            "kl/answer_se": answer.se,
            "kl/prompt": inside.value,
            "kl/prompt_se": inside.se,
        }


class TextReference:
    """The base model's predictions of every token of some texts.

    Distributions of thousands of places would take gigabytes: what is kept are the base's last hidden states
    there and its head, of which they are made again.
    """

    def __init__(self, lm: AnswerLM, texts: Sequence[Encoded]) -> None:
        self.texts = texts
        self._hidden = [self._states(lm, text) for text in texts]
        self._logits = lm.copied_head()

    @torch.no_grad()
    def _states(self, lm: AnswerLM, text: Encoded) -> Tensor:
        """Last hidden states where the next token is asked, (N, D)."""
        input_ids_BT = pad([text.context + text.continuation]).to(lm.device)
        with lm.autocast():
            return lm.hidden(input_ids_BT, torch.tensor(list(text.asked), device=lm.device))

    @torch.no_grad()
    def divergence(self, lm: AnswerLM) -> list[Outcome]:
        """Return KL(base ‖ model) of each text, in nats a token."""
        found = []
        for text, base_ND in zip(self.texts, self._hidden, strict=True):
            total = 0.0
            for before_ND, now_ND in zip(
                base_ND.split(ROWS), self._states(lm, text).split(ROWS), strict=True
            ):
                base, now = self._logits(before_ND).log_softmax(-1), lm.logits(now_ND).log_softmax(-1)
                total += float((base.exp() * (base - now)).sum())
            found.append(Outcome(total / len(base_ND), len(base_ND)))
        return found
