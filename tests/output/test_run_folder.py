"""The folder of a run: its result, and what an earlier run has left."""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import mint, nn
from safetensors import safe_open

from mindone_ddpm.common import files
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig
from mindone_ddpm.jobs.text_to_image.product import fine_tuned_product
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.product import unconditional_product
from mindone_ddpm.models import lora, pipelines
from mindone_ddpm.models.foreign import PIPELINE_INDEX
from mindone_ddpm.models.pipelines import UNET_WEIGHTS
from mindone_ddpm.models.unet import make_unet
from mindone_ddpm.objectives.choose import make_noise_scheduler
from mindone_ddpm.output import checkpoint, run_folder
from mindone_ddpm.output.product import Product

PRODUCT = unconditional_product(TrainingConfig())
ADAPTERS = fine_tuned_product(TextToImageConfig(rank=2), "train_text_to_image", "StableDiffusionPipeline")
CUSTOM = Product("train_x", "network", "x.json", ("x", "x.bin"), "other", ())


def tiny_pipeline():
    config = TrainingConfig(preset="tiny", image_size=8, channels=1)
    unet = make_unet(config)
    return unet, pipelines.make_pipeline(unet, make_noise_scheduler(config))


class Attention(nn.Cell):
    def __init__(self):
        super().__init__()
        self.to_k = mint.nn.Linear(4, 4)


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


@pytest.mark.parametrize(("dtype", "stored"), [("float32", "F32"), ("fp16", "F16"), ("bf16", "BF16")])
def test_the_pipeline_can_be_saved_in_another_type(graph_mode, tmp_path, dtype, stored):
    unet, pipeline = tiny_pipeline()
    run_folder.save_product(PRODUCT, pipeline.save_pretrained, tmp_path, dtype)
    with safe_open(tmp_path / "unet" / UNET_WEIGHTS, framework="np") as weights:
        assert weights.get_slice("conv_in.weight").get_dtype() == stored
    loaded = pipelines.load_pipeline(str(tmp_path)).unet.conv_in.weight.asnumpy().astype(np.float32)
    np.testing.assert_allclose(loaded, unet.conv_in.weight.asnumpy(), rtol=1e-2, atol=1e-3)


def test_a_pipeline_is_saved_as_mindone_saves_it(graph_mode, tmp_path):
    unet, pipeline = tiny_pipeline()
    pipeline.save_pretrained(str(tmp_path / "mindone"), safe_serialization=True)
    pipelines.save_pipeline(unet, pipeline.scheduler, tmp_path / "here")
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "mindone", tmp_path / "here")
    ]
    assert len(contents[0]) == 4 and contents[0] == contents[1]


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=["umask 022", "umask 077"])
def test_files_have_the_permissions_of_the_users_umask(graph_mode, tmp_path, umask):
    unet, pipeline = tiny_pipeline()
    network = Attention()
    lora.add_adapters(network, 2, None, ["to_k"])

    def save_weights(folder: Path) -> None:
        unet.save_pretrained(str(folder / "unet"))
        lora.save_state(network, folder / "adapters")

    before = os.umask(umask)
    try:
        for dtype in ("float32", "fp16"):
            run_folder.save_product(PRODUCT, pipeline.save_pretrained, tmp_path / dtype, dtype)
        run_folder.save_product(ADAPTERS, partial(lora.save_adapters, {"unet": network}), tmp_path / "lora")
        state = {"step": ms.Parameter(ms.Tensor(3, ms.int32), name="step")}
        checkpoint.save_checkpoint(tmp_path / "checkpoint-3", {}, state, save_weights)
    finally:
        os.umask(before)
    written = files.files_in(tmp_path)
    assert len([path for path in written if path.suffix == ".safetensors"]) == 6
    for path in written:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path
    for path in tmp_path.rglob("*"):
        assert not path.is_dir() or stat.S_IMODE(path.stat().st_mode) == 0o777 & ~umask, path


def test_a_result_that_cannot_be_saved_leaves_the_one_before(tmp_path):
    fill(tmp_path, PIPELINE_INDEX, "unet/config.json", "notes")

    def save(folder: Path) -> None:
        fill(folder, "unet/config.json", "unet/other")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        run_folder.save_product(PRODUCT, save, tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", PIPELINE_INDEX, "notes", "unet"]


def test_an_earlier_run_is_removed_and_other_files_stay(tmp_path):
    ours = [PIPELINE_INDEX, "unet/config.json", "training_config.yaml", "samples/0001.png", "trajectory.png"]
    ours += ["best/model_index.json", "checkpoint-5/unet/config.json", lora.WEIGHTS_FILE]
    mine = ["notes.txt", "data/a.png", "logs/metrics.jsonl", "x.json", "x/weights"]
    fill(tmp_path, *ours, *mine)
    assert {path.name for path in run_folder.run_products(tmp_path)} == {name.partition("/")[0] for name in ours}
    assert run_folder.run_products(tmp_path)[0].name == PIPELINE_INDEX
    run_folder.clear_run(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in files.files_in(tmp_path)} == {*mine}
    assert run_folder.run_products(tmp_path, CUSTOM)[0].name == "x.json"
    run_folder.clear_run(tmp_path, CUSTOM)
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.json").exists()
    assert run_folder.run_products(tmp_path, CUSTOM) == []


def test_parts_are_those_that_the_index_names(tmp_path):
    fill(tmp_path, "unet/a", "prior/a", "scheduler/a", "other/a")
    (tmp_path / PIPELINE_INDEX).write_text('{"_class_name": "X", "prior": ["diffusers", "Y"], "gone": ["a", "b"]}')
    assert run_folder.parts_in(tmp_path) == ["prior", "scheduler", "unet"]
    assert run_folder.parts_in(tmp_path, CUSTOM) == ["prior"]
    assert run_folder.index_files_in(tmp_path, CUSTOM) == [PIPELINE_INDEX]
    (tmp_path / "x.json").touch()
    assert run_folder.index_files_in(tmp_path, CUSTOM) == ["x.json", PIPELINE_INDEX]


def test_grids_are_in_the_order_of_epochs(tmp_path):
    fill(tmp_path, "samples/0002.png", "samples/10000.png", "samples/0010.png", "samples/notes.txt")
    fill(tmp_path, "samples/00063.png", "samples/grid.png")  # of the command sample
    files.temporary_path(tmp_path / "samples" / "0020.png").touch()  # of a process that was killed
    assert [path.stem for path in run_folder.grids_in(tmp_path)] == ["0002", "0010", "10000"]
    (tmp_path / ".upload-x" / "unet").mkdir(parents=True)
    run_folder.clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples"]
    assert len(list((tmp_path / "samples").iterdir())) == 6
