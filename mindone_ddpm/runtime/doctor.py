"""Checks whether this machine can train, and says what to do where it cannot."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from mindone_ddpm.backends.choose import available_devices, has_cpu_operators, max_local_ranks
from mindone_ddpm.backends.gpu import cuda
from mindone_ddpm.common.environment import hub_is_mirrored
from mindone_ddpm.common.errors import first_line
from mindone_ddpm.common.hubs import HUGGINGFACE, MODELERS, MODELSCOPE
from mindone_ddpm.common.libraries import quiet_imports

OK, WARNING, FAULT = "ok", "warning", "fault"
CHECKED_PACKAGES = ("mindspore", "mindone", "datasets", "numpy", "pillow", "huggingface_hub", "transformers")
SMALLEST_SHARED_MEMORY_MIB, SMALLEST_DISK_GIB = 64, 5
RUN_TIMEOUT_S = 900.0
HUB_TIMEOUT_S = 5.0
XET_IS_OFF = ("1", "ON", "YES", "TRUE")
ASCEND_FOLDERS = ("/usr/local/Ascend/ascend-toolkit/latest", "/usr/local/Ascend/cann")

# Where CANN's version is written, best first, and the pattern to find it.
CANN_VERSION_FILES = (
    ("compiler/version.info", r"^version_dir=(.+)$"),
    ("version.cfg", r"_running_version=\[(?:[^]:]*:)?([^]]+)\]"),
    ("compiler/version.info", r"^[Vv]ersion=(.+)$"),
    ("version.info", r"^[Vv]ersion=(.+)$"),
)

# A run that takes seconds once it is compiled.
TINY_RUN = (
    *("train", "--dataset_name", "digits", "--channels", "1", "--image_size", "8", "--preset", "tiny"),
    *("--max_train_samples", "64", "--train_batch_size", "8", "--max_train_steps", "2", "--lr_warmup_steps", "0"),
    *("--save_image_epochs", "0", "--checkpointing_steps", "0", "--report_to", "none"),
)


@dataclass
class Finding:
    """``status`` is ok, warning or fault; ``advice`` says what to do about the last two."""

    name: str
    status: str
    text: str
    advice: str = ""


def check_python() -> Finding:
    found = platform.python_version()
    fits = (3, 10) <= sys.version_info[:2] <= (3, 12)
    advice = "" if fits else "MindSpore has wheels for Python 3.10 to 3.12: make a new environment with one of them"
    return Finding("python", OK if fits else FAULT, f"{found}, {platform.machine()}, {platform.system()}", advice)


def check_packages() -> Iterator[Finding]:
    """Each package against the range that this one requires."""
    ranges = {}
    for text in required():
        requirement = Requirement(text)
        if requirement.marker is None:
            ranges[requirement.name.replace("-", "_").lower()] = requirement.specifier
    for name in CHECKED_PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, FAULT, "is not installed", f"pip install {name}")
            continue
        wanted = ranges.get(name)
        if wanted is None or wanted.contains(version, prereleases=True):
            yield Finding(name, OK, version)
        else:
            yield Finding(name, FAULT, f"{version}, but {wanted} is needed", f"pip install '{name}{wanted}'")


def required() -> list[str]:
    """What this package requires; empty for a copy that is not installed."""
    try:
        return importlib.metadata.requires("mindone_ddpm") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def output_of(*command: str) -> str | None:
    """What a program prints; None if it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def check_ascend(device: str = "auto") -> Finding:
    """What is missing is a fault if an NPU is asked for, or would be taken by ``auto``; else a warning."""
    devices = "Ascend" in available_devices()
    driver = output_of("npu-smi", "info")
    folder = os.environ.get("ASCEND_HOME_PATH") or next((f for f in ASCEND_FOLDERS if Path(f).is_dir()), None)
    cann = cann_version(Path(folder)) if folder else None
    if not devices and driver is None and folder is None and device != "Ascend":
        return Finding("Ascend", OK, "none on this machine")
    wanted = device == "Ascend" or (device == "auto" and (devices or driver is not None))
    status = FAULT if wanted else WARNING
    text = f"{'NPUs' if devices else 'no NPU'}, driver {'answers' if driver else 'silent'}, CANN {cann or 'not found'}"
    if not devices or driver is None:
        advice = "install the driver and firmware for the card, and see that `npu-smi info` lists it"
        return Finding("Ascend", status, text, advice)
    if cann is None or "ASCEND_HOME_PATH" not in os.environ:
        script = set_env_script(Path(folder or ASCEND_FOLDERS[0]))
        advice = f"install the CANN toolkit, and run `source {script}` in this shell"
        return Finding("Ascend", status, text, advice)
    supported = supported_cann()
    if supported and not cann.startswith(tuple(supported)):
        advice = f"this MindSpore is made for CANN {', '.join(supported)}: install one of them, or another MindSpore"
        return Finding("Ascend", WARNING, text, advice)
    return Finding("Ascend", OK, text)


def supported_cann() -> list[str]:
    """The versions of CANN that the installed MindSpore supports, such as "8.3"; empty if it does not say."""
    folder = mindspore_folder()
    checks = folder / "run_check" / "_check_version.py" if folder is not None else None
    if checks is None or not checks.is_file():
        return []
    found = re.search(r"class AscendEnvChecker[\s\S]*?self\.version = \[(.*?)\]", checks.read_text())
    return re.findall(r"\d+\.\d+", found.group(1)) if found else []


def mindspore_folder() -> Path | None:
    """Where MindSpore is installed, without importing it."""
    spec = importlib.util.find_spec("mindspore")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(folders[0]) if folders else None


def cann_version(folder: Path) -> str | None:
    """The toolkit's version, such as "8.5.0", from whichever file this version of it has.

    Its parts also have a version of their own (7.6 in CANN 8.0), which is taken only if there is no other.
    """
    for name, pattern in CANN_VERSION_FILES:
        path = folder / name
        found = re.search(pattern, path.read_text(errors="replace"), re.MULTILINE) if path.is_file() else None
        if found:
            return found.group(1).strip().removeprefix("CANN-")
    return None


def set_env_script(folder: Path) -> Path:
    """The script that a shell must source before it can use the toolkit in this folder."""
    inside, above = folder / "set_env.sh", folder.parent / "set_env.sh"
    usual = above if folder.name == "latest" else inside
    return next((path for path in (inside, above) if path.is_file()), usual)


def check_gpu() -> Finding:
    listed = output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    if listed is None:
        if "GPU" in available_devices():
            return Finding("GPU", WARNING, "a device, but its driver is silent", "see whether `nvidia-smi` runs")
        return Finding("GPU", OK, "none on this machine")
    name = listed.strip().splitlines()[0]
    if not has_gpu_build():
        return Finding("GPU", WARNING, name, "this MindSpore is built for other devices; training takes the CPU")
    trouble = cuda.trouble()
    if trouble is not None:
        return Finding("GPU", WARNING, f"{name}, but {trouble[0]}; training takes the CPU", trouble[1])
    return Finding("GPU", OK, f"{name}, with the libraries of CUDA 11")


def has_gpu_build() -> bool:
    """Whether the installed MindSpore brings its plugin for NVIDIA's GPUs."""
    folder = mindspore_folder()
    return folder is not None and any((folder / "lib" / "plugin").glob("*gpu*"))


def check_mindspore() -> Iterator[Finding]:
    try:
        with quiet_imports():
            importlib.import_module("mindspore")
    except Exception as error:  # whatever a broken MindSpore raises
        yield Finding("MindSpore", FAULT, f"cannot be imported ({first_line(error)})", "install it again")


def check_fast_operators() -> Finding:
    """A C++ compiler, whose operators make a CPU three to five times as fast."""
    if not has_cpu_operators():
        return Finding("C++ compiler", OK, "not used: this copy of the package has no backends/cpu")
    from mindone_ddpm.backends.cpu.compiler import find_compiler

    compiler = find_compiler()
    if compiler is None:
        return Finding(
            "C++ compiler", WARNING, "none", "on a CPU a step takes three to five times as long without: install g++"
        )
    return Finding("C++ compiler", OK, compiler)


def check_disk(folder: Path) -> Finding:
    free_gib = shutil.disk_usage(folder).free / 2**30
    advice = "" if free_gib >= SMALLEST_DISK_GIB else "checkpoints take 16 bytes a parameter each: make room"
    return Finding("disk", WARNING if advice else OK, f"{free_gib:.0f} GiB free in {folder}", advice)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    if not folder.is_dir():
        return Finding("shared memory", OK, "no limit known")
    free_mib = shutil.disk_usage(folder).free / 2**20
    enough = free_mib >= SMALLEST_SHARED_MEMORY_MIB
    advice = "" if enough else "data workers need it: start the container with --shm-size=2g"
    return Finding("shared memory", OK if enough else WARNING, f"{free_mib:.0f} MiB free", advice)


# For each hub: how it is called here, the variable with its address, the default, and its client.
HUB_ADDRESSES = {
    HUGGINGFACE: ("Hugging Face Hub", "HF_ENDPOINT", "https://huggingface.co", "huggingface_hub"),
    MODELSCOPE: ("ModelScope", "MODELSCOPE_ENDPOINT", "https://modelscope.cn", "modelscope_hub"),
    MODELERS: ("Modelers", "OPENMIND_HUB_ENDPOINT", "https://modelers.cn", "openmind_hub"),
}


def check_hubs() -> Iterator[Finding]:
    """Which hubs answer, and what to set or to install."""
    addresses = {hub: os.environ.get(variable) or usual for hub, (_, variable, usual, _) in HUB_ADDRESSES.items()}
    with ThreadPoolExecutor() as pool:
        failures = dict(zip(addresses, pool.map(why_unreachable, addresses.values()), strict=True))
    others = [f"--hub {hub}" for hub in (MODELSCOPE, MODELERS) if failures[hub] is None]
    for hub, (name, _, _, client) in HUB_ADDRESSES.items():
        address, failure = addresses[hub], failures[hub]
        text = f"{address} answers" if failure is None else f"{address} cannot be reached ({failure})"
        if hub != HUGGINGFACE:
            has_client = importlib.util.find_spec(client) is not None
            text += "" if has_client else f"; for --hub {hub}: pip install 'mindone-ddpm[{hub}]'"
            yield Finding(name, OK, text)
        elif failure is not None:
            instead = f"; or use {' or '.join(others)}, which can be reached" if others else ""
            advice = f"data sets and models on disk work without; or set HF_ENDPOINT to a mirror{instead}"
            yield Finding(name, WARNING, text, advice)
        elif hub_is_mirrored() and os.environ.get("HF_HUB_DISABLE_XET", "").upper() not in XET_IS_OFF:
            advice = "export HF_HUB_DISABLE_XET=1, or unset it"
            yield Finding(name, WARNING, f"{text}, but large files go past it, to Hugging Face's storage", advice)
        else:
            yield Finding(name, OK, text + ("; large files go there too, without Xet" if hub_is_mirrored() else ""))


def why_unreachable(address: str) -> str | None:
    """Why there is no answer from an address; None if there is one, whatever it says."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=HUB_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


def run(name: str, text: str, advice: str, *arguments: str) -> Finding:
    """Run this program; the finding has its last error message if it fails."""
    command = [sys.executable, "-m", "mindone_ddpm", *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Finding(name, FAULT, f"has not ended after {RUN_TIMEOUT_S:.0f} s", advice)
    if result.returncode == 0:
        return Finding(name, OK, text)
    lines = [line.strip() for line in re.split(r"[\r\n]+", result.stderr) if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")] or lines or ["no message"]
    return Finding(name, FAULT, f"status {result.returncode}: {errors[-1][:300]}", advice)


def check_work(device: str) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory(prefix="mindone-ddpm-doctor-") as folder:
        flags = [*TINY_RUN, "--device", device]
        trained = run(
            "training", f"two steps on {device}", f"try `mindone-ddpm {' '.join(flags)}`", *flags,
            "--output_dir", f"{folder}/one",
        )  # fmt: skip
        yield trained
        if trained.status == OK:
            sampling = ["sample", "--model", f"{folder}/one", "--num_images", "2", "--num_inference_steps", "2"]
            sampling += ["--device", device, "--output_dir", f"{folder}/images"]
            yield run("sampling", f"two images on {device}", "try `mindone-ddpm sample` by hand", *sampling)
        if max_local_ranks() == 1:
            yield Finding("msrun", OK, "one NPU here: two ranks were not tried")
            return
        advice = "try `mindone-ddpm launch -n 2 train ...` by hand; its logs are in OUTPUT_DIR/logs/workers"
        yield run("msrun", "two ranks", advice, "launch", "-n", "2", *flags, "--output_dir", f"{folder}/two")


def examine(device: str, with_runs: bool, on_finding: Callable[[Finding], None]) -> list[Finding]:
    """Run all checks; each finding is passed to ``on_finding`` at once. ``with_runs`` adds a minute or two."""
    findings: list[Finding] = []

    def note(finding: Finding) -> None:
        findings.append(finding)
        on_finding(finding)

    note(check_python())
    for finding in check_packages():
        note(finding)
    for finding in check_mindspore():
        note(finding)
    note(check_ascend(device))
    for check in (check_gpu, check_fast_operators, check_shared_memory):
        note(check())
    for finding in check_hubs():
        note(finding)
    note(check_disk(Path.cwd()))
    if with_runs and not any(finding.status == FAULT for finding in findings):
        for finding in check_work(device):
            note(finding)
    return findings


def show(finding: Finding) -> str:
    text = f"{finding.status:<8} {finding.name:<16} {finding.text}"
    return text + (f"\n{'':25} {finding.advice}" if finding.advice else "")


def diagnose(device: str, with_runs: bool, as_json: bool) -> int:
    """Print what :func:`examine` finds. Returns 1 if there is a fault, else 0."""
    findings = examine(device, with_runs, lambda finding: None if as_json else print(show(finding), flush=True))
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    return int(any(finding.status == FAULT for finding in findings))
