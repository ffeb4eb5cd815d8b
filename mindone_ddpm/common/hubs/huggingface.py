"""The Hugging Face Hub, or a mirror of it that ``HF_ENDPOINT`` names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Sets variables before huggingface_hub is imported, HF_HUB_DISABLE_XET among them.
from mindone_ddpm.common import environment  # noqa: F401
from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.hubs.base import MODEL, RemoteFile, Repository


class HuggingFaceHub:
    """See :class:`mindone_ddpm.common.hubs.base.Hub`."""

    title = "the Hugging Face Hub"
    made_by_hub = frozenset({".gitattributes"})
    needs_license = False

    @property
    def endpoint(self) -> str:
        from huggingface_hub import constants

        return constants.ENDPOINT

    def fetch(
        self,
        name: str,
        patterns: Sequence[str],
        ignored: Sequence[str] = (),
        revision: str | None = None,
        kind: str = MODEL,
    ) -> Path:
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                name, repo_type=kind, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(ignored)
            )
        )

    def fetch_file(self, name: str, file: str, revision: str | None = None) -> Path:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(name, file, revision=revision))

    def check_token(self, token: str | None) -> None:
        from huggingface_hub import get_token

        if token is None and get_token() is None:
            raise ConfigError("--push_to_hub: no token found; run `huggingface-cli login`, or set HF_TOKEN")

    def name_problem(self, name: str) -> str | None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(name)
        except HFValidationError:
            return "letters, digits, '-', '_' and '.' only, at most 96, as name or user/name"
        return None

    def open_repository(self, name: str, private: bool, license: str | None, token: str | None) -> Repository:
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        made = api.create_repo(name, private=private or None, exist_ok=True)
        return Repository(made.repo_id, str(made), api.repo_info(made.repo_id).private if private else None)

    def send(
        self, repository: Repository, folder: Path, message: str, replaced: Sequence[str], token: str | None
    ) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        HfApi(token=token).upload_folder(
            repo_id=repository.name,
            folder_path=str(folder),
            commit_message=message,
            delete_patterns=list(replaced) or None,
        )

    def listing(self, repository: Repository, token: str | None) -> dict[str, RemoteFile]:
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        entries = HfApi(token=token).list_repo_tree(repository.name, recursive=True)
        return {
            entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs is not None else None, entry.blob_id)
            for entry in entries
            if isinstance(entry, RepoFile)
        }

    def card_metadata(self, metadata: dict[str, Any]) -> dict[str, Any]:
        return metadata

    def folder_code(self, name: str) -> list[str]:
        return [f'repository = "{name}"']
