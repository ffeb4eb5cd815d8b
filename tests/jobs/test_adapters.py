"""Adapters in files: merged, from a checkpoint, of another model, malformed."""

from __future__ import annotations

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from conftest import cpu_runtime
from safetensors.numpy import save_file

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig
from mindone_ddpm.jobs.text_to_image.job import TextToImageJob
from mindone_ddpm.models import lora


@pytest.fixture
def config(stable_diffusion, captioned_digits) -> TextToImageConfig:
    return TextToImageConfig(
        pretrained_model_name_or_path=str(stable_diffusion),
        dataset_name=str(captioned_digits),
        image_size=16,
        center_crop=True,
        mixed_precision="no",
    )


def make_job(config):
    return TextToImageJob.open(config, cpu_runtime())


def test_saved_adapters_merged_are_the_adapted_model(graph_mode, config, tmp_path):
    job = make_job(replace(config, rank=4, lora_alpha=2.0))
    generator = np.random.default_rng(0)
    for name, parameter in lora.named_adapters(job.unet):
        if name.endswith("lora_up"):
            parameter.set_data(ms.Tensor(0.1 * generator.standard_normal(parameter.shape), ms.float32))
    inputs = [ms.Tensor(generator.standard_normal(shape), ms.float32) for shape in ((2, 4, 8, 8), (2, 16, 32))]
    timesteps = ms.Tensor([3, 700], ms.int32)
    expected = job.unet.set_train(False)(inputs[0], timesteps, inputs[1])[0].asnumpy()
    job.save(tmp_path)
    pipeline = make_job(config).base
    other = pipeline.unet
    before = other.set_train(False)(inputs[0], timesteps, inputs[1])[0].asnumpy()
    assert lora.merge_adapters(pipeline, [str(tmp_path)]) == len(lora.named_adapters(job.unet)) // 2
    found = other(inputs[0], timesteps, inputs[1])[0].asnumpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(expected - before).max() > 1e-2
    # The same from a checkpoint; what it has averaged comes first.
    checkpoint = tmp_path / "checkpoint-1"
    lora.save_state(job.unet, checkpoint / "unet_ema")
    for name, parameter in lora.named_adapters(job.unet):
        if name.endswith("lora_up"):
            parameter.set_data(ms.ops.zeros_like(parameter))
    lora.save_state(job.unet, checkpoint / "unet")
    pipeline = make_job(config).base
    lora.merge_adapters(pipeline, [str(checkpoint)])
    for parameter, one in zip(pipeline.unet.get_parameters(), other.get_parameters(), strict=True):
        np.testing.assert_array_equal(parameter.asnumpy(), one.asnumpy(), parameter.name)
    save_file({"x.lora_up": np.zeros((2, 2), np.float32)}, checkpoint / "unet_ema" / lora.STATE_FILE)
    with pytest.raises(ConfigError, match="the checkpoint of an earlier version"):
        lora.merge_adapters(pipeline, [str(checkpoint)])


def test_adapters_that_fit_nothing_are_refused(graph_mode, config, tmp_path):
    with pytest.raises(ConfigError, match="--lora_target_modules to_nothing: no linear layer"):
        make_job(replace(config, rank=4, lora_target_modules="to_k,to_nothing"))
    pipeline = make_job(config).base
    with pytest.raises(ConfigError, match=r"--lora .*: no adapters can be read"):
        lora.merge_adapters(pipeline, [str(tmp_path)])
    save_file({"unet.nowhere.lora.down.weight": np.zeros((2, 2), np.float32)}, tmp_path / lora.WEIGHTS_FILE)
    with pytest.raises(ConfigError, match=r"unet\.nowhere\.lora\.down\.weight fits no layer"):
        lora.merge_adapters(pipeline, [str(tmp_path)])


def test_malformed_adapters_are_told_in_one_line(graph_mode, config, tmp_path):
    pipeline = make_job(config).base
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora"
    up, down = np.zeros((32, 2), np.float32), np.zeros((2, 32), np.float32)
    path = tmp_path / "odd.safetensors"
    for change, message in (
        ({f"{layer}.down.weight": np.float32(1.0)}, "fits no layer"),
        ({f"{layer}.up.weight": np.zeros(2, np.float32)}, "fits no layer"),
        ({f"{layer}.up.weight": np.zeros((0, 2), np.float32)}, "fits no layer"),
        ({f"{layer}.down.weight": np.zeros((0, 32), np.float32)}, "fits no layer"),
        ({f"{layer.removesuffix('.lora')}.alpha": np.zeros(3, np.float32)}, "alpha is no single number"),
        ({f"{layer}_magnitude_vector": up}, "adapters of DoRA cannot be used"),
    ):
        arrays = {f"{layer}.down.weight": down, f"{layer}.up.weight": up, **change}
        save_file({name: np.asarray(array) for name, array in arrays.items()}, path)
        with pytest.raises(ConfigError, match=message):
            lora.merge_adapters(pipeline, [str(path)])
    save_file({f"{layer}.down.weight": down, f"{layer}.up.weight": up}, path, metadata={"lora_adapter_metadata": "[1]"})
    with pytest.raises(ConfigError, match="no adapters can be read"):
        lora.merge_adapters(pipeline, [str(path)])
