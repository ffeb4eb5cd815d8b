"""ModelScope and Modelers, with their own clients, against servers that speak their interfaces."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import CLIENTS, PROGRAMS, ROOT
from local_hub import LocalHub
from modelers_server import ModelersServer
from modelscope_server import ModelScopeServer
from PIL import Image

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.groups import DataConfig
from mindone_ddpm.data.datasets import open_dataset
from mindone_ddpm.evaluation.inception import find_inception_weights
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.product import unconditional_product
from mindone_ddpm.models.foreign import load_vae, pipeline_kind
from mindone_ddpm.output.card import write_card
from mindone_ddpm.output.config import PushConfig
from mindone_ddpm.output.hub import push as push_folder

CLIENT_OF = {"modelscope": "modelscope_hub", "modelers": "openmind_hub"}


@pytest.fixture(params=list(CLIENT_OF))
def hub(request, tmp_path):
    """A local server of a hub, by the hub's name, and the environment in which its client asks this server."""
    home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf")}
    if request.param == "modelscope":
        server: LocalHub = ModelScopeServer()
        own = {"MODELSCOPE_ENDPOINT": server.url, "MODELSCOPE_API_TOKEN": server.token}
        own["MODELSCOPE_CACHE"] = str(tmp_path / "cache" / "modelscope")
    else:
        server = ModelersServer(tmp_path)
        own = {"OPENMIND_HUB_ENDPOINT": server.url, "OPENMIND_HUB_TOKEN": server.token}
        own["REQUESTS_CA_BUNDLE"] = str(tmp_path / "certificate.pem")
    yield request.param, server, {**home, **own}
    server.close()


def run(module: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROGRAMS / "at_modelers.py", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{PROGRAMS}:{CLIENTS}", **environment},
    )


def push(folder: Path, hub: str, environment: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    return run("mindone_ddpm", "push", "--hub", hub, "--model", folder, *flags, **environment)


@pytest.fixture
def run_folder(tmp_path) -> Path:
    folder = tmp_path / "my-model"
    for name in (
        *("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
        *("scheduler/scheduler_config.json", "samples/0001.png", "training_config.yaml"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    config = TrainingConfig(dataset_name="digits", output_dir=str(folder), hub_license="apache-2.0")
    write_card(config, unconditional_product(config), {"data": "10 images"}, folder, 5, 10)
    return folder


SENT = {
    *("README.md", "model_index.json", "scheduler/scheduler_config.json"),
    *("unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
}


def test_pushed_privately_compared_and_pushed_again(hub, run_folder):
    name, server, environment = hub
    before = (run_folder / "README.md").read_text()
    result = push(run_folder, name, environment, "--hub_private_repo")
    assert result.returncode == 0, result.stderr
    assert "/someone/my-model: 6 files, compared with what was sent" in result.stdout and result.stderr == ""
    made_with = {key.lower(): value for key, value in server.repositories["someone/my-model"]["made_with"].items()}
    assert made_with["visibility"] in (1, "private") and made_with["license"].lower() == "apache-2.0"
    files = server.repositories["someone/my-model"]["files"]
    assert files.keys() == SENT | {"samples/0001.png"}
    assert all(text == f"content of {name}".encode() for name, text in files.items() if name != "README.md")

    card = files["README.md"].decode()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "apache-2.0" and [each.lower() for each in head["frameworks"]] == ["mindspore"]
    assert f"mindone-ddpm sample --hub {name} --model someone/my-model\n" in card
    assert f"from {CLIENT_OF[name]} import" in card and '"someone/my-model"' in card
    assert (run_folder / "README.md").read_text() == before

    files["notes.txt"] = b"the owner's own"
    (run_folder / "samples" / "0002.png").write_text("a later epoch")
    result = push(run_folder, name, environment, "--hub_private_repo", "--hub_license", "mit")
    assert result.returncode == 0, result.stderr
    assert "; 1 other file(s) there were left alone: notes.txt" in result.stdout
    assert files.keys() == SENT | {"samples/0002.png", "notes.txt"}
    assert yaml.safe_load(files["README.md"].decode().split("---")[1])["license"] == "mit"
    assert server.token not in result.stdout + result.stderr


@pytest.mark.slow
def test_refusals_and_damage_are_told_in_one_line(hub, run_folder):
    name, server, environment = hub
    assert push(run_folder, name, environment).returncode == 0
    result = push(run_folder, name, environment, "--hub_private_repo")
    assert (
        result.returncode == 1 and "my-model is public, and --hub_private_repo asks for a private one" in result.stderr
    )
    again = f"`mindone-ddpm push --model {run_folder} --hub {name} --hub_private_repo` tries again"
    assert again in result.stderr
    server.corrupts = "unet/config.json"
    result = push(run_folder, name, environment, "--hub_token", server.token)
    assert result.returncode == 1 and "has unet/config.json otherwise than sent (1 file(s))" in result.stderr
    server.corrupts, server.failures = None, [403] * 9
    result = push(run_folder, name, environment)
    assert result.returncode == 1 and "could not be uploaded" in result.stderr and result.stderr.count("\n") == 2
    variables = {"MODELSCOPE_API_TOKEN": "", "OPENMIND_HUB_TOKEN": ""}
    result = push(run_folder, name, environment | variables)
    assert result.returncode == 2 and "--push_to_hub: no token found" in result.stderr


@pytest.mark.slow
def test_a_card_without_a_license_is_refused_where_the_hub_refuses_it(hub, run_folder):
    name, server, environment = hub
    (run_folder / "README.md").write_text("# Mine\n")
    result = push(run_folder, name, environment)
    if name == "modelers":
        assert result.returncode == 2 and result.stderr.startswith("error: --hub_license: give a license")
        assert server.requests == []
        result = push(run_folder, name, environment, "--hub_license", "mit")
        card = server.repositories["someone/my-model"]["files"]["README.md"].decode()
        assert card == "---\nlicense: mit\n---\n# Mine\n"
    assert result.returncode == 0, result.stderr


def put_pipeline(server: LocalHub, name: str) -> None:
    """A pipeline as a user of others' models meets it: with code and pickled weights beside what is needed."""
    files = {
        "model_index.json": b'{"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], '
        b'"scheduler": ["diffusers", "DDPMScheduler"]}',
        "unet/config.json": b'{"_class_name": "UNet2DModel"}',
        "unet/diffusion_pytorch_model.safetensors": b"weights",
        "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
        "unet/diffusion_pytorch_model.bin": b"pickled",
        "scheduler/scheduler_config.json": b'{"_class_name": "DDPMScheduler"}',
        "pipeline.py": b"raise SystemExit",
        "unet/code.py": b"raise SystemExit",
    }
    server.repositories[name] = {"made_with": {"Visibility": 5}, "files": files}


def put_data_set(server: LocalHub, name: str) -> None:
    files = {"train/run.py": b"raise SystemExit"}
    for label in ("cat", "dog"):
        for number in range(3):
            content = io.BytesIO()
            Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(content, format="png")
            files[f"train/{label}/{number}.png"] = content.getvalue()
    server.repositories[name] = {"made_with": {"Visibility": 5}, "files": files}


def test_pipelines_and_data_sets_are_read_without_code_and_pickles(hub):
    name, server, environment = hub
    put_pipeline(server, "others/pipeline")
    put_data_set(server, "others/pictures")
    result = run("fetch_from_hub", name, "others/pipeline", "others/pictures", **environment)
    assert result.returncode == 0, result.stderr
    kind, parts, data, first = result.stdout.splitlines()
    assert kind == "DDPMPipeline"
    assert "('scheduler', 'DDPMScheduler'), ('unet', 'UNet2DModel')" in parts
    assert parts.endswith(
        "['config.json', 'diffusion_pytorch_model.safetensors', 'model_index.json', 'scheduler_config.json']"
    )
    assert data == "6 image ['cat', 'dog']" and first == "0.png"
    asked = [path for _, path in server.requests]
    assert not [path for path in asked if path.endswith((".py", ".bin"))]


@pytest.mark.slow
def test_names_that_lead_out_of_the_cache_are_not_fetched(hub, tmp_path):
    name, server, environment = hub
    put_pipeline(server, "others/pipeline")
    put_data_set(server, "others/pictures")
    server.repositories["others/pipeline"]["files"]["../../../../outside/x.json"] = b"{}"
    result = run("fetch_from_hub", name, "others/pipeline", "others/pictures", **environment)
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.rglob("x.json"))


@pytest.mark.slow
def test_what_is_not_there_is_told_in_one_line(hub, tmp_path):
    name, _, environment = hub
    flags = ["--model", "others/nothing", "--output_dir", tmp_path / "images"]
    result = run("mindone_ddpm", "sample", "--hub", name, *flags, **environment)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: --model others/nothing: not found or not reachable (")
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("name", list(CLIENT_OF))
def test_without_the_client_the_extra_is_named(name, run_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, CLIENT_OF[name], None)
    config = PushConfig(model=str(run_folder), hub=name, hub_token="x", hub_license="mit")
    said = f"--hub {name}: its client is not installed; run `pip install 'mindone-ddpm[{name}]'`"
    for use in (
        lambda: push_folder(config),
        lambda: pipeline_kind("others/pipeline", hub=name),
        lambda: load_vae("others/vae", hub=name),
        lambda: find_inception_weights("others/weights", name),
        lambda: open_dataset(DataConfig(hub=name, dataset_name="others/pictures")),
    ):
        with pytest.raises(ConfigError) as refused:
            use()
        assert str(refused.value) == said


def test_xet_is_off_where_the_endpoint_is_a_mirror():
    program = "import os, mindone_ddpm.common.environment; print(os.environ.get('HF_HUB_DISABLE_XET'))"
    for endpoint, said in (
        ("", "None"),
        ("https://huggingface.co", "None"),
        ("https://hub-ci.huggingface.co/", "None"),
        ("https://hf-mirror.com", "1"),
        ("http://127.0.0.1:8080", "1"),
        ("https://nothuggingface.co", "1"),
    ):
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HF_ENDPOINT": endpoint}
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert result.stdout.strip() == said, endpoint
