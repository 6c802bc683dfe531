"""Hubs and mirrors that are down, slow or lying."""

from __future__ import annotations

import time
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from gdo_cli.models.tiny import TinyModel
from reliability.process import gdo
from reliability.registry import fault
from reliability.servers import HUB_KINDS, KINDS, REPOSITORY, hub, point_hub_at, server
from reliability.work import RUN, Outcome, last_line, log_of, quoted, resumed

HUB = ", ".join(f"{kind} ({does})" for kind, does in HUB_KINDS.items())
LIES = {  # where a hub that has the model is not to be believed, and what must be said of it
    "short": "the hub cannot be reached or makes no sense",
    "altered": "not what the hub announced",
}


@fault("hub down, silent or lying: data", f"data=hub with a server in its place: {HUB}", len(HUB_KINDS))
def no_data(folder: Path, times: int) -> Outcome:
    found = Answers("data=hub: cannot load")
    for kind in list(HUB_KINDS)[:times]:
        with server(kind) as address:
            found.ask(folder, kind, address, "data=hub")
    return found.outcome()


@fault("hub down, silent or lying: weights", "the same with model=gemma3_1b", len(HUB_KINDS))
def no_weights(folder: Path, times: int) -> Outcome:
    found = Answers("model.path=google/gemma-3-1b-pt: the hub cannot be reached")
    for kind in list(HUB_KINDS)[:times]:
        with server(kind) as address:
            found.ask(folder, kind, address, "model=gemma3_1b")
    return found.outcome()


@fault(
    "hub lying about files",
    "its files are cut short or altered",
    len(LIES),
)
def wrong_weights(folder: Path, times: int) -> Outcome:
    disable_progress_bar()
    loaded = TinyModel(1e-3, 0).load()
    loaded.model.save_pretrained(folder / "files")
    loaded.tokenizer.save_pretrained(folder / "files")
    found = Answers("")
    for lie, message in list(LIES.items())[:times]:
        found.message = message
        with hub(folder / "files", lie) as address:
            found.ask(folder, lie, address, "model=custom", f"model.path={REPOSITORY}")
    return found.outcome()


class Answers:
    """What a run says of servers, and how long it takes."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.longest = 0.0
        self.kinds: list[str] = []
        self.wrong: list[str] = []

    def ask(self, folder: Path, kind: str, address: str, *words: str) -> None:
        results = folder / f"hub-{kind}"

        words = ("train", *RUN, *words, f"results_dir={quoted(results)}")
        env = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0"}
        end = gdo(
            *words,
            log=log_of(results),
            env=env,
            limit=240,
            before=lambda: point_hub_at(address, folder / f"cache-{kind}"),
        )
        self.kinds.append(kind)
        self.longest = max(self.longest, end.seconds)
        if end.code != 2 or self.message not in end.said or "Traceback" in end.said:
            self.wrong.append(f"{kind}: ended with {end.code} after {end.seconds:.0f} s: {last_line(end)}")

    def outcome(self) -> Outcome:
        seen = f"one message, exit code 2, within {self.longest:.0f} s"
        return Outcome(len(self.kinds), seen, self.wrong)


@fault(
    "wandb down, slow or lying", "wandb.mode=online with WANDB_BASE_URL at such a server", len(KINDS), quick=2
)
def no_mirror(folder: Path, times: int) -> Outcome:
    wrong, longest = [], 0.0
    for kind in list(KINDS)[:times]:
        with server(kind) as address:
            env = {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40, "WANDB_DIR": str(folder)}
            results = folder / f"wandb-{kind}"
            began = time.monotonic()
            wrong += [f"{kind}: {w}" for w in resumed(results, "wandb.mode=online", env=env, limit=280)]
            longest = max(longest, time.monotonic() - began)
    return Outcome(times, f"the run goes on without it, the same bits, {longest:.0f} s at most", wrong)
