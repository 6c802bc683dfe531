"""Growth: it changes nothing at first, trains what it says, and behaves as a PEFT adapter throughout."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import (
    N_LAYERS,
    bits,
    changed,
    descend,
    logits,
    perturb,
    random_ids,
    random_queries,
    tiny_model,
    trainable,
    twin,
)
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedModel

from gdo_cli.experiment.preparation import check_preserved
from gdo_cli.growth import GrowConfig
from gdo_cli.growth.folding import widen
from gdo_cli.growth.layer import GrownColumns, GrownLinear, GrownRows
from gdo_cli.lm.agreement import TOLERANCE
from gdo_cli.lm.answer_lm import AnswerLM
from gdo_cli.lm.decoder import find_decoder, mlp_projections, text_parameters
from gdo_cli.lm.device import hold_weights
from gdo_cli.methods.base import Method, add_adapter
from gdo_cli.methods.blocks import ZeroBlock
from gdo_cli.methods.grow import AttentionGrow, GFreeze, GTrain, OutputMix, ZeroInit
from gdo_cli.methods.parameters import count_parameters, describe_parameters
from gdo_cli.methods.partial import Frozen, Partial
from gdo_cli.methods.sft import SFT
from gdo_cli.training.config import TrainConfig
from gdo_cli.training.loop import train

both_methods = pytest.mark.parametrize("trains", ["new", "columns"])


def grow(
    model: PreTrainedModel, trains: str = "new", k: int = 2, layers: list[int] | None = None
) -> PreTrainedModel:
    config = GrowConfig(task_type="CAUSAL_LM", trainable=trains, k=k, layers_to_transform=layers)
    return add_adapter(model, config)


def trained(model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
    """A grown model that has moved away from the base."""
    grown = grow(model, **kwargs)
    descend(grown, torch.optim.AdamW(trainable(grown).values(), lr=1e-2), steps=2)
    return grown


def grown_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, GrownLinear))


# -------------------------------------------------------------------------- preserving the function


@pytest.mark.few(14)
@both_methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("layers", [None, [1]], ids=["all", "one"])
def test_growing_leaves_the_logits_bitwise_unchanged(
    any_model: PreTrainedModel, trains: str, dtype: torch.dtype, layers: list[int] | None
) -> None:
    model, ids = any_model.to(dtype), random_ids(3, 11)
    before = logits(model, ids)
    assert torch.equal(logits(grow(model, trains, layers=layers), ids), before)


@pytest.mark.parametrize("method", [GFreeze(), GTrain(), SFT()], ids=lambda m: m.label)
def test_preparing_a_method_under_autocast_leaves_the_logits_bitwise_unchanged(
    any_model: PreTrainedModel, method: Method
) -> None:
    hold_weights(any_model, torch.bfloat16)
    ids, places = random_ids(3, 11), torch.arange(33)
    with torch.no_grad():
        before = AnswerLM(any_model, torch.bfloat16)(ids, places)
        model = method.prepare(any_model, None)
        hold_weights(model, torch.bfloat16)
        assert torch.equal(AnswerLM(model, torch.bfloat16)(ids, places), before)


@pytest.mark.few(12)
@pytest.mark.parametrize("family", ["gemma3", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "method",
    [
        OutputMix(share=0.25),
        ZeroInit(columns="random"),
        ZeroInit(columns="copy", train="all"),
        AttentionGrow(),
        AttentionGrow(with_mlp=True),
        AttentionGrow(k=3),
        ZeroBlock(),
        Partial("mlp"),
        Frozen(),
    ],
    ids=str,
)
def test_a_run_accepts_every_other_method(family: str, method: Method, dtype: torch.dtype) -> None:
    model, ids, places = tiny_model(family), random_ids(3, 11), torch.arange(33)
    hold_weights(model, dtype)
    with torch.no_grad():
        before = AnswerLM(model, dtype)(ids, places)
        model = method.prepare(model, [0, 2])
        hold_weights(model, dtype)
        check_preserved(before, AnswerLM(model, dtype)(ids, places), method.exact(), dtype)


@pytest.mark.parametrize("method", [GFreeze(), SFT(), Partial("mlp")], ids=lambda m: m.label)
def test_what_trains_is_held_in_fp32_and_frozen_products_and_rows_in_bf16(
    gemma3: PreTrainedModel, method: Method
) -> None:
    model = method.prepare(gemma3.bfloat16(), None)
    hold_weights(model, torch.bfloat16)
    for name, parameter in model.named_parameters():
        product = name.endswith("proj.weight") or "base_layer" in name or "embed_tokens" in name
        low = product and not parameter.requires_grad
        assert parameter.dtype == (torch.bfloat16 if low else torch.float32), name


@both_methods
@pytest.mark.parametrize("k", [3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_growing_by_other_factors_is_exact_up_to_rounding(k: int, dtype: torch.dtype, trains: str) -> None:
    """Rounding of a product of n terms is at most n·u·Σ|x·w|, in whatever order it is summed.

    The base sums n terms, the grown layer k·n (or the mean of k inputs, then n); bf16 products are
    summed in fp32, so that there only the roundings of results count. On top come at most six
    roundings: of 1/k or W/k, of each product, of the scaling, of the last sum, of base and bias.
    """
    torch.manual_seed(0)
    base = nn.Linear(96, 40, dtype=dtype)
    x = torch.randn(7, 96, dtype=dtype)
    rows = GrownRows(copy.deepcopy(base), "default", GrowConfig(k=k, trainable=trains))
    with torch.no_grad():
        error = (rows(x.repeat(1, k)) - base(x)).abs().double()
        magnitude = nn.functional.linear(x.abs().double(), base.weight.abs().double())
        magnitude += base.bias.abs().double()
    fp32, here = torch.finfo(torch.float32).eps / 2, torch.finfo(dtype).eps / 2
    assert (error <= ((k + 1) * 96 * fp32 + 6 * here) * magnitude).all()


@both_methods
@pytest.mark.parametrize("k", [3, 4])
def test_a_run_accepts_growth_by_other_factors(any_model: PreTrainedModel, k: int, trains: str) -> None:
    ids = random_ids(3, 11)
    before = logits(any_model, ids)
    after = logits(grow(any_model, trains, k), ids)
    check_preserved(before, after, exact=False, dtype=torch.float32)
    # Three layers of the rounding above, on logits of about 1, stay far inside what a run allows.
    assert (before - after).abs().max() < 1e-5 < TOLERANCE[torch.float32]


@both_methods
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_a_run_accepts_growth_by_two_on_any_number_of_threads(threads: int, trains: str) -> None:
    """fp32, an MLP of real width, more tokens than one thread takes: a run must not be refused."""
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16}
    torch.manual_seed(0)
    config = Gemma3TextConfig(vocab_size=128, intermediate_size=2048, num_hidden_layers=2, **shape)
    model = Gemma3ForCausalLM(config).eval()
    ids, usual = random_ids(1, 37), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        before = logits(model, ids)
        after = logits(grow(model, trains), ids)
    finally:
        torch.set_num_threads(usual)
    check_preserved(before, after, GFreeze().exact(), torch.float32)


# ----------------------------------------------------------------- parity with one concatenated MLP


def concatenated(base: PreTrainedModel, grown: PreTrainedModel, k: int) -> PreTrainedModel:
    """The base with plain wide layers in its MLPs: [W; W₁ …] and [W/k, W₁' …], built by hand."""
    wide = twin(base)
    columns, rows = mlp_projections(base)
    for name in columns + rows:
        old, new = base.get_submodule(name), grown.get_submodule(f"base_model.model.{name}")
        assert isinstance(old, nn.Linear)
        weight, bias = new.grow["default"].weight, new.grow["default"].bias if old.bias is not None else None
        if name in columns:
            weight = torch.cat([old.weight, weight])
            bias = None if bias is None else torch.cat([old.bias, bias])
        else:
            weight = torch.cat([old.weight / k, weight], dim=1)
            bias = None if bias is None else old.bias / k + bias
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=torch.float64)
        plain.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        wide.set_submodule(name, plain)
    return wide


@pytest.mark.few(7)
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("noise", [0.0, 0.05], ids=["at_first", "after_training"])
def test_a_grown_model_equals_one_with_concatenated_weights(family: str, k: int, noise: float) -> None:
    base = twin(tiny_model(family))
    grown, ids = grow(twin(base), k=k), random_ids(3, 11)
    grown.to(torch.float64)
    perturb(grown, noise, only=".grow.")
    torch.testing.assert_close(
        logits(grown, ids), logits(concatenated(base, grown, k), ids), rtol=0, atol=1e-12
    )


def test_new_weights_are_copies_and_new_rows_are_scaled(gemma3: PreTrainedModel) -> None:
    grown = grow(gemma3, k=3)
    for _, layer in grown_layers(grown):
        new, old = layer.grow["default"].weight, layer.get_base_layer().weight
        if isinstance(layer, GrownColumns):
            assert torch.equal(new, torch.cat([old, old]))
        else:
            torch.testing.assert_close(new, torch.cat([old / 3, old / 3], dim=1), rtol=3e-7, atol=0)


def test_the_mlps_can_be_named_as_for_any_peft_tuner(gemma3: PreTrainedModel) -> None:
    named = GrowConfig(
        task_type="CAUSAL_LM",
        target_modules=["gate_proj", "up_proj", "down_proj"],
        row_modules=["down_proj"],
        layers_to_transform=[0, 2],
    )
    by_name = dict(grown_layers(add_adapter(twin(gemma3), named)))
    found = dict(grown_layers(grow(twin(gemma3), layers=[0, 2])))
    assert {n: type(m) for n, m in by_name.items()} == {n: type(m) for n, m in found.items()}


# ------------------------------------------------------------------------ the multimodal wrapper


def test_the_decoder_is_found_inside_the_multimodal_wrapper() -> None:
    decoder = find_decoder(tiny_model("gemma3_multimodal"))
    assert (decoder.name, len(decoder)) == ("model.language_model.layers", N_LAYERS)


def test_growth_leaves_the_vision_tower_alone() -> None:
    model = tiny_model("gemma3_multimodal")
    before = bits(model.model.vision_tower)
    grown = trained(model)
    assert not [name for name, _ in grown_layers(grown) if "language_model" not in name]
    assert list(bits(model.model.vision_tower)) == list(before)
    assert not changed(before, model.model.vision_tower)


# ------------------------------------------------------------------------------- what trains


def steps_of_training(model: PreTrainedModel, steps: int = 3) -> None:
    """The project's own loop, with weight decay, which would move a frozen weight that it reached."""
    config = TrainConfig(lr=1e-3, weight_decay=0.1, steps=steps, batch_size=4)
    assert len(list(train(AnswerLM(model, torch.float32), random_queries(8), config, 0, 1))) == steps


@pytest.mark.few(10)
@pytest.mark.parametrize("layers", [None, [0, 2]], ids=["all", "two"])
@pytest.mark.parametrize("method", [GFreeze(), GTrain(), GFreeze(k=3)], ids=lambda m: f"{m.label}-{m.k}")
def test_training_a_grown_model_moves_its_new_weights_and_nothing_else(
    any_model: PreTrainedModel, method: Method, layers: list[int] | None
) -> None:
    model = method.prepare(any_model, layers)
    before = bits(model)
    steps_of_training(model)
    moved = changed(before, model)
    assert moved == {name for name in before if ".grow." in name} == set(trainable(model))
    in_layers = {name.split(".layers.")[1][0] for name in moved}
    assert in_layers == {str(i) for i in (layers or range(N_LAYERS))}


def test_full_fine_tuning_moves_every_parameter_of_the_text_model(any_model: PreTrainedModel) -> None:
    model = SFT().prepare(any_model, None)
    before = bits(model)
    steps_of_training(model)
    moved = changed(before, model)
    assert {name for name in text_parameters(model) if name not in moved} == set()
    assert not [name for name in moved if "vision_tower" in name or "projector" in name]


@pytest.mark.parametrize("method", [GFreeze(), GTrain()], ids=lambda m: m.label)
def test_the_optimizer_keeps_state_for_the_new_weights_only(
    gemma3: PreTrainedModel, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[torch.optim.Optimizer] = []
    usual = torch.optim.AdamW

    def recorded(*args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        made.append(usual(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(torch.optim, "AdamW", recorded)
    model = method.prepare(gemma3, None)
    steps_of_training(model)
    (optimizer,) = made
    assert {id(p) for p in optimizer.state} == {id(p) for p in trainable(model).values()}


def test_gate_up_and_down_all_receive_gradients_under_g_freeze(gemma3: PreTrainedModel) -> None:
    model = GFreeze().prepare(gemma3, None)
    descend(model, torch.optim.SGD(trainable(model).values(), lr=0.0), steps=1)
    for kind in ("gate_proj", "up_proj", "down_proj"):
        gradients = [p.grad for name, p in trainable(model).items() if kind in name]
        assert len(gradients) == N_LAYERS
        assert all(g is not None and bool(g.abs().sum(-1).all()) for g in gradients), kind


def test_g_train_has_no_trainable_row(any_model: PreTrainedModel) -> None:
    model = GTrain().prepare(any_model, None)
    rows = [layer for _, layer in grown_layers(model) if isinstance(layer, GrownRows)]
    assert len(rows) == N_LAYERS
    assert not [p for row in rows for p in row.parameters() if p.requires_grad]


# ---------------------------------------------------------------------------- life as an adapter


@both_methods
def test_disabling_the_adapter_gives_the_base_bit_for_bit(any_model: PreTrainedModel, trains: str) -> None:
    ids = random_ids(3, 11)
    before = logits(any_model, ids)
    model = trained(any_model, trains=trains)
    moved = logits(model, ids)
    assert not torch.equal(moved, before)
    with model.disable_adapter():
        assert torch.equal(logits(model, ids), before)
    assert torch.equal(logits(model, ids), moved)


@both_methods
def test_unloading_gives_the_base_bit_for_bit(any_model: PreTrainedModel, trains: str) -> None:
    before = bits(any_model)
    plain = trained(any_model, trains=trains).unload()
    assert list(plain.state_dict()) == list(before)
    assert not changed(before, plain)


@pytest.mark.few(7)
@both_methods
@pytest.mark.parametrize("layers", [None, [1]], ids=["all", "one"])
def test_a_saved_adapter_gives_the_same_logits_when_loaded(
    family: str, trains: str, layers: list[int] | None, tmp_path: Path
) -> None:
    ids = random_ids(3, 11)
    model = trained(tiny_model(family), trains=trains, layers=layers, k=3)
    model.save_pretrained(tmp_path)
    kept = sorted(file.name for file in tmp_path.iterdir() if file.suffix != ".md")
    assert kept == ["adapter_config.json", "adapter_model.safetensors"]  # nothing that could run code
    loaded = PeftModel.from_pretrained(tiny_model(family), tmp_path)
    assert not trainable(loaded)
    assert torch.equal(logits(loaded, ids), logits(model, ids))


def test_a_loaded_adapter_can_be_trained_further(gemma3: PreTrainedModel, tmp_path: Path) -> None:
    model = trained(twin(gemma3, torch.float32))
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(gemma3, tmp_path, is_trainable=True)
    assert set(trainable(again)) == set(trainable(model))


def second_adapter(model: PreTrainedModel, **fields: Any) -> None:
    """Beside the first, on MLPs that are found by their usual names, and moved away from the base."""
    model.add_adapter("second", GrowConfig(task_type="CAUSAL_LM", **fields))
    perturb(model, 0.05, only=".second")


@pytest.mark.parametrize(
    "fields", [{}, {"k": 3}, {"trainable": "columns"}, {"layers_to_transform": [0, 2]}], ids=str
)
def test_two_adapters_stand_side_by_side(gemma3: PreTrainedModel, fields: dict[str, Any]) -> None:
    ids = random_ids(3, 11)
    base = logits(gemma3, ids)
    model = trained(gemma3, layers=[0, 1])
    first = logits(model, ids)
    second_adapter(model, **fields)
    assert torch.equal(logits(model, ids), first)  # adding is not switching
    assert not [name for name in trainable(model) if ".second" in name]
    model.set_adapter("second")
    second = logits(model, ids)
    assert not torch.equal(second, first)
    assert not torch.equal(second, base)
    assert {name for name in trainable(model) if ".second" not in name} == set()
    model.set_adapter("default")
    assert torch.equal(logits(model, ids), first)
    with model.disable_adapter():
        assert torch.equal(logits(model, ids), base)


def test_a_second_adapter_is_what_it_would_be_alone(gemma3: PreTrainedModel, tmp_path: Path) -> None:
    ids = random_ids(3, 11)
    alone = trained(twin(gemma3, torch.float32), k=3, layers=[1, 2])
    alone.save_pretrained(tmp_path)
    beside = trained(gemma3, layers=[0, 1])
    beside.load_adapter(tmp_path, "second")
    beside.set_adapter("second")
    assert torch.equal(logits(beside, ids), logits(alone, ids))


# -------------------------------------------------------------------------------------- merging


@pytest.mark.few(7)
@both_methods
@pytest.mark.parametrize("k", [2, 3])
def test_merging_and_unloading_gives_a_plain_wide_model(
    any_model: PreTrainedModel, trains: str, k: int
) -> None:
    ids = random_ids(3, 11)
    columns, rows = mlp_projections(any_model)
    sizes = {name: any_model.get_submodule(name).weight.shape for name in columns + rows}
    model = trained(any_model, trains=trains, k=k)
    expected = logits(model, ids)
    plain = model.merge_and_unload()
    assert not list(grown_layers(plain))
    for name, (out_features, in_features) in sizes.items():
        wide = plain.get_submodule(name)
        assert type(wide) is nn.Linear
        scale = (k, 1) if name in columns else (1, k)
        assert wide.weight.shape == (scale[0] * out_features, scale[1] * in_features)
    # One concatenated product rounds otherwise than two that are summed: a few units of 2^-24 a layer.
    torch.testing.assert_close(logits(plain, ids), expected, rtol=0, atol=1e-5)


def test_merging_keeps_the_parameter_count_that_was_announced(any_model: PreTrainedModel) -> None:
    n_base = sum(p.numel() for p in text_parameters(any_model).values())
    model = grow(any_model, k=3)
    announced = count_parameters(model, n_base).added
    merged = model.merge_and_unload()
    assert sum(p.numel() for p in text_parameters(merged).values()) == n_base + announced


@both_methods
def test_unmerging_restores_every_bit(any_model: PreTrainedModel, trains: str) -> None:
    ids = random_ids(3, 11)
    model = trained(any_model, trains=trains)
    expected, before = logits(model, ids), bits(model)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(logits(model, ids), expected, rtol=0, atol=1e-5)
    model.unmerge_adapter()
    assert list(model.state_dict()) == list(before)
    assert not changed(before, model)
    assert torch.equal(logits(model, ids), expected)


def test_nothing_is_added_beside_a_merged_adapter(gemma3: PreTrainedModel) -> None:
    model: Any = grow(gemma3)
    before = bits(model)
    model.merge_adapter()
    with pytest.raises(ValueError, match="adapter 'b': unmerge before adding another one"):
        model.add_adapter("b", GrowConfig(task_type="CAUSAL_LM"))
    model.unmerge_adapter()
    assert bits(model).keys() == before.keys()


@pytest.mark.parametrize("family", ["gemma3", "llama", "opt"])
def test_a_wider_model_is_saved_as_a_checkpoint_that_plain_transformers_loads(
    family: str, tmp_path: Path
) -> None:
    ids = random_ids(3, 11)
    model = trained(tiny_model(family), layers=[1])
    expected = logits(model, ids)
    widen(model).save_pretrained(tmp_path)  # type: ignore[operator]
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(reloaded, ids), expected, rtol=0, atol=1e-5)


def test_growth_that_no_configuration_can_say_is_refused_before_anything_is_merged() -> None:
    """Some do not know of groups of heads."""
    model = AttentionGrow(grow="heads").prepare(tiny_model("llama"), None)
    del model.config.num_key_value_heads
    with pytest.raises(ValueError, match="has no num_key_value_heads"):
        widen(model)
    assert any(True for _ in grown_layers(model))


def test_new_units_that_are_all_zero_have_no_gradient_even_with_biases(llama: PreTrainedModel) -> None:
    config = GrowConfig(task_type="CAUSAL_LM", share=0, init_columns="zero")
    model = add_adapter(llama, config)
    model(input_ids=random_ids(2, 7)).logits.square().sum().backward()
    gradients = {
        name: p.grad for name, p in trainable(model).items() if "down_proj.grow.default.bias" not in name
    }
    assert gradients
    assert all(g is None or not g.any() for g in gradients.values())


def test_a_safe_merge_refuses_weights_that_are_not_finite(gemma3: PreTrainedModel) -> None:
    model = grow(gemma3)
    next(iter(trainable(model).values())).data[0, 0] = torch.nan
    with pytest.raises(
        ValueError, match=r"NaNs detected in the merged weights\. The adapter default seems to be broken"
    ):
        model.merge_and_unload(safe_merge=True)


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 1}, "at least 2 copies"),
        ({"trainable": "everything"}, "choose one of new, columns"),
        ({"row_modules": ["down_proj"]}, "name these, too"),
    ],
)
def test_an_impossible_growth_is_refused_when_it_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GrowConfig(**fields)


@pytest.mark.parametrize("layer", [-1, N_LAYERS])
def test_a_layer_out_of_range_is_refused(gemma3: PreTrainedModel, layer: int) -> None:
    with pytest.raises(ValueError, match=f"layer {layer} does not exist: the model has 0 to {N_LAYERS - 1}"):
        grow(gemma3, layers=[layer])


def test_only_linear_layers_grow(gemma3: PreTrainedModel) -> None:
    config = GrowConfig(target_modules=["embed_tokens"], row_modules=[])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on tied embeddings comes before the refusal
        with pytest.raises(ValueError, match=r"only nn\.Linear and Conv1D can grow"):
            add_adapter(gemma3, config)


def test_a_model_without_a_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="no decoder layers"):
        find_decoder(nn.Linear(2, 2))


def test_a_layer_without_a_known_mlp_is_refused_with_what_it_has(gemma3: PreTrainedModel) -> None:
    layer = find_decoder(gemma3).layers[1]
    layer.mlp = nn.Sequential(nn.Linear(32, 32))
    with pytest.raises(ValueError, match=r"layer 1 .* no MLP .*self_attn.q_proj.*mlp.0"):
        grow(gemma3)


# ---------------------------------------------------------------------------- parameter counts

SIZES = {
    "270M": {"layers": 18, "width": 640, "mlp": 2048, "heads": 4, "kv": 1, "vocabulary": 262_144},
    "1B": {"layers": 26, "width": 1152, "mlp": 6912, "heads": 4, "kv": 1, "vocabulary": 262_144},
    "4B": {"layers": 34, "width": 2560, "mlp": 10240, "heads": 8, "kv": 4, "vocabulary": 262_208},
}
TOTALS = {"270M": 268_098_176, "1B": 999_885_952, "4B": 3_880_263_168}
TOP_10 = list(range(8, 18))


def real_gemma3(name: str) -> PreTrainedModel:
    """A Gemma 3 text model of the published dimensions, without storage."""
    size = SIZES[name]
    config = Gemma3TextConfig(
        vocab_size=size["vocabulary"],
        hidden_size=size["width"],
        intermediate_size=size["mlp"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv"],
        head_dim=256,
    )
    with torch.device("meta"):
        return Gemma3ForCausalLM(config).requires_grad_(False)


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("name", "method", "layers", "percent"),
    [
        ("270M", GFreeze(), None, 26.4),
        ("1B", GFreeze(), None, 62.1),
        ("4B", GFreeze(), None, 68.9),
        ("270M", GFreeze(), TOP_10, 14.7),
        ("1B", GFreeze(), TOP_10, 23.9),
        ("4B", GFreeze(), TOP_10, 20.3),
        ("270M", GTrain(), None, 35.2),
        ("1B", GTrain(), None, 82.8),
        ("4B", GTrain(), None, 91.9),
        ("1B", GTrain(), TOP_10, 31.9),
    ],
)
def test_counts_agree_with_the_arithmetic_on_the_real_dimensions(
    name: str, method: Method, layers: list[int] | None, percent: float
) -> None:
    model, size = real_gemma3(name), SIZES[name]
    n_base = sum(p.numel() for p in text_parameters(model).values())
    assert n_base == TOTALS[name]
    counts = count_parameters(method.prepare(model, layers), n_base)
    matrix = size["mlp"] * size["width"] * (len(layers) if layers else size["layers"])
    g_freeze = isinstance(method, GFreeze)
    trains = ("gate_proj", "up_proj", "down_proj") if g_freeze else ("gate_proj", "up_proj")
    assert counts.added == 3 * matrix  # G-Train's copies of the base's gate and up are no growth
    assert counts.trainable_by_module == dict.fromkeys(sorted(trains), (1 if g_freeze else 2) * matrix)
    assert counts.trainable == (3 if g_freeze else 4) * matrix
    assert round(100 * counts.trainable_share, 1) == percent


def test_full_fine_tuning_trains_every_parameter_of_the_real_model() -> None:
    model = SFT().prepare(real_gemma3("270M"), None)
    counts = count_parameters(model, TOTALS["270M"])
    assert (counts.added, counts.trainable) == (0, TOTALS["270M"])
    assert counts.trainable_by_module["embedding"] == 167_772_160


@pytest.mark.parametrize(
    ("frozen", "kind", "count"),
    [({"norms": "frozen"}, "norm", 55_936), ({"embeddings": "frozen"}, "embedding", 167_772_160)],
)
def test_a_frozen_kind_of_the_real_model_is_all_that_does_not_train(
    frozen: dict[str, str], kind: str, count: int
) -> None:
    counts = count_parameters(SFT(**frozen).prepare(real_gemma3("270M"), None), TOTALS["270M"])
    assert counts.trainable == TOTALS["270M"] - count
    assert kind not in counts.trainable_by_module


def test_the_vision_tower_is_not_counted() -> None:
    wrapped, plain = tiny_model("gemma3_multimodal"), tiny_model("gemma3")
    counted = [sum(p.numel() for p in text_parameters(model).values()) for model in (wrapped, plain)]
    assert counted[0] == counted[1]


def tensor_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def test_growing_adds_no_more_memory_than_the_new_weights(gemma3: PreTrainedModel) -> None:
    before = sum(map(tensor_bytes, gemma3.parameters()))
    model = grow(gemma3)
    new = sum(map(tensor_bytes, trainable(model).values()))
    assert sum(map(tensor_bytes, model.parameters())) == before + new


def test_what_is_added_and_trained_is_said_by_kind_of_module(gemma3: PreTrainedModel) -> None:
    n_base = sum(p.numel() for p in gemma3.parameters())
    counts = count_parameters(GFreeze().prepare(gemma3, [1]), n_base)
    assert describe_parameters("G-Freeze", counts) == (
        f"G-Freeze adds 6,144 parameters and trains 6,144 ({100 * 6144 / n_base:.1f} % of {n_base:,}): "
        "down_proj 2,048, gate_proj 2,048, up_proj 2,048"
    )
