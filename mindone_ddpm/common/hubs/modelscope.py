"""ModelScope, by ``modelscope_hub``: the client that the ``modelscope`` package itself calls, without its frameworks.

Its variables: ``MODELSCOPE_API_TOKEN``, ``MODELSCOPE_ENDPOINT`` and ``MODELSCOPE_CACHE``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.hubs import MODELSCOPE
from mindone_ddpm.common.hubs.base import MODEL, RemoteFile, Repository, import_client, is_inside

NAME = re.compile(r"([\w.-]+/)?[\w.-]{1,100}", re.ASCII)
LOGGER = logging.getLogger("modelscope_hub")  # what it says is in its exceptions too
# Names of tasks; the others are those of the Hugging Face Hub.
TASKS = {"text-to-image": "text-to-image-synthesis"}


class ModelScopeHub:
    """See :class:`mindone_ddpm.common.hubs.base.Hub`."""

    title = "ModelScope"
    made_by_hub = frozenset({".gitattributes", "configuration.json"})
    needs_license = False

    @property
    def endpoint(self) -> str:
        return str(self._client().HubConfig(token="").endpoint)

    def fetch(
        self,
        name: str,
        patterns: Sequence[str],
        ignored: Sequence[str] = (),
        revision: str | None = None,
        kind: str = MODEL,
    ) -> Path:
        api = self._api(None)
        listed = [entry for entry in api.list_repo_files(name, kind, revision=revision) if entry.type != "tree"]
        # The client joins names to its cache folder as they are, so those that lead out of it are left out here.
        wanted = [
            {"Path": entry.path, "Size": entry.size, "Sha256": entry.sha256}
            for entry in listed
            if is_inside(entry.path)
            and any(fnmatch(entry.path, pattern) for pattern in patterns)
            and not any(fnmatch(entry.path, pattern) for pattern in ignored)
        ]
        return Path(api.download_repo(name, kind, revision=revision, file_list=wanted))

    def fetch_file(self, name: str, file: str, revision: str | None = None) -> Path:
        return Path(self._api(None).download_file(name, MODEL, file, revision=revision))

    def check_token(self, token: str | None) -> None:
        client = self._client()
        if token is None and not client.HubConfig().token:
            raise ConfigError("--push_to_hub: no token found; run `modelscope login`, or set MODELSCOPE_API_TOKEN")

    def name_problem(self, name: str) -> str | None:
        return None if NAME.fullmatch(name) else "letters, digits, '-', '_' and '.' only, as name or user/name"

    def open_repository(self, name: str, private: bool, license: str | None, token: str | None) -> Repository:
        api = self._api(token)
        if "/" not in name:
            name = f"{api.whoami().username}/{name}"
        if not api.repo_exists(name, MODEL):
            api.create_repo(name, MODEL, visibility="private" if private else "public", license=license)
        visibility = api.get_repo(name, MODEL).visibility
        is_private = None if visibility is None else int(visibility) == int(self._client().Visibility.PRIVATE)
        return Repository(name, f"{self.endpoint}/models/{name}", is_private)

    def send(
        self, repository: Repository, folder: Path, message: str, replaced: Sequence[str], token: str | None
    ) -> None:
        api = self._api(token)
        # Without its cache: that is a file in the folder, which is deleted afterwards.
        api.upload_folder(repository.name, MODEL, folder, commit_message=message, use_cache=False, disable_tqdm=True)
        if replaced:
            api.delete_files(repository.name, MODEL, list(replaced), commit_message=message)

    def listing(self, repository: Repository, token: str | None) -> dict[str, RemoteFile]:
        listed = self._api(token).list_repo_files(repository.name, MODEL)
        return {entry.path: RemoteFile(entry.size, entry.sha256) for entry in listed if entry.type != "tree"}

    def card_metadata(self, metadata: dict[str, Any]) -> dict[str, Any]:
        task = str(metadata.get("pipeline_tag"))
        return {"frameworks": ["mindspore"], "tasks": [TASKS.get(task, task)], **metadata}

    def folder_code(self, name: str) -> list[str]:
        return [
            "from modelscope_hub import HubApi",
            f'repository = str(HubApi().download_repo("{name}", "model"))',
        ]

    @staticmethod
    def _client() -> Any:
        client = import_client("modelscope_hub", MODELSCOPE)
        LOGGER.setLevel(logging.CRITICAL)
        return client

    def _api(self, token: str | None) -> Any:
        return self._client().HubApi(token=token)
