"""Uploads to the Hub, with its own client, against a server that speaks its interface."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import yaml
from conftest import run_program
from hub_server import TOKEN, HubServer

from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.product import unconditional_product
from mindone_ddpm.output import hub
from mindone_ddpm.output.card import write_card
from mindone_ddpm.output.config import PushConfig
from mindone_ddpm.output.product import Product
from mindone_ddpm.runtime import launch


@pytest.fixture
def server():
    server = HubServer()
    yield server
    server.close()


@pytest.fixture
def at(server, monkeypatch):
    """In this process, the Hub is the test's server, and to try again takes no time."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub, "RETRY_DELAYS_S", (0.0, 0.0, 0.0))
    return server


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """What a run leaves, as far as names go, and what users put beside it."""
    folder = tmp_path / "my-model"
    for name in (
        *("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "README.md"),
        *("scheduler/scheduler_config.json", "samples/0001.png", "samples/0002.png", "best/model_index.json"),
        *("checkpoint-5/unet/config.json", "logs/metrics.csv", "training_config.yaml", ".pipeline.tmp/x"),
        *("pictures/grid.png", "data/secret.jpg", "tb/events.out.tfevents.1", "report.html", "unet/.hidden"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    return folder


SENT = {
    *("README.md", "model_index.json", "samples/0002.png", "scheduler/scheduler_config.json"),
    *("unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
}


def uploader(folder: Path, **changes) -> hub.Uploader:
    return hub.Uploader(PushConfig(model=str(folder), hub_token=TOKEN, **changes), folder)


def test_what_belongs_there_is_sent_and_compared(at, run_folder, capsys):
    sending = uploader(run_folder, hub_private_repo=True)
    sending.submit("first")
    assert sending.finish(), capsys.readouterr().err
    repository = at.repositories["someone/my-model"]
    assert repository["private"] is True and repository["files"].keys() == SENT
    assert all(content == f"content of {name}".encode() for name, content in repository["files"].items())
    assert f"uploaded to {at.url}/someone/my-model: 6 files, compared with what was sent" in capsys.readouterr().out
    assert not list(run_folder.glob(".upload-*"))


def test_the_next_upload_replaces_the_grid_and_leaves_the_rest(at, run_folder, capsys):
    sending = uploader(run_folder)
    sending.submit("first")
    assert sending.finish()
    files = at.repositories["someone/my-model"]["files"]
    files["notes.txt"] = b"the owner's own"
    (run_folder / "samples" / "10000.png").write_text("a later epoch")
    sending.submit("second")
    assert sending.finish()
    assert files.keys() == SENT - {"samples/0002.png"} | {"samples/10000.png", "notes.txt"}
    assert "; 1 other file(s) there were left alone: notes.txt" in capsys.readouterr().out


def test_links_are_sent_as_what_they_point_to(at, run_folder, tmp_path):
    """As a folder of the Hub's own cache has them."""
    weights = run_folder / "unet" / "diffusion_pytorch_model.safetensors"
    (tmp_path / "blob").write_text("weights")
    weights.unlink()
    weights.symlink_to("../../blob")
    sending = uploader(run_folder)
    sending.submit("first")
    assert sending.finish()
    assert at.repositories["someone/my-model"]["files"][weights.relative_to(run_folder).as_posix()] == b"weights"


def product(**changes) -> Product:
    facts = {"command": "train_x", "noun": "network", "index_file": "x.json", "parts": ("x", "x.bin")}
    return Product(**{**facts, "pipeline_tag": "other", "tags": (), **changes})


def test_the_files_of_another_kind_of_product_are_sent(at, run_folder, capsys):
    """Those of a job whose files are not diffusers'; what its index does not name is not sent."""
    for name in ("x.json", "x/weights.bin", "x.bin"):
        (run_folder / name).parent.mkdir(exist_ok=True)
        (run_folder / name).write_text("x")
    assert not {"x.json", "x/weights.bin", "x.bin"} & set(hub.files_to_send(run_folder))
    sending = hub.Uploader(PushConfig(model=str(run_folder), hub_token=TOKEN), run_folder, product())
    sending.submit("first")
    assert sending.finish(), capsys.readouterr().err
    (run_folder / "model_index.json").unlink()
    assert set(hub.files_to_send(run_folder, product())) == {
        "README.md", "samples/0002.png", "x.json", "x/weights.bin", "x.bin",
    }  # fmt: skip
    assert at.repositories["someone/my-model"]["files"].keys() >= set(hub.files_to_send(run_folder, product()))
    at.failures = [403]
    sending.submit("second")
    assert not sending.finish() and f"the network in {run_folder} could not be uploaded" in capsys.readouterr().err


def test_a_public_repository_does_not_get_what_is_to_be_private(at, run_folder, capsys):
    at.repositories["me/shown"] = {"private": False, "files": {}}
    sending = uploader(run_folder, hub_model_id="me/shown", hub_private_repo=True)
    sending.submit("first")
    assert not sending.finish() and at.repositories["me/shown"]["files"] == {}
    said = capsys.readouterr().err
    assert "me/shown is public, and --hub_private_repo asks for a private one" in said and said.count("\n") == 1
    again = f"`mindone-ddpm push --model {run_folder} --hub_model_id me/shown --hub_private_repo` tries again"
    assert again in said


def test_the_card_names_the_repository_that_it_is_in(at, run_folder):
    config = TrainingConfig(dataset_name="digits", output_dir=str(run_folder))
    (run_folder / "README.md").unlink()
    write_card(config, unconditional_product(config), {"data": "10 images"}, run_folder, 5, 10)
    before = (run_folder / "README.md").read_text()
    assert 'repository = "my-model"' in before
    sending = uploader(run_folder, hub_model_id="me/named")
    sending.submit("first")
    assert sending.finish()
    text = at.repositories["me/named"]["files"]["README.md"].decode()
    assert text.count('repository = "me/named"') == 2 and "mindone-ddpm sample --model me/named\n" in text
    assert text.replace("me/named", "my-model") == before == (run_folder / "README.md").read_text()


def test_training_goes_on_while_it_uploads_and_only_the_newest_waits(at, run_folder, monkeypatch):
    """While the first is under way two more come: one is dropped. What goes is what was there when it was asked for."""
    release, sent, send = threading.Event(), [], hub.upload

    def slow(snapshot, config, name, message):
        sent.append((message, (snapshot / "README.md").read_text()))
        release.wait(20)
        return send(snapshot, config, name, message)

    monkeypatch.setattr(hub, "upload", slow)
    sending = uploader(run_folder)
    for text in ("one", "two", "three"):
        beside = run_folder / ".README.md.tmp"
        beside.write_text(text)
        beside.replace(run_folder / "README.md")
        sending.submit(text)
        while not sent:
            time.sleep(0.01)
    release.set()
    assert sending.finish()
    assert sent == [("one", "one"), ("three", "three")]
    assert at.repositories["someone/my-model"]["files"]["README.md"] == b"three"
    assert not list(run_folder.glob(".upload-*"))


def test_a_failure_is_tried_again(at, run_folder, capsys):
    at.failures = [500, 500]
    sending = uploader(run_folder)
    sending.submit("first")
    assert sending.finish() and at.repositories["someone/my-model"]["files"].keys() == SENT
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("failures", "tries"), [([500] * 4, 4), ([403], 1)])
def test_what_stays_refused_is_told_once_and_loses_nothing(at, run_folder, capsys, failures, tries):
    at.failures = list(failures)
    sending = uploader(run_folder)
    sending.submit("first")
    assert not sending.finish()
    assert sum(path.endswith("/commit/main") for _, path in at.requests) == tries
    said = capsys.readouterr().err
    assert said.startswith(f"warning: the pipeline in {run_folder} could not be uploaded (") and said.count("\n") == 1
    assert f"`mindone-ddpm push --model {run_folder}` tries again" in said and TOKEN not in said
    assert {path.relative_to(run_folder).as_posix() for path in run_folder.rglob("*") if path.is_file()} >= SENT


def test_what_arrives_otherwise_is_noticed(at, run_folder, capsys):
    at.corrupts = "unet/config.json"
    sending = uploader(run_folder)
    sending.submit("first")
    assert not sending.finish()
    assert "the Hugging Face Hub has unet/config.json otherwise than sent (1 file(s))" in capsys.readouterr().err


def hub_environment(server: HubServer, folder: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": server.url, "HF_HOME": str(folder / "home"), "HF_TOKEN": ""}


def test_from_training_to_the_hub_and_back(server, digits_flags, tmp_path):
    """Trained on two ranks and uploaded; then sampled from the Hub. The token is nowhere."""
    environment = hub_environment(server, tmp_path)
    folder = tmp_path / "digits model"
    flags = [
        *("train", *digits_flags, "--max_train_steps", 20, "--train_batch_size", 16, "--checkpointing_steps", 10),
        *("--save_image_epochs", 1, "--ddpm_num_inference_steps", 2, "--push_to_hub", "--hub_model_id", "me/digits"),
        *("--hub_token", TOKEN, "--hub_private_repo", "--hub_license", "apache-2.0", "--output_dir", folder),
    ]
    result = run_program("launch", "-n", 2, *flags, **environment)
    assert result.returncode == 0, result.stderr
    assert f"uploaded to {server.url}/me/digits" in result.stderr
    repository = server.repositories["me/digits"]
    assert repository["private"] is True
    names = set(repository["files"])
    assert names >= {"README.md", "loss.png", "model_index.json", "unet/diffusion_pytorch_model.safetensors"}
    assert not [name for name in names if name.startswith(("checkpoint", "logs", "training_config"))]
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        assert TOKEN.encode() not in path.read_bytes(), path
    assert TOKEN not in result.stdout + result.stderr

    text = repository["files"]["README.md"].decode()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "apache-2.0" and head["library_name"] == "diffusers" and "mindspore" in head["tags"]
    assert 'repository = "me/digits"' in text and "DDPMPipeline.from_pretrained(repository)" in text
    assert "20 of 20" in text and "![loss](loss.png)" in text

    environment["HF_TOKEN"] = TOKEN
    flags = ["--num_images", 2, "--num_inference_steps", 2, "--output_dir", tmp_path / "pictures"]
    result = run_program("sample", "--model", "me/digits", *flags, **environment)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "pictures" / "grid.png").is_file()
    assert not [path for _, path in server.requests if "xet" in path]


def test_push_by_hand(server, run_folder, tmp_path):
    environment = {**hub_environment(server, tmp_path), "HF_TOKEN": TOKEN}
    result = run_program("push", "--model", run_folder, "--hub_model_id", "me/again", **environment)
    assert result.returncode == 0, result.stderr
    assert server.repositories["me/again"]["files"].keys() == SENT
    assert not [path for _, path in server.requests if "xet" in path]  # large files come to HF_ENDPOINT too
    (run_folder / "model_index.json").unlink()
    (run_folder / "pytorch_lora_weights.safetensors").write_text("adapters")
    result = run_program("push", "--model", run_folder, "--hub_model_id", "me/adapters", **environment)
    assert result.returncode == 0, result.stderr
    assert "pytorch_lora_weights.safetensors" in server.repositories["me/adapters"]["files"]
    (run_folder / "pytorch_lora_weights.safetensors").unlink()
    result = run_program("push", "--model", run_folder, **environment)
    assert result.returncode == 2
    assert result.stderr == f"error: --model {run_folder}: is not a pipeline; it has no model_index.json\n"


def test_without_a_token_nothing_is_started(tmp_path):
    result = run_program(
        "train", "--dataset_name", "digits", "--channels", 1, "--image_size", 8, "--push_to_hub",
        "--output_dir", tmp_path / "run", HF_HOME=str(tmp_path / "home"), HF_TOKEN="",
    )  # fmt: skip
    assert result.returncode == 2 and "--push_to_hub: no token found" in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_launcher_keeps_the_token_out_of_command_lines():
    words = ["train", "--hub_token", TOKEN, "--push_to_hub"]
    assert launch.without_token(words) == (["train", "--push_to_hub"], TOKEN)
    assert launch.without_token(["train", f"--hub_token={TOKEN}"]) == (["train"], TOKEN)
    assert launch.without_token(["train"]) == (["train"], None)


def test_the_launcher_gives_the_token_to_the_hub_that_is_meant(tmp_path):
    (tmp_path / "run.yaml").write_text("hub: modelers\n")
    file = str(tmp_path / "run.yaml")
    assert launch.hub_of(["train", "--push_to_hub"]) == "huggingface"
    assert (
        launch.hub_of(["train", "--hub", "modelscope"]) == launch.hub_of(["train", "--hub=modelscope"]) == "modelscope"
    )
    assert launch.hub_of(["train", "--config", file]) == launch.hub_of(["train", f"--config={file}"]) == "modelers"
    assert launch.hub_of(["train", "--config", file, "--hub", "modelscope"]) == "modelscope"
    assert launch.hub_of(["train", "--config", "absent.yaml"]) == "huggingface"
