"""What runs where: the trace of train steps and of denoise steps, and controls that the checks find what is wrong."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import MINDSPORE_VERSION
from launches import steps_of, update_of
from standin import Event, events, run_on_standin

from mindone_ddpm.models.schedulers import SCHEDULERS

PROGRAM = Path(__file__).parent / "traced_steps.py"
FLAGS = [
    *("--device", "Ascend", "--dataset_name", "digits", "--channels", 1, "--image_size", 8, "--train_batch_size", 4),
    *("--use_ema", "--save_image_epochs", 0, "--report_to", "csv", "--ddpm_num_inference_steps", 4),
]
BATCH_BYTES = [16, 16, 4 * 8 * 8 * 4, 4 * 8 * 8 * 4]  # timesteps, weights; images, noise
TO_DEVICE, FROM_DEVICE = 1, 2  # aclrtMemcpyKind


def traced(folder: Path, *arguments: object) -> tuple[dict[str, list[Event]], str]:
    """The events of each marked step, and what the program printed."""
    trace, working = folder / "trace", folder / "working directory"
    working.mkdir()
    result = run_on_standin(PROGRAM, *arguments, trace=trace, cwd=working)
    assert result.returncode == 0, result.stderr[-3000:]
    assert not any(working.iterdir()), "nothing is left where the user works"
    return steps_of(trace), result.stdout


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> dict[str, list[Event]]:
    """Three train steps in fp16 with attention and averaged weights, and the denoise steps of several samplers."""
    folder = tmp_path_factory.mktemp("trace")
    model = {
        **{"_class_name": "UNet2DModel", "block_out_channels": [8], "layers_per_block": 1, "norm_num_groups": 4},
        **{"down_block_types": ["AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D"], "attention_head_dim": 8},
    }
    (folder / "model.json").write_text(json.dumps(model))
    flags = [*FLAGS, "--model_config_name_or_path", folder / "model.json", "--output_dir", folder / "run"]
    return traced(folder, "train", *flags)[0]


@pytest.fixture(scope="module")
def controls(tmp_path_factory) -> dict[str, list[Event]]:
    """Two steps on the same data and one on others, of small networks, most of which have a fault."""
    return traced(tmp_path_factory.mktemp("controls"), "control")[0]


def copies(step: Sequence[Event], kind: int) -> list[int]:
    """Bytes of each copy of a kind."""
    found = [re.match(r"kind=(\d) bytes=(\d+)", event.arguments) for event in step if event.kind == "copy"]
    return [int(one.group(2)) for one in found if one and int(one.group(1)) == kind]


def launches(step: Sequence[Event]) -> list[tuple[str, str]]:
    """Name and arguments of each kernel, sorted: the order of those that do not depend on each other may change."""
    return sorted((event.name, event.arguments) for event in step if event.kind in ("launch", "aclop"))


def with_float64(step: Sequence[Event]) -> list[Event]:
    return [event for event in step if "float64[" in event.arguments]


def planned(step: Sequence[Event]) -> list[str]:
    """Kernels that were planned anew: with static shapes all are by the end of the first step."""
    return [event.name for event in step if event.kind == "plan"]


def test_a_train_step_copies_its_batch_to_the_device_and_nothing_back(steps):
    for number in (1, 2):
        assert copies(steps[f"train-{number}"], FROM_DEVICE) == []
        assert sorted(copies(steps[f"train-{number}"], TO_DEVICE)) == BATCH_BYTES
        assert len(launches(steps[f"train-{number}"])) > 100


def test_what_is_fetched_are_three_scalars(steps):
    for number in range(3):
        assert copies(steps[f"fetch-{number}"], FROM_DEVICE) == [4, 4, 4]  # loss, norm, consecutive skips
        assert launches(steps[f"fetch-{number}"]) == []


def test_a_train_step_has_static_shapes(steps):
    assert launches(steps["train-1"]) == launches(steps["train-2"])
    assert planned(steps["train-0"]) and planned(steps["train-1"]) == planned(steps["train-2"]) == []
    assert not [event for event in steps["train-1"] if "Nonzero" in event.name or "Unique" in event.name]


def test_an_update_takes_few_launches_whatever_the_number_of_parameters(steps):
    """Gather, clip, AdamW, averages, copies in half precision, counters: all on one vector."""
    update = update_of(steps["train-1"])
    assert len(update) <= 40
    vectors = [event for event in update if event.name == "aclnnInplaceCopy"]
    assert len(vectors) == 1  # the weights of all layers at once


@pytest.mark.skipif(MINDSPORE_VERSION < (2, 10), reason="counted with MindSpore 2.10")
def test_a_train_step_has_no_more_launches_than_it_had(steps):
    """The network's, forward and backward, and the update's. Fewer: lower the number."""
    assert len(launches(steps["train-1"])) <= 405


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_a_denoise_step_copies_nothing_back_and_has_static_shapes(steps, sampler):
    # Steps of the same kind: Heun's corrections are others, UniPC begins with lower orders, PNDM has four kinds.
    numbers = {"heun": (1, 3), "unipc": (2, 3), "pndm": (6, 10)}.get(sampler, (1, 2))
    second, third = (steps[f"{sampler}-{number}"] for number in numbers)
    most = 11 if sampler == "unipc" else 10  # its predicted images are clipped
    assert 100 < len(launches(steps["network-1"])) < len(launches(second)) <= len(launches(steps["network-1"])) + most
    assert copies(second, FROM_DEVICE) == copies(third, FROM_DEVICE) == []
    assert launches(second) == launches(third)
    assert not [event for event in second if "Nonzero" in event.name]


def test_no_step_has_a_64_bit_float(steps):
    assert not [event for name in steps for event in with_float64(steps[name])]


def test_controls_have_the_faults_that_the_checks_look_for(controls):
    def step(name: str) -> list[Event]:
        return controls[f"{name}-1"]

    for good in ("plain", "float64", "dynamic"):
        assert copies(step(good), FROM_DEVICE) == []
    assert copies(step("host"), FROM_DEVICE) == [24]  # what the kernel on the host reads: 6 values
    assert copies(step("host"), TO_DEVICE) == [24, 24]  # the data, and what it has computed
    assert Counter(name for name, _ in launches(step("host"))) == {"aclnnMuls": 1, "aclnnAdd": 1}

    assert with_float64(step("float64"))
    assert not with_float64(step("plain")) and not with_float64(step("dynamic"))

    assert launches(controls["plain-1"]) == launches(controls["plain-2"]) and not planned(controls["plain-2"])
    assert launches(controls["dynamic-1"]) != launches(controls["dynamic-2"])
    assert planned(controls["dynamic-2"])
    assert [name for name, _ in launches(step("dynamic")) if "Nonzero" in name]


def test_what_jit_level_o1_fuses_is_refused_and_not_computed_wrongly(tmp_path):
    trace = tmp_path / "trace"
    result = run_on_standin(PROGRAM, "fused", trace=trace)
    assert result.returncode == 1, result.stdout
    assert result.stderr.splitlines()[-1].startswith("error: the NPU failed: ")
    assert "jit_level O1 has fused is an NPU's machine code" in result.stderr
    kinds = Counter(event.kind for event in events(trace))
    assert kinds["fused"] == 1 and not kinds["launch"]
