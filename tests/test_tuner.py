"""The growth tuner as PEFT's users meet it: names, files, fields, several adapters, and what is refused."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import logits, perturb, random_ids, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    BitNetConfig,
    BitNetForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    ModernBertConfig,
    ModernBertModel,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)

from gdo_cli.growth import GrowConfig
from gdo_cli.growth.folding import average, fold, natural_form, widen
from gdo_cli.growth.layer import GrownLinear, GrownRows
from gdo_cli.lm.pairs import find_pairs
from gdo_cli.lm.tokens import Encoder

MODES = pytest.mark.parametrize("mode", ["new", "columns"])
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "vocab_size": 128,
    "pad_token_id": 0,
}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
IDS = random_ids(2, 7)


def grown(model: PreTrainedModel, **fields: Any) -> PeftModel:
    return get_peft_model(model, GrowConfig(**({"task_type": "CAUSAL_LM"} | fields)))


def moved(model: nn.Module, seed: int = 0, only: str = ".grow.") -> None:
    perturb(model, 0.1, only=only, seed=seed)


def layers_of(model: nn.Module) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if isinstance(m, GrownLinear)}


# ------------------------------------------------------------------------------------- names and files


@MODES
def test_parameters_are_named_by_adapter_as_others_copy_them(mode: str) -> None:
    """TRL makes the reference of DPO and GRPO by names that hold ``.default.``."""
    model = grown(tiny_model("llama"), trainable=mode)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert names
    assert all(".grow.default." in name for name in names)
    model.add_adapter("ref", GrowConfig(task_type="CAUSAL_LM", trainable=mode))
    moved(model, only=".default.")
    state = dict(model.named_parameters())
    for name, parameter in state.items():
        if ".default." in name:
            state[name.replace(".default.", ".ref.")].data.copy_(parameter.data)
    policy = logits(model, IDS)
    model.set_adapter("ref")
    assert torch.equal(logits(model, IDS), policy)


@MODES
@pytest.mark.parametrize("merged", [False, True])
def test_a_file_holds_the_adapter_s_own_weights_alone(mode: str, merged: bool, tmp_path: Path) -> None:
    model = grown(tiny_model("llama"), trainable=mode)
    own = {name.replace(".default", "") for name, _ in model.named_parameters() if ".grow." in name}
    if merged:
        model.merge_adapter()
    assert get_peft_model_state_dict(model).keys() == own
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "adapter_model.safetensors").keys() == own
    assert not any(".base_layer" in name for name in own)


def test_the_base_comes_back_on_its_device_and_dtype_after_a_merge() -> None:
    model = grown(tiny_model("llama"))
    model.merge_adapter()
    model.to(torch.bfloat16)
    model.unmerge_adapter()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    logits(model, IDS)


def test_a_file_of_the_first_version_is_read_with_a_notice(tmp_path: Path) -> None:
    model = grown(tiny_model("llama"))
    moved(model)
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({name.replace(".grow.", ".grow_"): t for name, t in load_file(file).items()}, file)
    with pytest.warns(FutureWarning, match="an adapter file of an earlier gdo"):
        old = PeftModel.from_pretrained(tiny_model("llama"), tmp_path)
    assert torch.equal(logits(old, IDS), logits(model, IDS))


# -------------------------------------------------------------------------------------------- the fields


def test_a_configuration_can_be_used_for_models_of_any_depth() -> None:
    config = GrowConfig(task_type="CAUSAL_LM")
    before = config.to_dict()
    for depth in (1, 3, 2):
        shape = copy.deepcopy(tiny_model("llama").config)
        shape.num_hidden_layers = depth
        model = get_peft_model(type(tiny_model("llama"))(shape), config)
        assert len(layers_of(model)) == 3 * depth
    after = config.to_dict()
    assert {k: v for k, v in after.items() if before[k] != v}.keys() <= {"base_model_name_or_path"}


@pytest.mark.parametrize("targets", [["gate_proj", "up_proj", "down_proj"], r".*\.(gate|up|down)_proj"])
@pytest.mark.parametrize("rows", [None, ["down_proj"], "down_proj"])
def test_rows_are_found_by_themselves_or_named(targets: Any, rows: Any) -> None:
    model = grown(tiny_model("llama"), target_modules=targets, row_modules=rows)
    assert torch.equal(logits(model, IDS), logits(tiny_model("llama"), IDS))
    assert {n for n, m in layers_of(model).items() if isinstance(m, GrownRows)} == {
        n for n in layers_of(model) if n.endswith("down_proj")
    }


def test_all_linear_layers_are_those_of_mlps_and_attention() -> None:
    model = grown(tiny_model("llama"), target_modules="all-linear")
    assert torch.equal(logits(model, IDS), logits(tiny_model("llama"), IDS))
    linear = [
        n for n, m in tiny_model("llama").named_modules() if isinstance(m, nn.Linear) and n != "lm_head"
    ]
    assert {n.removeprefix("base_model.model.") for n in layers_of(model)} == set(linear)


@pytest.mark.parametrize("layers", [1, [1]])
@pytest.mark.parametrize("targets", [None, ["gate_proj", "up_proj", "down_proj"]])
def test_layers_are_chosen_by_one_number_or_several(layers: Any, targets: Any) -> None:
    model = grown(tiny_model("llama"), target_modules=targets, layers_to_transform=layers)
    assert {name.split(".layers.")[1][0] for name in layers_of(model)} == {"1"}


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": r".*\.(gate|up|down)_proj", "layers_to_transform": [0]},
        {"target_modules": "all-linear", "layers_to_transform": 0},
        {"target_modules": r".*_proj", "layers_pattern": "layers"},
        {"target_modules": ["gate_proj", "up_proj", "down_proj"], "layers_pattern": "layers"},
    ],
)
def test_what_lora_refuses_of_layers_is_refused(fields: dict[str, Any]) -> None:
    told = []
    for kind in (LoraConfig, GrowConfig):
        with pytest.raises(ValueError, match="layers_") as error:
            kind(**fields)
        told.append(str(error.value).strip())
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("kind", "task"),
    [(LlamaForSequenceClassification, "SEQ_CLS"), (LlamaForTokenClassification, "TOKEN_CLS")],
)
def test_the_head_of_a_classifier_trains_and_is_saved(kind: Any, task: str, tmp_path: Path) -> None:
    base = kind(tiny_model("llama").config)
    model = grown(copy.deepcopy(base), task_type=task)
    assert any("score" in name and p.requires_grad for name, p in model.named_parameters())
    moved(model, only="modules_to_save")
    model.save_pretrained(tmp_path)
    assert any("score" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(loaded.eval()(IDS).logits, model.eval()(IDS).logits)


def test_modules_to_save_are_never_grown() -> None:
    model = grown(tiny_model("llama"), modules_to_save=["lm_head"])
    assert any("lm_head" in name and p.requires_grad for name, p in model.named_parameters())


@pytest.mark.parametrize("fields", [{}, {"trainable": "columns"}, {"share": 0.0}])
def test_random_weights_are_there_for_tests_alone(fields: dict[str, Any]) -> None:
    model = grown(tiny_model("llama"), init_weights=False, **fields)
    assert not torch.allclose(logits(model, IDS), logits(tiny_model("llama"), IDS), atol=1e-3)


def test_weights_that_are_still_to_be_loaded_are_not_probed() -> None:
    """They lie on the meta device, beside a base that is there."""
    model = inject_adapter_in_model(GrowConfig(), tiny_model("llama"), low_cpu_mem_usage=True)
    assert {p.is_meta for layer in layers_of(model).values() for p in layer.grow.parameters()} == {True}


def test_a_file_of_a_configuration_holds_what_the_configuration_does(tmp_path: Path) -> None:
    """The type among it, whatever the file says of it for those who have not imported growth."""
    config = GrowConfig(k=3)
    config.save_pretrained(str(tmp_path))
    assert GrowConfig.from_json_file(str(tmp_path / "adapter_config.json")) == config.to_dict()


def test_a_configuration_comes_back_from_its_file(tmp_path: Path) -> None:
    config = GrowConfig(
        target_modules=["up_proj", "down_proj"], layers_to_transform=1, k=3, modules_to_save=["x"]
    )
    config.save_pretrained(str(tmp_path))
    found = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(found, GrowConfig)
    assert found == config
    json.loads((tmp_path / "adapter_config.json").read_text())


# ---------------------------------------------------------------------------------------------- refusals


class Twice(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Normed(nn.Module):
    """A norm between column and row, over whatever width comes."""

    def __init__(self) -> None:
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up_proj(x)
        out: Tensor = self.down_proj(h / h.norm(dim=-1, keepdim=True))
        return out


class Halved(nn.Module):
    """Gate and up in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(8, 32), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.up_proj(x).chunk(2, dim=-1)
        out: Tensor = self.down_proj(gate.relu() * up)
        return out


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.gate_proj(x).relu() * self.up_proj(x))
        return out


class Plain(Normed):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.up_proj(x).relu())
        return out


def with_subclass() -> nn.Module:
    model = Plain()
    model.up_proj = Twice(8, 16)
    return model


def unasked() -> nn.Module:
    """It wants two tensors."""

    class Wanting(Plain):
        def forward(self, x: Tensor, gate: Tensor) -> Tensor:  # type: ignore[override]
            return gate * super().forward(x)

    model = Wanting()
    model.up_proj = Twice(8, 16)
    return model


def fused_unasked() -> nn.Module:
    class Wanting(Halved):
        def forward(self, x: Tensor, gate: Tensor) -> Tensor:  # type: ignore[override]
            return gate * super().forward(x)

    return Wanting()


def misfit() -> nn.Module:
    model = Plain()
    model.up_proj = nn.Linear(8, 24)
    return model


def with_conv() -> nn.Module:
    model = Plain()
    model.up_proj = nn.Conv1d(8, 16, 1)  # type: ignore[assignment]
    return model


def quantised() -> nn.Module:
    model = Plain()
    model.up_proj.weight = nn.Parameter(torch.ones(16, 8, dtype=torch.int8), requires_grad=False)
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "a norm between": (Normed, {}, r"Normed cannot grow: its output changes by [\d.]+%"),
    "halves that cannot be asked": (fused_unasked, {}, "holds several projections as one; how they are"),
    "a width that fits nothing": (misfit, {}, "up_proj gives 24 numbers, of which down_proj reads 16"),
    "a layer that does more": (with_subclass, {}, r"Plain cannot grow: its output changes by [\d.]+%"),
    "one that cannot be asked": (unasked, {}, "up_proj is a Twice: only nn.Linear and Conv1D can grow"),
    "no linear layer": (with_conv, {}, "up_proj is a Conv1d: only nn.Linear and Conv1D can grow"),
    "integers": (quantised, {}, r"quantised Linear: .* load the MLPs unquantised"),
    "no row": (Plain, {"target_modules": ["up_proj"]}, "up_proj: columns grow with .* no row is named"),
    "no column": (Plain, {"target_modules": ["down_proj"]}, "no column is named"),
    "a row that is nowhere": (Plain, {"row_modules": ["wo"]}, "no row is named"),
    "the row left out": (Plain, {"exclude_modules": ["down_proj"]}, "no row is named"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_not_keep_the_function_is_refused_where_it_is_named(case: str) -> None:
    make, fields, message = REFUSED[case]
    model = make()
    before = {name: type(m) for name, m in model.named_modules()}
    fields = {"target_modules": ["up_proj", "down_proj"]} | fields
    with pytest.raises(ValueError, match=message):
        get_peft_model(model, GrowConfig(**fields))
    assert {name: type(m) for name, m in model.named_modules()} == before


@pytest.mark.parametrize("fields", [{}, {"k": 3}, {"trainable": "columns"}])
@pytest.mark.parametrize("layers", [None, 0])
@pytest.mark.parametrize(("kind", "config"), [(Phi3ForCausalLM, Phi3Config), (GlmForCausalLM, GlmConfig)])
def test_gate_and_up_in_one_grow_half_by_half(
    kind: Any, config: Any, layers: Any, fields: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    base = kind(config(**SHAPE, **HEADS)).eval()
    before = logits(base, IDS)
    model = grown(base, layers_to_transform=layers, **fields)
    exact = fields.get("k", 2) == 2
    torch.testing.assert_close(logits(model, IDS), before, rtol=0, atol=0 if exact else 1e-6)
    moved(model)
    after = logits(model, IDS)
    assert not torch.allclose(after, before, atol=1e-3)
    plain = model.merge_and_unload()
    plain.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(kind.from_pretrained(tmp_path), IDS), after, rtol=1e-4, atol=1e-5)


def test_gate_and_up_in_one_are_trained_as_if_they_stood_apart() -> None:
    """Halved grows as Gated does, whose projections are layers of their own."""
    torch.manual_seed(0)
    fused = Halved()
    apart = Gated()
    for n, name in enumerate(("gate_proj", "up_proj")):
        apart.get_submodule(name).load_state_dict(
            {key: p[16 * n : 16 * (n + 1)] for key, p in fused.up_proj.state_dict().items()}
        )
    apart.down_proj.load_state_dict(fused.down_proj.state_dict())
    x = torch.randn(5, 8)
    outputs = []
    for model in (fused, apart):
        adapted = get_peft_model(model, GrowConfig(target_modules=r".*_proj", k=3))
        optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], 0.1)
        for _ in range(5):
            optimizer.zero_grad()
            adapted(x).square().sum().backward()
            optimizer.step()
        outputs.append(adapted(x))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)


def test_a_norm_between_column_and_row_is_refused_when_found() -> None:
    model = BitNetForCausalLM(BitNetConfig(**SHAPE, **HEADS))
    with pytest.raises(
        ValueError, match=r"layers\.0\.mlp cannot grow: it does not run with the grown layers"
    ):
        grown(model)


def test_a_second_adapter_takes_columns_and_rows_as_the_first_did() -> None:
    model = get_peft_model(Plain(), GrowConfig(target_modules=["up_proj", "down_proj"]))
    with pytest.raises(ValueError, match="down_proj has grown as a row for another adapter"):
        model.add_adapter("b", GrowConfig(target_modules=["up_proj", "down_proj"], row_modules=["up_proj"]))


# ------------------------------------------------------------------------------- several adapters, merging


PAIRS = [
    ({}, {}),
    ({}, {"k": 3}),
    ({"trainable": "columns"}, {}),
    ({"share": 0.25}, {"trainable": "columns", "k": 3}),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("merged", [False, True])
def test_adapters_on_one_layer_add_what_each_changes(
    first: dict[str, Any], second: dict[str, Any], merged: bool
) -> None:
    """Of one MLP, whose change is a sum: y = base + Σ (y_i − base)."""
    torch.manual_seed(0)
    targets: dict[str, Any] = {"target_modules": ["up_proj", "down_proj"]}
    model = get_peft_model(Plain().double(), GrowConfig(**targets, **first))
    model.add_adapter("b", GrowConfig(**targets, **second))
    x = torch.randn(5, 8, dtype=torch.float64)
    with model.disable_adapter():
        base = model(x)
    model.base_model.set_adapter(["default", "b"])
    torch.testing.assert_close(model(x), base, rtol=1e-12, atol=1e-12)
    moved(model)
    alone = []
    for name in ("default", "b"):
        model.base_model.set_adapter([name])
        alone.append(model(x))
    model.base_model.set_adapter(["default", "b"])
    if merged:
        model.merge_adapter(["default", "b"])
        assert all(type(m.base_layer) is nn.Linear for m in layers_of(model).values())
    torch.testing.assert_close(model(x), alone[0] + alone[1] - base, rtol=1e-11, atol=1e-11)
    if merged:
        model.unmerge_adapter()
        torch.testing.assert_close(model(x), alone[0] + alone[1] - base, rtol=1e-11, atol=1e-11)


def test_a_second_adapter_can_be_merged_on_top_of_the_first() -> None:
    model = grown(tiny_model("llama"))
    model.add_adapter("b", GrowConfig(task_type="CAUSAL_LM", k=3))
    moved(model)
    model.base_model.set_adapter(["default", "b"])
    together = logits(model, IDS)
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="now additionally merging b"):
        model.merge_adapter(["b"])
    torch.testing.assert_close(logits(model, IDS), together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spoilt", ["weight", "bias"])
def test_a_safe_merge_leaves_all_layers_as_they_were(spoilt: str) -> None:
    model = grown(tiny_model("llama"))  # with biases
    last = [p for name, p in model.named_parameters() if ".grow." in name and name.endswith(spoilt)][-1]
    last.data.view(-1)[0] = math.nan
    with pytest.raises(ValueError, match=r"NaNs detected in the merged weights\. The adapter default seems"):
        model.merge_adapter(safe_merge=True)
    assert not any(m.merged for m in layers_of(model).values())


WEIGHTED = [
    ([0.5, 0.5], [{}, {"k": 3}]),
    ([0.3, 0.4], [{"trainable": "columns"}, {"share": 0.25}]),
    ([1.0], [{}]),
]


@pytest.mark.parametrize(("weights", "fields"), WEIGHTED)
def test_a_weighted_adapter_does_what_its_parts_do_together(
    weights: list[float], fields: list[dict[str, Any]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    targets: dict[str, Any] = {"target_modules": ["up_proj", "down_proj"]}
    plain = Plain().double()
    model = get_peft_model(copy.deepcopy(plain), GrowConfig(**targets, **fields[0]), adapter_name="0")
    for number, more in enumerate(fields[1:], 1):
        model.add_adapter(str(number), GrowConfig(**targets, **more))
    moved(model)
    x = torch.randn(5, 8, dtype=torch.float64)
    expected = plain(x)
    for number, weight in enumerate(weights):
        model.set_adapter(str(number))
        expected = expected + weight * (model(x) - plain(x))
    model.base_model.add_weighted_adapter([str(n) for n in range(len(weights))], weights, "all")
    model.set_adapter("all")
    torch.testing.assert_close(model(x), expected, rtol=1e-11, atol=1e-11)
    model.save_pretrained(tmp_path, selected_adapters=["all"])
    loaded = PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path / "all")
    torch.testing.assert_close(loaded(x), expected, rtol=1e-6, atol=1e-6)  # files hold it as it was given


@pytest.mark.parametrize(
    ("names", "weights", "kind", "message"),
    [
        (["default"], [1.0], "svd", "side by side: use 'cat'"),
        (["none"], [1.0], "cat", "name adapters that exist"),
        (["default"], [1.0, 2.0], "cat", "each with its weight"),
        (["default"], [3.0], "cat", "a share from 0 to 1"),
        (["default", "b"], [0.5, 0.5], "cat", "adapters on different layers"),
    ],
)
def test_weighted_adapters_that_cannot_be_are_refused(
    names: list[str], weights: list[float], kind: str, message: str
) -> None:
    model = grown(tiny_model("llama"))
    model.add_adapter("b", GrowConfig(task_type="CAUSAL_LM", layers_to_transform=0))
    with pytest.raises(ValueError, match=message):
        model.base_model.add_weighted_adapter(names, weights, "all", kind)
    assert set(model.peft_config) == {"default", "b"}


WITHOUT_IMPORT = """
import sys
from peft import AutoPeftModelForCausalLM, PeftConfig
load = {"PEFT": PeftConfig.from_pretrained, "AutoPeft": AutoPeftModelForCausalLM.from_pretrained}[sys.argv[1]]
load(sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["PEFT", "AutoPeft"])
def test_without_the_import_loading_says_what_to_import(loader: str, tmp_path: Path) -> None:
    grown(tiny_model("llama")).save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_IMPORT, loader, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "GROW: import gdo_cli.growth before this adapter is loaded" in done.stderr.splitlines()[-1]


def test_a_file_that_names_the_type_alone_is_read(tmp_path: Path) -> None:
    model = grown(tiny_model("llama"))
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_type": "GROW"}))
    assert torch.equal(
        logits(PeftModel.from_pretrained(tiny_model("llama"), tmp_path), IDS), logits(model, IDS)
    )


# --------------------------------------------------------------------------------- stock models, what stays


@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize("family", ["llama", "gemma3", "opt", "phi", "gemma3_multimodal"])
def test_a_merged_model_is_saved_as_a_checkpoint_that_loads(family: str, layers: Any, tmp_path: Path) -> None:
    model = grown(tiny_model(family), layers_to_transform=layers)
    moved(model)
    expected = logits(model, IDS)
    plain = model.merge_and_unload()
    plain.save_pretrained(tmp_path)
    loaded = type(plain).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded, IDS), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [r"\d+", "1"])
def test_a_merged_encoder_is_one_too(layer: str, tmp_path: Path) -> None:
    """Whose columns and rows stand in modules of their own."""
    torch.manual_seed(0)
    base = BertModel(BertConfig(**(SHAPE | {"num_attention_heads": 4}))).eval()
    targets = rf".*\.{layer}\.(intermediate|output)\.dense"
    model = get_peft_model(base, GrowConfig(target_modules=targets, row_modules=["output.dense"]))
    assert len(layers_of(model)) == (2 if layer == "1" else 4)
    moved(model)
    expected = model(IDS).last_hidden_state
    plain = model.merge_and_unload()
    plain.save_pretrained(tmp_path)
    loaded = BertModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(IDS).last_hidden_state, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trainable", ["new", "columns"])
def test_an_encoder_with_gate_and_up_in_one_grows_half_by_half(trainable: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ids = {f"{name}_token_id": 1 for name in ("pad", "bos", "eos", "cls", "sep")}
    base = ModernBertModel(ModernBertConfig(**(SHAPE | ids | {"num_attention_heads": 4}))).eval()
    before = base(IDS).last_hidden_state
    config = GrowConfig(target_modules=r".*\.mlp\.W[io]", row_modules=["Wo"], trainable=trainable)
    model = get_peft_model(base, config)
    assert torch.equal(model(IDS).last_hidden_state, before)
    moved(model)
    expected = model(IDS).last_hidden_state
    assert not torch.allclose(expected, before, atol=1e-3)
    model.merge_and_unload().save_pretrained(tmp_path)
    loaded = ModernBertModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(IDS).last_hidden_state, expected, rtol=1e-4, atol=1e-5)


def test_a_model_of_ones_own_without_a_configuration_merges_without_a_word() -> None:
    model = get_peft_model(Plain(), GrowConfig(target_modules=["up_proj", "down_proj"]))
    assert model.merge_and_unload().down_proj.in_features == 32


def test_where_no_configuration_says_it_a_warning_does() -> None:
    model = grown(tiny_model("llama"), layers_to_transform=0)
    model.add_adapter("b", GrowConfig(task_type="CAUSAL_LM", layers_to_transform=1, k=3))
    model.base_model.set_adapter(["default", "b"])
    with pytest.warns(UserWarning, match="what cannot be loaded: layers have grown by different factors"):
        model.merge_and_unload()


@pytest.mark.parametrize("make", [fold, average, widen])
def test_what_leads_to_stock_models_takes_a_merged_one(make: Any) -> None:
    mode = "columns" if make is fold else "new"
    alone, merged = (grown(tiny_model("llama"), trainable=mode) for _ in range(2))
    if make is not fold:
        moved(alone)
        moved(merged)
    merged.merge_adapter()
    assert torch.equal(logits(make(merged), IDS), logits(make(alone), IDS))


@pytest.mark.parametrize("make", [average, widen])
def test_adapters_of_other_layers_stay_out_of_stock_models(make: Any) -> None:
    model = grown(tiny_model("llama"), layers_to_transform=0)
    moved(model)
    alone = copy.deepcopy(model)
    model.add_adapter("b", GrowConfig(task_type="CAUSAL_LM", layers_to_transform=1))
    assert natural_form(model) == "grown"
    assert torch.equal(logits(make(model), IDS), logits(make(alone), IDS))


def test_a_model_that_transformers_grew_is_widened() -> None:
    model: Any = tiny_model("llama")
    model.add_adapter(GrowConfig(task_type="CAUSAL_LM"))
    moved(model)
    expected = logits(model, IDS)
    plain: Any = widen(model)
    assert not layers_of(plain)
    torch.testing.assert_close(logits(plain, IDS), expected, rtol=1e-5, atol=1e-5)
    assert plain.config.intermediate_size == 2 * tiny_model("llama").config.intermediate_size


names = st.lists(st.sampled_from(["a", "b", "0", "1", "up", "down"]), min_size=1, max_size=4).map(".".join)


@given(st.sets(names, max_size=4), st.sets(names, max_size=3))
def test_pairs_hold_every_name_once_within_one_layer(columns: set[str], rows: set[str]) -> None:
    rows -= columns
    try:
        found = find_pairs(sorted(columns), sorted(rows))
    except ValueError:
        return
    assert sorted(name for pair in found for name in pair.columns) == sorted(columns)
    assert sorted(pair.row for pair in found) == sorted(rows)
    for pair in found:
        for name in (*pair.columns, pair.row):
            inside = name.removeprefix(pair.place).strip(".")
            assert name.startswith(pair.place)
            assert not any(part.isdigit() for part in inside.split("."))


def test_a_linear_layer_whose_forward_does_the_same_grows() -> None:
    """Falcon has a class of its own."""
    torch.manual_seed(0)
    config = FalconConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    base = FalconForCausalLM(config).eval()
    expected = logits(base, IDS)
    model = grown(base, target_modules=["dense_h_to_4h", "dense_4h_to_h"])
    assert torch.equal(logits(model, IDS), expected)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval comes with the bench extra")
def test_lm_eval_loads_a_grown_adapter_through_the_wrapper(word_encoder: Encoder, tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    from gdo_cli.growth import lm_eval  # noqa: F401 - what `python -m gdo_cli.growth.lm_eval` imports

    tiny_model("llama").save_pretrained(tmp_path / "base")
    word_encoder.tokenizer.save_pretrained(tmp_path / "base")
    model = grown(tiny_model("llama"))
    moved(model)
    model.save_pretrained(tmp_path / "adapter")
    options = {"pretrained": str(tmp_path / "base"), "peft": str(tmp_path / "adapter")}
    found = HFLM(**options, device="cpu", dtype="float32").model(IDS).logits
    assert torch.equal(found, logits(model, IDS)[..., : found.shape[-1]])


def test_a_second_adapter_that_is_refused_leaves_the_first_as_it_was() -> None:
    """Both MLPs take one tensor; the second one norms between its columns and its row."""
    model = nn.ModuleDict({"good": Plain(), "bad": Normed()})
    adapted = get_peft_model(model, GrowConfig(target_modules=["good.up_proj", "good.down_proj"]))
    moved(adapted)
    x = torch.randn(3, 8)
    before = model["good"](x)
    with pytest.raises(ValueError, match=r"bad cannot grow: its output changes by"):
        adapted.add_adapter("b", GrowConfig(target_modules=["up_proj", "down_proj"]))
    assert set(adapted.peft_config) == {"default"}
    assert torch.equal(model["good"](x), before)
    assert not any(".b." in name for name, _ in adapted.named_parameters())
