"""Runs on the stand-in: marks in its trace where each train step and each denoise step begins and ends.

traced_steps.py JOB FLAGS...   steps of a job
traced_steps.py control        steps of small networks, most of which have a fault
traced_steps.py fused          a small network with jit_level O1
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindone_ddpm.cli import parse_training_arguments, run
from mindone_ddpm.runtime.start import start

if TYPE_CHECKING:
    from mindone_ddpm.jobs.unconditional.job import UnconditionalJob

STEPS = 3
standin = ctypes.CDLL("libascendcl.so")


def mark(what: str) -> None:
    """A line in the trace, after all that was launched before."""
    ms.runtime.synchronize()
    standin.stub_mark(what.encode())


def trace_job(name: str, flags: list[str]) -> None:
    from mindone_ddpm.jobs.base import JOBS
    from mindone_ddpm.training.setup import prepare

    training = prepare(parse_training_arguments(flags, config_class=JOBS[name].config))
    windows = training.windows(0)
    for number in range(STEPS):
        window = next(windows)
        mark(f"train-{number}")
        result = training.step(window)
        mark(f"fetch-{number}")
        print("loss", *(value.asnumpy().item() for value in result))
        mark("end")
    if name == "train" and os.environ.get("STANDIN_COMPUTE") != "0":  # samplers need their numbers
        trace_samplers(training.job)


def trace_samplers(job: UnconditionalJob) -> None:
    """Mark calls of the network; with a sampler's name and the step's number, what comes after each denoise step."""
    from mindone_ddpm.models.schedulers import SCHEDULERS, make_sampler
    from mindone_ddpm.sampling.generate import evaluating, generate, image_shape

    images = ms.Tensor(np.zeros((2, *image_shape(job.unet))), ms.float32)
    with evaluating(job.unet):
        for number in range(2):
            timesteps = ms.Tensor(np.full(2, number, np.int32))
            mark(f"network-{number}")
            job.unet(images, timesteps)
            mark("end")
    for name in SCHEDULERS:
        count = iter(range(1, 100))
        scheduler = make_sampler(name, job.objective.scheduler())
        generate(
            job.unet,
            scheduler,
            sample_ids=[0, 1],
            batch_size=2,
            num_inference_steps=6,
            seed=0,
            on_step=lambda _, name=name, count=count: mark(f"{name}-{next(count)}"),
        )
        mark("end")


class HostKernel(nn.Cell):
    """One operator in the middle runs on the host."""

    def __init__(self):
        super().__init__()
        self.square = ops.Square().set_device("CPU")

    def construct(self, x):
        return self.square(x * 2.0) + 1.0


class Float64(nn.Cell):
    def construct(self, x):
        return (x.astype(ms.float64) * 2.0).astype(ms.float32)


class DynamicShape(nn.Cell):
    """As many rows as the data say."""

    def construct(self, x):
        return x[ops.nonzero(x[:, 0] > 0.5).squeeze(1)] * 2.0


class Plain(nn.Cell):
    def construct(self, x):
        return x * 2.0 + 1.0


CONTROLS: dict[str, Callable[[], nn.Cell]] = {
    "plain": Plain,
    "host": HostKernel,
    "float64": Float64,
    "dynamic": DynamicShape,
}


def trace_controls() -> None:
    """Three steps of each network, the last on other data."""
    start("Ascend", "graph", seed=0)
    first = np.array([[0.9, 0.2], [0.1, 0.3], [0.8, 0.4]], np.float32)
    for name, make in CONTROLS.items():
        network = make()
        for number, values in enumerate((first, first, 1 - first)):
            x = ms.Tensor(values)
            mark(f"{name}-{number}")
            y = network(x)
            mark("end")
            print(name, y.asnumpy().tolist())


class Elementwise(nn.Cell):
    def construct(self, x):
        return ops.exp(x * 2.0 + 1.0) * x


def run_fused() -> int:
    """A network whose operators jit_level O1 fuses into one."""
    start("Ascend", "graph", seed=0, jit_level="O1")
    print(Elementwise()(ms.Tensor(np.ones((4, 4)), ms.float32)).asnumpy())
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "control":
        trace_controls()
    elif sys.argv[1] == "fused":
        sys.exit(run(run_fused))
    else:
        trace_job(sys.argv[1], sys.argv[2:])
