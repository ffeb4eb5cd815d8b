"""What a precision costs in quality: the same trainings in each, several seeds; loss and Frechet distance."""

from __future__ import annotations

import statistics
import tempfile
from typing import Any


def our_precision(options: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each precision and seed.

    Seeds differ in the initial weights and in the batches with their noise, and are the same for both precisions. Each
    precision is compiled once: a seed begins from the state before the first step. Images are sampled in the precision
    of the training, by 25 evaluations.
    """
    import mindspore as ms
    from mindone.diffusers import DDPMPipeline

    import mindone_ddpm
    from benchmarks.ours import prepare
    from mindone_ddpm.models.unet import make_unet

    rows = []
    given = {**options, "preset": "tiny", "image_size": 8, "batch_size": 32, "compile_cache": "off"}
    steps = options["steps"]
    for precision in ("no", "bf16"):
        with tempfile.TemporaryDirectory() as folder:
            training = prepare(given, folder, mixed_precision=precision, channels=1, learning_rate=1e-3)
            parameters = {parameter.name: parameter for parameter in training.step_cell.get_parameters()}
            before = {name: parameter.asnumpy().copy() for name, parameter in parameters.items()}
            for seed in range(options["rounds"]):
                for name, values in before.items():
                    parameters[name].set_data(ms.Tensor(values))
                ms.set_seed(seed)
                fresh = make_unet(training.job.config).get_parameters()
                for parameter, new in zip(training.job.unet.get_parameters(), fresh, strict=True):
                    parameter.set_data(ms.Tensor(new.asnumpy()))
                windows = training.windows(seed * steps)
                losses = [float(training.step(next(windows))[0].asnumpy()) for _ in range(steps)]
                pipeline = DDPMPipeline(training.job.unet, training.job.objective.scheduler())
                found = mindone_ddpm.evaluate(pipeline, "digits", metrics="fid", num_samples=1000, seed=seed)
                rows.append(
                    {
                        "precision": precision,
                        "seed": seed,
                        **{f"loss to {end}": statistics.mean(losses[end - 100 : end]) for end in (100, 200, 400)},
                        f"loss to {steps}": statistics.mean(losses[-100:]),
                        **found,
                    }
                )
    return rows
