"""The command line: parse first, import MindSpore after. Exit status 2 for wrong use, 1 for failure."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindone_ddpm import __version__
from mindone_ddpm.averages.config import AverageConfig
from mindone_ddpm.common.errors import ConfigError, UserError, device_failure, first_line, is_out_of_memory
from mindone_ddpm.common.machine import check_address_space
from mindone_ddpm.config.fields import Settings
from mindone_ddpm.config.groups import DEVICES
from mindone_ddpm.config.parse import Parser, add_arguments, from_arguments, to_yaml
from mindone_ddpm.evaluation.config import EvaluateConfig
from mindone_ddpm.jobs.base import JOBS, class_of_config
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.output.config import PushConfig
from mindone_ddpm.runtime.signals import interrupt_watch
from mindone_ddpm.sampling.config import FuseConfig, InpaintConfig, InterpolateConfig, SampleConfig
from mindone_ddpm.studio import command as studio

LOG_LEVEL = "GLOG_v"  # of MindSpore
DEFAULT_JOB = "train"  # of a preview, and of a custom script that ranks run


@dataclass(frozen=True)
class Command:
    """A command that is no job: its line in the list, its flags, and what it does."""

    help: str
    add: Callable[[argparse.ArgumentParser, Sequence[str]], None]  # the words of the command line tell some what to add
    run: Callable[[argparse.Namespace], int]
    config: type[Settings] | None = None
    shared: bool = False  # several ranks can run it together


# --- parsing -------------------------------------------------------------------------------------------------------


def make_parser(program: str = "mindone-ddpm", words: Sequence[str] | None = None) -> Parser:
    """The parser of the command line.

    Args:
        words: to parse; only their command has flags then, which is faster. None: every command has.
    """
    chosen = None if words is None else next((word for word in words if not word.startswith("-")), "")
    parser = Parser(
        prog=program,
        usage=f"{program} COMMAND [options]",
        description="Train diffusion models with MindSpore and sample from them.",
    )
    parser.add_argument("--version", action="version", version=f"mindone-ddpm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in JOBS:
        try:
            spec = JOBS[name]
        except ConfigError as error:  # a broken job of another package
            if name == chosen:
                raise
            commands.add_parser(name, help=str(error), allow_abbrev=False)
            continue
        sub = commands.add_parser(name, help=spec.help, allow_abbrev=False, usage=f"{program} {name} [options]")
        if chosen in (None, name):
            add_training_arguments(sub, spec.config)
            sub.add_argument(
                "--dry_run",
                action="store_true",
                help="print the configuration, the plan and the memory of a step, and stop",
            )
    for name, entry in COMMANDS.items():
        sub = commands.add_parser(name, help=entry.help, allow_abbrev=False, usage=f"{program} {name} [options]")
        if chosen in (None, name):
            entry.add(sub, words or ())
    return parser


def add_training_arguments(parser: argparse.ArgumentParser, config_class: type = TrainingConfig) -> None:
    add_arguments(parser, config_class)
    parser.add_argument("--print_config", action="store_true", help="print the resolved configuration as YAML and stop")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; wrong use ends the program with status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = make_parser(words=words)
    sub = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return parser.parse_all(words, lambda parsed: sub.choices[parsed.command])


def parse_training_arguments(
    arguments: Sequence[str] | None = None,
    defaults: dict[str, Any] | None = None,
    config_class: type[Settings] = TrainingConfig,
) -> Any:
    """The configuration from a command line, for a custom script. Wrong use ends the program with status 2.

    Args:
        defaults: in place of the class's own, such as ``PUBLISHED_SCRIPT_DEFAULTS``.
        config_class: the configuration of a job.
    """
    parser = Parser(description="Train a diffusion model with MindSpore.", allow_abbrev=False)
    parser.usage = f"{parser.prog} [options]"
    add_training_arguments(parser, config_class)
    parsed = parser.parse_all(arguments, lambda _: parser)
    try:
        config = from_arguments(config_class, parsed, defaults)
        config.check()
    except ConfigError as error:
        parser.exit(2, "".join(f"error: {problem}\n" for problem in error.problems))
    if parsed.print_config:
        print(to_yaml(config), end="")
        parser.exit(0)
    return config


# --- running -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        os.getcwd()
    except FileNotFoundError:  # MindSpore would end the process by SIGABRT
        print("error: the working directory was removed; change to another one", file=sys.stderr)
        return 1
    return run(lambda: dispatch(parse(arguments)))


def run(action: Callable[[], int]) -> int:
    """Run an action and turn the errors it reports into lines and an exit status."""
    import gc

    from mindone_ddpm.runtime.launchers import leave_cluster
    from mindone_ddpm.runtime.outcome import append_to_log, record_outcome

    append_to_log()
    interrupt_watch.start()
    status = status_of(action)
    gc.collect()  # MindSpore's cells complain when they outlive its modules at the interpreter's exit
    record_outcome(status)
    leave_cluster(status)
    return status


def status_of(action: Callable[[], int]) -> int:
    try:
        return action()
    except UserError as error:
        for line in str(error).splitlines():
            print(error.prefix + line, file=sys.stderr)
        if error.__cause__ is not None and os.environ.get(LOG_LEVEL, "3") < "3":  # 3 is errors only
            traceback.print_exc()
        return error.exit_status()
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            print(
                f"error: not enough memory ({first_line(error)}); try smaller batches, or in training "
                "--gradient_checkpointing; --dry_run says what a step takes",
                file=sys.stderr,
            )
            return 1
        failure = device_failure(error) if isinstance(error, RuntimeError) else None
        if failure is None:
            raise
        if os.environ.get(LOG_LEVEL, "3") < "3":  # 3 is errors only
            traceback.print_exc()
        print(f"error: the NPU failed: {failure} (GLOG_v=2 shows where)", file=sys.stderr)
        return 1
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
    entry = COMMANDS.get(arguments.command)
    return run_job(arguments) if entry is None else entry.run(arguments)


def configured(arguments: argparse.Namespace, config_class: type[Settings]) -> Any:
    """The checked configuration. Raises ConfigError."""
    config = from_arguments(config_class, arguments)
    config.check()
    check_address_space()
    return config


def is_main() -> bool:
    from mindone_ddpm.runtime.start import is_main_by_environment

    return is_main_by_environment()


def prepare_device(device: str) -> None:
    from mindone_ddpm.backends.choose import prepare

    prepare(device)


def run_job(arguments: argparse.Namespace) -> int:
    config = configured(arguments, JOBS[arguments.command].config)
    if arguments.print_config or arguments.dry_run:
        print(to_yaml(config), end="")
    if arguments.print_config and not arguments.dry_run:
        return 0
    prepare_device(config.device)
    from mindone_ddpm.training.loop import train_loop
    from mindone_ddpm.training.setup import prepare

    training = prepare(config, makes_data=not arguments.dry_run)
    if arguments.dry_run:
        from mindone_ddpm.training.memory import describe_memory
        from mindone_ddpm.training.resume import find_checkpoint

        find_checkpoint(training)  # what the run would refuse
        for name, value in {**training.describe(), **describe_memory(training)}.items():
            print(f"# {name}: {value}")
        return 0
    result = train_loop(training)
    if is_main():
        noun = training.job.product.noun
        print(f"trained; the {noun} {'are' if noun.endswith('s') else 'is'} in {result.output_dir}")
    return 0


# --- the commands that are no jobs ---------------------------------------------------------------------------------


def add_preview(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument("--job", metavar="NAME", default=DEFAULT_JOB, help=f"whose data (default: {DEFAULT_JOB})")
    parser.add_argument("--output", metavar="FILE", default="preview.png", help="image to write (default: preview.png)")
    parser.add_argument("--num_images", metavar="INT", type=int, default=16, help="how many images (default: 16)")
    job = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    job.add_argument("--job", default=DEFAULT_JOB)
    add_arguments(parser, _config_of_job(job.parse_known_args(list(words))[0].job))


def _config_of_job(name: str) -> type:
    if name not in list(JOBS):
        raise ConfigError(f"--job {name}: must be one of {', '.join(JOBS)}")
    return JOBS[name].config


def run_preview(arguments: argparse.Namespace) -> int:
    from mindone_ddpm.jobs.preview import write_preview

    config = configured(arguments, _config_of_job(arguments.job))
    write_preview(config, Path(arguments.output), arguments.num_images)
    print(f"{arguments.output}: above as stored, below as the model sees them")
    return 0


def run_sample(arguments: argparse.Namespace) -> int:
    config = configured(arguments, SampleConfig)
    prepare_device(config.device)
    from mindone_ddpm.sampling.commands import sample_to_folder

    grid = sample_to_folder(config)
    print(f"{config.num_images} images in {config.output_dir}, all in one: {grid}")
    return 0


def run_inpaint(arguments: argparse.Namespace) -> int:
    config = configured(arguments, InpaintConfig)
    from mindone_ddpm.sampling.commands import inpaint

    grid = inpaint(config)
    print(f"completed images in {config.output_dir}, next to what they were given: {grid}")
    return 0


def run_interpolate(arguments: argparse.Namespace) -> int:
    config = configured(arguments, InterpolateConfig)
    from mindone_ddpm.sampling.commands import interpolate

    grid = interpolate(config)
    print(f"{config.num_images} images in {config.output_dir}, all in one: {grid}")
    return 0


def run_evaluate(arguments: argparse.Namespace) -> int:
    config = configured(arguments, EvaluateConfig)
    from mindone_ddpm.evaluation.commands import METRICS_FILE, evaluate_to_folder, format_table

    found = evaluate_to_folder(config)
    if is_main():
        print(format_table(found))
        print(f"with all that led to them: {Path(config.output_dir) / METRICS_FILE}")
    return 0


def add_average(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument("run", metavar="RUN_DIR", help="the --output_dir of a training with --snapshot_steps")
    add_arguments(parser, AverageConfig)


def run_average(arguments: argparse.Namespace) -> int:
    config = configured(arguments, AverageConfig)
    from mindone_ddpm.averages.command import average

    print(f"the pipeline with averaged weights is in {average(Path(arguments.run), config)}")
    return 0


def run_fuse(arguments: argparse.Namespace) -> int:
    config = configured(arguments, FuseConfig)
    from mindone_ddpm.sampling.fuse import fuse

    print(f"the pipeline is in {fuse(config)}")
    return 0


def add_convert(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument("source", metavar="FILE.pth")
    parser.add_argument("target", metavar="FILE.safetensors")


def run_convert(arguments: argparse.Namespace) -> int:
    from mindone_ddpm.evaluation.convert import convert_inception

    convert_inception(Path(arguments.source), Path(arguments.target))
    print(f"weights in {arguments.target}; use them with --inception_weights {arguments.target}")
    return 0


def run_push(arguments: argparse.Namespace) -> int:
    config = configured(arguments, PushConfig)
    from mindone_ddpm.output.hub import push

    push(config)
    return 0


def add_report(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument(
        "runs", metavar="RUN_DIR", nargs="+", help="the --output_dir of a training; several are compared"
    )
    where = "report.html in RUN_DIR; of several runs, comparison.html in this folder"
    parser.add_argument("--output", metavar="FILE", help=f"page to write (default: {where})")


def run_report(arguments: argparse.Namespace) -> int:
    from mindone_ddpm.jobs.preview import preview_of_run
    from mindone_ddpm.output import report, run_folder

    run, *others = runs = [Path(folder) for folder in arguments.runs]
    if others:
        print(report.write_comparison(runs, Path(arguments.output or "comparison.html")))
        return 0
    output = None if arguments.output is None else Path(arguments.output)
    with tempfile.TemporaryDirectory() as folder:
        preview = functools.partial(preview_of_run, run, folder=Path(folder))
        print(report.write_report(run, output, preview, class_of_config(run / run_folder.RUN_CONFIG)))
    return 0


def add_doctor(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument("--device", default="auto", choices=DEVICES, help="where to train (default: auto)")
    parser.add_argument("--no-runs", dest="runs", action="store_false", help="look only, train nothing")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run_doctor(arguments: argparse.Namespace) -> int:
    from mindone_ddpm.runtime.doctor import diagnose

    return diagnose(arguments.device, arguments.runs, arguments.json)


def add_launch(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    from mindone_ddpm.runtime.launch import add_launch_arguments

    parser.usage = f"{parser.prog} -n RANKS [options] COMMAND ..."
    add_launch_arguments(parser)


def run_launch(arguments: argparse.Namespace) -> int:
    from mindone_ddpm.runtime import launch

    launch.check(arguments, [*JOBS, *(name for name, entry in COMMANDS.items() if entry.shared)])
    return launch.launch(arguments, output_dir_of(arguments.job))


def output_dir_of(job: Sequence[str]) -> Path:
    """Where a job will write, from its flags and its YAML file. Raises ConfigError where those are wrong."""
    entry = COMMANDS.get(job[0])
    # A custom script takes the flags of training on images.
    config_class = entry.config if entry is not None else JOBS[job[0] if job[0] in list(JOBS) else DEFAULT_JOB].config
    assert config_class is not None
    parser = Parser(add_help=False, allow_abbrev=False)
    add_arguments(parser, config_class)
    known, _ = parser.parse_known_args(list(job[1:]))
    return Path(from_arguments(config_class, known).output_dir)


def _of_config(config_class: type[Settings]) -> Callable[[argparse.ArgumentParser, Sequence[str]], None]:
    return lambda parser, words: add_arguments(parser, config_class)


def config_of(command: str) -> type[Settings] | None:
    """The configuration that a command takes; None where it takes none."""
    if command == "preview":
        return JOBS[DEFAULT_JOB].config
    entry = COMMANDS.get(command)
    return JOBS[command].config if entry is None else entry.config


COMMANDS: dict[str, Command] = {
    "preview": Command("show the images as the model will see them", add_preview, run_preview),
    "launch": Command("run a command on several ranks with msrun", add_launch, run_launch),
    "sample": Command("sample images from a saved pipeline", _of_config(SampleConfig), run_sample, SampleConfig),
    "inpaint": Command("fill in a part of an image (RePaint)", _of_config(InpaintConfig), run_inpaint, InpaintConfig),
    "interpolate": Command(
        "images between two images", _of_config(InterpolateConfig), run_interpolate, InterpolateConfig
    ),
    "evaluate": Command(
        "measure a model: FID, KID, precision, recall",
        _of_config(EvaluateConfig),
        run_evaluate,
        EvaluateConfig,
        shared=True,
    ),
    "average": Command("average a run's weights afterwards, with any width", add_average, run_average, AverageConfig),
    "fuse": Command(
        "put LoRA adapters and learned words into a pipeline", _of_config(FuseConfig), run_fuse, FuseConfig
    ),
    "convert_inception": Command("turn pytorch-fid's file of weights into safetensors", add_convert, run_convert),
    "push": Command("upload a pipeline to a hub", _of_config(PushConfig), run_push, PushConfig),
    "report": Command("write one page about a run", add_report, run_report),
    "studio": Command("watch, compare, sample and start runs in a browser", studio.add_arguments, studio.run),
    "doctor": Command("what this machine has, and whether it works", add_doctor, run_doctor),
}
