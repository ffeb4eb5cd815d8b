"""The model card, and the curves that it is drawn from."""

from __future__ import annotations

import pytest
import yaml

from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig
from mindone_ddpm.jobs.text_to_image.product import text_to_image_product
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.product import unconditional_product
from mindone_ddpm.output import card, metrics_log
from mindone_ddpm.output.tracking import make_tracker

PLAN = {"data": "10 images", "model": "tiny"}


def test_a_card_of_ones_own_is_left_alone(tmp_path):
    config = TrainingConfig(dataset_name="digits", output_dir=str(tmp_path))
    card.write_card(config, unconditional_product(config), PLAN, tmp_path, 5, 10)
    first = (tmp_path / "README.md").read_text()
    assert "5 of 10" in first and card.MARK in first
    card.write_card(config, unconditional_product(config), PLAN, tmp_path, 10, 10)
    assert "10 of 10" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("mine")
    card.write_card(config, unconditional_product(config), PLAN, tmp_path, 10, 10)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_the_command_on_the_card_gives_the_same_configuration():
    from mindone_ddpm.cli import parse_training_arguments

    config = TrainingConfig(
        dataset_name="me/pictures", use_ema=True, random_flip=False, learning_rate=3e-4, hub_token="hf_x",
        output_dir="/home/me/secret place", push_to_hub=True,
    )  # fmt: skip
    command = card.command_line(config, unconditional_product(config))
    assert "secret" not in command and "hf_x" not in command
    again = parse_training_arguments(command.split()[2:])
    assert (again.dataset_name, again.use_ema, again.random_flip) == ("me/pictures", True, False)
    assert again.learning_rate == 3e-4
    assert card.metadata(config, unconditional_product(config))["datasets"] == ["me/pictures"]


def test_no_place_of_this_machine_is_on_the_card(tmp_path):
    (tmp_path / "clinic" / "scans").mkdir(parents=True)
    config = TrainingConfig(
        train_data_dir=str(tmp_path / "clinic" / "scans"), model_config_name_or_path="~/private/model.json",
        output_dir=str(tmp_path / "clinic" / "model"),
    )  # fmt: skip
    plan = {"model": "UNet of ~/private/model.json"}
    text = card.card_text(config, unconditional_product(config), plan, 1, 1, {}, None)
    assert "clinic" not in text and "private" not in text and str(tmp_path) not in text
    assert "--train_data_dir scans" in text and "UNet of model.json" in text


def test_a_data_set_on_disk_is_not_named_as_one_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "data" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = TrainingConfig(dataset_name="data/mine")
    assert "datasets" not in card.metadata(config, unconditional_product(config))


def test_a_model_of_classes_is_sampled_by_the_command():
    """The libraries' own pipelines cannot be told a class."""
    config = TrainingConfig(dataset_name="digits", class_conditional=True, hub_model_id="me/digits")
    text = card.card_text(config, unconditional_product(config), PLAN, 1, 1, {}, None)
    assert "mindone-ddpm sample --model me/digits --class_label 0\n" in text and "from_pretrained" not in text
    assert "--model you/others --class_label 0\n" in card.for_repository(text, "you/others")


def test_a_curve_with_holes_is_drawn():
    assert card.draw_curve({1: float("nan"), 2: 1.0, 3: float("inf"), 4: 0.5}).size == (720, 320)
    assert card.draw_curve({1: float("nan"), 2: float("inf")}).size == (720, 320)


def test_a_line_cut_short_costs_that_line(tmp_path):
    lines = (
        '{"step": 1, "train/loss": 0.5, "train/learning_rate": 1e-3}\n{"step": 2, "train/loss": 0.4}\n{"step": 3, "tr'
    )
    (tmp_path / "metrics.jsonl").write_text(lines)
    curves = metrics_log.read_curves(tmp_path)
    assert curves["train/loss"] == {1: 0.5, 2: 0.4} and curves["train/learning_rate"] == {1: 1e-3}


def test_adapters_are_used_on_their_base():
    config = TextToImageConfig(pretrained_model_name_or_path="some/base", rank=4, hub_model_id="me/lora")
    text = card.card_text(config, text_to_image_product(config), PLAN, 1, 1, {}, None)
    assert 'from_pretrained("some/base")' in text and "load_lora_weights(repository)" in text
    assert 'repository = "me/lora"' in text
    assert yaml.safe_load(text.split("---")[1])["base_model"] == "some/base"


@pytest.mark.parametrize("name", ["none", "csv,jsonl,tensorboard"])
def test_curves_are_read_back_whatever_the_trackers_are(tmp_path, name):
    for first, last in ((1, 7), (4, 8)):  # stopped after step 6, and resumed from step 3
        tracker = make_tracker(name, tmp_path, first - 1, {})
        for step in range(first, last):
            tracker.scalars(step, {"train/loss": 10.0 * first + step, "train/learning_rate": 0.5})
        tracker.scalars(last - 1, {"eval/validation_loss": 0.25})
        tracker.close()
    curves = metrics_log.read_curves(tmp_path)
    assert curves["train/loss"] == {1: 11.0, 2: 12.0, 3: 13.0, 4: 44.0, 5: 45.0, 6: 46.0, 7: 47.0}
    assert curves["eval/validation_loss"] == {7: 0.25}
