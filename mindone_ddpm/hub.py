"""Put a trained pipeline on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from mindone_ddpm.config import ConfigError, EngineConfig, first_line

# What a pipeline's repository does not need: training state, logs, and what is being written.
IGNORED = ["checkpoint-*", "abandoned-*", "logs/*", "*/logs/*", ".*"]


def check_login(config: EngineConfig) -> None:
    """Raises ConfigError if an upload is asked for and no token is at hand; before any long work."""
    from huggingface_hub import get_token

    if config.push_to_hub and config.hub_token is None and get_token() is None:
        raise ConfigError("--push_to_hub: no token found; run `huggingface-cli login`, or set HF_TOKEN")


def push_pipeline(config: EngineConfig, folder: Path) -> str | None:
    """Upload the pipeline and its samples; the repository is made if need be.

    Returns:
        None, or what went wrong: the folder is whole all the same, and can be uploaded later.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=config.hub_token)
    try:
        name = config.hub_model_id or folder.resolve().name
        repository = api.create_repo(name, private=config.hub_private_repo, exist_ok=True).repo_id
        api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            ignore_patterns=[*IGNORED, f"{config.logging_dir}/*"],
            commit_message="Pipeline trained with mindone_ddpm",
        )
    except Exception as error:  # the Hub's client raises a dozen kinds
        return f"the pipeline in {folder} could not be uploaded ({first_line(error)})"
    return None
