"""Pipelines of strangers: nothing in their folders is run, whatever reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_program
from PIL import Image
from safetensors.numpy import save_file

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.models.foreign import KNOWN_CLASSES, SCHEDULER_CLASSES, open_pipeline
from mindone_ddpm.models.pipelines import load_pipeline, load_text_pipeline

PIPELINE = ROOT / "tests" / "data" / "runs_of_0_1" / "pipeline"
KINDS = ("DDPMPipeline", "DDIMPipeline")
EVIL = """
from pathlib import Path
Path({mark!r}).write_text("ran")
class Evil:
    @classmethod
    def from_pretrained(cls, *arguments, **options):
        return cls()
"""


def rewrite(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def copy_with_code(source: Path, folder: Path) -> Path:
    """A copy of a pipeline with a Python file in each of its folders, and in its own; what each would write."""
    shutil.copytree(source, folder)
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        (place / "evil.py").write_text(EVIL.format(mark=str(folder.parent / "mark")))
    return folder


def indices(part: str) -> dict[str, dict]:
    """Changes of an index that make the libraries import something."""
    return {
        "a file of the folder": {part: ["evil", "Evil"]},
        "an installed module": {part: ["this", "x"]},
        "a module of the library": {part: ["diffusers.utils", "logging"]},
        "a path": {part: ["../evil", "Evil"]},
        "another class of the library": {part: ["diffusers", "DiffusionPipeline"]},
        "not text": {part: [["diffusers"], {"a": 1}]},
        "three items": {part: ["diffusers", "DDPMScheduler", "evil"]},
        "a new part": {"extra": ["evil", "Evil"]},
        "a custom pipeline": {"_class_name": ["evil", "Evil"]},
    }


@pytest.mark.parametrize("part", ["scheduler", "unet"])
@pytest.mark.parametrize("change", indices("scheduler"))
def test_an_index_cannot_ask_for_code(tmp_path, part, change):
    folder = copy_with_code(PIPELINE, tmp_path / "pipeline")
    rewrite(folder / "model_index.json", **indices(part)[change])
    with pytest.raises(ConfigError, match="not loaded"):
        load_pipeline(str(folder))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer", "feature_extractor", "scheduler"])
def test_nor_can_that_of_a_text_to_image_pipeline(tmp_path, stable_diffusion, part):
    folder = copy_with_code(stable_diffusion, tmp_path / "pipeline")
    for change in ("a file of the folder", "an installed module"):
        rewrite(folder / "model_index.json", **indices(part)[change])
        with pytest.raises(ConfigError, match=f"its {part} is a .*, which is not loaded"):
            load_text_pipeline(str(folder))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "path", ["tokenizer/tokenizer_config.json", "text_encoder/config.json", "unet/config.json", "vae/config.json"]
)
def test_a_part_cannot_ask_for_code(tmp_path, stable_diffusion, path):
    folder = copy_with_code(stable_diffusion, tmp_path / "pipeline")
    rewrite(folder / path, auto_map={"AutoTokenizer": ["evil.Evil", None], "AutoModel": "evil.Evil"})
    with pytest.raises(ConfigError, match="asks for code of its own, which is not loaded"):
        load_text_pipeline(str(folder))
    assert not (tmp_path / "mark").exists()


def test_a_parts_own_class_is_checked_too(tmp_path):
    folder = copy_with_code(PIPELINE, tmp_path / "pipeline")
    for path, name in (("unet/config.json", ["evil", "Evil"]), ("scheduler/scheduler_config.json", "Evil")):
        before = (folder / path).read_text()
        rewrite(folder / path, _class_name=name)
        with pytest.raises(ConfigError, match="is needed"):
            load_pipeline(str(folder))
        (folder / path).write_text(before)
    assert load_pipeline(str(folder)).unet.config.in_channels == 1


def test_pickled_weights_are_not_read(tmp_path):
    folder = copy_with_code(PIPELINE, tmp_path / "pipeline")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ConfigError, match="its weights are pickled, which is not loaded: with PyTorch, diffusers"):
        load_pipeline(str(folder))


@pytest.mark.parametrize("content", ["[]", "null", "{", "1" * 5000, '{"_class_name": 3}', "[" * 100_000, "\x00"])
def test_an_index_that_is_none(tmp_path, content):
    (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(ConfigError) as told:
        open_pipeline(str(tmp_path), KINDS)
    assert str(told.value).count("\n") == 0 and str(tmp_path) in str(told.value)


@pytest.mark.parametrize("path", ["unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", ["[]", "7", "{"])
def test_a_configuration_that_is_none(tmp_path, path, content):
    folder = copy_with_code(PIPELINE, tmp_path / "pipeline")
    (folder / path).write_text(content)
    with pytest.raises(ConfigError, match=f"{Path(path).name} is damaged"):
        load_pipeline(str(folder))


def test_every_known_class_is_there():
    import importlib

    for classes in KNOWN_CLASSES.values():
        for name, module in classes.items():
            if name != "CLIPFeatureExtractor":  # gone from transformers 5
                assert getattr(importlib.import_module(module), name) is not None
    assert len(SCHEDULER_CLASSES) == len(set(SCHEDULER_CLASSES))


def commands(folder: Path, tmp_path: Path, text: bool) -> list[list[object]]:
    """Every command that opens a pipeline."""
    Image.new("L", (8, 8), 200).save(tmp_path / "image.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    output = ["--output_dir", tmp_path / "out", "--device", "CPU"]
    image = tmp_path / "image.png"
    if text:
        train = ["train_text_to_image", "--train_data_dir", tmp_path, "--pretrained_model_name_or_path", folder]
        return [[*train, *output], ["sample", "--model", folder, "--prompt", "a", *output]]
    return [
        ["sample", "--model", folder, *output],
        ["evaluate", "--model", folder, "--dataset_name", "digits", "--features", "digits", *output],
        ["inpaint", "--model", folder, "--image", image, "--mask", tmp_path / "mask.png", *output],
        ["interpolate", "--model", folder, "--image_a", image, "--image_b", image, *output],
        ["train", "--pretrained_model_name_or_path", folder, "--dataset_name", "digits", "--channels", 1,
         "--image_size", 8, *output],
    ]  # fmt: skip


def test_no_command_runs_what_a_pipelines_folder_holds(tmp_path):
    folder = copy_with_code(PIPELINE, tmp_path / "pipeline")
    rewrite(folder / "model_index.json", scheduler=["evil", "Evil"])
    for command in commands(folder, tmp_path, text=False):
        result = run_program(*command, cwd=folder)
        assert result.returncode == 2, (command, result.stderr)
        assert "which is not loaded" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "mark").exists() and not (tmp_path / "out").exists()


def test_adapters_are_read_as_tensors_alone(tmp_path, stable_diffusion):
    """A LoRA file is safetensors; a pickle under its name is refused."""
    folder = tmp_path / "adapters"
    folder.mkdir()
    save_file({"unet.x.lora.down.weight": np.zeros((1, 1), np.float32)}, folder / "good.safetensors")
    (folder / "pytorch_lora_weights.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'touch mark'\ntR.")
    result = run_program(
        *("sample", "--model", stable_diffusion, "--lora", folder, "--prompt", "a", "--device", "CPU"),
        *("--output_dir", tmp_path / "out"),
        cwd=tmp_path,
    )
    assert result.returncode == 2 and "no adapters can be read" in result.stderr
    assert not (tmp_path / "mark").exists()
