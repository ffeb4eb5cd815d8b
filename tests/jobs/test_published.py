"""The command lines of the published scripts, and what their own tests look for."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT
from PIL import Image

from mindone_ddpm.output.records import checkpoints_in

SCRIPT = ROOT / "examples" / "unconditional" / "train_unconditional.py"
# The dummy model of those tests, in the form in which it is published.
DUMMY_MODEL = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.1.1",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [8, 16],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3,
    "layers_per_block": 1,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 4,
    "out_channels": 3,
    "sample_size": 16,
    "time_embedding_type": "positional",
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}


@pytest.fixture
def stand_ins(tmp_path) -> Path:
    """A folder with `data` (six photographs-to-be of two classes) and `ddpm_dummy`."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(6)]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    dataset = Dataset.from_dict({"image": pictures, "label": [0, 1, 0, 1, 0, 1]}, features=features)
    dataset.save_to_disk(tmp_path / "data")
    (tmp_path / "ddpm_dummy").mkdir()
    (tmp_path / "ddpm_dummy" / "config.json").write_text(json.dumps(DUMMY_MODEL))
    return tmp_path


def run_script(folder: Path, command: str) -> subprocess.CompletedProcess:
    """Everything after the script's name, as it stands there; data and model are the stand-ins."""
    command = command.replace("huggan/flowers-102-categories", str(folder / "data"))
    command = command.replace("hf-internal-testing/dummy_image_class_data", str(folder / "data"))
    command = command.replace("diffusers/ddpm_dummy", str(folder / "ddpm_dummy"))
    result = subprocess.run(
        [sys.executable, str(SCRIPT), *shlex.split(command)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    return result


def steps_of(folder: Path) -> list[int]:
    return [step for step, _ in checkpoints_in(folder)]


COMMON = """
    --dataset_name hf-internal-testing/dummy_image_class_data
    --model_config_name_or_path diffusers/ddpm_dummy
    --resolution 16
    --output_dir out
    --train_batch_size 1
    --gradient_accumulation_steps 1
    --ddpm_num_inference_steps 2
    --learning_rate 1e-3
    --lr_warmup_steps 5
"""


@pytest.mark.slow
def test_the_scripts_own_test_of_checkpoints(stand_ins):
    """Two at most are kept; more are removed when a run that goes on allows fewer."""
    run_script(stand_ins, f"{COMMON} --num_epochs 1 --checkpointing_steps=2 --checkpoints_total_limit=2")
    out = stand_ins / "out"
    for name in ("unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json", "model_index.json"):
        assert (out / name).is_file()
    assert json.loads((out / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"
    assert steps_of(out) == [4, 6]
    run_script(
        stand_ins,
        f"{COMMON} --num_epochs 2 --checkpointing_steps=2 --checkpoints_total_limit=3 "
        "--resume_from_checkpoint=checkpoint-6",
    )
    assert steps_of(out) == [8, 10, 12]


def test_the_guides_commands(stand_ins):
    """As in both guides, but for the length of the run, and the small model, which their full one would replace."""
    shorter = "--num_epochs=1 --model_config_name_or_path diffusers/ddpm_dummy --ddpm_num_inference_steps 2"
    result = run_script(
        stand_ins,
        '--dataset_name="huggan/flowers-102-categories" --resolution=16 --center_crop --random_flip '
        '--output_dir="ddpm-ema-flowers-64" --train_batch_size=4 --num_epochs=100 --gradient_accumulation_steps=1 '
        "--use_ema --learning_rate=1e-4 --lr_warmup_steps=500 --mixed_precision=no --logger=tensorboard "
        f"--enable_xformers_memory_efficient_attention --preserve_input_precision --local_rank=-1 {shorter}",
    )
    out = stand_ins / "ddpm-ema-flowers-64"
    assert (out / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert "6 images at 16x16" in result.stderr + result.stdout
    assert list((out / "logs").glob("events.out.tfevents.*"))
    (stand_ins / "pictures").mkdir()
    for number in range(4):
        Image.new("RGB", (20, 20), (60 * number, 0, 0)).save(stand_ins / "pictures" / f"{number}.jpg")
    run_script(
        stand_ins,
        '--train_data_dir="pictures" --resolution=16 --output_dir="own" --train_batch_size=4 --num_epochs=100 '
        "--gradient_accumulation_steps=1 --learning_rate=1e-4 --lr_warmup_steps=500 --mixed_precision=no "
        f"--report_to=tensorboard --distributed {shorter}",
    )
    assert (stand_ins / "own" / "samples" / "0001.png").is_file()


def test_defaults_are_the_scripts(stand_ins):
    result = run_script(stand_ins, "--dataset_name huggan/flowers-102-categories --print_config")
    config = yaml.safe_load(result.stdout)
    assert (config["image_size"], config["num_epochs"], config["save_model_epochs"]) == (64, 100, 10)
    assert (config["output_dir"], config["preset"], config["resize_mode"]) == ("ddpm-model-64", "tutorial-128", "crop")
    assert config["random_flip"] is False and config["mixed_precision"] == "no"


# As in the published guides, with a folder in the place of the model's name.
GUIDES = {
    "text_to_image/train_text_to_image_lora.py": (
        "--pretrained_model_name_or_path=model --dataset_name=lambdalabs/naruto-blip-captions "
        "--dataloader_num_workers=8 --resolution=512 --center_crop --random_flip --train_batch_size=1 "
        "--gradient_accumulation_steps=4 --max_train_steps=15000 --learning_rate=1e-04 --max_grad_norm=1 "
        "--lr_scheduler=cosine --lr_warmup_steps=0 --output_dir=out --push_to_hub --hub_model_id=naruto-lora "
        "--report_to=wandb --checkpointing_steps=500 --validation_prompt='A naruto with blue eyes.' --seed=1337"
    ),
    "text_to_image/train_text_to_image_lora_sdxl.py": (
        "--pretrained_model_name_or_path=model --pretrained_vae_model_name_or_path=vae "
        "--dataset_name=lambdalabs/naruto-blip-captions --caption_column=text --resolution=512 --random_flip "
        "--train_batch_size=1 --num_train_epochs=2 --checkpointing_steps=500 --learning_rate=1e-04 "
        "--lr_scheduler=constant --lr_warmup_steps=0 --mixed_precision=fp16 --seed=42 --output_dir=out "
        "--train_text_encoder --validation_prompt='cute dragon creature' --report_to=wandb --push_to_hub"
    ),
    "text_to_image/train_text_to_image_sdxl.py": (
        "--pretrained_model_name_or_path=model --pretrained_vae_model_name_or_path=vae "
        "--dataset_name=lambdalabs/naruto-blip-captions --enable_xformers_memory_efficient_attention --resolution=512 "
        "--center_crop --random_flip --proportion_empty_prompts=0.2 --train_batch_size=1 "
        "--gradient_accumulation_steps=4 --gradient_checkpointing --max_train_steps=10000 --learning_rate=1e-06 "
        "--lr_scheduler=constant --lr_warmup_steps=0 --mixed_precision=fp16 --report_to=wandb "
        "--validation_prompt='a cute creature' --validation_epochs 5 --checkpointing_steps=5000 --output_dir=out "
        "--push_to_hub"
    ),
    "dreambooth/train_dreambooth.py": (
        "--pretrained_model_name_or_path=model --train_text_encoder --instance_data_dir=dog --class_data_dir=dogs "
        "--output_dir=out --with_prior_preservation --prior_loss_weight=1.0 "
        "--instance_prompt='a photo of sks dog' --class_prompt='a photo of dog' --resolution=512 --train_batch_size=1 "
        "--gradient_checkpointing --learning_rate=2e-6 --lr_scheduler=constant --lr_warmup_steps=0 "
        "--num_class_images=200 --max_train_steps=800 --push_to_hub --set_grads_to_none --mixed_precision=fp16 "
        "--sample_batch_size=1 --enable_xformers_memory_efficient_attention"
    ),
    "dreambooth/train_dreambooth_lora.py": (
        "--pretrained_model_name_or_path=model --instance_data_dir=dog --output_dir=out "
        "--instance_prompt='a photo of sks dog' --resolution=512 --train_batch_size=1 "
        "--gradient_accumulation_steps=1 --checkpointing_steps=100 --learning_rate=1e-4 --report_to=wandb "
        "--lr_scheduler=constant --lr_warmup_steps=0 --max_train_steps=500 "
        "--validation_prompt='A photo of sks dog in a bucket' --validation_epochs=50 --seed=0 --push_to_hub"
    ),
    "textual_inversion/textual_inversion.py": (
        "--pretrained_model_name_or_path=model --train_data_dir=cat --learnable_property=object "
        "--placeholder_token='<cat-toy>' --initializer_token=toy --resolution=512 --train_batch_size=1 "
        "--gradient_accumulation_steps=4 --max_train_steps=3000 --learning_rate=5.0e-04 --scale_lr "
        "--lr_scheduler=constant --lr_warmup_steps=0 --push_to_hub --output_dir=out --num_vectors 5 --save_steps 500 "
        "--validation_prompt 'A <cat-toy> backpack' --validation_steps 100 --num_validation_images 4 --allow_tf32"
    ),
}


@pytest.mark.parametrize("script", GUIDES)
def test_the_guides_of_stable_diffusion_are_taken_as_they_are(script, tmp_path):
    for name in ("model", "dog", "cat"):
        (tmp_path / name).mkdir()
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / script, *shlex.split(GUIDES[script]), "--print_config"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    config = yaml.safe_load(result.stdout)
    assert config["image_size"] == 512 and config["output_dir"] == "out" and config["train_batch_size"] == 1
    if "dreambooth" in script:
        assert (config["train_data_dir"], config["rank"]) == ("dog", 4 if "lora" in script else None)
    assert config.get("num_validation_images") == 4 or "validation_prompt" not in GUIDES[script]
