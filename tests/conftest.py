from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import importlib.metadata
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mindone_ddpm.runtime  # noqa: F401  sets environment variables before MindSpore is imported

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tests" / "programs"
# Clients of hubs and trackers, installed by scripts/peer.sh. Last: what the environment has itself comes first.
CLIENTS = ROOT / ".peer" / "clients"
sys.path.append(str(CLIENTS))
START_TIMEOUT_S = 120  # of a process that imports the libraries


MINDSPORE_VERSION = tuple(map(int, importlib.metadata.version("mindspore").split(".")[:2]))
NEEDS_ONEDNN_3 = pytest.mark.skipif(MINDSPORE_VERSION < (2, 9), reason="needs oneDNN 3, which MindSpore has from 2.9.0")


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the slow tests too")


def own_lines(stderr: str) -> list[str]:
    """Lines of standard error, without the one that an older MindSpore, or no compiler, is the reason for."""
    return [line for line in stderr.splitlines() if not line.startswith("note: without the fast operators")]


def pytest_unconfigure(config):
    """MindSpore's cells count themselves out with names that are gone once the interpreter goes down."""
    nn = sys.modules.get("mindspore.nn")
    if nn is not None:
        del nn.Cell.__del__


# The files that take longest, the longest first. The others come after them, as they are collected.
LONG_FILES = (
    *("training/test_checkpoint.py", "runtime/test_launch.py", "runtime/test_graph_cache.py"),
    *("runtime/test_distributed.py", "training/test_trainer.py", "evaluation/test_evaluation.py"),
    *("backends/test_substitutes.py", "jobs/test_third_party.py", "jobs/test_text_to_image.py", "test_docs.py"),
    *("backends/cpu/test_native.py", "evaluation/test_in_training.py", "jobs/test_peer.py", "sampling/test_api.py"),
    *("backends/cpu/test_compiler.py", "training/test_earlier_versions.py", "backends/test_without_cpu_folder.py"),
    *("jobs/test_published.py", "models/test_foreign.py", "test_packaging.py", "training/test_speed.py"),
)


def pytest_collection_modifyitems(config, items):
    """Long files first: a worker that takes one last would leave the other idle. See ``--dist loadfile`` in test.sh."""

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(ROOT / "tests").as_posix()
        # The stand-in's tests compile most, so they start before all others.
        return -1 if path.startswith("standin/") else LONG_FILES.index(path) if path in LONG_FILES else len(LONG_FILES)

    items.sort(key=place)
    if config.getoption("--all"):
        return
    kept = [item for item in items if "slow" not in item.keywords]
    config.hook.pytest_deselected(items=[item for item in items if "slow" in item.keywords])
    items[:] = kept


def shared_folder(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first worker who needs it makes for all of them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared-{name}"
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)  # half made by a worker that failed
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


def set_mode(mode: str) -> None:
    from mindone_ddpm.runtime import start

    start.start("CPU", mode, seed=0)


@pytest.fixture(scope="session", autouse=True)
def device():
    """MindSpore takes its device before the first kernel runs, or not at all."""
    set_mode("graph")


def cpu_runtime():
    """One rank on the CPU, in graph mode, as `runtime.start` gives it."""
    from mindone_ddpm.backends.choose import choose
    from mindone_ddpm.runtime.start import Runtime

    return Runtime(choose("CPU"), "graph")


@pytest.fixture
def graph_mode():
    set_mode("graph")


@pytest.fixture(params=["graph", "pynative"])
def either_mode(request):
    set_mode(request.param)
    yield request.param
    set_mode("graph")


@contextlib.contextmanager
def without_substitutes():
    """MindSpore's and mindone's own operators, as on Ascend, inside."""
    from mindone_ddpm.backends.choose import choose
    from mindone_ddpm.backends.cpu.operators import OPERATORS
    from mindone_ddpm.backends.substitutes import SUBSTITUTES

    OPERATORS.remove()
    SUBSTITUTES.remove()
    try:
        yield
    finally:
        choose("CPU").install()


class StartedProcess:
    """A process of tests/programs/started_process.py, which forks for each command."""

    def __init__(self, pythonpath: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "started_process.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            cwd=ROOT, env={**os.environ, "PYTHONPATH": pythonpath},
        )  # fmt: skip

    def answer(self, timeout_s: float) -> int:
        """A number that it prints. MindSpore's threads can keep a fork from ever coming back."""
        if not select.select([self.process.stdout], [], [], timeout_s)[0]:
            self.close()
            raise TimeoutError("the started process does not answer")
        return int(self.process.stdout.readline())

    def run(self, words: list[str], timeout_s: float, folder: str, environment: dict[str, str]):
        with tempfile.NamedTemporaryFile("r") as stdout, tempfile.NamedTemporaryFile("r") as stderr:
            command = {"arguments": words, "environment": environment, "folder": folder}
            command |= {"stdout": stdout.name, "stderr": stderr.name}
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            child = self.answer(START_TIMEOUT_S)
            killer = threading.Timer(timeout_s, os.kill, (child, signal.SIGKILL))
            killer.start()
            try:
                status = self.answer(timeout_s + START_TIMEOUT_S)
            finally:
                killer.cancel()
            return subprocess.CompletedProcess(words, status, stdout.read(), stderr.read())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@functools.cache
def started_process(pythonpath: str) -> StartedProcess:
    process = StartedProcess(pythonpath)
    atexit.register(process.close)
    return process


FORKED = (  # the commands that import MindSpore and do their work in one process
    *("train", "train_text_to_image", "train_two_networks", "train_dreambooth", "textual_inversion"),
    "train_text_to_image_sdxl",
    *("sample", "evaluate", "inpaint", "interpolate", "preview", "fuse"),
)


def run_program(*arguments: object, timeout_s: float = 300, cwd: Path | None = None, fresh: bool = False, **env: str):
    """The program as a user starts it, in a process of its own.

    That process is forked from one that has imported the libraries already, which saves 4 to 5 s of CPU time. A new
    Python starts with ``fresh``, for other commands, and with environment variables that libraries read on import.
    """
    words, environment = [*map(str, arguments)], {**os.environ, "PYTHONPATH": str(ROOT), **env}
    if words and words[0] in FORKED and not fresh and env.keys() <= {"MINDONE_DDPM_CACHE", "PYTHONPATH"}:
        process = started_process(environment["PYTHONPATH"])
        if process.process.poll() is not None:  # given up before
            started_process.cache_clear()
            process = started_process(environment["PYTHONPATH"])
        return process.run(words, timeout_s, str(cwd or Path.cwd()), environment)
    return subprocess.run(
        [sys.executable, "-m", "mindone_ddpm", *words],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=cwd,
        env=environment,
    )


def peer_python() -> Path:
    """The Python that has PyTorch; see scripts/peer.sh."""
    python = Path(os.environ.get("PEER_PYTHON", ROOT / ".peer" / "bin" / "python"))
    assert python.is_file(), "no environment with PyTorch: run scripts/peer.sh, or set PEER_PYTHON"
    return python


@pytest.fixture
def image_folder(tmp_path):
    """Twelve photographs-to-be: colour gradients of odd sizes, nested."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for number in range(12):
        height, width = 20 + number, 31 - number
        ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
        pixels = (ramp + generator.normal(0, 10, ramp.shape)).clip(0, 255).astype(np.uint8)
        place = folder / ("warm" if number % 2 else "cold")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """Configuration of a UNet that compiles in seconds."""
    path = tmp_path_factory.mktemp("model") / "config.json"
    settings = {
        "_class_name": "UNet2DModel",
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "add_attention": False,
    }
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="session")
def digits_flags(small_model) -> list[object]:
    """A run on digits, without grids, that takes a step in some 20 ms."""
    return [
        *("--dataset_name", "digits", "--channels", 1, "--image_size", 8, "--train_batch_size", 32),
        *("--model_config_name_or_path", small_model, "--save_image_epochs", 0, "--report_to", "csv"),
        *("--learning_rate", 1e-3, "--lr_warmup_steps", 5, "--use_ema"),
    ]


@pytest.fixture(scope="session")
def run_flags(digits_flags):
    """A short run for one rank or more."""
    return [
        *digits_flags,
        *("--max_train_steps", 20, "--gradient_accumulation_steps", 2, "--checkpointing_steps", 10),
        *("--ddpm_num_inference_steps", 3, "--eval_batch_size", 5, "--save_image_epochs", 1000, "--logging_steps", 4),
    ]


@pytest.fixture(scope="session")
def two_ranks(run_flags, tmp_path_factory):
    """That run on two ranks: its folder, and what the launcher said."""

    def make(folder: Path) -> None:
        flags = ["train", *run_flags, "--train_batch_size", 16, "--output_dir", folder / "run"]
        result = run_program("launch", "-n", 2, *flags)
        assert result.returncode == 0, result.stderr
        (folder / "said.json").write_text(json.dumps([result.stdout, result.stderr]))

    folder = shared_folder(tmp_path_factory, "two-ranks", make)
    return folder / "run", subprocess.CompletedProcess([], 0, *json.loads((folder / "said.json").read_text()))


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory) -> Path:
    """A Stable Diffusion pipeline of a size for tests; see make_stable_diffusion.py."""

    def make(folder: Path) -> None:
        command = [sys.executable, str(PROGRAMS / "make_stable_diffusion.py"), str(folder / "made-by-program")]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})

    return shared_folder(tmp_path_factory, "stable-diffusion", make) / "made-by-program" / "pipeline"


@pytest.fixture(scope="session")
def stable_diffusion_xl(tmp_path_factory) -> Path:
    """The same of Stable Diffusion XL."""

    def make(folder: Path) -> None:
        command = [sys.executable, str(PROGRAMS / "make_stable_diffusion.py"), str(folder / "made-by-program"), "--xl"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})

    return shared_folder(tmp_path_factory, "stable-diffusion-xl", make) / "made-by-program" / "pipeline"


@pytest.fixture(scope="session")
def captioned_digits(tmp_path_factory) -> Path:
    """The first 200 built-in digits with captions such as "a handwritten three"."""

    def make(folder: Path) -> None:
        from make_stable_diffusion import NUMBERS

        from mindone_ddpm.data.datasets import load_digits_dataset

        digits = load_digits_dataset().select(range(200))
        texts = [f"a handwritten {NUMBERS[label]}" for label in digits["label"]]
        digits.remove_columns("label").add_column("text", texts).save_to_disk(folder / "digits")

    return shared_folder(tmp_path_factory, "captioned", make) / "digits"


@pytest.fixture
def text_flags(stable_diffusion, captioned_digits, tmp_path) -> list[object]:
    return [
        *("--pretrained_model_name_or_path", stable_diffusion, "--dataset_name", captioned_digits, "--resolution", 16),
        *("--center_crop", "--train_batch_size", 16, "--learning_rate", 1e-3, "--lr_warmup_steps", 0, "--use_ema"),
        *("--caption_dropout", 0.1, "--report_to", "csv", "--cache_dir", tmp_path / "cache"),
    ]


@pytest.fixture
def subject_images(tmp_path) -> Path:
    """The first images of the digit three, as files."""
    from mindone_ddpm.data.datasets import load_digits_dataset

    digits = load_digits_dataset()
    threes = [number for number, label in enumerate(digits["label"]) if label == 3][:4]
    folder = tmp_path / "threes"
    folder.mkdir()
    for number in threes:
        digits[number]["image"].convert("RGB").resize((16, 16)).save(folder / f"{number}.png")
    return folder


SLOW_JOBS = ("text", "lora", "dreambooth", "dreambooth-lora", "word", "xl-lora", "buckets")


@pytest.fixture(params=["everything", *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW_JOBS)])
def job(request, digits_flags, small_model, text_flags, subject_images, tmp_path) -> tuple[str, list[object]]:
    """A command and its flags: all that draws random numbers, fine-tuning of every kind, images of several sizes."""
    if request.param == "everything":
        settings = {**json.loads(small_model.read_text()), "dropout": 0.2}
        model = tmp_path / "dropout.json"
        model.write_text(json.dumps(settings))
        return "train", [
            *digits_flags,
            *("--model_config_name_or_path", model, "--class_conditional", "--noise_offset", 0.1),
            *("--input_perturbation", 0.1, "--random_flip", "--snr_gamma", 5, "--optimizer", "lion"),
            *("--learning_rate", 1e-4, "--train_batch_size", 16),
        ]
    adapters = ["--rank", 4, "--cache_latents"] if "lora" in request.param else []
    if request.param in ("text", "lora"):
        return "train_text_to_image", [*text_flags, *adapters]
    if request.param == "xl-lora":
        base = request.getfixturevalue("stable_diffusion_xl")
        more = ["--pretrained_model_name_or_path", base, "--rank", 4, "--train_text_encoder", "--random_flip"]
        return "train_text_to_image_sdxl", [*text_flags, *more]
    if request.param == "buckets":
        own = [*text_flags[:2], "--train_data_dir", subject_images, *text_flags[6:], "--train_batch_size", 2]
        for number, path in enumerate(sorted(subject_images.glob("*.png"))):
            with Image.open(path) as image:
                for copy in range(6):
                    size = [(50, 30), (30, 30), (50, 32), (30, 50)][number]
                    image.resize(size).rotate(10 * copy).save(subject_images / f"{path.stem}-{copy}.png")
        more = ["--resolution", 32, "--aspect_buckets", "--bucket_step", 8, "--instance_prompt", "a three"]
        return "train_text_to_image", [*own, *more, "--rank", 4]
    own = [word for word in text_flags if word not in ("--dataset_name", text_flags[3])]
    own += ["--train_data_dir", subject_images, "--train_batch_size", 2]
    if request.param == "word":
        return "textual_inversion", [
            *(*own, "--placeholder_token", "<three>", "--initializer_token", "digit", "--num_vectors", 2),
            *("--learning_rate", 1e-2, "--random_flip"),
        ]
    return "train_dreambooth", [
        *(*own, *adapters, "--instance_prompt", "a picture of a zzz", "--train_text_encoder", "--random_flip"),
        *(
            "--with_prior_preservation",
            "--class_data_dir",
            tmp_path / "class",
            "--class_prompt",
            "a picture of a digit",
        ),
        *("--num_class_images", 20, "--sample_batch_size", 5),
    ]
