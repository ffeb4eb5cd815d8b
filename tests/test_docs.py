"""The documentation is correct: its commands run, its links lead somewhere, its generated pages are up to date."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from conftest import ROOT, run_program
from hub_server import TOKEN, HubServer
from nbclient import NotebookClient
from PIL import Image

from mindone_ddpm.cli import config_of, make_parser
from mindone_ddpm.config.parse import from_arguments

PAGES = [*sorted(ROOT.glob("README*.md")), ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OUTSIDE = re.compile(  # programs of others; each was run by hand with what it needs
    r"(\. |source |pip install|python3 -m venv|export |huggingface-cli login|npu-smi|msrun |python -m build|mkdocs )"
)


def script_module(name: str):
    """A file of scripts/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words of each command in a page's shell blocks. Without comments; a shell's variables are numbers."""
    text = "".join(blocks(page, "sh")).replace("\\\n", " ")
    lines = re.sub(r"\$\(\(.*?\)\)|\$\{[^}]*\}|\$[A-Z]\w*", "2", text).splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def mentioned(page: Path) -> list[list[str]]:
    """Complete commands inside a sentence."""
    found = re.findall(r"`((?:mindone-ddpm|python scripts/|bash scripts/)[^`]*)`", page.read_text(encoding="utf-8"))
    return [shlex.split(text) for text in found if "COMMAND" not in text and len(text.split()) > 2]


def as_program(words: list[str]) -> list[str] | None:
    """The words after ``mindone-ddpm``, for whatever starts it."""
    if words[0] == "mindone-ddpm":
        return words[1:]
    if words[0] == "mpirun":
        return as_program(words[words.index("mindone-ddpm") :])
    if words[0] == "python" and words[1].startswith("examples/"):
        assert (ROOT / words[1]).is_file(), words
        return ["train", *words[2:]]
    if words[:2] == ["bash", "scripts/launch.sh"]:
        return ["launch", *words[2:]]
    return None


def understand(words: list[str]) -> None:
    """Parse a command as the program would; wrong use ends with SystemExit or ConfigError. "...": as before."""
    words = [word for word in words if word != "..."]
    if "--help" in words:
        return
    arguments = make_parser().parse_args(words)
    if arguments.command == "launch":
        if arguments.job and not arguments.job[0].endswith(".py"):
            understand(arguments.job)
    elif config_of(arguments.command) is not None:
        if arguments.config is not None and Path(arguments.config).name in ("run.yaml", "config.yaml"):  # the user's
            arguments.config = None
        from_arguments(config_of(arguments.command), arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in [*commands(page), *mentioned(page)]:
        program = as_program(words)
        if program is not None:
            understand(program)
        elif words[0] in ("bash", "python", ".venv/bin/python") and words[1].startswith(("scripts/", "tests/")):
            assert (ROOT / words[1]).is_file(), words
            if words[1].endswith("bench.py"):
                script_module("bench").make_parser().parse_args(words[2:])
        else:
            assert OUTSIDE.match(" ".join(words)), f"{page.name}: what is {words}?"


def cluster_commands() -> list[str]:
    """The commands that the examples for clusters start."""
    folder = ROOT / "scripts" / "container"
    job = json.loads((folder / "modelarts.json").read_text(encoding="utf-8"))
    tasks = yaml.safe_load((folder / "volcano.yaml").read_text(encoding="utf-8"))["spec"]["tasks"]
    containers = [container for task in tasks for container in task["template"]["spec"]["containers"]]
    assert all(container["command"] == ["bash", "-c"] for container in containers)
    return [job["algorithm"]["command"], *(container["args"][0] for container in containers)]


@pytest.mark.parametrize("command", cluster_commands())
def test_the_commands_of_the_cluster_examples_are_what_bash_makes_of_them(command, tmp_path):
    """Run by bash with the variables of a pod; what would be started is printed instead, and understood."""
    stub = tmp_path / "mindone-ddpm"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    pod = {"VC_WORKER_NUM": "2", "VC_TASK_INDEX": "1", "VC_WORKER_HOSTS": "ddpm-worker-0.ddpm,ddpm-worker-1.ddpm"}
    pod |= {"MA_NUM_HOSTS": "2", "MA_NUM_GPUS": "8", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", command], env=pod, capture_output=True, text=True, check=True)
    words = result.stdout.splitlines()
    understand(words)
    arguments = make_parser().parse_args(words)
    assert (arguments.workers, arguments.local_workers, arguments.node_rank) == (16, 8, 1)
    assert arguments.master_addr == "ddpm-worker-0.ddpm" and arguments.job[0] == "train"


def test_the_dockerfiles_copy_what_is_there():
    rehearse = script_module("container/rehearse")
    for name in ("ascend", "cpu"):
        steps = rehearse.instructions(ROOT / "scripts" / "container" / f"Dockerfile.{name}")
        sources = [word for kind, text in steps if kind == "COPY" for word in text.split()[:-1]]
        ignore = (ROOT / "scripts" / "container" / f"Dockerfile.{name}.dockerignore").read_text(encoding="utf-8")
        assert sources and all((ROOT / source).exists() and f"!{source}\n" in ignore for source in sources)
        assert [text for kind, text in steps if kind == "USER"] == ["1000"]
        assert rehearse.arguments_of(steps)["MINDSPORE_VERSION"] in (ROOT / "docs" / "ascend.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_command_line_reference_is_fresh():
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == script_module("cli_reference").reference(), "run python scripts/cli_reference.py"


def test_the_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "mindone_ddpm" in home and (tmp_path / "site" / "tutorial_zh" / "index.html").is_file()
    assert 'href="stylesheets/fonts.css"' in home and (tmp_path / "site" / "stylesheets" / "fonts.css").is_file()
    assert not re.search(r"<(script|link)[^>]+(src|href)=\"https?://(?!127)[^\"]+\.(js|css)", home), "opens offline"


# --- the tutorial ----------------------------------------------------------------------------------------------------

SMALL = """
import mindone_ddpm as md
config = md.TrainingConfig(
    dataset_name="digits", channels=1, image_size=8, model_config_name_or_path={model!r}, max_train_samples=40,
    train_batch_size=8, eval_batch_size=4, num_epochs=2, lr_warmup_steps=4, save_image_epochs=1,
    ddpm_num_inference_steps=4, output_dir="run",
)
config, runtime = md.start_training(config)
"""


def test_the_notebook_is_the_tutorial():
    written = (ROOT / "examples" / "unconditional" / "butterflies.ipynb").read_text(encoding="utf-8")
    assert written == script_module("notebook").notebook(), "run python scripts/notebook.py"


def test_the_tutorial_in_chinese_has_the_same_code():
    english, chinese = (blocks(ROOT / "docs" / name, "python") for name in ("tutorial.md", "tutorial_zh.md"))

    def without_comments(code: str) -> str:
        return re.sub(r" *#.*", "", code)

    assert [without_comments(code) for code in chinese] == [without_comments(code) for code in english]


@pytest.mark.parametrize("page", [page for page in PAGES if "_zh" in page.name], ids=lambda page: page.name)
def test_a_page_in_chinese_has_the_same_commands(page):
    """Two pages leave measurements, with their commands, to the English ones."""
    english = commands(page.with_name(page.name.replace("_zh", "")))
    assert commands(page) == [words for words in english if words in commands(page)]
    if page.name not in ("quality_zh.md", "text_to_image_zh.md"):
        assert commands(page) == english


def test_the_readmes_give_the_ratios_that_were_measured():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    train, denoise, memory, *_ = re.findall(r"\| \*\*([\d.]+)\*\* \|", page)
    for name in ("README.md", "README_zh.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert re.search(rf"{train}\D.*{denoise}\D[^|]*{memory}\D", text, re.DOTALL), name


def test_the_notebook_runs_from_top_to_bottom(small_model, tmp_path):
    """With other settings in its first cell: the built-in digits and a small network, seconds instead of hours."""
    book = nbformat.read(ROOT / "examples" / "unconditional" / "butterflies.ipynb", 4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert "TrainingConfig(" in code[0].source
    code[0].source = SMALL.format(model=str(small_model))
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    images = [cell for cell in code if any("image/png" in output.get("data", {}) for output in cell.outputs)]
    said = "".join(output.get("text", "") for cell in code for output in cell.outputs)
    assert len(images) == 5  # an image of the data, the preview, noise, the last grid, new images
    assert "input shape:  (1, 1, 8, 8)\noutput shape: (1, 1, 8, 8)" in said and "the pipeline is in run" in said


# --- every command, run ----------------------------------------------------------------------------------------------


def write_images(folder: Path, count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(count):
        pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture
def user_folder(tmp_path, small_model, stable_diffusion, stable_diffusion_xl, captioned_digits):
    """A folder with all the files that the pages name."""
    for seed, name in enumerate(("my-images", "other-images", "my-photographs", "my-captioned-images")):
        write_images(tmp_path / name, 12, seed)
    lines = [json.dumps({"file_name": f"{number}.png", "text": "a fox"}) for number in range(12)]
    (tmp_path / "my-captioned-images" / "metadata.jsonl").write_text("\n".join(lines))
    for seed, name in enumerate(("photo.png", "mask.png", "a.png", "b.png")):
        write_images(tmp_path / f"of-{name}", 1, seed)
        (tmp_path / f"of-{name}" / "0.png").rename(tmp_path / name)
        (tmp_path / f"of-{name}").rmdir()
    (tmp_path / "run.yaml").write_text("dataset_name: digits\nmax_train_samples: 40\noutput_dir: recipe-output\n")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "CompVis").mkdir()
    (tmp_path / "CompVis" / "stable-diffusion-v1-4").symlink_to(stable_diffusion)
    (tmp_path / "stable-diffusion-v1-5").mkdir()
    (tmp_path / "stable-diffusion-v1-5" / "stable-diffusion-v1-5").symlink_to(stable_diffusion)
    for seed, name in enumerate(("dog", "cat")):
        write_images(tmp_path / name, 3, seed)
    (tmp_path / "stabilityai").mkdir()
    (tmp_path / "stabilityai" / "stable-diffusion-xl-base-1.0").symlink_to(stable_diffusion_xl)
    (tmp_path / "madebyollin").mkdir()
    (tmp_path / "madebyollin" / "sdxl-vae-fp16-fix").symlink_to(stable_diffusion_xl / "vae")
    (tmp_path / "lambdalabs").mkdir()
    (tmp_path / "lambdalabs" / "naruto-blip-captions").symlink_to(captioned_digits)
    return tmp_path


OF_STABLE_DIFFUSION = ("train_text_to_image", "train_text_to_image_sdxl", "train_dreambooth", "textual_inversion")


def smaller(words: list[str], model: Path) -> list[object]:
    """The same command with further settings, which win, so that it takes seconds."""
    command, given = words[0], " ".join(words)
    words = [re.sub("^/(data|cache)/run$", r"\1-run", word) for word in words]  # folders of a cluster
    words = ["run.yaml" if word == "/data/run.yaml" else word for word in words]
    if command == "launch":
        arguments = make_parser().parse_args(words)
        return ["launch", "-n", 2, *smaller(arguments.job, model)]
    if command == "evaluate":
        words = drop(words, "--inception_weights")
        quick = ["--features", "digits", "--num_samples", 12, "--num_inference_steps", 2, "--force"]
        return [*words, *quick, "--device", "CPU", "--max_train_samples", 12] if "--fake" not in words else [
            *words, "--features", "digits", "--device", "CPU", "--force",
        ]  # fmt: skip
    if command in ("sample", "inpaint", "interpolate"):
        numbers = ["--jump_length", 1] if command == "inpaint" else ["--num_images", 3]
        words = [word.replace("ink-style", "my-dog-adapters") for word in words]
        return [*words, "--num_inference_steps", 2, *numbers, "--device", "CPU"]
    if command == "average" and "--best" in words:
        return [*words, "--num_samples", 12, "--device", "CPU"]
    if command == "preview":
        return [*words, "--resolution", 8, "--channels", 1]
    if command == "doctor":
        return [*words, "--no-runs"]
    if command == "fuse":
        return [word.replace("ink-style", "my-dog-adapters") for word in words]
    if command not in ("train", *OF_STABLE_DIFFUSION):
        return list(words)
    if command == "train" and "..." in words:
        words += ["--train_data_dir", "my-images", "--output_dir", "as-before"]
    if "run.yaml" in words and "--resume_from_checkpoint" not in words:  # other ways to start the same run
        words += ["--overwrite_output_dir"]
    words = drop(drop(words, "--inception_weights"), "--preset")
    words = [word.replace("checkpoint-1500", "checkpoint-1") for word in words]
    quick = ["--max_train_steps", 2, "--train_batch_size", 2, "--lr_warmup_steps", 0, "--device", "CPU"]
    quick += ["--checkpointing_steps", 1, "--save_image_epochs", 0]
    if command == "train" and "examples" not in given:
        quick += ["--resolution", 8, "--channels", 1, "--model_config_name_or_path", model]
    elif command in OF_STABLE_DIFFUSION:
        quick += ["--resolution", 16, "--center_crop", "--gradient_accumulation_steps", 1]
        quick += ["--num_class_images", 2] if command == "train_dreambooth" else []
        quick += ["--initializer_token", "digit"] if command == "textual_inversion" else []  # one token of the test's
        if "--pretrained_model_name_or_path" not in given:
            quick += ["--pretrained_model_name_or_path", "CompVis/stable-diffusion-v1-4"]
            quick += ["--train_data_dir", "my-captioned-images"]
            quick += ["--instance_prompt", "a photo of sks dog"] if command == "train_dreambooth" else []
    if "--eval_metrics" in words:
        quick += ["--eval_features", "digits", "--eval_num_samples", 12, "--eval_metrics_steps", 1]
        quick += ["--ddpm_num_inference_steps", 2]
    if words[-1] == "my-model" and command == "train":
        quick += ["--snapshot_steps", 1]
    if "--validation_loss_steps" in words:
        quick += ["--validation_split", 0.25] if "--validation_split" in words else []
        quick += ["--validation_loss_steps", 1]
    return [*(word for word in words if word != "..."), *quick]


def drop(words: list[str], flag: str) -> list[str]:
    """Without a flag and its value."""
    if flag not in words:
        return words
    place = words.index(flag)
    return [*words[:place], *words[place + 2 :]]


def models_of_other_pages(programs: list[list[str]]) -> list[str]:
    """The models that a page's commands use before one of them has made them."""
    made, missing = set(), []
    for words in programs:
        output = words[words.index("--output_dir") + 1] if "--output_dir" in words else None
        for name in ("my-model", "digits", "ddpm-butterflies-128"):
            is_value = name in words and words[words.index(name) - 1] != "--dataset_name"
            if is_value and name not in {output, *made}:
                missing.append(name)
                made.add(name)
        made.add(output)
    return missing


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "_zh" not in page.name], ids=lambda page: page.name)
def test_every_command_runs(page, user_folder, small_model):
    """In the page's order. Left out: several machines, PyTorch's own file of weights, the studio, which does not end,
    a model of real size, and other hubs (output/test_other_hubs.py). A pipeline that another page makes is made
    beforehand."""
    server = HubServer()
    environment = {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HOME": str(user_folder / "hub"), "no_proxy": "127.0.0.1"}
    programs = [program for program in map(as_program, commands(page)) if program is not None]
    left_out = {"--node_rank", "--hub", "convert_inception", "studio", "real/pipeline"}
    programs = [words for words in programs if left_out.isdisjoint(words)]
    first = ["train", "--train_data_dir", "my-images", "--output_dir"]
    try:
        for folder in models_of_other_pages(programs):
            run(smaller([*first, folder], small_model), user_folder, environment)
        if any("--fake" in words for words in programs):
            run(["sample", "--model", "my-model", "--output_dir", "my-samples", "--num_images", 12,
                 "--num_inference_steps", 2], user_folder, environment)  # fmt: skip
        for words in programs:
            words = [word.replace("your-name/", "someone/") for word in words]
            run(smaller(words, small_model), user_folder, environment)
    finally:
        server.close()


def run(words: list[object], folder: Path, environment: dict[str, str]) -> None:
    result = run_program(*words, cwd=folder, **environment)
    assert result.returncode == 0, f"{words}: {result.stderr[-2000:]}"
