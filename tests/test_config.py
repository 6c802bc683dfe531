"""Claims about the configuration: every option composes, a user's own files win, and a run has one id."""

import copy
import dataclasses
import os
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from importlib import import_module
from importlib.metadata import version
from itertools import chain, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gdo_cli.config import grid as grid_module
from gdo_cli.config.build import as_yaml, load_experiment, load_run
from gdo_cli.config.grid import load_grid
from gdo_cli.config.options import GROUPS, conf_dir, options, options_with
from gdo_cli.config.run_config import RunConfig, WandbConfig
from gdo_cli.data.config import DataConfig
from gdo_cli.evaluation.config import EvaluationConfig
from gdo_cli.methods.base import Method
from gdo_cli.models.loading import ModelSource
from gdo_cli.probes.base import Probe
from gdo_cli.support.errors import UserError
from gdo_cli.support.identity import identity
from gdo_cli.tasks.base import Task
from gdo_cli.training.config import TrainConfig

CONF = Path(__file__).resolve().parent.parent / "conf"
# Options that mean nothing until a value is given.
NEEDED = {
    "custom": ["model.path=somewhere"],
    "jsonl": ["task.path=rows.jsonl"],
    "wise_ft": ["method.run=some"],
    "averaged": ["method.run=some"],
}
SMALL = ["model=tiny", "method=sft"]


def bundled(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def needed(*chosen: str) -> list[str]:
    return [override for option in chosen for override in NEEDED.get(option, [])]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GDO_DATA_DIR", "GDO_RESULTS_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def small() -> RunConfig:
    return load_run(SMALL)


# ------------------------------------------------------------------------------------- composition


def test_every_folder_of_conf_is_a_group() -> None:
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == set(GROUPS)
    assert conf_dir().resolve() == CONF


def printed(*words: str) -> dict[str, Any]:
    """The whole composition, its references resolved."""
    content: dict[str, Any] = yaml.safe_load(as_yaml(list(words)))
    return content


# The parts that an option decides: a model brings rates of its own.
DECIDES = {"method": {"method"}, "task": {"task"}, "model": {"model", "train"}}
CHOICES = [(group, option) for group in DECIDES for option in bundled(group)]


@pytest.mark.few(6)
@pytest.mark.parametrize(("group", "option"), CHOICES, ids="=".join)
def test_an_option_decides_its_own_part_alone_so_that_any_two_compose(group: str, option: str) -> None:
    """What changes no other part leads to the union of both; every three are composed by `make test-slow`."""
    own, base = printed(f"{group}={option}", *needed(option)), printed()
    assert {key for key in own.keys() | base.keys() if own.get(key) != base.get(key)} <= DECIDES[group]
    run = load_run([f"{group}={option}", *needed(option)])
    default = load_run([]).name
    assert run.name == default | {group: option}
    assert isinstance(getattr(run, group), {"method": Method, "task": Task, "model": ModelSource}[group])
    assert all(isinstance(probe, Probe) for probe in run.probe.values())


@pytest.mark.slow
@pytest.mark.parametrize("model", bundled("model"))
@pytest.mark.parametrize("task", bundled("task"))
@pytest.mark.parametrize("method", bundled("method"))
def test_every_method_task_and_model_compose(method: str, task: str, model: str) -> None:
    run = load_run([f"method={method}", f"task={task}", f"model={model}", *needed(method, task, model)])
    others = {"data": "auto", "train": "default", "keep": "none"}
    assert run.name == {"method": method, "task": task, "model": model} | others
    assert isinstance(run.method, Method)
    assert isinstance(run.task, Task)
    assert isinstance(run.model, ModelSource)


@pytest.mark.parametrize("option", bundled("data"))
def test_every_data_option_composes(option: str) -> None:
    run = load_run([*SMALL, f"data={option}", "data.dir=null"])
    assert (run.name["data"], run.data.source) == (option, "hub" if option == "auto" else option)


@pytest.mark.parametrize("option", bundled("train"))
def test_every_train_option_composes(option: str) -> None:
    run = load_run([*SMALL, f"train={option}"])
    assert (run.name["train"], type(run.train)) == (option, TrainConfig)


OWN_FILES = {option: [f"probe.{option}.path=x"] for option in options_with("probe", "path")}
OWN_FILES |= {"lm_eval": ["probe.lm_eval.tasks=[a]"]}


@pytest.mark.few(2)
@pytest.mark.parametrize("option", bundled("probe"))
def test_every_probe_composes_under_its_own_name(option: str) -> None:
    assert list(load_run([*SMALL, f"probe=[{option}]", *OWN_FILES.get(option, ())]).probe) == [option]


def test_all_probes_compose_together() -> None:
    words = [f"probe=[{','.join(bundled('probe'))}]", *chain(*OWN_FILES.values())]
    assert sorted(load_run([*SMALL, *words]).probe) == bundled("probe")


def grid_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[list[str]]:
    """The points of a grid, not yet composed."""
    with monkeypatch.context() as patched:
        patched.setattr(grid_module, "load_run", lambda words, *_: SimpleNamespace(path=tuple(words)))
        return [point for point, _ in load_grid(list(words))]


PAPER = ("fig2", "fig3", "fig4a", "fig4b", "fig7", "fig8")
# Of the paper's models, the larger in its own experiments, by `make test`; all in all by `make test-slow`.
ON_MODELS = [
    pytest.param(
        option,
        model,
        marks=() if model == "gemma3_1b" or (model == "gemma3_4b" and option in PAPER) else pytest.mark.slow,
    )
    for option in bundled("experiment")
    for model in bundled("model")
]


def test_every_figure_of_the_paper_has_its_experiment() -> None:
    assert set(PAPER) <= set(bundled("experiment"))


@pytest.mark.few(6)
@pytest.mark.parametrize(("option", "model"), ON_MODELS)
def test_every_experiment_composes_for_every_model(
    monkeypatch: pytest.MonkeyPatch, option: str, model: str
) -> None:
    last = grid_of(monkeypatch, f"experiment={option}", f"model={model}", *needed(model))[-1]
    name = load_run(last).name
    assert (name["model"], name["experiment"]) == (model, option)


def test_the_papers_models_have_its_tasks_and_layers_and_a_laptop_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def grid(name: str, model: str) -> set[tuple[str, ...]]:
        points = grid_of(monkeypatch, f"experiment={name}", f"model={model}")
        return {tuple(w for w in words if w.startswith(("task=", "layers="))) for words in points}

    layers = {f"layers={n}" for n in (1, 3, 5, 7, 10, 15, 20)}
    assert grid("fig4a", "gemma3_1b") == set(product(["task=scitail"], layers))
    assert grid("fig4b", "gemma3_4b") == set(product(["task=mathqa"], layers))
    assert grid("fig3", "gemma3_1b") == set(
        product(("task=mtnt", "task=scitail", "task=qasc"), ("layers=all", "layers=10"))
    )
    for laptop in ("gemma3_270m", "smollm2_135m"):
        assert grid("fig3", laptop) == set(
            product(("task=multi30k", "task=scitail", "task=qasc"), ("layers=all", "layers=6"))
        )


def test_published_runs_of_the_1b_are_the_papers_and_on_whole_test_sets() -> None:
    run = load_run(["experiment=fig2", "model=gemma3_1b", "train=published"])
    assert (run.train.lr, run.train.lr_scheduler, run.train.warmup_steps) == (1e-3, "constant", 0)
    assert (run.evaluation.final_items, run.probe["winogrande"].items) == (None, None)


def names_options(words: set[str], content: dict[str, Any]) -> bool:
    """Whether all of the words choose an option that there is, of a part that the experiment leaves open."""
    chosen = [word.partition("=") for word in words]
    return all(
        group in GROUPS and group not in content and name in bundled(group) for group, _, name in chosen
    )


@pytest.mark.few(5)
@pytest.mark.parametrize("option", bundled("experiment"))
def test_every_value_that_an_experiment_sweeps_over_composes(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """Options are composed elsewhere; here, where the experiment or a point sets more of their part."""
    content = yaml.safe_load((CONF / "experiment" / f"{option}.yaml").read_text("utf-8"))
    seen: set[str] = set()
    for words in grid_of(monkeypatch, f"experiment={option}"):
        new = set(words) - seen
        seen |= new
        more = {word.partition(".")[0] for word in words if "." in word.partition("=")[0]}
        if new and not (len(seen) > len(new) and names_options(new, content | dict.fromkeys(more))):
            assert load_run(words).name["experiment"] == option
    assert seen


@pytest.mark.slow
@pytest.mark.parametrize("option", bundled("experiment"))
def test_every_point_of_every_experiment_is_a_run_of_its_own(option: str) -> None:
    grid = load_grid([f"experiment={option}"])
    assert len({(run.id, run.seed) for _, run in grid}) == len(grid)


def test_published_training_is_the_papers() -> None:
    train = load_run([*SMALL, "train=published"]).train
    assert (train.lr, train.lr_scheduler, train.warmup_steps) == (1e-3, "constant", 0)


def test_rate_and_warm_up_are_the_models_own_unless_given() -> None:
    own, given = load_run(["model=gemma3_1b"]), load_run(["model=gemma3_1b", "train.lr=3e-4"])
    assert (own.train.lr, own.train.warmup_steps) == (own.model.lr, own.model.warmup_steps)
    assert given.train.lr == 3e-4


def test_nothing_of_omegaconf_leaves_the_border() -> None:
    run = load_run(["layers=[0,5]", "task=jsonl", *needed("jsonl")])

    def plain(value: Any) -> bool:
        if dataclasses.is_dataclass(value):
            return all(plain(getattr(value, f.name)) for f in dataclasses.fields(value))
        if isinstance(value, dict):
            return all(map(plain, value.values()))
        return not OmegaConf.is_config(value) and (not isinstance(value, list) or all(map(plain, value)))

    assert plain(run)


def test_a_hydra_that_lacks_what_gdo_uses_is_named_with_the_versions_that_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "hydra._internal.callbacks", None)
    monkeypatch.delitem(sys.modules, "gdo_cli.config.compose")
    with pytest.raises(UserError) as caught:
        import_module("gdo_cli.config.compose")
    project = tomllib.loads((CONF.parent / "pyproject.toml").read_text())["project"]
    (wanted,) = (word for word in project["dependencies"] if word.startswith("hydra-core"))
    found = version("hydra-core")
    assert str(caught.value) == f"hydra-core {found}: gdo needs another: pip install '{wanted}'"


def test_a_program_that_uses_hydra_itself_keeps_its_own() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        load_run(SMALL)
        assert GlobalHydra.instance().hydra is before is not None


def test_one_composition_leaves_nothing_behind_for_the_next(small: RunConfig) -> None:
    with pytest.raises(UserError):
        load_run(["task=nosuch"])
    load_run([*SMALL, "train.steps=1", "seed=9"])
    assert identity(load_run(SMALL)) == identity(small)


def test_the_printed_configuration_is_the_run() -> None:
    printed = yaml.safe_load(as_yaml([*SMALL, "train.lr=1e-4", "layers=all", "seed=3"]))
    assert printed["train"]["lr"] == 1e-4
    assert printed["seed"] == 3
    assert printed["method"]["_target_"] == "gdo_cli.methods.sft.SFT"
    assert not {"sweep", "figure", "hydra", "name"} & set(printed)


def test_data_and_results_folders_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDO_DATA_DIR", "rows")
    monkeypatch.setenv("GDO_RESULTS_DIR", "elsewhere")
    run = load_run(SMALL)
    assert (run.data.dir, run.results_dir) == ("rows", "elsewhere")


@pytest.mark.parametrize(
    ("schema", "node"),
    [(DataConfig, "data"), (TrainConfig, "train"), (EvaluationConfig, "evaluation"), (WandbConfig, "wandb")],
)
def test_yaml_names_every_field_of_the_schema(schema: type, node: str) -> None:
    printed = yaml.safe_load(as_yaml(SMALL))[node]
    assert sorted(printed) == sorted(f.name for f in dataclasses.fields(schema))


# ------------------------------------------------------------------------------- a user's own files


def write(folder: Path, name: str, text: str) -> Path:
    """A YAML file in a user's own configuration folder; returns the folder."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return folder


def test_an_own_option_is_added(tmp_path: Path) -> None:
    own = write(tmp_path, "method/thrice.yaml", "defaults: [g_freeze]\nk: 3\n")
    run = load_run(["model=tiny", "method=thrice"], own)
    assert (run.name["method"], identity(run.method)["k"]) == ("thrice", 3)
    assert options("method", own) == sorted([*bundled("method"), "thrice"])


def test_an_own_option_wins_over_the_bundled_one_of_its_name(tmp_path: Path) -> None:
    own = write(tmp_path, "model/tiny.yaml", (CONF / "model/tiny.yaml").read_text() + "vocab_size: 300\n")
    assert identity(load_run(SMALL, own).model)["vocab_size"] == 300


def test_bundled_options_stay_beside_own_ones(small: RunConfig, tmp_path: Path) -> None:
    assert load_run(SMALL, tmp_path).id == small.id


def test_own_options_are_gone_with_their_folder(tmp_path: Path) -> None:
    own = write(tmp_path, "train/mine.yaml", "defaults: [default]\nsteps: 3\n")
    assert load_run([*SMALL, "train=mine"], own).train.steps == 3
    with pytest.raises(UserError, match="train=mine: no such option"):
        load_run([*SMALL, "train=mine"])


def test_the_name_of_an_own_option_is_suggested(tmp_path: Path) -> None:
    own = write(tmp_path, "train/gentle.yaml", "defaults: [default]\n")
    with pytest.raises(UserError, match="train=gentel: no such option; did you mean 'gentle'"):
        load_run([*SMALL, "train=gentel"], own)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_an_own_folder_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"--config-dir .*{name}: no such directory"):
        load_run(SMALL, tmp_path / name)


@pytest.mark.parametrize(
    "content",
    ["_target_: [unclosed\n", "- a list\n", "", "_target_: nosuch.Method\n", "defaults: [nosuch]\n", "\0"],
    ids=["not YAML", "a list", "empty", "no such class", "no such base", "binary"],
)
def test_an_own_file_that_is_broken_is_named(tmp_path: Path, content: str) -> None:
    own = write(tmp_path, "method/broken.yaml", content)
    with pytest.raises(UserError, match=r"method|nosuch"):
        load_run(["model=tiny", "method=broken"], own)


def test_a_target_that_is_no_dataclass_is_never_called(tmp_path: Path) -> None:
    proof = tmp_path / "called"
    own = write(tmp_path, "method/evil.yaml", f"_target_: os.mkdir\npath: {proof}\n")
    with pytest.raises(UserError, match=r"method\._target_=os\.mkdir: not a dataclass"):
        load_run(["model=tiny", "method=evil"], own)
    assert not proof.exists()


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "pathlib.Path", "subprocess.Popen"])
@pytest.mark.parametrize("group", ["model", "task", "method", "probe.winogrande"])
def test_a_class_or_function_that_is_no_dataclass_is_refused(group: str, target: str) -> None:
    with pytest.raises(UserError, match="not a dataclass"):
        load_run(["model=tiny", f"{group}._target_={target}"])


@pytest.mark.parametrize("target", ["gdo_cli.methods.sft.SFT", "gdo_cli.config.run_config.WandbConfig"])
def test_a_dataclass_of_another_group_is_no_task(target: str) -> None:
    with pytest.raises(UserError, match="task"):
        load_run([*SMALL, f"task._target_={target}", "~task.dataset"])


def test_a_mandatory_value_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"model\.path: needs a value; give it as model\.path="):
        load_run(["model=custom"])


# --------------------------------------------------------------------------------------------- grid

EXPERIMENT = """# @package _global_
defaults:
  - override /method: sft
  - override /model: tiny
train: {steps: 7}
sweep: {seed: "0,1", train.lr: "1e-5,1e-4"}
figure: {kind: curves, title: Mine}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write(tmp_path, "experiment/mine.yaml", EXPERIMENT)


def test_every_experiment_and_model_that_is_swept_over_brings_its_own_grid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = grid_of(monkeypatch, "experiment=fig4a,fig3", "model=gemma3_270m,gemma3_1b")
    found = Counter(tuple(words[:2]) for words in grid)
    counts = [5, 7, 6, 6]
    chosen = product(("experiment=fig4a", "experiment=fig3"), ("model=gemma3_270m", "model=gemma3_1b"))
    assert found == dict(zip(chosen, counts, strict=True))


def test_a_value_of_one_method_can_stand_beside_a_sweep_of_methods() -> None:
    """The default method has no such key."""
    grid = load_grid(["model=tiny", "method=zero_init,zero_init", "method.train=all", "seed=0,1"])
    assert {run.method.train for _, run in grid} == {"all"}  # type: ignore[attr-defined]
    assert len(grid) == 2


def points(*overrides: str, config_dir: Path | None = None) -> list[tuple[str, int, float]]:
    grid = load_grid(list(overrides), config_dir)
    return [(run.name["method"], run.seed, run.train.lr) for _, run in grid]


SEVERAL = """# @package _global_
defaults:
  - override /model: tiny
sweep:
  - {method: "sft,mlp_only", train.lr: 1e-5}
  - {method: mlp_only, train.lr: "1e-5,1e-4"}
"""


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [("sft", 0, 1e-5), ("mlp_only", 0, 1e-5), ("mlp_only", 0, 1e-4)]),
        (["method=mlp_only"], [("mlp_only", 0, 1e-5), ("mlp_only", 0, 1e-4)]),
        (["train.lr=1e-4"], [("mlp_only", 0, 1e-4)]),
        (["method=sft,g_train"], [("sft", 0, 1e-5)]),
        (["method=g_train", "train.lr=3e-3"], [("g_train", 0, 3e-3)]),
        (["method=sft", "seed=1,2"], [("sft", 1, 1e-5), ("sft", 2, 1e-5)]),
    ],
)
def test_of_several_grids_the_overrides_choose(
    tmp_path: Path, words: list[str], expected: list[tuple[str, int, float]]
) -> None:
    own = write(tmp_path, "experiment/several.yaml", SEVERAL)
    assert points("experiment=several", *words, config_dir=own) == expected


MAPPED = """# @package _global_
defaults:
  - override /model: tiny
sweep:
  - method: mlp_only
    train.lr_scale: {gate_proj: 0.5, up_proj: 0.25}
    seed: "0,1"
"""


@pytest.mark.parametrize("grid", [MAPPED, MAPPED.replace("  - method", "  method").replace("    ", "  ")])
def test_a_mapping_in_a_sweep_is_one_value(tmp_path: Path, grid: str) -> None:
    own = write(tmp_path, "experiment/mapped.yaml", grid)
    found = [(run.train.lr_scale, run.seed) for _, run in load_grid(["experiment=mapped"], own)]
    assert found == [({"gate_proj": 0.5, "up_proj": 0.25}, seed) for seed in (0, 1)]


def test_without_a_sweep_the_grid_is_one_run(small: RunConfig) -> None:
    ((words, run),) = load_grid(SMALL)
    assert (words, run.id) == (SMALL, small.id)


def test_the_grid_is_the_product_in_hydras_order() -> None:
    grid = load_grid(["model=tiny", "method=sft,g_freeze", "seed=range(3)"])
    expected = [[f"method={m}", f"seed={s}"] for m in ("sft", "g_freeze") for s in range(3)]
    assert [words for words, _ in grid] == [["model=tiny", *words] for words in expected]
    assert [(r.name["method"], r.seed) for _, r in grid] == list(product(("sft", "g_freeze"), range(3)))


def test_each_point_is_the_run_of_its_own_words() -> None:
    for words, run in load_grid([*SMALL, "train.lr=1e-5,1e-4"]):
        assert (run.id, run.overrides) == (load_run(words).id, words)


def test_a_glob_sweeps_over_the_options_of_a_group() -> None:
    grid = load_grid([*SMALL, "train=glob(*)"])
    assert [run.name["train"] for _, run in grid] == bundled("train")


def test_lists_of_layers_are_swept_whole() -> None:
    grid = load_grid(["model=tiny", "layers=[0,1],[2]"])
    assert [run.layers for _, run in grid] == [[0, 1], [2]]


def test_an_experiment_brings_its_own_sweep(own: Path) -> None:
    rates = [("sft", seed, lr) for seed, lr in product((0, 1), (1e-5, 1e-4))]
    assert points("experiment=mine", config_dir=own) == rates


def test_the_command_line_wins_over_the_sweep_of_the_experiment(own: Path) -> None:
    assert points("experiment=mine", "seed=5", config_dir=own) == [("sft", 5, 1e-5), ("sft", 5, 1e-4)]
    assert points("experiment=mine", "train.lr=1", "seed=2,3", config_dir=own) == [
        ("sft", 2, 1),
        ("sft", 3, 1),
    ]


def test_a_sweep_of_the_command_line_multiplies_that_of_the_experiment(own: Path) -> None:
    assert len(points("experiment=mine", "method=sft,g_freeze", config_dir=own)) == 8


def test_what_an_experiment_sets_is_set_and_can_be_overridden(own: Path) -> None:
    assert load_run(["experiment=mine"], own).train.steps == 7
    assert load_run(["experiment=mine", "train.steps=9"], own).train.steps == 9


def test_the_sweep_of_an_experiment_is_no_part_of_a_run(own: Path) -> None:
    plain = load_run([*SMALL, "train.steps=7"])
    assert load_run(["experiment=mine"], own).id == plain.id


def test_the_figure_of_an_experiment_is_plain_data(own: Path) -> None:
    assert load_experiment("mine", own) == {"kind": "curves", "title": "Mine"}


def test_an_experiment_without_a_figure_has_none(tmp_path: Path) -> None:
    own = write(tmp_path, "experiment/bare.yaml", "# @package _global_\n")
    assert load_experiment("bare", own) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.lr=1e-5,-1"], r"train\.lr=-1\.0: must be positive"),
        (["method=sft,stf"], "method=stf: no such option; did you mean 'sft'"),
        (["seed=0,", "method=sft"], "seed=0,"),
        (["train.lr=interval(0,1)"], r"train\.lr|interval"),
        (["method=sft,g_freeze", "layers=[0]"], r"layers=\[0\]: method=sft takes no layers"),
    ],
)
def test_a_grid_with_one_bad_point_is_refused_as_a_whole(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_grid(["model=tiny", *words])


# ------------------------------------------------------------------------------------------- the id

RUNS = [
    ["layers=[0,5]"],
    ["method=sft", "model=tiny", "probe=[winogrande,arc_easy,lambada,perplexity]"],
    ["method=g_train", "model=custom", "task=jsonl", *NEEDED["custom"], *NEEDED["jsonl"]],
    ["task=qasc", "model=gemma3_1b", "train=quick"],
]
Path_ = tuple[str, ...]


def leaves(value: Any, at: Path_ = (), counts: bool = True) -> Iterator[tuple[Path_, bool]]:
    """Every field that holds no dataclass, as its path, and whether it is declared part of the id."""
    if dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            yield from leaves(
                getattr(value, f.name), (*at, f.name), counts and f.metadata.get("identity", True)
            )
    elif isinstance(value, dict) and any(map(dataclasses.is_dataclass, value.values())):
        for key, item in value.items():
            yield from leaves(item, (*at, key), counts)
    else:
        yield at, counts


def changed(value: Any) -> Any:
    """Another value of much the same type."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, dict):
        return value | {"more": "of it"}
    return [*value, 7] if isinstance(value, list) else value + type(value)(1)


def with_change(run: RunConfig, path: Path_) -> RunConfig:
    other = copy.deepcopy(run)
    *parents, last = path
    owner: Any = reduce(lambda at, key: at[key] if isinstance(at, dict) else getattr(at, key), parents, other)
    object.__setattr__(owner, last, changed(getattr(owner, last)))
    return other


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_the_id_changes_with_every_field_that_decides_numbers(words: list[str]) -> None:
    run = load_run(words)
    decide = [path for path, counts in leaves(run) if counts and path != ("seed",)]
    assert [path for path in decide if with_change(run, path).id == run.id] == []
    assert len(decide) > 30


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_the_id_ignores_every_field_that_decides_none(words: list[str]) -> None:
    run = load_run(words)
    others = [path for path, counts in leaves(run) if not counts]
    assert [path for path in others if with_change(run, path).id != run.id] == []
    assert {path[-1] for path in others} >= {"results_dir", "save_weights", "token_budget", "mode"}


@pytest.mark.parametrize(
    "words",
    [
        ["results_dir=elsewhere"],
        ["wandb.mode=online", "wandb.project=other"],
        ["data.offline=true"],
        ["save_weights=false"],
        ["evaluation.token_budget=1024"],
        ["seed=7"],
        ["train.lr=0.001", "model.lr=5"],
        ["train.warmup_steps=0", "model.warmup_steps=5"],
        ["train.lr=1e-3"],
        ["train.steps=300"],
        ["++train.weight_decay=0"],
    ],
    ids=" ".join,
)
def test_the_id_stays_where_nothing_computed_changes(small: RunConfig, words: list[str]) -> None:
    assert load_run([*SMALL, *words]).id == small.id


@pytest.mark.parametrize(
    "words",
    [
        ["train.lr=2e-3"],
        ["model.lr=2e-3"],  # it becomes train.lr
        ["train.steps=301"],
        ["train.loss_on=sequence"],
        ["train.precision=fp32"],
        ["evaluation.every=10"],
        ["evaluation.items=10"],
        ["data.source=sample"],
        ["data.max_bad_rows=0.5"],
        ["task=qasc"],
        ["method=g_freeze"],
        ["model.hidden_size=32"],
        ["probe=[lambada]"],
        ["probe=[]"],
        ["probe.winogrande.items=3"],
        ["task.dataset.splits.train=all"],
        ["+task.dataset.hub.revision=v1"],
    ],
    ids=" ".join,
)
def test_the_id_moves_where_something_computed_changes(small: RunConfig, words: list[str]) -> None:
    assert load_run([*SMALL, *words]).id != small.id


def test_the_id_does_not_hang_on_the_name_of_an_option(small: RunConfig, tmp_path: Path) -> None:
    own = write(tmp_path, "method/renamed.yaml", (CONF / "method/sft.yaml").read_text())
    assert load_run(["model=tiny", "method=renamed"], own).id == small.id


def test_the_id_does_not_hang_on_the_order_of_overrides() -> None:
    words = ["train.lr=1e-4", "task=qasc", "probe=[lambada,arc_easy]", *SMALL]
    turned = [*reversed(words[:2]), "probe=[arc_easy,lambada]", *SMALL]
    assert load_run(words).id == load_run(turned).id


@given(first=st.floats(1e-9, 1), second=st.floats(1e-9, 1))
def test_ids_agree_exactly_when_the_rates_do(small: RunConfig, first: float, second: float) -> None:
    rates = [replace(small, train=replace(small.train, lr=lr)) for lr in (first, second)]
    assert (rates[0].id == rates[1].id) == (first == second)


def test_the_id_is_the_same_in_every_process() -> None:
    words = RUNS[1]
    code = f"from gdo_cli.config.build import load_run; print(load_run({words!r}).id)"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == load_run(words).id
