"""What the package asks of a hub, and which class answers for each name of :data:`mindone_ddpm.common.hubs.HUBS`.

Clients of hubs are imported when a hub is used, not before.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.hubs import HUGGINGFACE, MODELERS, MODELSCOPE

MODEL, DATASET = "model", "dataset"


@dataclass(frozen=True)
class RemoteFile:
    """A file as a hub lists it; of its two hashes a hub has at least one.

    Attributes:
        size: in bytes.
        sha256: of the content.
        blob_id: git's identifier of the content.
    """

    size: int
    sha256: str | None = None
    blob_id: str | None = None


@dataclass(frozen=True)
class Repository:
    """A repository of a model. ``private`` is None where the hub does not say."""

    name: str
    url: str
    private: bool | None


class Hub(Protocol):
    """A hub: where names of models and data sets are looked up, and where models are uploaded.

    Every method may raise what the hub's client raises; ConfigError, where it is said here.

    Attributes:
        title: for messages and headings.
        made_by_hub: names of files that the hub itself puts into repositories.
        needs_license: whether it takes no model card that names no license.
    """

    title: str
    made_by_hub: frozenset[str]
    needs_license: bool

    @property
    def endpoint(self) -> str:
        """The address in use."""
        ...

    def fetch(
        self,
        name: str,
        patterns: Sequence[str],
        ignored: Sequence[str] = (),
        revision: str | None = None,
        kind: str = MODEL,
    ) -> Path:
        """A folder, in the client's cache, with the files of a repository that match one of ``patterns``.

        Args:
            patterns, ignored: as of fnmatch; ``*`` matches ``/`` too.
            revision: branch, tag or commit; by default the hub's main branch.
            kind: ``model`` or ``dataset``.
        """
        ...

    def fetch_file(self, name: str, file: str, revision: str | None = None) -> Path:
        """One file of a model's repository, in the client's cache, with its path in the repository as its end."""
        ...

    def check_token(self, token: str | None) -> None:
        """Raises ConfigError if there is no token to upload with."""
        ...

    def name_problem(self, name: str) -> str | None:
        """Why the hub takes no repository of this name, given with or without its owner; None if it does."""
        ...

    def open_repository(self, name: str, private: bool, license: str | None, token: str | None) -> Repository:
        """The repository of a model, made if it is not there.

        Args:
            name: with or without its owner, by default the token's user.
            private: of a repository that is made.
            license: of a repository that is made; as in its model card.
        """
        ...

    def send(
        self, repository: Repository, folder: Path, message: str, replaced: Sequence[str], token: str | None
    ) -> None:
        """Upload the files of a folder, and remove the files ``replaced`` from the repository."""
        ...

    def listing(self, repository: Repository, token: str | None) -> dict[str, RemoteFile]:
        """All files of a repository, by name."""
        ...

    def card_metadata(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """A model card's metadata, given as the Hugging Face Hub has it, as this hub has it."""
        ...

    def folder_code(self, name: str) -> list[str]:
        """Lines of Python that set ``repository`` to what ``from_pretrained`` of mindone and diffusers loads."""
        ...


_CLASSES = {
    HUGGINGFACE: ("mindone_ddpm.common.hubs.huggingface", "HuggingFaceHub"),
    MODELSCOPE: ("mindone_ddpm.common.hubs.modelscope", "ModelScopeHub"),
    MODELERS: ("mindone_ddpm.common.hubs.modelers", "ModelersHub"),
}


def choose_hub(name: str) -> Hub:
    """The hub of a name of :data:`mindone_ddpm.common.hubs.HUBS`."""
    module, class_name = _CLASSES[name]
    return getattr(importlib.import_module(module), class_name)()


def import_client(module: str, hub: str) -> Any:
    """A module of a hub's client. Raises ConfigError if it is not installed; the extra has the hub's name."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise ConfigError(
            f"--hub {hub}: its client is not installed; run `pip install 'mindone-ddpm[{hub}]'`"
        ) from error


def is_inside(name: str) -> bool:
    """Whether a file's name, as a hub gives it, stays inside the folder that it is downloaded to."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name
