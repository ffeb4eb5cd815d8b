"""Workers for this package: each runs in a process of its own, and answers with a dictionary."""

from __future__ import annotations

import csv
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.clock import cpu_seconds, peak_memory_mb, timed
from benchmarks.errors import our_errors
from benchmarks.quality import our_precision


def prepare(options: dict[str, Any], folder: str, **changes: Any) -> Any:
    """A training on the built-in digits, enlarged: what the images show does not matter to the time."""
    from mindone_ddpm.jobs.unconditional.config import TrainingConfig
    from mindone_ddpm.training import setup

    settings = {
        "dataset_name": "digits",
        "channels": 3,
        "preset": options["preset"],
        "image_size": options["image_size"],
        "train_batch_size": options["batch_size"],
        "max_grad_norm": 1.0,
        "mixed_precision": options.get("precision", "no"),
        "device": options["device"],
        "report_to": "csv",
        "compile_cache": options.get("compile_cache", "auto"),
        "output_dir": str(Path(folder) / "run"),
        "overwrite_output_dir": True,
    }
    return setup.prepare(TrainingConfig(**{**settings, **changes}))


def our_train(options: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        training = prepare(options, folder)
        batch = next(training.windows(0))

        def step() -> None:
            training.step(batch)[0].asnumpy()

        first = timed(step)
        times = [timed(step) for _ in range(options["warmup"] + options["steps"])][options["warmup"] :]
        cpu_s = statistics.median(cpu_seconds(step) for _ in range(options["steps"]))
        parameters = sum(parameter.size for parameter in training.job.trainable().values())
    return {
        "step_s": statistics.median(times),
        "step_cpu_s": cpu_s,
        "first_step_s": first,
        "peak_memory_mb": peak_memory_mb(),
        "parameters": parameters,
    }


def our_sample(options: dict[str, Any]) -> dict[str, Any]:
    from mindone_ddpm.jobs.unconditional.config import TrainingConfig
    from mindone_ddpm.models import schedulers
    from mindone_ddpm.models.precision import set_compute_precision
    from mindone_ddpm.models.unet import make_unet
    from mindone_ddpm.objectives import choose
    from mindone_ddpm.runtime.start import start
    from mindone_ddpm.sampling import generate

    start(options["device"], "graph", 0)
    config = TrainingConfig(
        dataset_name="digits", channels=3, preset=options["preset"], image_size=options["image_size"]
    )
    unet = make_unet(config)
    set_compute_precision(unet, options.get("precision", "no"))
    scheduler = schedulers.make_sampler("ddim", choose.make_noise_scheduler(config))

    def denoise(steps: int) -> float:
        numbers = list(range(options["batch_size"]))
        settings = {"sample_ids": numbers, "batch_size": len(numbers), "num_inference_steps": steps, "seed": 0}
        return timed(lambda: generate.generate(unet, scheduler, **settings))

    first = denoise(2)
    return {
        "step_s": denoise(options["steps"]) / options["steps"],
        "step_cpu_s": cpu_seconds(lambda: denoise(options["steps"])) / options["steps"],
        "first_two_steps_s": first,
    }


def our_data(options: dict[str, Any]) -> dict[str, Any]:
    """Blocks of steps, in turn on one batch and on what the data path brings."""
    with tempfile.TemporaryDirectory() as folder:
        training = prepare(options, folder)
        training.job.before_training(show_progress=False)
        windows = training.windows(0)
        batch = next(windows)
        size = options["block"]

        def run_block(constant: bool) -> float:
            def block() -> None:
                for _ in range(size):
                    result = training.step(batch if constant else next(windows))
                result[0].asnumpy()

            return timed(block) / size

        run_block(True), run_block(False)
        pairs = [(run_block(True), run_block(False)) for _ in range(options["rounds"] * 3)]
    constant, real = (statistics.median(values) for values in zip(*pairs, strict=True))
    return {"constant_batch_s": constant, "real_data_s": real, "ratio": statistics.median(b / a for a, b in pairs)}


def our_costs(options: dict[str, Any]) -> dict[str, Any]:
    """What the average, logging every step, and a checkpoint add to a step."""
    from mindone_ddpm.output.tracking import make_tracker
    from mindone_ddpm.training import loop, resume
    from mindone_ddpm.training.callbacks import ProgressReport
    from mindone_ddpm.training.schedule import Progress

    size, pairs = options["block"], options["rounds"] * 3
    with tempfile.TemporaryDirectory() as folder:
        plain, averaged = prepare(options, folder), prepare(options, folder, use_ema=True)
        batch = next(plain.windows(0))
        loop.open_output_dir(averaged, Progress())

        def block(training: Any, report: ProgressReport | None = None) -> float:
            def steps() -> None:
                for _ in range(size):
                    result = training.step(batch)
                    if report is not None:
                        report.pending.append(result)
                        report.fetch()
                result[0].asnumpy()

            return timed(steps) / size

        for training in (plain, averaged):
            block(training)
        ema = [(block(plain), block(averaged)) for _ in range(pairs)]
        tracker = make_tracker("csv", Path(folder), 0, {})
        report = ProgressReport(plain, Progress(), tracker)
        report.bar.disable = True
        logging = [(block(plain), block(plain, report)) for _ in range(pairs)]
        saved = []
        for number in range(5):
            progress = Progress(step=number + 1)
            saved.append(timed(lambda progress=progress: resume.save_checkpoint(averaged, progress)))
    step = statistics.median(a for a, _ in ema)
    return {
        "step_s": step,
        "ema": statistics.median(b / a for a, b in ema) - 1,
        "logging_every_step": statistics.median(b / a for a, b in logging) - 1,
        "checkpoint_s": statistics.median(saved),
        "checkpoint_every_100_steps": statistics.median(saved) / (100 * step),
    }


def our_quality_costs(options: dict[str, Any]) -> dict[str, Any]:
    """What augmentation and two averages for later add to a step, with the real data path on both sides."""
    with tempfile.TemporaryDirectory() as folder:
        plain = prepare(options, folder)
        settings = {"objective": "flow_matching", "augment_probability": 0.12, "snapshot_steps": 10**6}
        full = prepare(options, folder, max_train_steps=10**6, **settings)
        sides = [(training, training.windows(0)) for training in (plain, full)]

        def block(training: Any, windows: Any) -> float:
            def steps() -> None:
                for _ in range(options["block"]):
                    result = training.step(next(windows))
                result[0].asnumpy()

            return timed(steps) / options["block"]

        for training, windows in sides:
            training.job.before_training(show_progress=False)
            block(training, windows)
        pairs = [tuple(block(*side) for side in sides) for _ in range(options["rounds"] * 3)]
    return {"augmentation_and_two_averages": statistics.median(b / a for a, b in pairs) - 1}


def our_profile(options: dict[str, Any]) -> list[dict[str, Any]]:
    """Milliseconds in a step by operator: MindSpore's profiler, and the own clock of the operators in C++.

    The calls of all are MindSpore's launches: an operator in C++ may call others.
    """
    with tempfile.TemporaryDirectory() as folder:
        training = prepare(options, folder)
        import mindspore as ms
        from mindspore.profiler import ProfilerActivity

        from mindone_ddpm.backends.cpu import native

        batch = next(training.windows(0))
        for _ in range(options["warmup"]):
            training.step(batch)[0].asnumpy()
        native.times()
        where = Path(folder) / "profile"
        with ms.profiler.profile(
            activities=[ProfilerActivity.CPU], on_trace_ready=ms.profiler.tensorboard_trace_handler(str(where))
        ):
            for _ in range(options["steps"]):
                training.step(batch)[0].asnumpy()
        rows = [
            (f"{name} (C++)", calls / options["steps"], 1000 * seconds / options["steps"])
            for name, (calls, seconds) in native.times().items()
        ]
        launches = 0.0
        with next(where.rglob("cpu_op_type_info_0.csv")).open() as file:
            for row in csv.DictReader(file):
                calls, total_ms = float(row["type_occurrences"]), float(row["total_compute_time"])
                launches += calls / options["steps"]
                if row["op_type"] != "Custom":
                    rows.append((row["op_type"], calls / options["steps"], total_ms / options["steps"]))
    rows.sort(key=lambda row: -row[2])
    whole = ("all", launches, sum(row[2] for row in rows))
    return [{"operator": name, "calls": calls, "ms": ms_} for name, calls, ms_ in [whole, *rows[:20]]]


def our_multiply_adds(options: dict[str, Any]) -> dict[str, Any]:
    """Multiply-adds of one image on its way forward through convolutions, matrix products and attention."""
    from mindone_ddpm.jobs.unconditional.config import TrainingConfig
    from mindone_ddpm.models.unet import make_unet
    from mindone_ddpm.runtime.start import start

    os.environ["MINDONE_DDPM_NATIVE"] = "0"  # with its own operators, a block does not call its layers
    start("CPU", "pynative", 0)
    import mindspore as ms
    import numpy as np
    from mindone.diffusers.models.attention_processor import AttnProcessor2_0
    from mindspore import mint

    config = TrainingConfig(
        dataset_name="digits", channels=3, preset=options["preset"], image_size=options["image_size"]
    )
    unet = make_unet(config)
    unet.set_train(False)
    total = 0

    def count(owner: Any, name: str, cost: Any) -> None:
        original = getattr(owner, name)

        def counted(self: Any, *arguments: Any, **more: Any) -> Any:
            nonlocal total
            output = original(self, *arguments, **more)
            total += cost(self, arguments, output)
            return output

        setattr(owner, name, counted)

    count(mint.nn.Conv2d, "construct", lambda cell, _, out: out.size * cell.weight.size // cell.weight.shape[0])
    count(mint.nn.Linear, "construct", lambda cell, _, out: out.size * cell.weight.shape[1])
    count(AttnProcessor2_0, "__call__", lambda _, given, out: 2 * out.size * out.shape[2] * out.shape[3])
    size = options["image_size"]
    unet(ms.Tensor(np.zeros((1, 3, size, size)), ms.float32), ms.Tensor([1], ms.int32))
    return {"giga_multiply_adds": total / 1e9}


WORKERS: dict[str, Any] = {
    "train": our_train,
    "sample": our_sample,
    "data": our_data,
    "costs": our_costs,
    "quality_costs": our_quality_costs,
    "profile": our_profile,
    "multiply_adds": our_multiply_adds,
    "precision": our_precision,
    "errors": our_errors,
}
