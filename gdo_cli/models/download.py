"""A model's files from the hub, or what an earlier download left of them."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from gdo_cli.support.console import warn
from gdo_cli.support.errors import UserError, first_line
from gdo_cli.support.timeout import ANSWER_S, STALL_S, within

PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def fetch(repository: str, revision: str) -> tuple[Path, str]:
    """The folder of a model's files, and its commit; the copy in the cache if the hub is out of reach.

    Raises:
        UserError: no such model or revision, a licence not accepted, or neither hub nor copy.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return _download(repository, revision)
    except RevisionNotFoundError as error:
        raise UserError(f"model.revision={revision}: {repository} has no such revision") from error
    except HFValidationError as error:
        raise UserError(f"model.path={repository}: neither a folder nor a hub repository") from error
    except Exception as error:  # what a server says that is none of the hub's breaks anywhere
        if copy := _copy(repository, revision):
            warn(f"model.path={repository}: {_reason(error)}; using commit {copy.name[:12]} from the cache")
            return copy, copy.name
        if isinstance(error, GatedRepoError):
            raise UserError(
                f"model.path={repository} is gated: accept its licence at huggingface.co/{repository}, then "
                "run 'hf auth login'; model=gemma3_270m needs no account"
            ) from error
        if isinstance(error, RepositoryNotFoundError):
            raise UserError(f"model.path={repository}: neither a folder nor a hub repository") from error
        raise UserError(
            f"model.path={repository}: {_reason(error)}; give a local folder with model.path=FOLDER, or use "
            "model=gemma3_270m, which comes from PyPI"
        ) from error


def _reason(error: Exception) -> str:
    return f"the hub cannot be reached or makes no sense ({type(error).__name__}: {first_line(error)})"


def _download(repository: str, revision: str) -> tuple[Path, str]:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils.tqdm import tqdm

    info = within(ANSWER_S, lambda: HfApi().model_info(repository, revision=revision, timeout=ANSWER_S))
    names = [sibling.rfilename for sibling in info.siblings or []]
    files = [name for name in names if any(fnmatch(name, pattern) for pattern in PATTERNS)]
    if not files:
        raise ValueError("it names no files")
    received = [0.0]

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            received[0] += n or 0
            return super().update(n)

        def update_transfer(self, n: float | None = 1) -> None:
            received[0] += n or 0

    # One by one, the weights last: where they are, the rest is too. The library's own way of many at
    # once leaves threads behind that an exit waits for.
    for file in sorted(files, key=lambda name: (name.endswith(".safetensors"), name)):

        def get(file: str = file) -> str:
            return hf_hub_download(repository, file, revision=revision, tqdm_class=Bar)

        path = Path(within(STALL_S, get, lambda: received[0]))
        folder = path.parents[file.count("/")]
        if folder.name != info.sha:
            raise ValueError(
                f"it changed from {str(info.sha)[:12]} to {folder.name[:12]} meanwhile; try again"
            )
    return folder, folder.name


def _copy(repository: str, revision: str) -> Path | None:
    """The folder of files that an earlier download left in the cache."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=PATTERNS, local_files_only=True
        )
    except (OSError, ValueError):
        return None
    return Path(folder) if any(Path(folder).glob("*.safetensors")) else None
