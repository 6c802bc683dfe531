"""Growth of mixtures of experts, beside a loop over tokens, experts and copies in float64."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import logits, perturb, random_ids
from families import of_family
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor

from gdo_cli.growth import GrowConfig
from gdo_cli.growth.experts import GrownExperts
from gdo_cli.growth.folding import average, fold, widen

IDS = random_ids(2, 7)
KINDS = ("mixtral", "gpt_oss")  # plain, and with biases, gate and up mixed, weights the other way round


def grown(name: str, base: Any = None, **fields: Any) -> PeftModel:
    return get_peft_model(base or of_family(name), GrowConfig(task_type="CAUSAL_LM", **fields))


def experts_in(model: Any) -> list[GrownExperts]:
    return [m for m in model.modules() if isinstance(m, GrownExperts)]


def expert_by_hand(name: str, x: Tensor, held: dict[str, Tensor]) -> Tensor:
    """What one expert with weights of its own makes of a token, in float64."""
    if name == "gpt_oss":  # modeling_gpt_oss.py of transformers: alpha 1.702, limit 7
        mixed = x @ held["gate_up_proj"] + held["gate_up_proj_bias"]
        gate, up = mixed[0::2].clamp(max=7), mixed[1::2].clamp(-7, 7)
        return ((up + 1) * gate * torch.sigmoid(1.702 * gate)) @ held["down_proj"] + held["down_proj_bias"]
    gate, up = (held["gate_up_proj"] @ x).split(held["gate_up_proj"].shape[0] // 2)
    out: Tensor = held["down_proj"] @ (gate * torch.sigmoid(gate) * up)
    return out


def grown_by_hand(name: str, layer: GrownExperts, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """The paper's growth, expert by expert: the old one's share, and each copy beside it."""
    config = layer.growth["default"]
    base = {n: p.double() for n, p in layer.get_base_layer().named_parameters()}
    own = {n: p.double() for n, p in layer.grow["default"].named_parameters()}
    out = torch.zeros_like(x, dtype=torch.float64)
    for token in range(len(x)):
        for expert, weight in zip(chosen[token].tolist(), weights[token].double(), strict=True):
            one = {n: p[expert] for n, p in base.items()}
            parts = []
            if config.trainable == "new":
                parts.append(expert_by_hand(name, x[token].double(), one) * (1 / config.k))
                for j in range(config.k - 1):
                    parts.append(
                        expert_by_hand(name, x[token].double(), {n: p[j, expert] for n, p in own.items()})
                    )
            else:
                for j in range(config.k):
                    columns = {n: p[j, expert] for n, p in own.items()}
                    parts.append(expert_by_hand(name, x[token].double(), one | columns) / config.k)
            out[token] += weight * sum(parts)
    return out


def a_question() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 32, generator=generator)
    chosen = torch.stack([torch.randperm(4, generator=generator)[:2] for _ in range(6)])
    return x, chosen, torch.rand(6, 2, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("mode", ["new", "columns"])
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", KINDS)
def test_grown_experts_compute_what_a_loop_over_them_does(name: str, k: int, mode: str, kernel: str) -> None:
    base = of_family(name)
    base.set_experts_implementation(kernel)
    model = grown(name, base, k=k, trainable=mode)
    perturb(model, 0.3, only=".grow.")
    layer = experts_in(model)[0]
    x, chosen, weights = a_question()
    expected = grown_by_hand(name, layer, x, chosen, weights)
    torch.testing.assert_close(layer(x, chosen, weights).double(), expected, rtol=1e-4, atol=1e-5)
    wide = layer.widened(["default"])
    torch.testing.assert_close(wide(x, chosen, weights).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["new", "columns"])
@pytest.mark.parametrize("name", KINDS)
def test_the_adapter_of_experts_holds_nothing_of_the_base(name: str, mode: str) -> None:
    model = grown(name, trainable=mode)
    before = {n: p.shape for n, p in get_peft_model_state_dict(model).items()}
    assert all(".grow." in key for key in before)
    names = {key.rpartition(".")[2].removesuffix("_bias") for key in before}
    assert names == ({"gate_up_proj", "down_proj"} if mode == "new" else {"gate_up_proj"})
    model.merge_adapter()
    assert {n: p.shape for n, p in get_peft_model_state_dict(model).items()} == before


@pytest.mark.parametrize("name", KINDS)
def test_experts_merge_and_unmerge(name: str) -> None:
    model = grown(name)
    perturb(model, 0.1, only=".grow.")
    expected = logits(model, IDS)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(logits(model, IDS), expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(logits(of_family(name), IDS), expected)
    model.unmerge_adapter()
    assert torch.equal(logits(model, IDS), expected)
    with model.disable_adapter():
        assert torch.equal(logits(model, IDS), logits(of_family(name), IDS))


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_adapters_of_experts_stand_side_by_side(name: str) -> None:
    model = grown(name)
    model.add_adapter("other", GrowConfig(task_type="CAUSAL_LM", k=3))
    perturb(model, 0.2, only=".grow.")
    layer = experts_in(model)[0]
    given = a_question()
    base = layer.get_base_layer()(*given)
    alone = []
    for adapter in ("default", "other"):
        model.set_adapter(adapter)
        alone.append(layer(*given) - base)
    model.base_model.set_adapter(["default", "other"])
    together = layer(*given)
    torch.testing.assert_close(together, base + alone[0] + alone[1], rtol=1e-4, atol=1e-5)
    wide = layer.widened(["default", "other"])
    torch.testing.assert_close(wide(*given), together, rtol=1e-4, atol=1e-5)
    model.base_model.add_weighted_adapter(["default", "other"], [0.5, 0.25], "sum")
    model.set_adapter("sum")
    expected = base + 0.5 * alone[0] + 0.25 * alone[1]
    torch.testing.assert_close(layer(*given), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_trained_columns_of_experts_fold(name: str) -> None:
    model = grown(name, trainable="columns")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    expected = logits(model, IDS)
    assert not torch.allclose(expected, logits(of_family(name), IDS), atol=1e-3)
    folded: Any = fold(model)
    assert folded.config.intermediate_size == of_family(name).config.intermediate_size
    torch.testing.assert_close(logits(folded, IDS), expected, rtol=1e-4, atol=1e-5)


def test_the_average_of_experts_is_that_of_their_weights() -> None:
    model = grown("mixtral")
    perturb(model, 0.1, only=".grow.")
    layer = experts_in(model)[0]
    base = {n: p.detach().clone() for n, p in layer.get_base_layer().named_parameters()}
    new = {n: p.detach()[0].clone() for n, p in layer.grow["default"].named_parameters()}
    plain: Any = average(model)
    found = dict(plain.model.layers[0].mlp.experts.named_parameters())
    torch.testing.assert_close(found["gate_up_proj"], (base["gate_up_proj"] + new["gate_up_proj"]) / 2)
    torch.testing.assert_close(found["down_proj"], base["down_proj"] / 2 + new["down_proj"])


@pytest.mark.parametrize(("fields", "changes"), [({"share": 0.0, "init_columns": "random"}, False)])
def test_new_experts_may_start_at_zero(fields: dict[str, Any], changes: bool) -> None:
    assert torch.equal(logits(grown("mixtral", **fields), IDS), logits(of_family("mixtral"), IDS)) != changes
    assert not torch.equal(
        logits(grown("mixtral", init_weights=False), IDS), logits(of_family("mixtral"), IDS)
    )


def test_named_experts_grow_alone_and_are_loaded(tmp_path: Path) -> None:
    model = grown("qwen3_moe", target_modules=["experts"])
    perturb(model, 0.1, only=".grow.")
    expected = logits(model, IDS)
    wide: Any = widen(model)
    wide.save_pretrained(tmp_path)
    again = type(wide).from_pretrained(tmp_path)
    assert again.config.moe_intermediate_size == 64
    torch.testing.assert_close(logits(again, IDS), expected, rtol=1e-4, atol=1e-5)


def test_a_width_that_shared_experts_have_too_is_not_widened_without_them() -> None:
    model = grown("deepseek_v3", target_modules=["experts"])
    with pytest.raises(ValueError, match=r"moe_intermediate_size decides the width of .*shared_experts"):
        widen(model)


def test_experts_and_a_dense_mlp_in_one_layer_grow_and_are_loaded(tmp_path: Path) -> None:
    experts = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
    base = of_family("gemma4_text", **experts)
    before = logits(base, IDS)
    model = grown("gemma4_text", base)
    assert torch.equal(logits(model, IDS), before)
    assert len(experts_in(model)) == 4
    perturb(model, 0.1, only=".grow.")
    expected = logits(model, IDS)
    wide: Any = widen(model)
    wide.save_pretrained(tmp_path)
    again = type(wide).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again, IDS), expected, rtol=1e-4, atol=1e-5)


def test_experts_of_numbers_that_cannot_train_are_refused_by_name() -> None:
    base = of_family("mixtral")
    experts = base.model.layers[1].mlp.experts
    experts.down_proj = torch.nn.Parameter(experts.down_proj.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ValueError, match="layer 1 of MixtralForCausalLM has experts, which cannot grow"):
        grown("mixtral", base)


def test_experts_that_are_told_apart_otherwise_than_they_say_are_refused() -> None:
    base = of_family("gpt_oss")
    for layer in base.model.layers:
        layer.mlp.experts.is_concatenated = True
    before = copy.deepcopy(base)
    with pytest.raises(ValueError, match=r"experts cannot grow: its output changes"):
        grown("gpt_oss", base)
    assert torch.equal(logits(base, IDS), logits(before, IDS))
    assert not experts_in(base)
