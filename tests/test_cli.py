"""Claims about the command line: it answers fast, and a mistake is one line that names it and the mend."""

import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from inspect import getdoc
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from conftest import recorded
from rich.text import Text
from typer.testing import CliRunner

from gdo_cli.cli.analyze import analyze
from gdo_cli.cli.app import app
from gdo_cli.cli.tables import OWN, PAPERS
from gdo_cli.config.options import GROUPS, about, options
from gdo_cli.config.run_config import RunConfig
from gdo_cli.runs.record import RunResult
from gdo_cli.support.errors import RunFailed, UserError

CONF = Path(__file__).resolve().parent.parent / "conf"
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]  # type: ignore[union-attr]
Invoke = Callable[..., Any]


@pytest.fixture
def gdo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs the command line in an empty folder, with no settings of the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("GDO_DATA_DIR", "GDO_RESULTS_DIR"):
        monkeypatch.delenv(name, raising=False)
    return lambda *words: CliRunner().invoke(app, list(words))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunConfig, bool]]:
    """Stands in for the training: collects what would have been run."""
    calls: list[tuple[RunConfig, bool]] = []

    def run(config: RunConfig, force: bool = False) -> RunResult:
        calls.append((config, force))
        return RunResult(
            Path("runs/a"),
            recorded({"method_label": "SFT", "name": config.name, "final": {"a/b": 0.25}}),
        )

    replace_run(monkeypatch, run)
    return calls


def replace_run(monkeypatch: pytest.MonkeyPatch, run: Callable[..., RunResult]) -> None:
    module = ModuleType("gdo_cli.experiment.run")
    module.__dict__["run"] = run
    monkeypatch.setitem(sys.modules, "gdo_cli.experiment.run", module)


def assert_refused(result: Any, *fragments: str) -> None:
    """Exit code 2 and one line on standard error that holds all the fragments."""
    assert (result.exit_code, result.stdout) == (2, ""), result.exception
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert [fragment for fragment in fragments if fragment not in result.stderr] == []


# ------------------------------------------------------------------------------------------ mistakes

POSITIVE, NOT_NEGATIVE = "must be positive", "must not be negative"
LAYERS = "give all, a number of layers, or a list such as [0,5,11]"
SCHEDULERS = "constant, constant_with_warmup, cosine, inverse_sqrt, linear"
STEPS_OR_EPOCHS = "give train.steps or train.epochs: one, and the other as null"
WHOLE_MODEL = "method=sft takes no layers"

# Overrides and what their message must hold: the culprit; allowed values, nearest match or mend.
MISTAKES: list[tuple[str, ...]] = [
    # a wrong type
    ("train.lr=abc", "train.lr=abc: must be a number"),
    ("train.lr=null", "train.lr=null: must not be null"),
    ("train.lr=true", "train.lr=True: must be a number"),
    ("train.lr=[1]", "train.lr=[1]: must be a number"),
    ("train.lr=", "train.lr=: must be a number"),
    ("train.steps=1.5", "train.steps=1.5: must be a whole number"),
    ("train.batch_size=many", "train.batch_size=many: must be a whole number"),
    ("train.batch_size=null", "train.batch_size=null: must not be null"),
    ("train.warmup_steps=0.5", "train.warmup_steps=0.5: must be a whole number"),
    ("train.max_grad_norm=abc", "train.max_grad_norm=abc: must be a number"),
    ("data.max_bad_rows=few", "data.max_bad_rows=few: must be a number"),
    ("data.offline=perhaps", "data.offline=perhaps: "),
    ("evaluation.items=abc", "evaluation.items=abc: must be a whole number"),
    ("evaluation.every=null", "evaluation.every=null: must not be null"),
    ("wandb.project=null", "wandb.project=null: must not be null"),
    ("method.k=two", "method.k=two: must be a whole number"),
    ("method.k=2.5", "method.k=2.5: must be a whole number"),
    ("model.lr=abc", "model.lr=abc: must be a number"),
    ("model=tiny model.hidden_size=wide", "model.hidden_size=wide: must be a whole number"),
    ("task=qasc task.facts=maybe", "task.facts=maybe: "),
    ("task=mtnt task.max_new_tokens=abc", "task.max_new_tokens=abc: must be a whole number"),
    ("task.dataset=3", "task.dataset=3: ", "Dataset"),
    ("task.dataset.name=null", "task.dataset.name: must not be null"),
    ("probe.winogrande.items=abc", "probe.winogrande.items=abc: must be a whole number"),
    ("probe.winogrande.dataset.name=null", "probe.winogrande.dataset.name: must not be null"),
    ("seed=abc", "seed=abc: must be a whole number"),
    ("seed=1.5", "seed=1.5: must be a whole number"),
    ("seed=null", "seed=null: must not be null"),
    ("seed=true", "seed=True: must be a whole number"),
    ("save_weights=maybe", "save_weights=maybe: "),
    ("results_dir=null", "results_dir=null: must not be null"),
    # a value out of range
    ("train.lr=-1", "train.lr=-1", POSITIVE),
    ("train.lr=0", "train.lr=0", POSITIVE),
    ("train.lr=nan", "train.lr=nan"),
    ("train.lr=inf", "train.lr=inf"),
    ("train.steps=0", "train.steps=0", POSITIVE),
    ("train.steps=null train.epochs=-1", "train.epochs=-1", POSITIVE),
    ("train.batch_size=0", "train.batch_size=0", POSITIVE),
    ("train.gradient_accumulation_steps=0", "train.gradient_accumulation_steps=0", POSITIVE),
    ("train.max_length=0", "train.max_length=0", POSITIVE),
    ("train.weight_decay=-0.1", "train.weight_decay=-0.1", NOT_NEGATIVE),
    ("train.warmup_steps=-1", "train.warmup_steps=-1", NOT_NEGATIVE),
    ("train.max_grad_norm=-1", "train.max_grad_norm=-1"),
    ("train.adam_beta1=1.5", "train.adam_beta1=1.5"),
    ("train.adam_beta2=-1", "train.adam_beta2=-1"),
    ("train.adam_epsilon=-1", "train.adam_epsilon=-1"),
    ("data.max_bad_rows=2", "data.max_bad_rows=2", "a share, 0 to 1"),
    ("data.max_bad_rows=-0.1", "data.max_bad_rows=-0.1", "a share, 0 to 1"),
    ("evaluation.every=0", "evaluation.every=0", POSITIVE),
    ("evaluation.items=0", "evaluation.items=0", POSITIVE),
    ("evaluation.final_items=-1", "evaluation.final_items=-1", NOT_NEGATIVE),
    ("evaluation.kl_prompts=-1", "evaluation.kl_prompts=-1", NOT_NEGATIVE),
    ("evaluation.token_budget=0", "evaluation.token_budget=0"),
    ("probe.winogrande.items=0", "items=0"),
    ("probe.winogrande.shots=-1", "shots=-1"),
    ("task=mtnt task.max_new_tokens=-1", "max_new_tokens=-1"),
    ("seed=-1", "seed=-1", "0 or more"),
    # a word that is not known
    ("train.loss_on=anwser", "train.loss_on=anwser", "did you mean 'answer'?", "answer, sequence"),
    ("train.precision=bf61", "train.precision=bf61", "did you mean 'bf16'?", "auto, bf16, fp32"),
    ("train.lr_scheduler=cosin", "train.lr_scheduler=cosin", "did you mean 'cosine'?", SCHEDULERS),
    ("train.lr_scheduler=step", "train.lr_scheduler=step", SCHEDULERS),
    ("data.source=web", "data.source=web", "auto, hub, local, sample"),
    ("wandb.mode=onlin", "wandb.mode=onlin", "did you mean 'online'?", "disabled, offline, online"),
    ("task=qasc task.answer=word", "task.answer=word", "letter, text"),
    ("task=jsonl task.path=a task.score=rouge", "task.score=rouge", "bleu, chrf, exact_match, f1"),
    # an option that does not exist
    ("task=scitial", "task=scitial", "did you mean 'scitail'?", "mathqa", "qasc"),
    ("task=zzz", "task=zzz: no such option", "scitail"),
    ("method=gfreeze", "method=gfreeze", "did you mean 'g_freeze'?", "sft"),
    ("model=gemma", "model=gemma: no such option", "did you mean 'gemma3", "tiny"),
    ("data=lokal", "data=lokal", "did you mean 'local'?", "auto, hub, local, sample"),
    ("train=qick", "train=qick", "did you mean 'quick'?"),
    ("train=", "train=", "default"),
    ("probe=[winogrand]", "probe=winogrand", "did you mean 'winogrande'?", "lambada"),
    ("probe=winogrande2", "probe=winogrande2", "did you mean 'winogrande'?"),
    ("experiment=nosuch", "experiment=nosuch: no such option"),
    ("task=null", "task=null"),
    ("method=null", "method=null"),
    ("train=3", "train=3"),
    ("task=[scitail,qasc]", "task="),
    ("task={a:1}", "task"),
    ("=3", "=3"),
    # a key that does not exist
    ("sed=1", "sed: no such key", "did you mean 'seed'?", "layers"),
    ("tasks=scitail", "tasks: no such key", "did you mean 'task'?"),
    ("optimizer=adam", "optimizer: no such key", "choose from: data, evaluation"),
    ("train.lrr=1", "train.lrr: no such key", "did you mean 'lr'?", "batch_size"),
    ("data.dirr=rows", "data.dirr: no such key", "did you mean 'dir'?"),
    ("evaluation.evry=3", "evaluation.evry: no such key", "did you mean 'every'?"),
    ("wandb.projekt=x", "wandb.projekt: no such key", "did you mean 'project'?"),
    ("method.kk=2", "method.kk: no such key", "did you mean 'k'?"),
    ("model=gemma3_1b model.pth=x", "model.pth: no such key", "did you mean 'path'?"),
    ("method=sft method.k=2", "method.k: no such key"),
    ("probe.winogrande.itemz=3", "probe.winogrande.itemz: no such key", "did you mean 'items'?"),
    ("probe.arc_easy.items=3", "probe.arc_easy"),
    ("task.dataset.splitz=1", "task.dataset.splitz: no such key", "did you mean 'splits'?"),
    ("task.dataset.hub.pth=1", "task.dataset.hub.pth: no such key", "did you mean 'path'?"),
    ("task.metric=bleu", "task.metric: no such key"),
    ("name=mine", "name: no such key"),
    ("name.task=mine", "name.task: no such key"),
    ("+foo=1", "foo: no such key", "choose from: layer_rule, layers"),
    ("++foo.bar=1", "foo: no such key"),
    ("+train.foo=1", "train.foo: no such key", "batch_size"),
    ("+probe.foo=3", "probe.foo"),
    ("~nosuch", "nosuch"),
    # what cannot be left out
    ("~task", "~task: a run needs one", "scitail"),
    ("~method", "~method: a run needs one", "g_freeze"),
    ("~task.dataset", "task", "dataset"),
    ("~layers", "layers"),
    ("model=custom", "model.path: needs a value; give it as model.path="),
    ("model=custom model.path=", "model.path"),
    ("train.lr=???", "train.lr: needs a value; give it as train.lr="),
    ("task=jsonl", "task.path: name the file"),
    # what does not go together
    ("layers=3 method=sft", "layers=3", WHOLE_MODEL, "g_freeze"),
    ("layers=[0,1] method=sft", "layers=[0, 1]", WHOLE_MODEL),
    ("train.epochs=1", STEPS_OR_EPOCHS),
    ("train.steps=null", STEPS_OR_EPOCHS),
    ("train.precision=fp16", "train.precision=fp16", "overflow", "use bf16 or fp32"),
    ("method.k=1", "method.k=1", "at least 2"),
    ("method.k=0", "method.k=0", "at least 2"),
    # layers
    ("layers=0", "layers=0", LAYERS),
    ("layers=-1", "layers=-1", LAYERS),
    ("layers=some", "layers=some", LAYERS),
    ("layers=true", "layers=True", LAYERS),
    ("layers=[]", "layers=[]", LAYERS),
    ("layers=[-1]", "layers=[-1]", LAYERS),
    ("layers=[a]", "layers=['a']", LAYERS),
    ("layers=1.5", "layers=1.5", LAYERS),
    ("layers=null", "layers=None", LAYERS),
    ("method.layers=none", "layers=none", LAYERS),
    # a sweep is no run
    ("seed=0,1", "seed=0,1", "gdo sweep"),
    ("method=sft,g_freeze", "method=sft,g_freeze", "gdo sweep"),
    ("train.lr=range(3)", "train.lr=range(3)", "gdo sweep"),
    ("train.lr=choice(1,2)", "train.lr=choice(1,2)", "gdo sweep"),
    ("task=glob(*)", "task=glob(*)", "gdo sweep"),
    # what is to be built
    ("task._target_=os.system", "task._target_=os.system: not a dataclass"),
    ("model._target_=builtins.print", "model._target_=builtins.print: not a dataclass"),
    ("task._target_=nosuch.Thing", "task._target_=nosuch.Thing: cannot be imported"),
    ("task._target_=gdo_cli.tasks.scitail.Nope", "task._target_", "cannot be imported", "Nope"),
    ("task._target_=null", "task._target_=None: cannot be imported"),
    ("'task.prompt=\"{a\"' task=jsonl task.path=x", "task.prompt='{a'", "not a template"),
    ("'task.completion=\"b}\"' task=jsonl task.path=x", "task.completion='b}'", "not a template"),
    # what is no override
    ("train", "train: not an override", "key=value"),
    ("train.lr", "train.lr: not an override", "key=value"),
    ("train.lr=abc)", "train.lr=abc)", "key=value"),
    ('"train.lr=\'abc"', "train.lr='abc"),
    ("'train.lr=${model.lr'", "train.lr=${model.lr"),
    ("'train.lr=${nosuch}'", "nosuch", "not found"),
    ("'train.lr=${oc.env:NO_SUCH_VARIABLE}'", "NO_SUCH_VARIABLE"),
    ("+task=qasc", "task"),
    ("--config-dir missing", "--config-dir missing: no such directory"),
]


@pytest.mark.few(50)
@pytest.mark.parametrize(("words", "fragments"), [pytest.param(m[0], m[1:], id=m[0]) for m in MISTAKES])
def test_a_mistake_is_one_line_with_the_culprit_and_the_mend(
    gdo: Invoke, trained: list[Any], words: str, fragments: tuple[str, ...]
) -> None:
    assert_refused(gdo("train", *shlex.split(words)), *fragments)
    assert trained == []
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("section", ["train", "data", "evaluation", "wandb", "seed", "results_dir"])
@pytest.mark.usefixtures("trained")
def test_what_is_left_out_has_its_default_or_is_asked_for(gdo: Invoke, section: str) -> None:
    result = gdo("train", "model=tiny", f"~{section}")
    if result.exit_code != 0:
        assert_refused(result, f"error: ~{section}: a run needs one")


@pytest.mark.parametrize("words", ["method=sft method.k=2", "method=sft method.layers=3"])
@pytest.mark.usefixtures("trained")
def test_a_key_is_never_suggested_for_itself(gdo: Invoke, words: str) -> None:
    assert "did you mean" not in gdo("train", *words.split()).stderr


@pytest.mark.few(1)
@pytest.mark.parametrize("command", ["train", "sweep", "config"])
@pytest.mark.usefixtures("trained")
def test_every_command_that_composes_refuses_alike(gdo: Invoke, command: str) -> None:
    assert_refused(gdo(command, "train.lrr=1"), "train.lrr: no such key; did you mean 'lr'?")


def test_an_unknown_option_is_a_usage_error(gdo: Invoke) -> None:
    result = gdo("train", "--bogus")
    assert result.exit_code == 2
    assert "--bogus" in result.stderr


# ------------------------------------------------------------------------------------------- commands


def test_train_hands_over_the_run_and_prints_its_result(gdo: Invoke, trained: list[Any]) -> None:
    result = gdo("train", "model=tiny", "method=sft", "seed=4")
    assert result.exit_code == 0, result.exception
    ((config, force),) = trained
    assert (config.name["model"], config.seed, force) == ("tiny", 4, False)
    assert result.stdout.startswith("SFT on")
    assert "0.250" in result.stdout


def test_force_is_handed_over(gdo: Invoke, trained: list[Any]) -> None:
    assert gdo("train", "--force", "model=tiny").exit_code == 0
    assert trained[0][1] is True


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(RunFailed("loss is nan"), 1, "failed: loss is nan"), (UserError("no rows"), 2, "error: no rows")],
)
def test_what_goes_wrong_in_a_run_is_one_line(
    gdo: Invoke, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, line: str
) -> None:
    def run(*_: Any) -> RunResult:
        raise error

    replace_run(monkeypatch, run)
    result = gdo("train", "model=tiny")
    assert (result.exit_code, result.stderr.strip()) == (code, line)


def test_config_prints_what_was_asked_for_as_yaml(gdo: Invoke) -> None:
    result = gdo("config", "model=tiny", "train.lr=1e-4", "layers=[0,2]")
    assert result.exit_code == 0
    printed = yaml.safe_load(result.stdout)
    assert (printed["train"]["lr"], printed["layers"], printed["method"]["layers"]) == (1e-4, [0, 2], [0, 2])


def test_config_finds_own_files(gdo: Invoke, tmp_path: Path) -> None:
    own = tmp_path / "own" / "train"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("defaults: [default]\nsteps: 3\n")
    result = gdo("config", "--config-dir", "own", "train=mine", "model=tiny")
    assert result.exit_code == 0, result.stderr
    assert yaml.safe_load(result.stdout)["train"]["steps"] == 3


def test_options_lists_every_option_of_every_group(gdo: Invoke) -> None:
    listed = gdo("options").stdout.split()
    assert [file.stem for file in CONF.glob("*/*.yaml") if file.stem not in listed] == []


@pytest.mark.parametrize("group", GROUPS)
def test_options_lists_one_group_with_what_each_is(gdo: Invoke, group: str) -> None:
    result = gdo("options", group)
    assert result.exit_code == 0
    files = sorted((CONF / group).glob("*.yaml"))
    assert [word for word in result.stdout.split() if word in {file.stem for file in files}]
    for file in files:
        assert file.stem in result.stdout


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_says_in_whole_sentences_what_it_is(group: str) -> None:
    said = {option: about(group, option) for option in options(group)}
    whole = re.compile(r"[.?)`'\"]$|\w=\S+$")  # or one ends with what is to be typed
    assert {option: text for option, text in said.items() if not whole.search(text)} == {}


def test_what_an_option_is_ends_with_its_sentence(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text(
        "# @package _global_\n# Rows of mine, with\n# labels in v1.2. And more.\na: 1\n# no\n"
    )
    assert about("task", "mine", tmp_path) == "Rows of mine, with labels in v1.2."


def test_the_papers_experiments_stand_apart(gdo: Invoke) -> None:
    paper, own = gdo("options", "experiment").stdout.split(f"experiment{OWN}")
    assert paper.startswith(f"experiment{PAPERS}")
    assert re.search(r"^  fig4a ", paper, flags=re.M)
    assert re.search(r"^  (contrast|demo) ", own, flags=re.M)
    assert not re.search(r"^  fig\d", own, flags=re.M)


def test_options_adds_those_of_an_own_folder(gdo: Invoke, tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("# What it is.\n_target_: mine.Task\n")
    lines = gdo("options", "task", "--config-dir", ".").stdout.splitlines()
    assert [line.split() for line in lines if "mine" in line] == [["mine", "What", "it", "is."]]


def test_options_lists_files_of_an_own_folder_whatever_is_in_them(gdo: Invoke, tmp_path: Path) -> None:
    (tmp_path / "task" / "folder.yaml").mkdir(parents=True)
    (tmp_path / "task" / "latin.yaml").write_bytes(b"# caf\xe9\n")
    result = gdo("options", "task", "--config-dir", ".")
    assert result.exit_code == 0
    assert "latin" in result.stdout
    assert "folder" not in result.stdout


def test_options_of_a_folder_that_is_none_are_refused(gdo: Invoke) -> None:
    assert_refused(gdo("options", "--config-dir", "nowhere"), "--config-dir nowhere: no such directory")


def test_prompts_that_are_no_text_are_refused(gdo: Invoke) -> None:
    assert_refused(gdo("generate", "model=tiny", "caf\udce9"), "a prompt is not UTF-8")


def test_a_sweep_over_nothing_is_refused(gdo: Invoke) -> None:
    words = ("sweep", "model=tiny", "data=sample", "task=glob(zz*)")
    assert_refused(gdo(*words), "task=glob(zz*): no point")


def test_an_unknown_group_is_refused(gdo: Invoke) -> None:
    assert_refused(gdo("options", "taks"), "group=taks", "did you mean 'task'?", "method")


# ---------------------------------------------------------------------------------- help and imports


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_says_what_it_does(gdo: Invoke, command: str) -> None:
    result = gdo(command, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"gdo {command}" in result.stdout.replace("root ", "gdo ")
    assert len(result.stdout) > 200


def test_help_fits_a_terminal_of_80_columns() -> None:
    """Behind a docstring's first paragraph its line breaks are kept, so longer lines would be torn twice."""
    commands = [*app.registered_commands, *analyze.registered_commands]
    texts = [Text.from_markup(getdoc(command.callback) or "").plain for command in commands]
    lines = [line for text in texts for line in text.partition("\n\n")[2].splitlines()]
    assert len(lines) > 10
    assert [line for line in lines if len(line) > 78] == []


def test_help_lists_every_command(gdo: Invoke) -> None:
    result = gdo("--help")
    assert [command for command in COMMANDS if f" {command} " not in result.stdout] == []


def test_without_a_command_the_help_is_shown(gdo: Invoke) -> None:
    assert "Commands" in gdo().stdout + gdo().stderr


def test_the_version_is_that_of_the_installed_package(gdo: Invoke) -> None:
    result = gdo("--version")
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(
        rf"gdo {re.escape(version('gdo-cli'))}( \(commit [0-9a-f]{{12}}(, changed)?\))?\n", result.stdout
    )


def imported(*commands: tuple[str, ...]) -> list[tuple[int, set[str]]]:
    """Exit codes of command lines, one after the other in a process of their own, and the packages that it
    had imported after each."""
    code = (
        f"import sys\nfrom gdo_cli.cli.app import app\nfor words in {commands!r}:\n"
        "    try:\n        app(list(words))\n    except SystemExit as end:\n"
        "        print('@', end.code or 0, *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("@ ")]
    return [(int(status), set(packages)) for status, *packages in lines]


HEAVY = {"torch", "transformers", "datasets", "peft", "accelerate", "wandb", "matplotlib", "huggingface_hub"}
TOLD_AT_ONCE = (
    ("train", "train.lr=abc"),
    ("evaluate", "nothing"),
    ("evaluate", "one", "two"),
    ("generate", "nothing", "Hello"),
    ("export", "nothing", "folder"),
    ("analyze", "fv", "nothing"),
    ("analyze", "drift", "nothing"),
    ("analyze", "steer", "nothing", "--layer", "1"),
)


def test_a_mistake_is_told_before_anything_heavy_is_imported() -> None:
    found = imported(*TOLD_AT_ONCE)
    heavy = {
        words: (code, packages & HEAVY) for words, (code, packages) in zip(TOLD_AT_ONCE, found, strict=True)
    }
    assert heavy == dict.fromkeys(TOLD_AT_ONCE, (2, set()))


def test_help_imports_nothing_but_the_command_line() -> None:
    ((code, packages),) = imported(("--help",))
    assert (code, packages & (HEAVY | {"hydra", "omegaconf", "yaml", "numpy"})) == (0, set())


def seconds(*command: str) -> float:
    """Of processor time, which other work on the machine does not lengthen much."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_takes_little_longer_than_that_of_an_empty_program() -> None:
    empty = "import typer; app = typer.Typer(); app.command()(lambda: None); app()"
    ours = "from gdo_cli.cli.app import app; app()"
    help_, least = (
        min(seconds(sys.executable, "-c", code, "--help") for _ in range(3)) for code in (ours, empty)
    )
    assert help_ < 2 * least
