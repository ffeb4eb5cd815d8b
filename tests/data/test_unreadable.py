"""Images that cannot be read: named, and left out where that is asked for, the same ones everywhere."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from conftest import run_program
from PIL import Image

from mindone_ddpm.data.images import DataError, content_digest, decode_image, decode_precise
from mindone_ddpm.data.open import open_records
from mindone_ddpm.jobs.unconditional.config import TrainingConfig


def png_that_says(width: int, height: int) -> bytes:
    """A small file whose head speaks of a huge image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("decode", [decode_image, decode_precise])
def test_a_bomb_is_refused_by_its_head(decode, recwarn):
    with pytest.raises(DataError, match=r"a\.png: has 2,000,000,000 pixels, more than --max_image_pixels"):
        decode(png_that_says(50_000, 40_000), None, "a.png")
    with pytest.raises(DataError, match="more than --max_image_pixels 15"):
        decode(png_that_says(4, 4), None, "a.png", 15)
    assert not recwarn.list


def test_an_image_of_numbers_that_are_not_finite_is_refused(tmp_path):
    path = tmp_path / "a.tiff"
    for number in (np.nan, np.inf):
        Image.fromarray(np.array([[0.5, number]], np.float32)).save(path)
        for decode in (decode_image, decode_precise):
            with pytest.raises(DataError, match="holds numbers that are not finite"):
                decode(None, str(path), str(path))


@pytest.fixture
def damaged_folder(image_folder):
    """A folder of good images, with some that cannot be read beside them."""
    good = len(list(image_folder.rglob("*.png")))
    (image_folder / "warm" / "text.png").write_text("no image")
    (image_folder / "warm" / "bomb.png").write_bytes(png_that_says(50_000, 40_000))
    whole = (image_folder / "warm" / "1.png").read_bytes()
    (image_folder / "warm" / "half.png").write_bytes(whole[: len(whole) // 2])
    (image_folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (image_folder / "link.png").symlink_to("nowhere.png")
    return image_folder, good


def test_they_are_named_and_left_out(damaged_folder, capsys, tmp_path):
    folder, good = damaged_folder
    config = TrainingConfig(
        train_data_dir=str(folder), cache_dir=str(tmp_path / "cache"), on_bad_image="skip", image_size=8
    )
    records = open_records(config, 3)
    assert len(records) == good
    assert np.stack([records.image(index) for index in range(good)]).shape == (good, 3, 8, 8)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2
    assert notes[0].startswith("note: 2 files are left out, of kinds that are not read or links to nothing: ")
    assert "link.png" in notes[0] and "phone.heic" in notes[0]
    assert notes[1].startswith("note: 3 images are left out, because they cannot be read: ")
    assert all(name in notes[1] for name in ("text.png", "bomb.png", "half.png"))
    assert open_records(config, 3).fingerprint() == records.fingerprint()


def test_by_default_the_first_one_ends_the_run(damaged_folder, tmp_path):
    folder, _ = damaged_folder
    flags = ["--train_data_dir", folder, "--cache_dir", tmp_path / "cache", "--image_size", 8, "--train_batch_size", 2]
    result = run_program("train", *flags, "--output_dir", tmp_path / "run")
    assert result.returncode == 1 and not (tmp_path / "run").exists()
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert any(name in line for name in ("text.png", "bomb.png", "half.png"))


def test_a_run_that_leaves_them_out_goes_on_after_a_stop(damaged_folder, small_model, tmp_path):
    folder, good = damaged_folder
    flags = [
        *("train", "--train_data_dir", folder, "--cache_dir", tmp_path / "cache", "--image_size", 8, "--channels", 1),
        *("--model_config_name_or_path", small_model, "--train_batch_size", 2, "--on_bad_image", "skip"),
        *("--checkpointing_steps", 2, "--save_image_epochs", 0, "--output_dir", tmp_path / "run"),
    ]
    for steps in (2, 4):
        result = run_program(*flags, "--max_train_steps", steps, "--resume_from_checkpoint", "auto")
        assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "run" / "checkpoint-4" / "training_state.json").read_text())
    assert record["identity"]["data"].startswith(f"{good} images, ")


def icon_with(content: bytes) -> bytes:
    """A Windows icon whose only image is a file of another kind, whatever the icon says of its size."""
    head = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(content), 22)
    return head + content


@pytest.mark.parametrize("decode", [decode_image, decode_precise])
def test_an_image_inside_an_icon_has_a_limit_too(decode):
    with pytest.raises(DataError, match=r"a\.ico: has 2,000,000,000 pixels, more than --max_image_pixels"):
        decode(icon_with(png_that_says(50_000, 40_000)), None, "a.ico")


def test_no_other_program_is_started_for_an_image(tmp_path, monkeypatch):
    """Pillow gives EPS to Ghostscript, in whatever file it is."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/mark\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    for decode in (decode_image, decode_precise):
        with pytest.raises(DataError, match="not a readable image"):
            decode(content, None, "a.png")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("decode", [decode_image, decode_precise])
def test_pipes_and_devices_are_no_images(decode, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero", tmp_path):
        with pytest.raises(DataError, match="is not a file"):
            decode(None, str(path), str(path))
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(1 << 40)  # of which nothing takes room
    with pytest.raises(DataError, match="bytes are more than an image"):
        decode(None, str(tmp_path / "large.png"), "large.png")


@pytest.mark.parametrize(
    "content",
    [
        b"P6 7000" + b"\xff" * 30,  # Pillow raises ValueError
        b"DDS " + struct.pack("<7I44x8I", 124, 0x1007, 12, 12, 0, 0, 0, 32, 1 << 21, 0, 32, 0, 0, 0, 0) + bytes(700),
        b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 " + bytes(40),  # crashed OpenCV now and then
        b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(40),
    ],
)
def test_decoders_fail_in_one_line(content):
    for decode in (decode_image, decode_precise):
        with pytest.raises(DataError, match=r"^a\.png: not a readable image \(.+\)$"):
            decode(content, None, "a.png")


def test_colours_that_no_conversion_knows_are_named():
    buffer = io.BytesIO()
    Image.frombytes("LAB", (4, 4), bytes(48)).save(buffer, format="tiff")
    for decode in (decode_image, decode_precise):
        with pytest.raises(DataError, match="has colours of the kind LAB, which are not read; convert it to RGB"):
            decode(buffer.getvalue(), None, "a.tiff")


def test_a_column_of_paths_to_nothing(tmp_path):
    """As a stranger's parquet file can have."""
    for path in ("nowhere.png", "/dev/zero", "a\0b"):
        with pytest.raises(DataError, match="not a readable image"):
            content_digest({"bytes": None, "path": path})


def test_a_saved_data_set_is_checked_before_it_is_mapped(tmp_path):
    """Offsets in an Arrow file are followed as they are: a wrong one ended the process by a signal."""
    from datasets import Dataset

    from mindone_ddpm.data.datasets import load_hf_dataset

    good = tmp_path / "good"
    images = [{"bytes": png_that_says(2, 2), "path": None}] * 3
    Dataset.from_dict({"image": images}).save_to_disk(good)
    content = next(good.glob("*.arrow")).read_bytes()
    length = len(png_that_says(2, 2))
    assert content.count(struct.pack("<4i", 0, length, 2 * length, 3 * length)) == 1
    for name, change in {
        "offsets": lambda folder: next(folder.glob("*.arrow")).write_bytes(
            content.replace(
                struct.pack("<4i", 0, length, 2 * length, 3 * length), struct.pack("<4i", 0, 1 << 30, 1, 3 * length)
            )
        ),
        "pipe": lambda folder: os.mkfifo(folder / "more.arrow"),
        "zero": lambda folder: (folder / "more.json").symlink_to("/dev/zero"),
    }.items():
        folder = tmp_path / name
        shutil.copytree(good, folder)
        change(folder)
        with pytest.raises(DataError, match=r"is damaged|neither a file nor a folder"):
            load_hf_dataset(TrainingConfig(dataset_name=str(folder)))
    state = json.loads((good / "state.json").read_text())
    (good / "state.json").write_text(json.dumps({**state, "_format_columns": []}))
    assert load_hf_dataset(TrainingConfig(dataset_name=str(good)))[0]["image"] == images[0]
