from __future__ import annotations

import argparse
import dataclasses
import json
import time

import pytest
import yaml
from conftest import ROOT, run_program

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.fields import as_dict
from mindone_ddpm.config.parse import add_arguments, from_arguments, from_dict, read_yaml, to_yaml
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.models.presets import UNET_PRESETS, preset_for, size_divisor
from mindone_ddpm.sampling.config import SampleConfig


def parse(*arguments: str) -> TrainingConfig:
    parser = argparse.ArgumentParser()
    add_arguments(parser, TrainingConfig)
    return from_arguments(TrainingConfig, parser.parse_args(arguments))


def problems_of(**values) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(**{"dataset_name": "digits", **values}).check()
    return caught.value.problems


def test_defaults_are_the_tutorials():
    config = TrainingConfig()
    assert (config.image_size, config.train_batch_size, config.eval_batch_size, config.num_epochs) == (128, 16, 16, 50)
    assert (config.gradient_accumulation_steps, config.learning_rate, config.lr_warmup_steps) == (1, 1e-4, 500)
    assert (config.save_image_epochs, config.save_model_epochs, config.seed) == (10, 30, 0)
    assert config.output_dir == "ddpm-butterflies-128"
    assert (config.max_grad_norm, config.lr_scheduler, config.ddpm_num_steps) == (1.0, "cosine", 1000)


def test_flags_of_the_published_scripts():
    config = parse(
        "--dataset_name=x",
        "--resolution=64",
        "--center_crop",
        "--random_flip",
        "--train_batch_size=8",
        "--num_epochs=3",
        "--gradient_accumulation_steps=2",
        "--learning_rate=2e-4",
        "--lr_warmup_steps=7",
        "--save_images_epochs=2",
        "--dataloader_num_workers=2",
        "--model_config_name_or_path=c.json",
        "--ddpm_num_steps=100",
        "--ddpm_num_inference_steps=10",
        "--ddpm_beta_schedule=squaredcos_cap_v2",
        "--prediction_type=sample",
        "--adam_beta1=0.9",
        "--adam_beta2=0.99",
        "--adam_weight_decay=0.1",
        "--adam_epsilon=1e-6",
        "--lr_scheduler=linear",
        "--logging_dir=l",
        "--cache_dir=c",
        "--mixed_precision=bf16",
        "--logger=tensorboard",
        "--output_dir=o",
        "--train_data_dir=d",
        "--overwrite_output_dir",
    )
    assert (config.image_size, config.center_crop, config.random_flip, config.save_image_epochs) == (64, True, True, 2)
    assert (config.adam_epsilon, config.learning_rate, config.overwrite_output_dir) == (1e-6, 2e-4, True)


def test_yaml_with_flags_on_top(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("dataset_name: digits\nresolution: 16\nlearning_rate: 1e-3\nrandom_flip: no\n")
    config = parse("--config", str(file), "--learning_rate", "5e-4")
    assert (config.image_size, config.learning_rate, config.random_flip) == (16, 5e-4, False)


def test_yaml_round_trip():
    config = TrainingConfig(dataset_name="digits", learning_rate=3e-4, random_flip=None, max_train_steps=12)
    assert from_dict(TrainingConfig, yaml.safe_load(to_yaml(config))) == config


def test_wrong_names_and_types_are_reported_together(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("learning_rte: 1\nnum_epochs: many\n")
    with pytest.raises(ConfigError) as caught:
        parse("--config", str(file), "--train_batch_size", "4.5")
    text = "\n".join(caught.value.problems)
    assert "did you mean learning_rate?" in text
    assert "--num_epochs many: must be a whole number" in text
    assert "--train_batch_size 4.5: must be a whole number" in text


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", None])
def test_yaml_that_is_none(tmp_path, content):
    file = tmp_path / "run.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match="--config"):
        parse("--config", str(file))


def test_all_problems_are_reported_together():
    found = problems_of(
        train_batch_size=0,
        learning_rate=-1.0,
        lr_scheduler="zigzag",
        channels=2,
        image_size=30,
        preset="small",
        train_data_dir="x",
        ddpm_num_inference_steps=5000,
        adam_beta1=1.0,
        max_train_steps=0,
    )
    text = "\n".join(found)
    for part in (
        "--train_batch_size 0: must be at least 1",
        "--learning_rate -1.0: must be above 0",
        "--lr_scheduler zigzag",
        "--channels 2: must be 1 (grey), 3 (RGB) or 4 (RGBA)",
        "multiple of 4, for example 28 or 32",
        "give only one of them",
        "--ddpm_num_inference_steps 5000",
        "below 1",
        "--max_train_steps 0",
    ):
        assert part in text, part
    assert len(found) == 9


def test_not_a_number_is_refused():
    assert "finite" in problems_of(learning_rate=float("nan"))[0]
    assert "finite" in problems_of(max_grad_norm=float("inf"))[0]


@pytest.mark.parametrize("logging_dir", ["/data/logs", "..", "../logs", ".", ""])
def test_logs_stay_inside_the_output_folder(logging_dir):
    assert "--logging_dir" in problems_of(logging_dir=logging_dir)[0]


def test_values_of_another_shape_or_too_large(tmp_path):
    assert "--seed 4294967296: must be at most 4294967295" in problems_of(seed=2**32)[0]
    assert "--output_dir: must not be empty" in problems_of(output_dir="")[0]
    file = tmp_path / "run.yaml"
    file.write_text("image_size: [64, 64]\n")
    with pytest.raises(ConfigError, match=r"--image_size .*: must be a whole number"):
        parse("--config", str(file))


def test_no_data_set():
    with pytest.raises(ConfigError, match="--dataset_name or --train_data_dir"):
        TrainingConfig().check()


def test_model_config_of_another_class(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    assert "AutoencoderKL" in problems_of(model_config_name_or_path=str(tmp_path))[0]
    assert "no such file" in problems_of(model_config_name_or_path=str(tmp_path / "none.json"))[0]
    (tmp_path / "broken.json").write_text("{")
    assert "not JSON" in problems_of(model_config_name_or_path=str(tmp_path / "broken.json"))[0]


def test_model_config_with_other_channels(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"in_channels": 1, "block_out_channels": [32, 64]}))
    assert "in_channels is 1" in problems_of(model_config_name_or_path=str(tmp_path / "config.json"))[0]


@pytest.mark.parametrize("image_size", [8, 12, 16, 28, 32, 64, 96, 128, 256])
def test_the_default_preset_fits_the_size(image_size):
    assert image_size % size_divisor(UNET_PRESETS[preset_for(image_size)]["block_out_channels"]) == 0


def test_help_answers_in_under_a_second_and_names_every_field():
    started = time.perf_counter()
    result = run_program("train", "--help", fresh=True)
    assert time.perf_counter() - started < 1.0
    assert result.returncode == 0
    for name in (item.name for item in dataclasses.fields(TrainingConfig)):
        assert f"--{name}" in result.stdout
    assert run_program("sample", "--help").stdout.count("--") > len(dataclasses.fields(SampleConfig))


def test_wrong_use_exits_with_2_and_one_line_each():
    result = run_program("train", "--dataset_name", "digits", "--image_size", "9", "--num_epochs", "0")
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 2
    assert all(line.startswith("error: --") for line in result.stderr.strip().splitlines())
    assert run_program("train", "--no_such_flag").returncode == 2


def test_print_config_is_yaml_that_can_be_used_again(tmp_path):
    result = run_program("train", "--dataset_name", "digits", "--channels", "1", "--resolution", "8", "--print_config")
    file = tmp_path / "run.yaml"
    file.write_text(result.stdout)
    config = parse("--config", str(file))
    assert (config.dataset_name, config.image_size, config.channels) == ("digits", 8, 1)


# --- settings that contradict each other


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rescale_betas_zero_snr": True}, "--rescale_betas_zero_snr and --prediction_type epsilon"),
        ({"snr_gamma": 5.0, "loss_weighting": "uniform"}, "--snr_gamma and --loss_weighting"),
        ({"loss_weighting": "snr"}, "--loss_weighting snr: is for --prediction_type sample, not epsilon"),
        ({"label_column": "kind"}, "--label_column: has a meaning with --class_conditional only"),
        ({"guidance_scale": 2.0}, "--guidance_scale: has a meaning with --class_conditional only"),
        (
            {"class_conditional": True, "guidance_scale": 2.0, "label_dropout": 0.0},
            "--guidance_scale and --label_dropout 0",
        ),
        ({"streaming": True, "dataloader_num_workers": 4}, "--streaming and --dataloader_num_workers"),
        ({"lr_scheduler": "piecewise_constant"}, "--lr_scheduler piecewise_constant and --lr_step_rules"),
        (
            {"lr_scheduler": "piecewise_constant", "lr_step_rules": "1:20,0.5:10,0.1"},
            "--lr_step_rules 1:20,0.5:10,0.1: must be",
        ),
        ({"report_to": "none,csv"}, "--report_to none,csv: none stands alone"),
        ({"report_to": "csv,comet"}, "--report_to csv,comet: must be one of"),
        ({"jit_level": "O2"}, "--jit_level O2: must be one of auto, O0, O1"),
        ({"preset": "tiny", "pretrained_model_name_or_path": "x"}, "--preset and --pretrained_model_name_or_path"),
        ({"pretrained_model_name_or_path": "nowhere"}, "--pretrained_model_name_or_path nowhere: no such pipeline"),
        ({"flow_shift": 3.0}, "--flow_shift: give it with --objective flow_matching"),
        (
            {"recipe": "best", "prediction_type": "v_prediction", "flow_shift": 3.0},
            "--flow_shift: give it with --objective flow_matching",
        ),
        ({"huber_c": 0.0}, "--huber_c 0.0: must be above 0"),
        ({"label_dropout": 1.5}, "--label_dropout 1.5: must be at most 1"),
    ],
)
def test_contradictions(values, message):
    problems = problems_of(**values)
    assert any(problem.startswith(message) for problem in problems), problems


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eta": 0.5, "scheduler": "ddpm"}, "--eta: is a setting of --scheduler ddim"),
        (
            {"clip_sample": False, "scheduler": "euler"},
            "--clip_sample: is a setting of --scheduler ddpm, ddim, dpmsolver++ and unipc",
        ),
        ({"bit_depth": 12}, "--bit_depth 12: must be 8 or 16"),
        ({"prompt": ["a"], "prompts_file": "b"}, "--prompt and --prompts_file"),
        ({"scheduler": "magic"}, "--scheduler magic: must be one of"),
    ],
)
def test_contradictions_in_sampling(values, message):
    with pytest.raises(ConfigError) as caught:
        SampleConfig(model="x", **values).check()
    assert any(problem.startswith(message) for problem in caught.value.problems), caught.value.problems


def test_lists_and_secrets():
    parser = argparse.ArgumentParser()
    add_arguments(parser, TextToImageConfig)
    given = parser.parse_args(
        ["--validation_prompts", "a fox", "a hen", "--hub_token", "hf_x", "--num_train_epochs", "3"]
    )
    config = from_arguments(TextToImageConfig, given)
    assert config.validation_prompts == ["a fox", "a hen"] and config.num_epochs == 3
    assert config.hub_token == "hf_x" and "hf_x" not in to_yaml(config) and "hub_token" not in as_dict(config)
    again = from_dict(TextToImageConfig, yaml.safe_load(to_yaml(config)))
    assert again.validation_prompts == config.validation_prompts


def test_every_recipe_is_valid():
    recipes = sorted((ROOT / "examples").rglob("*.yaml"))
    assert len(recipes) >= 5
    for recipe in recipes:
        problems: list[str] = []
        values = read_yaml(str(recipe), TrainingConfig, problems)
        values.setdefault("train_data_dir", None if "dataset_name" in values else "somewhere")
        from_dict(TrainingConfig, values, problems).check()
        text = recipe.read_text()
        assert "mindone-ddpm train --config" in text or "mindone-ddpm launch" in text
        assert "Hardware:" in text


@pytest.mark.parametrize("config", [TrainingConfig, TextToImageConfig, SampleConfig])
def test_names_longer_than_a_files_can_be_are_problems_and_no_failures(config):
    """Of every setting that is a text: the system refuses to look for such a file."""
    for item in dataclasses.fields(config):
        if item.type in ("str", "str | None"):
            made = config(**{item.name: "1" * 5000})
            assert all("\n" not in line for line in made.problems())
