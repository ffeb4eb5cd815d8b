"""Captions as people keep them: beside the images, in a table, or one for all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_program
from PIL import Image

from mindone_ddpm.data.images import DataError
from mindone_ddpm.jobs.text_to_image.captions import open_captioned
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig


@pytest.fixture
def folder(tmp_path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        Image.fromarray(np.full((20, 20, 3), 80 * number, np.uint8)).save(images / f"{number}.png")
    return images


def texts_in(folder: Path, **settings):
    config = TextToImageConfig(train_data_dir=str(folder), image_size=16, **settings)
    records, texts = open_captioned(config)
    # By brightness, which is the number of the image: the order of the files is the library's.
    found = {int(records.image(index).mean()) // 80: list(texts.read(index)) for index in range(3)}
    assert texts.known is not None or config.streaming
    return texts.origin, [found[number] for number in range(3)]


def test_text_files_beside_the_images(folder):
    for number, text in enumerate(["a dark square\n", "\n a grey square \n\none more\n", "\ufeffein helles Viereck"]):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    origin, texts = texts_in(folder)
    assert origin == "captions from the .txt files beside the images"
    assert texts == [["a dark square"], ["a grey square", "one more"], ["ein helles Viereck"]]
    (folder / "1.txt").write_text("")
    _, texts = texts_in(folder, trigger_word="sks")
    assert texts == [["sks, a dark square"], ["sks"], ["sks, ein helles Viereck"]]


def test_text_files_of_a_stream(folder):
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"square {number}")
    _, texts = texts_in(folder, streaming=True, streaming_buffer_size=1, max_train_samples=3)
    assert texts == [["square 0"], ["square 1"], ["square 2"]]


def test_images_without_a_text_file_are_named_before_training(folder):
    (folder / "1.txt").write_text("a square")
    with pytest.raises(DataError, match=r"2 of 3 images have no \.txt file with a caption beside them \(.*0\.png"):
        texts_in(folder)
    (folder / "0.txt").write_bytes(b"\xff\xfe\xff")
    (folder / "2.txt").write_text("a square")
    with pytest.raises(DataError, match=r"0\.txt: the caption cannot be read"):
        texts_in(folder)


def test_tables_of_captions(folder):
    rows = [{"file_name": f"{number}.png", "text": f"square {number}"} for number in range(3)]
    expected = [["square 0"], ["square 1"], ["square 2"]]
    table = folder / "metadata.csv"
    table.write_text("file_name,text\n" + "".join(f"{row['file_name']},{row['text']}\n" for row in rows))
    assert texts_in(folder) == ("captions from column 'text'", expected)
    table.unlink()
    table = folder / "metadata.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "0.txt").write_text("a table comes first")
    assert texts_in(folder) == ("captions from column 'text'", expected)
    table.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:2], {"file_name": "2.png"}]))
    with pytest.raises(DataError, match=r"image \d of the data set, column 'text': has no caption"):
        texts_in(folder)


def test_one_caption_for_all(folder):
    origin, texts = texts_in(folder, instance_prompt="a square", trigger_word="sks")
    assert origin == "one caption for all: sks, a square"
    assert texts == [["sks, a square"]] * 3


def test_no_captions_at_all(folder, stable_diffusion, tmp_path):
    with pytest.raises(DataError, match=r"no column of captions among image; give images a metadata\.jsonl"):
        texts_in(folder)
    result = run_program(
        *("train_text_to_image", "--pretrained_model_name_or_path", stable_diffusion, "--train_data_dir", folder),
        *("--resolution", 16, "--instance_prompt", "a", "--caption_column", "b", "--output_dir", tmp_path / "out"),
    )
    assert result.returncode == 2
    assert result.stderr == "error: --instance_prompt and --caption_column: give only one of them\n"
