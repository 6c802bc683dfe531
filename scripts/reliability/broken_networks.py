"""Hubs and mirrors that are down, slow or lying."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from reliability.faults import fault
from reliability.process import gdo
from reliability.work import RUN, Outcome, last_line, log_of, quoted, resumed

KINDS = ("down", "silent", "slow", "lying")
GARBAGE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n<nonsense"


@contextlib.contextmanager
def server(kind: str) -> Iterator[str]:
    """The address of a server that refuses (``down``), accepts and says nothing (``silent``), says a byte
    a second (``slow``), or answers everything with nonsense (``lying``)."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    open_: list[socket.socket] = []

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if kind == "lying":
                connection.recv(65536)
                connection.sendall(GARBAGE)
                connection.close()
            for byte in GARBAGE if kind == "slow" else b"":
                connection.sendall(bytes([byte]))
                time.sleep(1)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                open_.append(connection)
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    if kind == "down":
        listener.close()
    else:
        threading.Thread(target=accept, daemon=True).start()
    try:
        yield address
    finally:
        for each in (listener, *open_):
            each.close()


@fault("the hub is down, slow or lying: data", "data=auto with HF_ENDPOINT at such a server", 4)
def no_data(folder: Path, times: int) -> Outcome:
    return _hub(folder, times, ["data=hub"], "data=hub: cannot load")


@fault("the hub is down, slow or lying: weights", "model=gemma3_1b with HF_ENDPOINT at such a server", 4)
def no_weights(folder: Path, times: int) -> Outcome:
    return _hub(folder, times, ["model=gemma3_1b"], "model.path=google/gemma-3-1b-pt")


def _hub(folder: Path, times: int, words: list[str], message: str) -> Outcome:
    wrong, longest = [], 0.0
    for kind in KINDS[:times]:
        with server(kind) as address:
            env = {"HF_ENDPOINT": address, "HF_HOME": str(folder / kind), "HF_HUB_OFFLINE": "0"}
            results = folder / f"hub-{kind}"
            end = gdo("train", *RUN, *words, f"results_dir={quoted(results)}", log=log_of(results), env=env,
                      limit=240, before=lambda address=address: point_hub_at(address))  # type: ignore[misc]  # fmt: skip
        longest = max(longest, end.seconds)
        if end.code != 2 or message not in end.said or "Traceback" in end.said:
            wrong.append(f"{kind}: ended with {end.code} after {end.seconds:.0f} s: {last_line(end)}")
    return Outcome(
        times, f"{', '.join(KINDS[:times])}: one message, exit code 2, within {longest:.0f} s", wrong
    )


def point_hub_at(address: str) -> None:
    """The library has read its environment already, in the process that this one was forked from."""
    import huggingface_hub.constants as constants
    from huggingface_hub import HfApi, hf_api

    constants.ENDPOINT = address
    constants.HUGGINGFACE_CO_URL_TEMPLATE = address + "/{repo_id}/resolve/{revision}/{filename}"
    hf_api.api = HfApi(endpoint=address)


@fault("wandb is down, slow or lying", "wandb.mode=online with WANDB_BASE_URL at such a server", 4)
def no_mirror(folder: Path, times: int) -> Outcome:
    wrong, longest = [], 0.0
    for kind in KINDS[:times]:
        with server(kind) as address:
            env = {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40, "WANDB_DIR": str(folder)}
            results = folder / f"wandb-{kind}"
            began = time.monotonic()
            wrong += [f"{kind}: {w}" for w in resumed(results, "wandb.mode=online", env=env, limit=280)]
            longest = max(longest, time.monotonic() - began)
    return Outcome(
        times, f"{', '.join(KINDS[:times])}: the run goes on without it, {longest:.0f} s at most", wrong
    )
