"""Weights from the hub, or what an earlier download left of them, or from a folder in its format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gdo_cli.models.loading import Loaded, ModelSource, load_folder, read_shape
from gdo_cli.support.console import warn
from gdo_cli.support.errors import UserError, first_line, require

PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class HubModel(ModelSource):
    """A model of the hub, or a local folder in its format.

    Attributes:
        path: hub id or folder.
        revision: branch, tag or commit; the commit is resolved and recorded.
    """

    identity_name: ClassVar[str] = "gdo_cli.models.HubModel"
    path: str = ""
    revision: str = "main"

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "model.path=: name a folder or a hub id")

    def shape(self, name: str) -> dict[str, Any] | None:
        folder = Path(self.path).expanduser()
        return read_shape(folder / "config.json") if folder.is_dir() else super().shape(name)

    def load(self) -> Loaded:
        folder = Path(self.path).expanduser()
        if folder.is_dir():
            return load_folder(folder, {"source": "folder", "path": self.path})
        if self.path.startswith((".", "/", "~")):
            raise UserError(f"model.path={self.path}: no such folder")
        snapshot, commit = fetch(self.path, self.revision)
        return load_folder(snapshot, {"source": "hub", "path": self.path, "commit": commit})


def fetch(repository: str, revision: str) -> tuple[Path, str]:
    """Return the folder of a model's files, and its commit; the copy in the cache if the hub is out of reach.

    Raises:
        UserError: no such model or revision, a licence not accepted, or neither hub nor copy.
    """
    from huggingface_hub import errors

    try:
        return _download(repository, revision)
    except errors.RevisionNotFoundError as error:
        raise UserError(f"model.revision={revision}: {repository} has no such revision") from error
    except Exception as error:  # what a server says that is none of the hub's breaks anywhere
        if copy := _copy(repository, revision):
            warn(f"model.path={repository}: {_reason(error)}; using commit {copy.name[:12]} from the cache")
            return copy, copy.name
        if isinstance(error, errors.GatedRepoError):
            raise UserError(
                f"model.path={repository} is gated: accept its licence at huggingface.co/{repository}, then "
                "run 'hf auth login'; model=gemma3_270m needs no account"
            ) from error
        if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
            raise UserError(f"model.path={repository}: neither a folder nor a hub repository") from error
        raise UserError(
            f"model.path={repository}: {_reason(error)}; give a local folder with model.path=FOLDER, or use "
            "model=gemma3_270m, which comes from PyPI"
        ) from error


def _reason(error: Exception) -> str:
    return f"the hub cannot be reached or makes no sense ({type(error).__name__}: {first_line(error)})"


def _download(repository: str, revision: str) -> tuple[Path, str]:
    """Return the folder and its commit, as the hub has them now; the limits are the library's own.

    The library uses its cache without a word where the hub is out of reach. So the hub is asked first.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    info = HfApi().model_info(repository, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    folder = Path(snapshot_download(repository, revision=revision, allow_patterns=PATTERNS))
    if folder.name != info.sha:  # the hub went away meanwhile, or has something new
        raise ValueError(f"{str(info.sha)[:12]} became {folder.name[:12]} meanwhile")
    if not folder.is_dir():
        raise ValueError("it names no files")
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
