"""From forms to configurations, command lines and YAML, and back."""

from __future__ import annotations

import re

import pytest
import yaml
from conftest import ROOT

from mindone_ddpm.cli import make_parser
from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.parse import from_arguments
from mindone_ddpm.jobs.base import JOBS
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.sampling.config import SampleConfig
from mindone_ddpm.studio import forms

STATIC = ROOT / "mindone_ddpm" / "studio" / "static"


def test_the_command_shown_has_the_same_settings():
    values = {
        "prompt": ["a fox", "-- 'quoted' \"twice\" $HOME; rm -rf ~", "狐狸", "-x"],
        "negative_prompt": "-blurry",
        "lora": "a:0.8\n\n  b b:0.5 \n",
        "clip_sample": "false",
        "scheduler": "ddim",
        "seed": "7",
        "guidance_scale": "1e1",
        "num_images": "",
        "eta": "0",
    }
    config = forms.read_form("sample", values, {"model": "a model", "output_dir": "x"})
    assert config.lora == ["a:0.8", "b b:0.5"] and config.clip_sample is False and config.num_images == 16
    words = ["sample", *forms.flags(config)]
    parsed = from_arguments(SampleConfig, make_parser(words=words).parse_args(words))
    assert parsed == config
    assert "--output_dir" in words and "--output_dir" not in forms.flags(config, without=("output_dir",))


def test_the_yaml_has_the_same_settings(tmp_path):
    values = {"dataset_name": "digits", "learning_rate": "1e-3", "use_ema": "true", "max_train_steps": "20"}
    config = forms.read_form("train", values, {"output_dir": "x"})
    path = tmp_path / "config.yaml"
    path.write_text(forms.yaml_text("train", config))
    assert set(yaml.safe_load(path.read_text())) == {*values, "output_dir"}
    words = ["train", "--config", str(path)]
    assert from_arguments(TrainingConfig, make_parser(words=words).parse_args(words)) == config


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"learning_rate": "much"}, "--learning_rate much: must be a number"),
        ({"num_epochs": "0"}, "--num_epochs 0: must be at least 1"),
        ({"learning_rate": {"a": 1}}, "--learning_rate"),
        ({"nothing": 1}, "--nothing: unknown setting"),
        ({"hub_token": "secret"}, "--hub_token: unknown setting"),
        ({"output_dir": "/etc"}, "--output_dir: unknown setting"),
    ],
)
def test_wrong_values_are_named(values, said):
    with pytest.raises(ConfigError) as error:
        forms.read_form("train", {"dataset_name": "digits", **values}, {})
    assert any(line.startswith(said) for line in error.value.problems)


def test_the_first_fields_exist():
    known = {field["name"] for command in (*JOBS, *forms.SAMPLING) for field in forms.fields_for(command)}
    assert set(forms.FIRST) <= known


def test_both_languages_say_the_same_things():
    source = (STATIC / "texts.js").read_text(encoding="utf-8")
    tables = dict(re.findall(r"^const (\w+) = \{\n(.*?)^\};", source, re.MULTILINE | re.DOTALL))
    names, texts = {}, {}
    for language, table in tables.items():
        without_texts = re.sub(r'"(?:[^"\\]|\\.)*"', '""', table)
        names[language] = re.findall(r"(\w+): \"\"", without_texts)
        texts[language] = re.findall(r'"((?:[^"\\]|\\.)*)"', table)
    assert len(names["EN"]) > 80 and names["EN"] == list(dict.fromkeys(names["EN"]))
    assert set(names["EN"]) == set(names["ZH"]) and set(names["LABELS_EN"]) == set(names["LABELS_ZH"])
    english, chinese = (dict(zip(names[one], texts[one], strict=True)) for one in ("EN", "ZH"))
    for name, text in english.items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", chinese[name])), name
    assert set(names["LABELS_EN"]) <= set(forms.FIRST)
    used = set()
    for path in STATIC.glob("*.js"):
        used |= set(re.findall(r"\bt\(\"(\w+)\"", path.read_text(encoding="utf-8")))
    assert used <= set(english), used - set(english)
