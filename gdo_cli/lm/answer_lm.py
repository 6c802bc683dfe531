"""A language model that computes logits, and the last layer's MLP, only where they are asked for.

Shapes: B sequences, T tokens, D width, V vocabulary, N positions that are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel

from gdo_cli.lm.decoder import text_decoder
from gdo_cli.lm.lm_head import Head, read_pieces
from gdo_cli.lm.packing import CannotPack, can_pack, packed_places, run_packed
from gdo_cli.lm.projections import ROW_NAMES

LOSS_ROWS = 64  # the same while training, where a gradient is kept for each


class AnswerLM(nn.Module):
    """A language model that gives logits only where they are asked for.

    The decoder runs on whole sequences; the head, whose product outweighs a small decoder's, runs on
    the chosen positions. Right padding needs no mask: a causal model never sees what comes after.
    """

    def __init__(self, model: PreTrainedModel, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.compute_dtype = compute_dtype
        self._head = Head(compute_dtype)
        self.pieces: list[Any] = []  # the modules whose weights lie in pieces over processes (FSDP2)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def autocast(self) -> torch.autocast:
        """bf16 compute on fp32 masters; a no-op in fp32."""
        mixed = self.compute_dtype != torch.float32
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=mixed)

    def hidden(
        self,
        input_ids_BT: Tensor,
        positions_N: Tensor,
        past: Cache | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the last hidden states at flat positions b·T + t of the batch, (N, D).

        Args:
            past: keys and values of what comes before every sequence of the batch.
            lengths: tokens of each sequence without its padding; saves computing the latter.
        """
        decoder = text_decoder(self.model)
        self._head.expect(self.model.get_input_embeddings(), self.model.get_output_embeddings())
        if lengths is None or past is not None:
            out = decoder(
                input_ids=input_ids_BT.to(self.device), past_key_values=past, use_cache=past is not None
            )
            # 2-D on purpose: a 3-D slice makes the head expand its weight per row.
            return out[0].flatten(0, 1)[positions_N]
        if len(lengths) > 1 and can_pack(self.model):
            rows = [row[:n] for row, n in zip(input_ids_BT.tolist(), lengths, strict=True)]
            places_N = packed_places(positions_N, input_ids_BT.shape[1], lengths)
            with suppress(CannotPack):
                return self.hidden_packed(rows, [-1] * len(rows), places_N)
        with last_mlp_at(self.model, positions_N):
            input_ids_BT = input_ids_BT.to(self.device)
            return decoder(input_ids=input_ids_BT, use_cache=False)[0].flatten(0, 1)[positions_N]

    def hidden_packed(
        self, segments: Sequence[list[int]], parents: Sequence[int], places_N: Tensor
    ) -> Tensor:
        """Return the last hidden states at places of a row that :func:`run_packed` makes, (N, D)."""
        with last_mlp_at(self.model, places_N):
            return run_packed(text_decoder(self.model), segments, parents, self.device)[places_N]

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Return the vocabulary logits in fp32, (N, V)."""
        return self._finished(self._head(hidden_ND, self.model.get_output_embeddings()))

    def copied_head(self) -> Callable[[Tensor], Tensor]:
        """Return what gives the logits of hidden states as they are now, whatever becomes of the head."""
        head, weight_VD = self.model.get_output_embeddings(), self.head_weight().clone()
        bias = None if head.bias is None else head.bias.detach().to(self.compute_dtype, copy=True)
        return lambda hidden_ND: self._finished(F.linear(hidden_ND.to(self.compute_dtype), weight_VD, bias))

    def _finished(self, logits_NV: Tensor) -> Tensor:
        """What the model does to its head's product: Cohere and Granite scale it, Gemma 2 caps it."""
        logits_NV, cap = logits_NV.float() * self._scale, self._cap
        return cap * torch.tanh(logits_NV / cap) if cap else logits_NV

    @property
    def _cap(self) -> float | None:
        # Gemma 2 and later, RecurrentGemma, xLSTM
        names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
        return next((cap for name in names if (cap := getattr(self._config, name, None))), None)

    @property
    def _scale(self) -> float:
        # Granite divides by what HyperCLOVA X multiplies by. MPT's configuration has a logit_scale, which
        # its model does not read.
        scaling = getattr(self._config, "logits_scaling", None) or 1.0
        scale = scaling if self._config.model_type == "hyperclovax" else 1 / scaling
        scale *= getattr(self._config, "lm_head_multiplier", None) or 1.0
        return float(scale * (getattr(self.model, "logit_scale", None) or 1.0))

    @property
    def _config(self) -> Any:
        return self.model.config.get_text_config()

    @torch.no_grad()
    def predict(self, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each target, in nats, and the likeliest token there, (N,) both."""
        pieces = self._head.in_pieces(hidden_ND, self.model.get_output_embeddings())
        finished = ((start, self._finished(part)) for start, part in pieces)
        at_target_N, log_sum_N, likeliest_N = read_pieces(finished, targets_N)
        return at_target_N - log_sum_N, likeliest_N

    def head_weight(self) -> Tensor:
        """Return the head's weight in the compute dtype, (V, D)."""
        return self._head.weight(self.model.get_output_embeddings().weight)

    def weights_changed(self) -> None:
        """To be called after every optimizer step."""
        self._head.forget()

    def forward(
        self, input_ids_BT: Tensor, positions_N: Tensor, lengths: Sequence[int] | None = None
    ) -> Tensor:
        """Return logits at the given flat positions, (N, V)."""
        with self.autocast():
            hidden_ND = self.hidden(input_ids_BT, positions_N, lengths=lengths)
        with torch.autocast(self.device.type, enabled=False):
            return self.logits(hidden_ND)

    def loss(self, hidden_ND: Tensor, targets_N: Tensor, weights_N: Tensor | None = None) -> Tensor:
        """Return the summed cross-entropy, in nats, of the targets given last hidden states.

        Args:
            weights_N: how much each target counts, without gradient; None where all count alike.

        Logits are made in pieces, and made again for their gradient: those of 400 positions, with what
        comes of them on the way, would take 2 GB with Gemma's vocabulary.
        """
        head = self.model.get_output_embeddings()
        if self._cap is None and self._scale == 1 and self._head.sums_in_pieces(head):
            return self._head.cross_entropy(hidden_ND, targets_N, head, weights_N)

        def part(hidden: Tensor, targets: Tensor, *weights: Tensor) -> Tensor:
            if not weights:
                return F.cross_entropy(self.logits(hidden), targets, reduction="sum")
            return (F.cross_entropy(self.logits(hidden), targets, reduction="none") * weights[0]).sum()

        given = [hidden_ND, targets_N, *([] if weights_N is None else [weights_N])]
        if len(targets_N) <= LOSS_ROWS:
            return part(*given)
        pieces = zip(*(tensor.split(LOSS_ROWS) for tensor in given), strict=True)
        return torch.stack([checkpoint(part, *piece, use_reentrant=False) for piece in pieces]).sum()


@contextmanager
def last_mlp_at(model: PreTrainedModel, places_N: Tensor) -> Iterator[None]:
    """Within the context, the MLP of the last layer is computed at flat places b·T + t alone.

    What stands at other places then is not what the model says there. A model whose last layer has no MLP
    of the usual kind, or whose activations are made again after the context, computes all.
    """
    mlp = _last_mlp(model)
    if mlp is None or model.is_activation_checkpointing:
        yield
        return
    read_N = places_N.unique()
    shape = torch.Size()

    def choose(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal shape
        shape = inputs[0].shape
        return (inputs[0].flatten(0, -2)[None, read_N], *inputs[1:])

    def put_back(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        whole_TD = output.new_zeros(shape[:-1].numel(), shape[-1])
        return whole_TD.index_copy(0, read_N, output[0]).view(shape)

    hooks = [mlp.register_forward_pre_hook(choose), mlp.register_forward_hook(put_back)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _last_mlp(model: PreTrainedModel) -> nn.Module | None:
    layers = getattr(text_decoder(model), "layers", None)
    mlp = getattr(layers[-1], "mlp", None) if isinstance(layers, nn.ModuleList) else None
    usual = mlp is not None and any(name in ROW_NAMES for name, _ in mlp.named_children())
    return mlp if usual else None
