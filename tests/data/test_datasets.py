from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
from data_helpers import digits_config, folder_config
from PIL import Image

from mindone_ddpm.config.groups import DataConfig, LabelConfig
from mindone_ddpm.data import open as data_open
from mindone_ddpm.data.images import DataError
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.data import open_records


def test_digits_are_the_real_ones():
    from sklearn.datasets import load_digits

    records = open_records(digits_config())
    assert len(records) == 1797
    expected = (load_digits().images[5] * (255 / 16)).round()
    np.testing.assert_array_equal(records.image(5)[0], expected)
    assert not records.random_flip


def test_image_folder_nested_flat_and_with_metadata(image_folder):
    assert len(open_records(folder_config(image_folder))) == 12
    flat = image_folder / "cold"
    assert len(open_records(folder_config(flat))) == 6
    rows = [{"file_name": path.name, "text": path.stem} for path in sorted(flat.glob("*.png"))]
    (flat / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(open_records(folder_config(flat, cache_dir=str(image_folder) + "-other"))) == 6


def test_saved_data_set_and_parquet(image_folder, tmp_path):
    dataset = open_records(folder_config(image_folder)).dataset
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "parquet" / "part.parquet")
    first = open_records(TrainingConfig(dataset_name=str(tmp_path / "saved"), image_size=16))
    second = open_records(folder_config(tmp_path / "parquet"))
    third = open_records(folder_config(tmp_path / "saved"))
    assert len(first) == len(second) == len(third) == 12
    np.testing.assert_array_equal(first.image(3), second.image(3))


def test_folders_named_like_splits_hide_no_others(tmp_path):
    for name in ("train", "plane", "car"):
        (tmp_path / "all" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / "all" / name / f"{number}.png")
    assert len(open_records(folder_config(tmp_path / "all"))) == 6
    for name in ("train", "test"):
        (tmp_path / "split" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "split" / name / "0.png")
    assert len(open_records(folder_config(tmp_path / "split"))) == 1
    assert len(open_records(folder_config(tmp_path / "split", dataset_split="test"))) == 1


def test_parquet_has_splits_and_binary_columns(image_folder, tmp_path):
    dataset = open_records(folder_config(image_folder)).dataset
    folder = tmp_path / "parquet"
    dataset.select(range(7)).to_parquet(folder / "train-00000.parquet")
    dataset.select(range(7, 12)).to_parquet(folder / "test-00000.parquet")
    assert len(open_records(folder_config(folder))) == 7
    assert len(open_records(folder_config(folder, dataset_split="test"))) == 5

    from datasets import Dataset

    files = [path.read_bytes() for path in sorted(image_folder.rglob("*.png"))]
    Dataset.from_dict({"photo": files}).to_parquet(tmp_path / "binary" / "train.parquet")
    with pytest.raises(DataError, match="no column of images found"):
        open_records(folder_config(tmp_path / "binary"))
    records = open_records(folder_config(tmp_path / "binary", image_column="photo"))
    assert records.image(11).shape == (3, 16, 16)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels_from_end_to_end(image_folder, channels, mode):
    records = open_records(folder_config(image_folder, channels=channels))
    assert records.image(0).shape == (channels, 16, 16)
    assert records.image(0).dtype == np.uint8


def test_image_column_is_named_or_found(image_folder):
    from datasets import Image as ImageFeature

    dataset = open_records(folder_config(image_folder)).dataset
    dataset = dataset.add_column("number", list(range(12)))
    path = image_folder.parent / "two"
    dataset.add_column("other", dataset["image"][:]).cast_column("other", ImageFeature()).save_to_disk(path)
    with pytest.raises(DataError, match=r"several columns hold images \(image, other\)"):
        open_records(TrainingConfig(dataset_name=str(path)))
    assert open_records(TrainingConfig(dataset_name=str(path), image_column="other")).column == "other"
    with pytest.raises(DataError, match="--image_column number: is not a column of images"):
        open_records(TrainingConfig(dataset_name=str(path), image_column="number"))
    with pytest.raises(DataError, match="--image_column nothing: the data set has"):
        open_records(TrainingConfig(dataset_name=str(path), image_column="nothing"))


def test_problems_with_folders(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such folder"):
        open_records(folder_config(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="the folder is empty"):
        open_records(folder_config(tmp_path / "empty"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="holds no images"):
        open_records(folder_config(tmp_path / "text"))
    monkeypatch.setattr("time.sleep", lambda _: None)  # between attempts to reach the Hub
    with pytest.raises(DataError, match="not found or not reachable"):
        open_records(TrainingConfig(dataset_name="nobody/no-such-data-set", cache_dir=str(tmp_path)))


def test_settings_of_the_data_are_enough(image_folder):
    config = DataConfig(train_data_dir=str(image_folder), image_size=16, cache_dir=str(image_folder) + "-cache")
    records = data_open.open_records(
        config, channels=1, labels=LabelConfig(class_conditional=True), validation_split=0.25
    )
    assert (len(records), len(records.held_out)) == (9, 3)
    assert records.image(0).shape == (1, 16, 16)
    assert records.labels.names == records.held_out.labels.names == ["cold", "warm"]
    folder = data_open.open_records(config, channels=1, validation_data_dir=str(image_folder / "cold"))
    assert (len(folder), len(folder.held_out), folder.labels) == (12, 6, None)


def test_folders_that_are_no_data_set(tmp_path, capfd):
    """Each in one line, without a word of the library's own."""
    (tmp_path / "a.zip").touch()
    (tmp_path / "parquet").mkdir()
    (tmp_path / "parquet" / "a.parquet").write_bytes(b"\x01" * 300)
    (tmp_path / "names").mkdir()
    with open(os.fsencode(tmp_path / "names") + b"/\xff\xfe.png", "wb"):
        pass
    for name, message in {
        "a.zip": "is a file; give a folder of images, or of parquet files",
        "parquet": "cannot be read as a data set (",
        "names": "the file name '\\udcff\\udcfe.png' is not UTF-8; rename the file",
    }.items():
        config = TrainingConfig(train_data_dir=str(tmp_path / name), cache_dir=str(tmp_path / "cache"))
        with pytest.raises(DataError, match=re.escape(message)) as error:
            open_records(config)
        assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_one_folder_is_no_class(tmp_path):
    (tmp_path / "images" / "cat").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / "cat" / f"{number}.png")
    places = {"train_data_dir": str(tmp_path / "images"), "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(DataError, match="a folder of images for each class, at least two"):
        open_records(TrainingConfig(**places, class_conditional=True))
