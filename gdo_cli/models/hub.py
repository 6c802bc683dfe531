"""Weights from the hub, or from a folder in its format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gdo_cli.models.download import fetch
from gdo_cli.models.loading import Loaded, load_folder
from gdo_cli.models.source import ModelSource, read_shape
from gdo_cli.support.errors import UserError, require

if TYPE_CHECKING:
    pass


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
