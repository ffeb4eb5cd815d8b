"""Modelers (modelers.cn), by ``openmind_hub``.

The client has no login and no variable for a token; this package takes ``OPENMIND_HUB_TOKEN``. The client accepts
addresses with https at a few names of hosts only (``OPENMIND_HUB_ENDPOINT``), and caches below ``XDG_CACHE_HOME``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.hubs import MODELERS, TOKEN_VARIABLES
from mindone_ddpm.common.hubs.base import MODEL, RemoteFile, Repository, import_client

TOKEN_VARIABLE = TOKEN_VARIABLES[MODELERS]
NAME = re.compile(r"([a-zA-Z]([-_.%]?[a-zA-Z0-9]){2,39}/)?[a-zA-Z0-9._-]{1,100}(?<!\.git)")
DEFAULT_LICENSE = "other"  # of a repository; its model card may say more
SHA256_DIGITS = 64
LEADS_OUT = ("/*", "../*", "*/../*")  # of the cache folder; the client refuses such names too, after ten tries


class ModelersHub:
    """See :class:`mindone_ddpm.common.hubs.base.Hub`."""

    title = "Modelers"
    made_by_hub = frozenset({".gitattributes"})
    needs_license = True

    @property
    def endpoint(self) -> str:
        return str(self._client().ENDPOINT)

    def fetch(
        self,
        name: str,
        patterns: Sequence[str],
        ignored: Sequence[str] = (),
        revision: str | None = None,
        kind: str = MODEL,
    ) -> Path:
        fetched = self._client().snapshot_download(
            name,
            repo_type=kind,
            revision=revision,
            allow_patterns=list(patterns),
            ignore_patterns=[*ignored, *LEADS_OUT],
            token=self._token(None),
        )
        return Path(fetched)

    def fetch_file(self, name: str, file: str, revision: str | None = None) -> Path:
        return Path(self._client().om_hub_download(name, file, revision=revision, token=self._token(None)))

    def check_token(self, token: str | None) -> None:
        self._client()
        if self._token(token) is None:
            raise ConfigError(
                f"--push_to_hub: no token found; set {TOKEN_VARIABLE}, from https://modelers.cn/my/tokens"
            )

    def name_problem(self, name: str) -> str | None:
        if NAME.fullmatch(name):
            return None
        return "letters, digits, '-', '_' and '.' only, as name or user/name; a user's name has 3 to 40 of them"

    def open_repository(self, name: str, private: bool, license: str | None, token: str | None) -> Repository:
        client, token = self._client(), self._token(token)
        made = client.create_repo(name, token=token, private=private, exist_ok=True, license=license or DEFAULT_LICENSE)
        about = client.model_info(made.repo_id, token=token)
        return Repository(made.repo_id, str(made), about.private)

    def send(
        self, repository: Repository, folder: Path, message: str, replaced: Sequence[str], token: str | None
    ) -> None:
        client = self._client()
        # The client reads files from the home folder and /tmp alone, and from what is listed here; this one is meant.
        allowed = import_client("openmind_hub.plugins.openmind.constants", MODELERS).WHITE_LIST_PATHS
        if str(folder.resolve()) not in allowed:
            allowed.append(str(folder.resolve()))
        client.upload_folder(
            repo_id=repository.name,
            folder_path=str(folder.resolve()),
            commit_message=message,
            token=self._token(token),
            **({"delete_patterns": list(replaced)} if replaced else {}),
        )

    def listing(self, repository: Repository, token: str | None) -> dict[str, RemoteFile]:
        client = self._client()
        found = {}
        for entry in client.list_repo_tree(repository.name, recursive=True, token=self._token(token)):
            if isinstance(entry, client.RepoFile):
                has_sha256 = len(entry.blob_id) == SHA256_DIGITS
                hashes = {"sha256" if has_sha256 else "blob_id": entry.blob_id}
                found[entry.path] = RemoteFile(entry.size, **hashes)
        return found

    def card_metadata(self, metadata: dict[str, Any]) -> dict[str, Any]:
        return {"frameworks": ["MindSpore"], "hardwares": ["NPU"], **metadata}

    def folder_code(self, name: str) -> list[str]:
        return ["from openmind_hub import snapshot_download", f'repository = snapshot_download("{name}")']

    @staticmethod
    def _client() -> Any:
        os.environ.setdefault("OM_HUB_DISABLE_PROGRESS_BARS", "1")
        try:
            client = import_client("openmind_hub", MODELERS)
        except ValueError as error:  # of its variables, which it checks when it is imported
            raise ConfigError(f"--hub {MODELERS}: openmind_hub does not start ({error})") from error
        client.set_verbosity_error()
        return client

    @staticmethod
    def _token(token: str | None) -> str | None:
        return token or os.environ.get(TOKEN_VARIABLE) or None
