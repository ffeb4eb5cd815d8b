"""What --recipe best chooses, and that it says so."""

from __future__ import annotations

import yaml
from conftest import run_program

from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.recipe import apply_recipe, num_passes
from mindone_ddpm.models import pipelines

FLOW = {
    "timestep_sampling": "logit_normal",
    "logit_std": 1.2,
    "stratified_timesteps": True,
    "noise_coupling": "optimal_transport",
}
CONSTANT = {"lr_scheduler": "constant_with_warmup"}


def chosen(num_images: int, **settings) -> dict[str, object]:
    config = TrainingConfig(recipe="best", train_data_dir="images", **settings)
    applied, reasons = apply_recipe(config, num_images)
    changed = {name: value for name, value in vars(applied).items() if value != getattr(config, name)}
    assert len(reasons) == len(changed) and all(reason.startswith("--") and ": " in reason for reason in reasons)
    assert applied.problems() == config.problems()
    return changed


def test_few_large_images_seen_often():
    found = chosen(300, image_size=128, num_epochs=500)
    flow = {name: value for name, value in FLOW.items() if name != "noise_coupling"}
    of_few = {"flow_shift": 2.0, "augment_probability": 0.12}
    assert found == {"objective": "flow_matching", "use_ema": True, **flow, **CONSTANT, **of_few}


def test_many_small_images():
    assert chosen(50_000, image_size=32) == {"objective": "flow_matching", "use_ema": True, **FLOW, **CONSTANT}
    by_steps = {"max_train_steps": 5000, "train_batch_size": 16, "gradient_accumulation_steps": 2, "image_size": 64}
    assert num_passes(TrainingConfig(**by_steps), 400, 2) == 800
    assert "augment_probability" in chosen(800, **by_steps) and "augment_probability" not in chosen(801, **by_steps)


def test_what_is_given_stays():
    given = {"prediction_type": "v_prediction", "use_ema": True, "augment_probability": 0.3, "image_size": 128}
    given |= {"num_epochs": 1000, "lr_scheduler": "linear"}
    assert chosen(300, **given) == {}
    flow = {"objective": "flow_matching", "flow_shift": 3.0, "image_size": 128}
    assert chosen(50_000, **flow) == {"use_ema": True, **FLOW, **CONSTANT}
    other = {"timestep_sampling": "lognormal", "stratified_timesteps": True, "noise_coupling": "optimal_transport"}
    assert chosen(50_000, **flow, **other) == {"use_ema": True, **CONSTANT}
    assert "objective" not in chosen(300, pretrained_model_name_or_path="pipeline")
    plain = TrainingConfig(train_data_dir="images")
    assert apply_recipe(plain, 300) == (plain, [])


def test_a_run_says_what_was_chosen_records_it_and_resumes(digits_flags, tmp_path):
    flags = ["train", *digits_flags, "--recipe", "best", "--output_dir", tmp_path / "run", "--checkpointing_steps", 2]
    result = run_program(*flags, "--max_train_steps", 2)
    assert result.returncode == 0, result.stderr
    assert "recipe: --objective flow_matching: " in result.stdout
    recorded = yaml.safe_load((tmp_path / "run" / "training_config.yaml").read_text())
    assert recorded["objective"] == "flow_matching" and recorded["recipe"] == "best"
    scheduler = pipelines.load_pipeline(str(tmp_path / "run")).scheduler
    assert type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    again = run_program(*flags, "--max_train_steps", 4, "--resume_from_checkpoint", "latest")
    assert again.returncode == 0, again.stderr
    again = run_program("train", "--config", tmp_path / "run" / "training_config.yaml", "--dry_run")
    assert again.returncode in (0, 2) and "Traceback" not in again.stderr
