"""The model card."""

from __future__ import annotations

import ast
import html
import re
import shlex

import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig
from mindone_ddpm.jobs.text_to_image.product import fine_tuned_product
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.product import unconditional_product
from mindone_ddpm.output import card, hub
from mindone_ddpm.output.config import PushConfig
from mindone_ddpm.output.tracking import make_tracker

PLAN = {"data": "10 images", "model": "tiny"}


def test_a_card_of_the_user_is_left_alone(tmp_path):
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
    assert "--model you/others --class_label 0\n" in card.for_hub(text, "huggingface", "you/others")


def test_adapters_are_used_on_their_base():
    config = TextToImageConfig(pretrained_model_name_or_path="some/base", rank=4, hub_model_id="me/lora")
    product = fine_tuned_product(config, "train_text_to_image", "StableDiffusionPipeline")
    text = card.card_text(config, product, PLAN, 1, 1, {}, None)
    assert 'from_pretrained("some/base")' in text and "load_lora_weights(repository)" in text
    assert 'repository = "me/lora"' in text
    assert yaml.safe_load(text.split("---")[1])["base_model"] == "some/base"
    assert "mindone-ddpm sample" not in text and "mindone-ddpm train_text_to_image" in text


def test_a_fine_tuned_pipeline_is_sampled_with_a_prompt():
    config = TextToImageConfig(pretrained_model_name_or_path="some/base", hub_model_id="me/foxes")
    product = fine_tuned_product(config, "train_text_to_image", "StableDiffusionPipeline")
    text = card.card_text(config, product, PLAN, 1, 1, {}, None)
    assert "StableDiffusionPipeline.from_pretrained(repository)" in text and "load_lora_weights" not in text
    assert "mindone-ddpm sample --model me/foxes --prompt 'a prompt'\n" in text
    assert "--model you/foxes --prompt 'a prompt'\n" in card.for_hub(text, "huggingface", "you/foxes")
    head = yaml.safe_load(text.split("---")[1])
    assert head["pipeline_tag"] == "text-to-image" and head["tags"] == ["mindspore", "mindone", "stable-diffusion"]


def test_the_loss_is_that_of_the_metrics_log(tmp_path):
    config = TrainingConfig(dataset_name="digits", output_dir=str(tmp_path))
    tracker = make_tracker("none", tmp_path / config.logging_dir)
    for step in range(1, 101):
        tracker.scalars(step, {"train/loss": 1.0 if step <= 50 else 0.25})
    tracker.close()
    card.write_card(config, unconditional_product(config), PLAN, tmp_path, 100, 100)
    text = (tmp_path / "README.md").read_text()
    assert "| loss | 0.25, mean of the last 50 steps |" in text and "![loss](loss.png)" in text
    with Image.open(tmp_path / "loss.png") as drawn:
        assert drawn.size == (720, 320)


HOSTILE = '</h1><script>alert(1)</script>`x`![a](http://b) | "; import os; os.abort() # ``` \n## More\n```'


def test_names_cannot_leave_the_place_where_they_stand():
    config = TrainingConfig(dataset_name=HOSTILE, hub_model_id=HOSTILE, output_dir=HOSTILE)
    text = card.card_text(config, unconditional_product(config), {"data": HOSTILE}, 1, 2, {}, None)
    page = MarkdownIt("commonmark").enable("table").render(text.split("---\n", 2)[2])
    assert "<script" not in page and "<img" not in page and "<a " not in page
    assert page.count("<h1>") == 1 and page.count("<h2>") == 2 and page.count("<table>") == 1
    for block in re.findall(r'<code class="language-python">(.*?)</code>', page, re.DOTALL):
        (_, assignment, *_) = ast.parse(html.unescape(block)).body
        assert assignment.value.value == HOSTILE
    (run, sample) = re.findall(r'<code class="language-bash">(.*?)</code>', page, re.DOTALL)
    assert HOSTILE in shlex.split(html.unescape(run)) and HOSTILE in shlex.split(html.unescape(sample))


@pytest.mark.parametrize("name", ['a"; import os', "a/b/c", "-a", "a" * 97, "a b", "x<y"])
def test_repositories_that_the_hub_does_not_take_are_refused_beforehand(name, tmp_path):
    with pytest.raises(ConfigError, match=r"--hub_model_id .*: letters, digits"):
        hub.check_upload(PushConfig(hub_model_id=name, hub_token="x"), tmp_path, None)
    folder = tmp_path / name.replace("/", "+")
    with pytest.raises(ConfigError, match="--push_to_hub: give --hub_model_id"):
        hub.check_upload(PushConfig(hub_token="x"), folder, None)
    hub.check_upload(PushConfig(hub_model_id="user/name", hub_token="x"), folder, None)
