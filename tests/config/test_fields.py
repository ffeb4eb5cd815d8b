"""What settings say of themselves."""

from __future__ import annotations

import dataclasses

import pytest

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.fields import (
    RESUME_KINDS,
    Settings,
    heading_of,
    private_settings,
    setting,
    settings_by_resume,
    settings_outside_graph,
)
from mindone_ddpm.jobs.base import BUILT_IN

CONFIGS = [spec.config for spec in BUILT_IN.values()]
# What decides a run's result, with the settings of the optimizer and of the average among it.
LOCKED = {
    *("image_size", "resize_mode", "center_crop", "random_flip", "image_interpolation_mode", "random_vertical_flip"),
    *("streaming", "streaming_buffer_size", "dataloader_drop_last", "loss_type", "huber_c", "snr_gamma"),
    *("noise_offset", "input_perturbation", "gradient_accumulation_steps", "optimizer", "mixed_precision", "use_ema"),
    *("seed", "adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay", "max_grad_norm", "ema_inv_gamma"),
    *("ema_power", "ema_max_decay", "ema_decay", "prediction_type", "timestep_sampling"),
    "snapshot_steps",
    *("logit_mean", "logit_std", "lognormal_mean", "lognormal_std", "stratified_timesteps"),
}
OF_IMAGES = {
    *("channels", "preserve_input_precision", "ddpm_num_steps", "ddpm_beta_schedule", "rescale_betas_zero_snr"),
    *("loss_weighting", "class_conditional", "label_dropout", "validation_split"),
    *("objective", "flow_shift", "noise_coupling", "data_std", "augment_probability", "recipe"),
}
BUCKETS = {"aspect_buckets", "bucket_step", "max_buckets", "max_aspect_ratio"}
OF_TEXT = {*BUCKETS, "caption_dropout", "cache_latents"}
ADAPTERS = {*OF_TEXT, "rank", "lora_alpha", "lora_target_modules", "train_text_encoder", "instance_prompt"}
OF_JOBS = {
    "train": OF_IMAGES,
    "train_text_to_image": {*ADAPTERS, "trigger_word"},
    "train_text_to_image_sdxl": {*ADAPTERS, "trigger_word"},
    "train_dreambooth": {
        *ADAPTERS,
        *("with_prior_preservation", "class_prompt", "prior_loss_weight", "num_class_images"),
    },
    "textual_inversion": {
        *OF_TEXT,
        *("placeholder_token", "initializer_token", "learnable_property", "num_vectors", "repeats"),
    },
}
REPORTED = {
    *("train_batch_size", "num_epochs", "max_train_steps", "learning_rate", "scale_lr", "lr_scheduler"),
    *("lr_warmup_steps", "lr_num_cycles", "lr_power", "lr_step_rules", "loss_scaling", "loss_scale"),
}


@pytest.mark.parametrize(("config", "own"), [(BUILT_IN[name].config, own) for name, own in OF_JOBS.items()])
def test_what_a_resumed_run_must_have_as_it_was(config, own):
    assert set(settings_by_resume(config, "locked")) == LOCKED | own
    assert set(settings_by_resume(config, "report")) == REPORTED
    kinds = [item.metadata["resume"] for item in dataclasses.fields(config)]
    assert set(kinds) == set(RESUME_KINDS)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_job_that_changes_a_default_does_not_change_what_the_setting_means(config):
    for cls in config.__mro__[1:]:
        if dataclasses.is_dataclass(cls):
            for item in dataclasses.fields(cls):
                ours = config.__dataclass_fields__[item.name].metadata
                for name in ("resume", "private", "secret", "outside_graph"):
                    assert ours[name] == item.metadata[name], f"{config.__name__}.{item.name}: {name}"


@pytest.mark.parametrize("config", CONFIGS)
def test_places_and_accounts_are_private(config):
    assert {"output_dir", "cache_dir", "hub_model_id", "resume_from_checkpoint"} <= private_settings(config)
    assert settings_outside_graph(config) == {
        *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "hub"),
        *("max_hours", "on_bad_image", "max_image_pixels"),
    }


@pytest.mark.parametrize("config", CONFIGS)
def test_every_setting_has_a_heading(config):
    headings = {heading_of(config, item.name) for item in dataclasses.fields(config)}
    assert Settings.heading not in headings and len(headings) > 10


@dataclasses.dataclass
class First(Settings):
    number: int = setting(1, "a number", low=1)

    def own_problems(self) -> list[str]:
        return ["first"] if self.number == 7 else []


@dataclasses.dataclass
class Second(Settings):
    word: str = setting("a", "a word", choices=["a", "b"])

    def own_problems(self) -> list[str]:
        return ["second"] if self.word == "b" else []


@dataclasses.dataclass
class Both(Second, First):
    def own_problems(self) -> list[str]:
        return ["both"] if (self.number, self.word) == (7, "b") else []


def test_every_group_checks_its_own():
    assert Both().problems() == []
    assert Both(number=7, word="b").problems() == ["first", "second", "both"]
    with pytest.raises(ConfigError) as told:
        Both(number=0, word="c").check()
    assert told.value.problems == ["--number 0: must be at least 1", "--word c: must be one of a, b"]
