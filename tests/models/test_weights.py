from __future__ import annotations

import json

import numpy as np
import pytest
from mindspore import nn
from safetensors.numpy import load_file

from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.models import lora
from mindone_ddpm.models.precision import HalfConv2d
from mindone_ddpm.models.unet import make_unet, prepare_network
from mindone_ddpm.models.weights import AdapterWeights, WholeNetwork


@pytest.fixture
def unet(graph_mode):
    return make_unet(TrainingConfig(preset="tiny", image_size=8, channels=1))


def assert_file_holds(weights, folder):
    weights.save(folder)
    arrays = load_file(folder / weights.file_name)
    parameters = dict(weights.parameters())
    assert arrays.keys() == parameters.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, parameters[name].asnumpy())


def test_a_whole_network_is_stored_in_the_form_of_diffusers(unet, tmp_path):
    weights = WholeNetwork(unet)
    assert weights.file_name == "diffusion_pytorch_model.safetensors"
    assert_file_holds(weights, tmp_path / "unet")
    assert json.loads((tmp_path / "unet" / "config.json").read_text())["_class_name"] == "UNet2DModel"


def test_of_a_network_with_adapters_the_adapters_are_stored(unet, tmp_path):
    lora.add_adapters(unet, 2, None, ["to_q", "to_v"])
    weights = AdapterWeights(unet)
    assert weights.file_name == "adapters.safetensors"
    assert_file_holds(weights, tmp_path / "unet")
    names = [name for name, _ in weights.parameters()]
    assert len(names) == 2 * 2 * sum("to_q.weight" in name for name, _ in unet.parameters_and_names())
    assert all(name.endswith((".lora_down", ".lora_up")) for name in names)
    trained = {id(parameter) for parameter in unet.trainable_params()}
    assert trained == {id(parameter) for _, parameter in weights.parameters()}


def test_a_network_is_prepared_for_training_as_asked(unet, monkeypatch):
    recomputed, fused = [], []
    monkeypatch.setattr(nn.Cell, "recompute", lambda cell: recomputed.append(type(cell).__name__))
    monkeypatch.setattr(type(unet), "enable_xformers_memory_efficient_attention", lambda cell: fused.append(cell))
    prepare_network(unet, "no", fused_attention=False, gradient_checkpointing=False)
    assert not isinstance(unet.conv_in, HalfConv2d) and not recomputed and not fused
    prepare_network(unet, "fp16", fused_attention=True, gradient_checkpointing=True)
    assert isinstance(unet.conv_in, HalfConv2d) and fused == [unet]
    assert set(recomputed) == {"ResnetBlock2D", "Attention"}
