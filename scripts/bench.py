#!/usr/bin/env python3
"""How fast it is on this machine, and how that compares with PyTorch and diffusers.

    python scripts/bench.py train --against torch       a train step, its memory, its first step
    python scripts/bench.py train --costs               what EMA, logging and checkpoints add to a step
    python scripts/bench.py sample --against torch      a denoising step
    python scripts/bench.py data                        the real data path against a batch that is there already
    python scripts/bench.py startup                     from the command to the first finished step, twice
    python scripts/bench.py scaling                     two workers of one core each against one (Linux)
    python scripts/bench.py profile                     where a step's time goes, by operator
    python scripts/bench.py grow                        time and memory as models and images grow

Every measurement runs in a process of its own; rounds of the two sides take turns, and medians are shown. A table goes
to the screen, and with --json all figures to a file.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# As it is before this package sets its variables (common/environment.py): a limit on oneDNN would slow PyTorch.
ENVIRONMENT = dict(os.environ)
sys.path.insert(0, str(ROOT))


def peak_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(function: Any) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


# --- workers for this package: each runs in a process of its own, and answers with a dictionary ----------------------


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
        "mixed_precision": "no",
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
        parameters = sum(parameter.size for parameter in training.job.trainable().values())
    return {
        "step_s": statistics.median(times),
        "first_step_s": first,
        "peak_memory_mb": peak_memory_mb(),
        "parameters": parameters,
    }


def our_sample(options: dict[str, Any]) -> dict[str, Any]:
    from mindone_ddpm.jobs.unconditional.config import TrainingConfig
    from mindone_ddpm.models import schedulers
    from mindone_ddpm.models.unet import make_unet
    from mindone_ddpm.objectives import choose
    from mindone_ddpm.runtime.start import start
    from mindone_ddpm.sampling import generate

    start(options["device"], "graph", 0)
    config = TrainingConfig(
        dataset_name="digits", channels=3, preset=options["preset"], image_size=options["image_size"]
    )
    unet = make_unet(config)
    scheduler = schedulers.make_sampler("ddim", choose.make_noise_scheduler(config))

    def denoise(steps: int) -> float:
        numbers = list(range(options["batch_size"]))
        settings = {"sample_ids": numbers, "batch_size": len(numbers), "num_inference_steps": steps, "seed": 0}
        return timed(lambda: generate.generate(unet, scheduler, **settings))

    first = denoise(2)
    return {"step_s": denoise(options["steps"]) / options["steps"], "first_two_steps_s": first}


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


def our_profile(options: dict[str, Any]) -> list[dict[str, Any]]:
    """Milliseconds in a step by operator: MindSpore's profiler, and the own clock of the operators in C++."""
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
        with next(where.rglob("cpu_op_type_info_0.csv")).open() as file:
            for row in csv.DictReader(file):
                if row["op_type"] != "Custom":
                    calls, total_ms = float(row["type_occurrences"]), float(row["total_compute_time"])
                    rows.append((row["op_type"], calls / options["steps"], total_ms / options["steps"]))
    rows.sort(key=lambda row: -row[2])
    whole = ("all", sum(row[1] for row in rows), sum(row[2] for row in rows))
    return [{"operator": name, "calls": calls, "ms": ms_} for name, calls, ms_ in [whole, *rows[:20]]]


def our_multiply_adds(options: dict[str, Any]) -> dict[str, Any]:
    """Multiply-adds of one image on its way forward through convolutions, matrix products and attention."""
    from mindone_ddpm.jobs.unconditional.config import TrainingConfig
    from mindone_ddpm.models.unet import make_unet
    from mindone_ddpm.runtime.start import start

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


# --- workers for PyTorch and diffusers, run by the environment that scripts/peer.sh makes ----------------------------


def peer_unet(options: dict[str, Any]) -> Any:
    import torch
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return UNet2DModel(sample_size=options["image_size"], in_channels=3, out_channels=3, **options["unet"])


def torch_train(options: dict[str, Any]) -> dict[str, Any]:
    import torch

    unet = peer_unet(options)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, weight_decay=1e-6)
    shape = (options["batch_size"], 3, options["image_size"], options["image_size"])
    noisy, noise = torch.randn(shape), torch.randn(shape)
    timesteps = torch.randint(0, 1000, shape[:1])

    def step() -> None:
        loss = torch.nn.functional.mse_loss(unet(noisy, timesteps).sample, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    first = timed(step)
    times = [timed(step) for _ in range(options["warmup"] + options["steps"])][options["warmup"] :]
    return {"step_s": statistics.median(times), "first_step_s": first, "peak_memory_mb": peak_memory_mb()}


def torch_sample(options: dict[str, Any]) -> dict[str, Any]:
    import torch
    from diffusers import DDIMScheduler

    unet, scheduler = peer_unet(options).eval(), DDIMScheduler()
    shape = (options["batch_size"], 3, options["image_size"], options["image_size"])

    def denoise(steps: int) -> None:
        scheduler.set_timesteps(steps)
        images = torch.randn(shape)
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                images = scheduler.step(unet(images, timestep).sample, timestep, images).prev_sample
        images.sum().item()

    first = timed(lambda: denoise(2))
    return {"step_s": timed(lambda: denoise(options["steps"])) / options["steps"], "first_two_steps_s": first}


# --- measurements that start the program itself --------------------------------------------------------------------


def program(
    *arguments: object, prefix: tuple[str, ...] = (), until: re.Pattern[str] | None = None, **environment: str
) -> float:
    """Runs it to its end. Returns after how many seconds it said ``until``, or ended."""
    command = [*prefix, sys.executable, "-m", "mindone_ddpm", *map(str, arguments)]
    started, said, when = time.perf_counter(), "", None
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        while chunk := os.read(process.stderr.fileno(), 1 << 16):
            said += chunk.decode(errors="replace")
            if when is None and until is not None and until.search(said):
                when = time.perf_counter() - started
    if process.returncode != 0 or (until is not None and when is None):
        sys.exit(f"error: {' '.join(command)} ended with status {process.returncode}:\n{said[-2000:]}")
    return time.perf_counter() - started if when is None else when


def train_flags(options: dict[str, Any], folder: Path) -> list[object]:
    return [
        *("--dataset_name", "digits", "--channels", 3, "--preset", options["preset"]),
        *("--image_size", options["image_size"], "--train_batch_size", options["batch_size"]),
        *("--save_image_epochs", 0, "--checkpointing_steps", 0, "--report_to", "csv", "--mixed_precision", "no"),
        *("--device", options["device"], "--output_dir", folder),
    ]


def measure_startup(options: dict[str, Any]) -> dict[str, Any]:
    """The same command twice, until the bar says that its only step is done; and the command that does nothing.

    In a cache of their own, so that the first finds no graph; the operators in C++ are compiled beforehand.
    """
    first_step_is_done = re.compile(r"training: 100%")
    with tempfile.TemporaryDirectory() as folder:
        cache = {"MINDONE_DDPM_CACHE": str(Path(folder) / "cache")}

        def start(name: str, compile_cache: str) -> float:
            flags = [*train_flags(options, Path(folder) / name), "--max_train_steps", 1]
            return program("train", *flags, "--compile_cache", compile_cache, until=first_step_is_done, **cache)

        start("beforehand", "off")
        first, second = start("first", "on"), start("second", "on")
        return {
            "first_run_s": first,
            "second_run_s": second,
            "ratio": second / first,
            "without_a_step_s": program("train", *train_flags(options, Path(folder) / "dry"), "--dry_run"),
            "help_s": program("train", "--help"),
        }


def rate_of(folder: Path) -> float:
    """Images a second, the median of what was logged after the first tenth of a run."""
    rows = csv.DictReader((folder / "logs" / "metrics.csv").open())
    values = [float(row["train/images_per_second"]) for row in rows if row["train/images_per_second"]]
    return statistics.median(values[max(2, len(values) // 10) :])


def measure_scaling(options: dict[str, Any]) -> dict[str, Any]:
    """One worker on one core; two workers with a core each. Each worker has the whole batch size."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("error: scaling needs two processor cores")
    with tempfile.TemporaryDirectory() as name:
        rates: dict[int, list[float]] = {1: [], 2: []}
        for number in range(options["rounds"]):
            for workers, mask in ((1, f"{cores[0]}"), (2, f"{cores[0]},{cores[1]}")):
                folder = Path(name) / f"{workers}-{number}"
                flags = [*train_flags(options, folder), "--max_train_steps", options["steps"], "--logging_steps", 5]
                program("launch", "-n", workers, "train", *flags, prefix=("taskset", "-c", mask))
                rates[workers].append(rate_of(folder))
    one, two = (statistics.median(rates[workers]) for workers in (1, 2))
    return {"one_worker_images_per_s": one, "two_workers_images_per_s": two, "ratio": two / one}


# --- the two sides in turn -----------------------------------------------------------------------------------------

WORKERS: dict[str, Any] = {
    "train": our_train,
    "sample": our_sample,
    "data": our_data,
    "costs": our_costs,
    "profile": our_profile,
    "multiply_adds": our_multiply_adds,
    "torch_train": torch_train,
    "torch_sample": torch_sample,
}


def peer_python() -> str:
    """The Python that has PyTorch and diffusers; made where there is none yet."""
    given = os.environ.get("PEER_PYTHON")
    if given is None:
        subprocess.run(["bash", str(ROOT / "scripts" / "peer.sh")], check=True)
        given = str(ROOT / ".peer" / "bin" / "python")
    return given


def run_worker(name: str, options: dict[str, Any]) -> Any:
    python = peer_python() if name.startswith("torch_") else sys.executable
    command = [python, str(Path(__file__).resolve()), "--worker", name, json.dumps(options)]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    if result.returncode != 0:
        sys.exit(f"error: the measurement {name} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def medians(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


def compare(name: str, options: dict[str, Any], against: str | None) -> dict[str, Any]:
    """Ours, and where asked for the peer's, in rounds that take turns; and ours divided by theirs."""
    ours, theirs = [], []
    for _ in range(options["rounds"]):
        ours.append(run_worker(name, options))
        if against is not None:
            theirs.append(run_worker(f"torch_{name}", options))
    found: dict[str, Any] = {"mindone_ddpm": medians(ours)}
    if theirs:
        found["torch"] = medians(theirs)
        both = found["torch"].keys() & found["mindone_ddpm"].keys()
        found["ratio"] = {key: found["mindone_ddpm"][key] / found["torch"][key] for key in both}
    return found


# Preset, size, batch, steps to measure: the last is the tutorial's model at the tutorial's size.
GROWTH = (
    ("tiny", 16, 8, 20),
    ("small", 16, 8, 20),
    ("small", 32, 8, 20),
    ("small", 64, 8, 6),
    ("ddpm-cifar10", 32, 4, 5),
    ("ddpm-cifar10", 64, 2, 4),
    ("tutorial-128", 64, 1, 3),
    ("tutorial-128", 128, 1, 2),
)


def grow(options: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for preset, size, batch_size, steps in GROWTH[: options["growth"]]:
        chosen = {**options, "preset": preset, "image_size": size, "batch_size": batch_size, "steps": steps}
        chosen["warmup"] = min(8, steps)
        found = run_worker("train", chosen)
        giga = run_worker("multiply_adds", chosen)["giga_multiply_adds"]
        # Forward, and twice as much backward; a multiply-add is two operations.
        rate = 3 * 2 * giga * batch_size / found["step_s"]
        rows.append(
            {
                "preset": preset,
                "size": size,
                "batch": batch_size,
                "parameters_m": found["parameters"] / 1e6,
                "gmac_per_image": giga,
                "step_s": found["step_s"],
                "images_per_s": batch_size / found["step_s"],
                "gflops_per_s": rate,
                "peak_memory_mb": found["peak_memory_mb"],
                "first_step_s": found["first_step_s"],
            }
        )
    return rows


# --- what is shown ---------------------------------------------------------------------------------------------------


def show_table(rows: list[dict[str, Any]]) -> None:
    def text(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([text(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def rows_of(found: Any) -> list[dict[str, Any]]:
    if isinstance(found, list):
        return found
    if all(isinstance(value, dict) for value in found.values()):
        return [{"": name, **values} for name, values in found.items()]
    return [{"what": name, "value": value} for name, value in found.items()]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in ("train", "sample", "data", "startup", "scaling", "profile", "grow"):
        command = commands.add_parser(name)
        command.add_argument("--json", metavar="FILE", help="write all figures here too")
        command.add_argument("--device", default="CPU", help="Ascend, GPU or CPU (default: CPU)")
        command.add_argument("--rounds", type=int, default=3, help="rounds whose median is taken (default: 3)")
        if name == "grow":
            command.add_argument("--growth", type=int, default=4, help=f"rows, at most {len(GROWTH)} (default: 4)")
            continue
        command.add_argument("--preset", default="tiny" if name == "scaling" else "small", help="UNet preset")
        command.add_argument("--image_size", type=int, default=32)
        command.add_argument("--batch_size", type=int, default=16 if name == "scaling" else 8)
        command.add_argument("--steps", type=int, default=80 if name == "scaling" else 20, help="steps measured")
        command.add_argument("--warmup", type=int, default=10, help="steps before, while threads are tuned")
        if name in ("train", "sample"):
            command.add_argument("--against", choices=["torch"], help="measure PyTorch and diffusers too")
        if name == "train":
            command.add_argument(
                "--compile_cache",
                default="auto",
                choices=["auto", "off"],
                help="off: each start compiles, as a first one",
            )
            command.add_argument("--costs", action="store_true", help="what EMA, logging and checkpoints add")
    return parser


def measure(arguments: argparse.Namespace) -> Any:
    options = {name: value for name, value in vars(arguments).items() if name not in ("json", "against", "costs")}
    options["block"] = 5
    if "preset" in options:
        from mindone_ddpm.models.presets import UNET_PRESETS

        options["unet"] = UNET_PRESETS[options["preset"]]
    if arguments.command == "startup":
        return measure_startup(options)
    if arguments.command == "scaling":
        return measure_scaling(options)
    if arguments.command == "grow":
        return grow(options)
    if arguments.command in ("data", "profile"):
        return run_worker(arguments.command, options)
    if arguments.command == "train" and arguments.costs:
        return run_worker("costs", options)
    return compare(arguments.command, options, arguments.against)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(WORKERS[sys.argv[2]](json.loads(sys.argv[3]))))
        return
    arguments = make_parser().parse_args()
    found = measure(arguments)
    cores = len(os.sched_getaffinity(0))
    print(f"{arguments.command}: {cores} core(s), {platform.machine()}, Python {platform.python_version()}")
    show_table(rows_of(found))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
