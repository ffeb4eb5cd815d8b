from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from data_helpers import digits_config, folder_config, make_job
from PIL import Image

from mindone_ddpm.common.randomness import random_stream
from mindone_ddpm.data.images import DataError
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.data import open_records


def test_labels_are_found_and_left_out(image_folder):
    config = digits_config(class_conditional=True, label_dropout=0.25)
    job = make_job(config)
    assert job.columns == ("images", "noise", "timesteps", "labels")
    assert job.unet.config.num_class_embeds == 11 and job.unet.config.class_names == [str(n) for n in range(10)]
    labels = np.concatenate(
        [
            job.make_batch(np.arange(50), [random_stream(0, 2, 50 * n + k) for k in range(50)])["labels"]
            for n in range(20)
        ]
    ).reshape(20, 50)
    truth = job.records.labels.class_ids[:50]
    dropped = labels == 10
    assert 0.2 < dropped.mean() < 0.3
    np.testing.assert_array_equal(labels[~dropped], np.broadcast_to(truth, labels.shape)[~dropped])
    folder = open_records(folder_config(image_folder, class_conditional=True))
    assert folder.labels.names == ["cold", "warm"]


def labelled(tmp_path, values, feature) -> TrainingConfig:
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    images = [Image.new("L", (8, 8), 10 * number) for number in range(len(values))]
    features = Features({"image": ImageFeature(), "kind": feature})
    Dataset.from_dict({"image": images, "kind": values}, features=features).save_to_disk(tmp_path / "set")
    return TrainingConfig(
        dataset_name=str(tmp_path / "set"), image_size=8, channels=1, class_conditional=True, label_column="kind"
    )


def test_names_and_numbers_can_be_classes(tmp_path):
    from datasets import Value

    labels = open_records(labelled(tmp_path, ["cat", "dog", "cat"], Value("string"))).labels
    assert (labels.names, labels.class_ids.tolist()) == (["cat", "dog"], [0, 1, 0])
    labels = open_records(labelled(tmp_path / "b", [7, 3, 7], Value("int64"))).labels
    assert (labels.names, labels.class_ids.tolist()) == (["3", "7"], [1, 0, 1])


def test_labels_that_will_not_do(tmp_path):
    from datasets import ClassLabel, Value

    with pytest.raises(DataError, match="image 2 of the data set, column 'kind': the label -1 is not among the 2"):
        open_records(labelled(tmp_path / "a", [0, 1, -1], ClassLabel(names=["a", "b"])))
    with pytest.raises(DataError, match=r"image 1 .* the label is missing"):
        open_records(labelled(tmp_path / "b", ["x", None, "y"], Value("string")))
    with pytest.raises(DataError, match="--label_column kind: holds"):
        open_records(labelled(tmp_path / "c", [0.5, 1.5], Value("float32")))
    with pytest.raises(DataError, match=r"--label_column: no column of .* is known to hold classes"):
        open_records(replace(labelled(tmp_path / "d", ["x"], Value("string")), label_column=None))
    with pytest.raises(DataError, match="--label_column image2: the data set has"):
        open_records(replace(digits_config(class_conditional=True), label_column="image2"))
