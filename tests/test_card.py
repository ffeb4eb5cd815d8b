"""The model card, and the curves that it is drawn from."""

from __future__ import annotations

import time

import pytest
import yaml

from mindone_ddpm import card, history
from mindone_ddpm.config import TextToImageConfig, TrainingConfig


class Job:
    def describe(self):
        return {"data": "10 images", "model": "tiny"}


def test_a_card_of_ones_own_is_left_alone(tmp_path):
    config = TrainingConfig(dataset_name="digits", output_dir=str(tmp_path))
    card.write_card(config, Job(), tmp_path, 5, 10)
    first = (tmp_path / "README.md").read_text()
    assert "5 of 10" in first and card.MARK in first
    card.write_card(config, Job(), tmp_path, 10, 10)
    assert "10 of 10" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("mine")
    card.write_card(config, Job(), tmp_path, 10, 10)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_the_command_on_the_card_gives_the_same_configuration():
    from mindone_ddpm.cli import parse_training_arguments

    config = TrainingConfig(
        dataset_name="me/pictures", use_ema=True, random_flip=False, learning_rate=3e-4, hub_token="hf_x",
        output_dir="/home/me/secret place", push_to_hub=True,
    )  # fmt: skip
    command = card.command_line(config)
    assert "secret" not in command and "hf_x" not in command
    again = parse_training_arguments(command.split()[2:])
    assert (again.dataset_name, again.use_ema, again.random_flip) == ("me/pictures", True, False)
    assert again.learning_rate == 3e-4
    assert card.metadata(config)["datasets"] == ["me/pictures"]


def test_adapters_are_used_on_their_base():
    config = TextToImageConfig(pretrained_model_name_or_path="some/base", rank=4, hub_model_id="me/lora")
    text = card.card_text(config, Job(), 1, 1, {}, None)
    assert 'from_pretrained("some/base")' in text and 'load_lora_weights("me/lora")' in text
    assert yaml.safe_load(text.split("---")[1])["base_model"] == "some/base"


@pytest.mark.parametrize("name", ["csv", "jsonl", "tensorboard"])
def test_curves_are_read_back_from_every_tracker(tmp_path, name):
    from mindone_ddpm.tracking import make_tracker

    for first, last in ((1, 7), (4, 8)):  # stopped after step 6, and gone on after step 3
        tracker = make_tracker(name, tmp_path, first - 1, {})
        for step in range(first, last):
            tracker.scalars(step, {"train/loss": 10.0 * first + step, "train/learning_rate": 0.5})
        tracker.scalars(last - 1, {"eval/validation_loss": 0.25})
        tracker.close()
        time.sleep(1.1 if name == "tensorboard" else 0)  # its files are named by the second
    curves = history.read_curves(tmp_path)
    assert curves["train/loss"] == {1: 11.0, 2: 12.0, 3: 13.0, 4: 44.0, 5: 45.0, 6: 46.0, 7: 47.0}
    assert curves["eval/validation_loss"][7] == 0.25
