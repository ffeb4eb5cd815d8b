"""Images that cannot be read: named, and left out where that is asked for, the same ones everywhere."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest
from conftest import run_program
from PIL import Image

from mindone_ddpm.data.images import DataError, decode_image, decode_precise
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
