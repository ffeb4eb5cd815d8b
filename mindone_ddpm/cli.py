"""The command line: parse first, import MindSpore after. Exit status 2 for wrong use, 1 for failure."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mindone_ddpm import __version__
from mindone_ddpm.common.errors import ConfigError, UserError
from mindone_ddpm.config.groups import DEVICES
from mindone_ddpm.config.parse import add_arguments, from_arguments, to_yaml
from mindone_ddpm.evaluation.config import EvaluateConfig, check_evaluation
from mindone_ddpm.jobs.base import check
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig
from mindone_ddpm.jobs.unconditional.config import TrainingConfig, check_training
from mindone_ddpm.output.config import PushConfig, check_push
from mindone_ddpm.runtime.launch import add_launch_arguments, launch, record_outcome
from mindone_ddpm.runtime.signals import interrupt_watch
from mindone_ddpm.runtime.start import is_main_by_environment
from mindone_ddpm.sampling.config import (
    InpaintConfig,
    InterpolateConfig,
    SampleConfig,
    check_inpainting,
    check_interpolation,
    check_sampling,
)


def make_parser(program: str = "mindone-ddpm") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description="Train diffusion models with MindSpore and sample from them."
    )
    parser.add_argument("--version", action="version", version=f"mindone-ddpm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    train = commands.add_parser("train", help="train a UNet on images", allow_abbrev=False)
    add_training_arguments(train)
    add_dry_run(train)
    text = commands.add_parser(
        "train_text_to_image", help="fine-tune Stable Diffusion on captioned images", allow_abbrev=False
    )
    add_training_arguments(text, TextToImageConfig)
    add_dry_run(text)
    preview = commands.add_parser("preview", help="show the images as the model will see them", allow_abbrev=False)
    add_arguments(preview, TrainingConfig)
    preview.add_argument(
        "--output", metavar="FILE", default="preview.png", help="picture to write (default: preview.png)"
    )
    preview.add_argument("--num_images", metavar="INT", type=int, default=16, help="how many images (default: 16)")
    launch = commands.add_parser("launch", help="run a command on several ranks with msrun", allow_abbrev=False)
    add_launch_arguments(launch)
    sample = commands.add_parser("sample", help="sample pictures from a saved pipeline", allow_abbrev=False)
    add_arguments(sample, SampleConfig)
    inpaint = commands.add_parser("inpaint", help="fill in a part of a picture (RePaint)", allow_abbrev=False)
    add_arguments(inpaint, InpaintConfig)
    evaluate = commands.add_parser("evaluate", help="measure a model: FID, KID, precision, recall", allow_abbrev=False)
    add_arguments(evaluate, EvaluateConfig)
    convert = commands.add_parser(
        "convert_inception", help="turn pytorch-fid's file of weights into safetensors", allow_abbrev=False
    )
    convert.add_argument("source", metavar="FILE.pth")
    convert.add_argument("target", metavar="FILE.safetensors")
    push = commands.add_parser("push", help="upload a pipeline to the Hugging Face Hub", allow_abbrev=False)
    add_arguments(push, PushConfig)
    report = commands.add_parser("report", help="write one page about a run", allow_abbrev=False)
    report.add_argument("run", metavar="RUN_DIR", help="the --output_dir of a training")
    report.add_argument("--output", metavar="FILE", help="page to write (default: report.html in RUN_DIR)")
    doctor = commands.add_parser("doctor", help="what this machine has, and whether it works", allow_abbrev=False)
    doctor.add_argument("--device", default="auto", choices=DEVICES, help="where to train (default: auto)")
    doctor.add_argument("--no-runs", dest="runs", action="store_false", help="look only, train nothing")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    interpolate = commands.add_parser("interpolate", help="go from one picture to another", allow_abbrev=False)
    add_arguments(interpolate, InterpolateConfig)
    return parser


def add_training_arguments(parser: argparse.ArgumentParser, config_class: type = TrainingConfig) -> None:
    add_arguments(parser, config_class)
    parser.add_argument("--print_config", action="store_true", help="print the resolved configuration as YAML and stop")


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry_run", action="store_true", help="print the configuration and the plan and stop")


def main(arguments: Sequence[str] | None = None) -> int:
    return run(lambda: dispatch(make_parser().parse_args(arguments)))


def parse_training_arguments(
    arguments: Sequence[str] | None = None,
    defaults: dict[str, Any] | None = None,
    config_class: type = TrainingConfig,
) -> Any:
    """The configuration from a command line, for a script of one's own. Wrong use ends the program with status 2.

    Args:
        defaults: in place of the class's own, such as ``config.PUBLISHED_SCRIPT_DEFAULTS``.
        config_class: TrainingConfig or TextToImageConfig.
    """
    parser = argparse.ArgumentParser(description="Train a diffusion model with MindSpore.", allow_abbrev=False)
    add_training_arguments(parser, config_class)
    parsed = parser.parse_args(arguments)
    try:
        config = from_arguments(config_class, parsed, defaults)
        check(config)
    except ConfigError as error:
        parser.exit(2, "".join(f"error: {problem}\n" for problem in error.problems))
    if parsed.print_config:
        print(to_yaml(config), end="")
        parser.exit(0)
    return config


def run(action) -> int:
    """Run an action and turn the problems it reports into lines and an exit status."""
    interrupt_watch.start()
    status = _status_of(action)
    gc.collect()  # MindSpore's cells complain when they outlive its modules at the interpreter's exit
    record_outcome(status)
    return status


def _status_of(action) -> int:
    try:
        return action()
    except UserError as problem:
        for line in str(problem).splitlines():
            print(problem.prefix + line, file=sys.stderr)
        return problem.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 1


def dispatch(arguments: argparse.Namespace) -> int:
    commands = {
        "train": run_train,
        "train_text_to_image": run_train,
        "preview": run_preview,
        "sample": run_sample,
        "inpaint": run_inpaint,
        "interpolate": run_interpolate,
        "evaluate": run_evaluate,
        "convert_inception": run_convert_inception,
        "push": run_push,
        "doctor": run_doctor,
        "report": run_report,
        "launch": launch,
    }
    return commands[arguments.command](arguments)


def run_train(arguments: argparse.Namespace) -> int:
    text = arguments.command == "train_text_to_image"
    config = from_arguments(TextToImageConfig if text else TrainingConfig, arguments)
    check(config)
    if arguments.print_config or arguments.dry_run:
        print(to_yaml(config), end="")
    if arguments.print_config and not arguments.dry_run:
        return 0
    from mindone_ddpm.training.loop import train
    from mindone_ddpm.training.setup import prepare

    if arguments.dry_run:
        for name, value in prepare(config).describe().items():
            print(f"# {name}: {value}")
        return 0
    output_dir = train(config)
    if is_main_by_environment():
        product = "pipeline is" if getattr(config, "rank", None) is None else "adapters are"
        print(f"trained; the {product} in {output_dir}")
    return 0


def run_preview(arguments: argparse.Namespace) -> int:
    from mindone_ddpm.data.preview import write_preview

    config = from_arguments(TrainingConfig, arguments)
    check_training(config)
    write_preview(config, Path(arguments.output), arguments.num_images)
    print(f"{arguments.output}: above as stored, below as the model sees them")
    return 0


def run_sample(arguments: argparse.Namespace) -> int:
    config = from_arguments(SampleConfig, arguments)
    check_sampling(config)
    from mindone_ddpm.models.pipelines import pipeline_kind
    from mindone_ddpm.sampling.generate import sample_to_folder
    from mindone_ddpm.sampling.prompts import prompts_to_folder

    kind = pipeline_kind(config.model)
    grid = (prompts_to_folder if "StableDiffusion" in kind else sample_to_folder)(config)
    print(f"{config.num_images} pictures in {config.output_dir}, all in one: {grid}")
    return 0


def run_inpaint(arguments: argparse.Namespace) -> int:
    config = from_arguments(InpaintConfig, arguments)
    check_inpainting(config)
    from mindone_ddpm.sampling.editing import inpaint

    grid = inpaint(config)
    print(f"completed pictures in {config.output_dir}, beside what they were given: {grid}")
    return 0


def run_interpolate(arguments: argparse.Namespace) -> int:
    config = from_arguments(InterpolateConfig, arguments)
    check_interpolation(config)
    from mindone_ddpm.sampling.editing import interpolate

    grid = interpolate(config)
    print(f"{config.num_images} pictures in {config.output_dir}, all in one: {grid}")
    return 0


def run_evaluate(arguments: argparse.Namespace) -> int:
    config = from_arguments(EvaluateConfig, arguments)
    check_evaluation(config)
    from mindone_ddpm.evaluation.evaluate import METRICS_FILE, evaluate, show

    found = evaluate(config)
    if is_main_by_environment():
        print(show(found))
        print(f"with all that led to them: {Path(config.output_dir) / METRICS_FILE}")
    return 0


def run_report(arguments: argparse.Namespace) -> int:
    from mindone_ddpm.output.report import write_report

    output = None if arguments.output is None else Path(arguments.output)
    with tempfile.TemporaryDirectory() as folder:
        print(write_report(Path(arguments.run), output, partial(preview_of_run, Path(folder))))
    return 0


def preview_of_run(folder: Path, settings: dict[str, Any]) -> Path | None:
    """The first images of a run's data, written into ``folder``; None where the data are no longer at hand."""
    kinds = [
        kind
        for kind in (TrainingConfig, TextToImageConfig)
        if settings.keys() <= {item.name for item in dataclasses.fields(kind)}
    ]
    if not kinds:
        return None
    from mindone_ddpm.data.preview import write_preview

    path = folder / "preview.png"
    try:
        write_preview(kinds[0](**settings), path, 8)
    except Exception:  # moved, offline, changed: the report does without
        return None
    return path


def run_doctor(arguments: argparse.Namespace) -> int:
    from mindone_ddpm.runtime.doctor import diagnose

    return diagnose(arguments.device, arguments.runs, arguments.json)


def run_push(arguments: argparse.Namespace) -> int:
    config = from_arguments(PushConfig, arguments)
    check_push(config)
    from mindone_ddpm.output.hub import push

    push(config)
    return 0


def run_convert_inception(arguments: argparse.Namespace) -> int:
    from mindone_ddpm.evaluation.convert import convert_inception

    convert_inception(Path(arguments.source), Path(arguments.target))
    print(f"weights in {arguments.target}; use them with --inception_weights {arguments.target}")
    return 0
