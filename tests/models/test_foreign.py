"""Pipelines of strangers: nothing in their folders is run, whatever reads them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_program
from PIL import Image
from safetensors.numpy import save_file

from mindone_ddpm.common.errors import ConfigError, ModelError, UserError
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.models import lora, new_tokens
from mindone_ddpm.models.foreign import KNOWN_CLASSES, SCHEDULER_CLASSES, open_pipeline, pipeline_kind
from mindone_ddpm.models.limits import least_weights, odd_setting
from mindone_ddpm.models.pipelines import UNet2DModel, load_pipeline, load_text_pipeline
from mindone_ddpm.models.presets import UNET_PRESETS
from mindone_ddpm.models.schedulers import make_sampler
from mindone_ddpm.models.unet import make_unet
from mindone_ddpm.output.run_folder import clear_run, run_products
from mindone_ddpm.sampling.api import load, sample

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

END = "<|endoftext|>"  # stands for unknown words too


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


@pytest.mark.parametrize("opened", [open_pipeline, pipeline_kind])
def test_a_name_longer_than_a_folders_can_be_is_no_folder(opened):
    more = [["DDPMPipeline"]] if opened is open_pipeline else []
    with pytest.raises(ConfigError, match=r"--model 1+: no such folder"):
        opened("1" * 300, *more)


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


# --- settings that are none, and files that are none ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "changes", "said"),
    [
        ("unet/config.json", {"block_out_channels": [10**5, 10**5]}, "its weights are of a smaller network"),
        ("unet/config.json", {"layers_per_block": 10**6}, "more layers than can be"),
        ("unet/config.json", {"sample_size": 10**6}, "sample_size is 1000000"),
        ("unet/config.json", {"sample_size": []}, r"sample_size is \[\]"),
        ("unet/config.json", {"down_block_types": [1, 2]}, "down_block_types is"),
        ("unet/config.json", {"norm_eps": "x"}, "norm_eps is x"),
        ("unet/config.json", {"norm_num_groups": 0}, "cannot be loaded"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}, "num_train_timesteps is"),
        ("scheduler/scheduler_config.json", {"steps_offset": "1"}, "steps_offset is 1"),
        ("scheduler/scheduler_config.json", {"beta_end": float("nan")}, "beta_end is nan"),
        ("scheduler/scheduler_config.json", {"trained_betas": [[1]]}, "cannot"),
        ("scheduler/scheduler_config.json", {"_class_name": [1]}, "is needed"),
    ],
)
def test_settings_are_checked_before_a_network_is_made_of_them(tmp_path, path, changes, said):
    folder = copy_with_code(PIPELINE, tmp_path / "pipeline")
    rewrite(folder / path, **changes)
    with pytest.raises(ConfigError, match=said) as told:
        pipeline = load_pipeline(str(folder))
        make_sampler("ddim", pipeline.scheduler)
    assert "\n" not in str(told.value)


def test_settings_of_published_networks_are_good():
    """As their files say them; the bounds on their weights are below what they have."""
    import make_stable_diffusion as made
    from mindone.diffusers import AutoencoderKL, UNet2DConditionModel

    networks = [(UNet2DModel, preset) for preset in UNET_PRESETS.values()]
    networks += [(UNet2DConditionModel, made.REAL_UNET), (UNet2DConditionModel, made.REAL_XL_UNET)]
    networks += [(AutoencoderKL, made.REAL_VAE), (AutoencoderKL, {**made.REAL_VAE, "scaling_factor": 0.18215})]
    for kind, settings in networks:
        as_in_a_file = json.loads(json.dumps(settings))
        assert odd_setting(as_in_a_file, kind) is None
    assert least_weights({**made.REAL_UNET, "layers_per_block": 2}) < 859_520_964
    assert least_weights({**made.REAL_XL_UNET, "layers_per_block": 2}) < 2_567_463_684
    assert least_weights(made.REAL_VAE) < 83_653_863
    assert 100_000_000 < least_weights(made.REAL_TEXT_ENCODER) < 123_060_480


@pytest.mark.parametrize("part", ["unet", "scheduler"])
def test_pipes_and_links_in_a_part_are_refused(tmp_path, part):
    for name, put in {
        "pipe": lambda path: os.mkfifo(path),
        "zero": lambda path: path.symlink_to("/dev/zero"),
        "nothing": lambda path: path.symlink_to("nowhere"),
        "itself": lambda path: path.symlink_to(path.name),
    }.items():
        folder = tmp_path / name
        shutil.copytree(PIPELINE, folder)
        put(folder / part / "more.json")
        with pytest.raises(ConfigError, match=rf"{part}/more\.json is neither a file nor a folder"):
            load_pipeline(str(folder))


def test_an_index_names_no_folders_elsewhere(tmp_path):
    """What a run removes from its folder, and what is copied from it, are parts of its own."""
    mine = tmp_path / "mine"
    mine.mkdir()
    run = tmp_path / "run"
    shutil.copytree(PIPELINE, run)
    rewrite(run / "model_index.json", **{"../mine": ["diffusers", "x"], str(mine): ["diffusers", "x"]})
    (run / "product.json").write_text(json.dumps({"parts": ["../mine", "..", "."]}))
    assert all(path.parent == run for path in run_products(run))
    clear_run(run)
    assert mine.is_dir() and not (run / "unet").exists()


@pytest.mark.parametrize("longest", [10**12, "x", 0, 1.5])
def test_a_tokenizer_makes_rows_of_one_sensible_length(tmp_path, stable_diffusion, longest):
    folder = tmp_path / "pipeline"
    shutil.copytree(stable_diffusion, folder)
    rewrite(folder / "tokenizer" / "tokenizer_config.json", model_max_length=longest)
    with pytest.raises(ConfigError, match=r"its tokenizer cannot be loaded"):
        load_text_pipeline(str(folder))


@pytest.mark.parametrize("number", ["ü", -1, 1.5, 10**12])
def test_a_tokenizers_vocabulary_is_numbered(tmp_path, stable_diffusion, number):
    folder = tmp_path / "pipeline"
    shutil.copytree(stable_diffusion, folder)
    rewrite(folder / "tokenizer" / "vocab.json", **{"handwritten</w>": number})
    with pytest.raises(ConfigError, match=r"its tokenizer cannot be loaded"):
        load_text_pipeline(str(folder))


def test_a_tokenizer_has_a_number_for_every_byte(tmp_path, stable_diffusion):
    folder = tmp_path / "pipeline"
    shutil.copytree(stable_diffusion, folder)
    path = folder / "tokenizer" / "vocab.json"
    vocabulary = json.loads(path.read_text())
    path.write_text(json.dumps({word: number for word, number in vocabulary.items() if word not in ("%</w>", END)}))
    with pytest.raises(ConfigError, match=r"its tokenizer cannot be loaded"):
        load_text_pipeline(str(folder))


def test_pipes_are_no_adapters_and_no_words(tmp_path):
    os.mkfifo(tmp_path / "pytorch_lora_weights.safetensors")
    os.mkfifo(tmp_path / "learned_embeds.safetensors")
    with pytest.raises(ConfigError, match="is not a file"):
        lora.merge_adapters(None, [str(tmp_path)])
    with pytest.raises(ConfigError, match="is not a file"):
        new_tokens._read(str(tmp_path), None)


def test_a_network_larger_than_the_memory_is_refused(tmp_path):
    config = {"block_out_channels": [10**5, 10**5], "down_block_types": ["DownBlock2D"] * 2}
    (tmp_path / "config.json").write_text(json.dumps({**config, "up_block_types": ["UpBlock2D"] * 2}))
    with pytest.raises(ConfigError, match=r"weights are more than this machine's memory holds"):
        make_unet(TrainingConfig(dataset_name="digits", model_config_name_or_path=str(tmp_path), image_size=8))


def test_networks_that_do_not_go_together_are_told_in_one_line(tmp_path):
    """Each setting is good by itself."""
    folder = tmp_path / "pipeline"
    shutil.copytree(PIPELINE, folder)
    rewrite(folder / "unet" / "config.json", class_names=["a", "b"], num_class_embeds=3)
    with pytest.raises(UserError, match=r"cannot be loaded|do not go together") as told:
        sample(load(str(folder)), num_images=1, num_inference_steps=1)
    assert "\n" not in str(told.value)


def test_a_network_that_does_not_say_how_large_its_images_are(tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(PIPELINE, folder)
    rewrite(folder / "unet" / "config.json", sample_size=None)
    with pytest.raises(ModelError, match=r"unet/config\.json has no sample_size"):
        sample(load(str(folder)), num_images=1, num_inference_steps=1)
