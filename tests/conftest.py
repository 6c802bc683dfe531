"""Tiny models that every test shares: random, of several families, with no weight at its initial value."""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.testing
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from gdo_cli.config.build import load_run
from gdo_cli.config.run_config import RunConfig
from gdo_cli.lm.tokens import Encoded, Encoder
from gdo_cli.models.loading import Loaded
from gdo_cli.runs.record import RunRecord
from gdo_cli.support.files import cache_dir

VOCABULARY = 128
PAD, EOS, BOS = 0, 1, 2
FIRST_WORD = 8  # ids below are special: pad, eos, bos, and the line breaks of `word_encoder`
LINE_BREAKS = {3: "\n", 4: "\n\n", 5: "▁\n", 6: "ĊĊ", 7: "<0x0A>"}
N_LAYERS = 3

RunFactory = Callable[..., RunConfig]


def recorded(content: Mapping[str, Any]) -> RunRecord:
    """What a run recorded, as far as a test has it; the rest by default."""
    least = RunRecord(
        id="0" * 8, seed=0, name={"model": "tiny", "task": "scitail", "method": "sft"}, final={}
    )
    return RunRecord.from_dict(least.to_dict() | dict(content))


def pytest_configure(config: pytest.Config) -> None:
    # PEFT 0.21 reads a property that transformers 5.23 has renamed: nothing in this project can mend it.
    config.addinivalue_line("filterwarnings", "ignore:.*is_gradient_checkpointing.*:FutureWarning")
    if config.getoption("markexpr") != "gpu":  # bits are compared with what the CPU computes
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)  # tensors this small only lose by being shared out
    # Typer reads the signatures of all commands at each call: a fifteenth of a second.
    vars(typer.testing)["_get_command"] = cache(typer.main.get_command)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test that is marked ``few(n)``, mark all members but n, from first to last, as slow."""
    members: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("few") and not item.get_closest_marker("slow"):
            name = item.nodeid.partition("[")[0]
            members.setdefault((item.path, name), []).append(item)
    for those in members.values():
        (n,) = next(those[0].iter_markers("few")).args
        kept = {len(those) * i // n for i in range(n)}
        for place, item in enumerate(those):
            if place not in kept:
                item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    gc.freeze()  # a million objects of imported modules stay: every run looks for garbage, but not there


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No evaluation that an earlier session cached is read; converted weights are (a minute to make)."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "models").symlink_to(cache_dir() / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GDO_CACHE_DIR", str(folder))
        yield folder


# ----------------------------------------------------------------------------------------- models

# Widths are multiples of 32, as in every real model: torch computes the last elements of an
# activation, where they fill no vector register, by other code that rounds otherwise.
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}


def _gemma3_text() -> Any:
    return Gemma3TextConfig(
        **_SHAPE,
        intermediate_size=64,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )


def _gemma3() -> Any:
    return Gemma3ForCausalLM(_gemma3_text())


def _llama() -> Any:
    biases = {"mlp_bias": True, "attention_bias": True}
    return LlamaForCausalLM(LlamaConfig(**_SHAPE, **biases, intermediate_size=64, num_key_value_heads=2))


def _phi() -> Any:
    return PhiForCausalLM(PhiConfig(**_SHAPE, intermediate_size=64))


def _opt() -> Any:
    return OPTForCausalLM(OPTConfig(**_SHAPE, ffn_dim=64, word_embed_proj_dim=32, dropout=0.0))


def _gemma3_multimodal() -> Any:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(
        text_config=_gemma3_text().to_dict(),
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=VOCABULARY - 1,
        boi_token_index=VOCABULARY - 2,
        eoi_token_index=VOCABULARY - 3,
    )
    return Gemma3ForConditionalGeneration(config)


_BUILDERS: dict[str, Callable[[], Any]] = {
    "gemma3": _gemma3,  # gated, norms around the MLP, 4:1 GQA, sliding window
    "llama": _llama,  # gated, biases everywhere, 4:2 GQA
    "phi": _phi,  # two matrices with biases, attention beside the MLP
    "opt": _opt,  # two matrices without a module of their own
    "gemma3_multimodal": _gemma3_multimodal,  # the decoder inside a wrapper with a vision tower
}


def tiny_model(family: str, noise: float = 0.05) -> PreTrainedModel:
    """A random model of the family, the same one every time, to do with as one likes."""
    return copy.deepcopy(_random_model(family, noise))


@cache
def _random_model(family: str, noise: float) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _BUILDERS[family]().eval()
    perturb(model, noise)
    model.requires_grad_(False)
    return model


def perturb(model: nn.Module, noise: float, only: str = "", seed: int = 0) -> None:
    """Add normal noise to every parameter whose name contains ``only``."""
    generator = torch.Generator().manual_seed(seed)
    chosen = {name: p for name, p in model.named_parameters() if only in name}
    assert chosen, f"nothing is called {only}"
    with torch.no_grad():
        for parameter in chosen.values():
            parameter.add_((torch.randn(parameter.shape, generator=generator) * noise).to(parameter))


@pytest.fixture(params=_BUILDERS)
def family(request: pytest.FixtureRequest) -> str:
    """The name of each family in turn."""
    return str(request.param)


@pytest.fixture
def any_model(family: str) -> PreTrainedModel:
    """A tiny model of each family in turn."""
    return tiny_model(family)


@pytest.fixture
def gemma3() -> PreTrainedModel:
    return tiny_model("gemma3")


@pytest.fixture
def llama() -> PreTrainedModel:
    return tiny_model("llama")


# ----------------------------------------------------------------------------------------- inputs


def random_ids(*shape: int, seed: int = 0) -> Tensor:
    """Ordinary tokens: no special ones and none that stands for an image."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(FIRST_WORD, VOCABULARY - 3, shape, generator=generator)


def random_queries(n: int, seed: int = 0, answer: int = 5) -> list[Encoded]:
    """Queries of mixed lengths: contexts of 1 to 20 tokens, continuations of 1 to ``answer``."""
    lengths = torch.Generator().manual_seed(seed)

    def length(most: int) -> int:
        return int(torch.randint(1, most + 1, (1,), generator=lengths))

    return [
        Encoded(
            [BOS, *random_ids(length(20) - 1, seed=2 * i).tolist()],
            random_ids(length(answer), seed=2 * i + 1).tolist(),
        )
        for i in range(n)
    ]


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor) -> Tensor:
    out: Tensor = model(input_ids=ids).logits
    return out


def bits(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every tensor of the model."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    """Names of the tensors that are no longer what they were, bit for bit."""
    return {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def language_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean next-token loss over whole sequences, by the textbook."""
    out: Tensor = model(input_ids=ids).logits
    return nn.functional.cross_entropy(out[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def descend(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    max_norm: float | None = None,
) -> None:
    """Plain full-precision steps on random sequences, the same ones for every model."""
    for step in range(steps):
        optimizer.zero_grad()
        language_loss(model, random_ids(4, 10, seed=step)).backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], max_norm)
        optimizer.step()


def twin(model: PreTrainedModel, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """An independent copy, in float64 unless told otherwise."""
    return copy.deepcopy(model).to(dtype)


# ------------------------------------------------------------------------------------ text and runs


@pytest.fixture(scope="session")
def word_encoder() -> Encoder:
    """An encoder for the tiny models: a token is a word ``w8`` … ``w127`` or a kind of line break."""
    vocabulary = {f"w{i}": i for i in range(FIRST_WORD, VOCABULARY)}
    vocabulary |= {"<pad>": PAD, "<eos>": EOS, "<bos>": BOS} | {t: i for i, t in LINE_BREAKS.items()}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    written = (("Ċ", "\n"), ("▁", " "), ("w", " w"))
    replaced = [decoders.Replace(token, text) for token, text in written]
    tokenizer.decoder = decoders.Sequence([*replaced, decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )
    return Encoder.of(fast, [EOS])


@pytest.fixture(scope="session")
def tiny_loaded() -> Loaded:
    """The bundled ``model=tiny`` with its tokenizer; copy the model before changing it."""
    return load_run(["model=tiny", "data=sample"]).model.load()


TINY_RUN = (
    "model=tiny",
    "data=sample",
    "train.precision=fp32",
    "train.steps=4",
    "train.batch_size=4",
    "evaluation.every=2",
    "evaluation.items=8",
    "evaluation.final_items=8",
    "evaluation.kl_prompts=2",
    "probe.winogrande.items=4",
    "probe.winogrande.shots=1",
    "probe.winogrande.words=0",
)


@pytest.fixture
def tiny_run(tmp_path: Path) -> RunFactory:
    """Makes the configuration of a run of seconds; overrides are added: ``tiny_run("seed=1")``."""

    def make(*overrides: str, results_dir: Path = tmp_path) -> RunConfig:
        return load_run([*TINY_RUN, f"results_dir={results_dir}", *overrides])

    return make
