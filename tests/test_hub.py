from __future__ import annotations

import huggingface_hub
import pytest
from conftest import run_program

from mindone_ddpm import hub
from mindone_ddpm.config import TrainingConfig


class RecordingApi:
    """Keeps what the client was asked to do; fails where told."""

    calls: list[tuple[str, dict]]

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, name, **options):
        RecordingApi.calls.append((name, options))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/someone/{name}")

    def upload_folder(self, **options):
        RecordingApi.calls.append(("upload", options))
        if options["repo_id"].endswith("refused"):
            raise OSError("403 Forbidden\nmore text")


@pytest.fixture
def api(monkeypatch):
    RecordingApi.calls = []
    monkeypatch.setattr(huggingface_hub, "HfApi", RecordingApi)
    return RecordingApi


def test_the_repository_is_made_and_the_folder_uploaded_without_state(api, tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert hub.push_pipeline(TrainingConfig(push_to_hub=True, hub_private_repo=True), folder) is None
    (name, made), (_, uploaded) = api.calls
    assert (name, made) == ("my-model", {"private": True, "exist_ok": True})
    assert uploaded["repo_id"] == "someone/my-model" and uploaded["folder_path"] == str(folder)
    files = ["unet/config.json", "model_index.json", "samples/0001.png", "checkpoint-5/unet/config.json", "logs/x/y"]
    kept = list(huggingface_hub.utils.filter_repo_objects(files, ignore_patterns=uploaded["ignore_patterns"]))
    assert kept == ["unet/config.json", "model_index.json", "samples/0001.png"]


def test_a_failed_upload_is_told_in_one_line(api, tmp_path):
    trouble = hub.push_pipeline(TrainingConfig(push_to_hub=True, hub_model_id="refused"), tmp_path)
    assert trouble == f"the pipeline in {tmp_path} could not be uploaded (403 Forbidden)"


def test_without_a_token_nothing_is_started(tmp_path):
    result = run_program(
        "train", "--dataset_name", "digits", "--channels", 1, "--image_size", 8, "--push_to_hub",
        "--output_dir", tmp_path / "run", HF_HOME=str(tmp_path / "home"), HF_TOKEN="",
    )  # fmt: skip
    assert result.returncode == 2 and "--push_to_hub: no token found" in result.stderr
    assert not (tmp_path / "run").exists()
