"""What a page can start and stop. Each action checks all first, and then writes files and starts a process."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import os
import secrets
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.files import atomic_folder, write_text
from mindone_ddpm.config.fields import Settings
from mindone_ddpm.models.foreign import PIPELINE_INDEX
from mindone_ddpm.output.run_folder import RUN_CONFIG, parts_in
from mindone_ddpm.studio import forms
from mindone_ddpm.studio.folder import StudioFolder, sampled_checkpoints
from mindone_ddpm.studio.runs import job_of, state_of
from mindone_ddpm.studio.tasks import IMAGES, Tasks, shell_text

MODELS = "models"  # in the studio's own folder: pipelines put together from checkpoints
MOST_MODELS = 8  # compared at once
MOST_IMAGE_BYTES = 32 << 20
MOST_IMAGE_PIXELS = 64_000_000
CONFIG_FILE = "config.yaml"


class Actions:
    def __init__(self, folder: StudioFolder, tasks: Tasks):
        self.folder, self.tasks = folder, tasks

    # --- training --------------------------------------------------------------------------------------------------

    def check(self, command: str, name: str, values: Mapping[str, Any], ranks: Any) -> dict[str, Any]:
        """What the form would start: its problems, or its YAML and the command."""
        try:
            config, _, processes = self._training(command, name, values, ranks)
        except ConfigError as error:
            return {"problems": error.problems, "yaml": "", "command": ""}
        words = [*launched(processes), command, "--config", CONFIG_FILE]
        return {"problems": [], "yaml": forms.yaml_text(command, config), "command": shell_text(words)}

    def plan(self, command: str, name: str, values: Mapping[str, Any], ranks: Any) -> str:
        """Start the dry run of a form; the task's name."""
        config, _, processes = self._training(command, name, values, ranks)
        path = self.tasks.new_folder("plan")
        return self._start_training(path, command, config, processes, ["--dry_run"])

    def start(self, command: str, name: str, values: Mapping[str, Any], ranks: Any) -> str:
        """Start training; the task's name."""
        config, output_dir, processes = self._training(command, name, values, ranks)
        path = self.tasks.new_folder("train")
        return self._start_training(path, command, config, processes, [], output_dir=self.folder.name_of(output_dir))

    def _training(self, command: str, name: str, values: Mapping[str, Any], ranks: Any) -> tuple[Settings, Path, int]:
        """Settings, folder and number of ranks, checked. Raises ConfigError with every problem."""
        if command in forms.SAMPLING:
            raise ConfigError(f"{command}: trains nothing")
        problems: list[str] = []
        output_dir, processes = self.folder.root, 1
        try:
            processes = forms.number_of_ranks(ranks)
        except ConfigError as error:
            problems += error.problems
        try:
            output_dir = forms.new_run_folder(name, self.folder.root, self.folder.inside(name))
        except ConfigError as error:
            problems += error.problems
        try:
            config = forms.read_form(command, values, {"output_dir": str(output_dir)})
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(*problems)
        return config, output_dir, processes

    def _start_training(
        self, path: Path, command: str, config: Settings, ranks: int, more: list[str], **about: Any
    ) -> str:
        write_text(path / CONFIG_FILE, forms.yaml_text(command, config))
        words = [*launched(ranks), command, "--config", str(path / CONFIG_FILE), *more]
        return self.tasks.start(path, words, queued=False, **about)

    def resume(self, run: Path) -> str:
        """Continue a run from its newest checkpoint, on as many ranks as it had; the task's name."""
        command, state = job_of(run), state_of(run)
        if not command:
            raise ConfigError(f"{run.name}: its {RUN_CONFIG} cannot be read")
        if state["process"] is not None:
            raise ConfigError(f"{run.name}: is running")
        # The folder may have been moved since.
        words = [*launched(state.get("ranks", 1)), command, "--config", str(run / RUN_CONFIG), "--output_dir", str(run)]
        words += ["--resume_from_checkpoint", "auto"]
        path = self.tasks.new_folder("train")
        return self.tasks.start(path, words, queued=False, output_dir=self.folder.name_of(run))

    def stop(self, run: Path) -> None:
        """Ask the process that trains in a folder to stop, as a job's scheduler would: it writes a checkpoint first."""
        state = state_of(run)
        if not state["can_stop"]:
            raise ConfigError(f"{run.name}: no process on this machine trains there")
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if psutil.Process(state["process"]).uids().real not in (os.getuid(), os.geteuid()) and os.getuid():
                raise ConfigError(f"{run.name}: another user's process trains there")
            os.kill(state["process"], signal.SIGTERM)

    # --- sampling --------------------------------------------------------------------------------------------------

    def sample(self, models: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
        """Start sampling from each model with the same settings, so from the same noise."""
        if not 1 <= len(models) <= MOST_MODELS:
            raise ConfigError(f"--model: choose between 1 and {MOST_MODELS}")
        sources = [self._model(model) for model in models]
        for source in sources:  # all problems before the first start
            forms.read_form("sample", values, {"model": source, "output_dir": IMAGES})
        group = secrets.token_hex(4) if len(models) > 1 else None
        names = []
        for model, source in zip(models, sources, strict=True):
            names.append(self._start_images("sample", model, source, values, group=group))
        return {"tasks": names, "group": group}

    def inpaint(self, model: str, values: Mapping[str, Any], image: str, mask: str) -> str:
        """Start inpainting of an image with a mask, both as data of the page; the task's name."""
        pictures = {"image": decode_image(image, "image"), "mask": decode_image(mask, "mask").convert("L")}
        source = self._model(model)
        forms.read_form("inpaint", values, {"model": source, "output_dir": IMAGES, "image": "a", "mask": "b"})
        return self._start_images("inpaint", model, source, values, pictures=pictures)

    def _start_images(
        self,
        command: str,
        model: str,
        source: str,
        values: Mapping[str, Any],
        group: str | None = None,
        pictures: Mapping[str, Image.Image] | None = None,
    ) -> str:
        path = self.tasks.new_folder(command)
        decided: dict[str, Any] = {"model": source, "output_dir": str(path / IMAGES)}
        for name, picture in (pictures or {}).items():
            decided[name] = str(path / f"{name}.png")
            picture.save(decided[name])
        config = forms.read_form(command, values, decided)
        about: Any = config
        shown = shell_text([command, *forms.flags(config, without=("output_dir",))])
        return self.tasks.start(
            path,
            [command, *forms.flags(config)],
            queued=True,
            shown=shown,
            model=model,
            seed=about.seed,
            num_images=about.num_images,
            prompts=getattr(about, "prompt", None),
            group=group,
        )

    def _model(self, name: str) -> str:
        """What ``--model`` is given for a model of the page: a folder in the studio's, any folder, or a Hub name."""
        if not name.strip():
            raise ConfigError("--model: choose one")
        path = self.folder.root / name
        if path.parent.is_dir() and path.name.startswith("checkpoint-"):
            run = self.folder.inside(name).parent
            if path.resolve() in [one.resolve() for one in sampled_checkpoints(run)]:
                return str(self._assembled(run, path))
        return str(path.resolve()) if path.is_dir() else name

    def _assembled(self, run: Path, checkpoint: Path) -> Path:
        """A pipeline of a checkpoint's UNet, averaged where it is, and the run's other parts.

        Weights are linked, not copied, where the file system can; they stay when the run removes its checkpoint.
        """
        unet = checkpoint / "unet_ema"
        if not (unet / "config.json").is_file():
            unet = checkpoint / "unet"
        when = f"{checkpoint.stat().st_mtime_ns:x}"
        name = self.folder.name_of(checkpoint).replace("/", "-")
        target = self.folder.tasks / MODELS / f"{name}-{when}"
        if (target / PIPELINE_INDEX).is_file():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(target) as tmp_path:
            others = [run / name for name in parts_in(run) if name != "unet" and (run / name).is_dir()]
            parts = {"unet": unet, **{part.name: part for part in others}}
            for part_name, part in parts.items():
                shutil.copytree(part, tmp_path / part_name, copy_function=link_or_copy)
            shutil.copy(run / PIPELINE_INDEX, tmp_path / PIPELINE_INDEX)
        return target


def launched(ranks: int) -> list[str]:
    """The words before a command that have it run by so many ranks on this machine."""
    return ["launch", "-n", str(ranks)] if ranks > 1 else []


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def decode_image(data: str, name: str) -> Image.Image:
    """The image of a ``data:`` address of a page. Raises ConfigError."""
    head, _, content = data.partition(",")
    try:
        if not head.startswith("data:image/") or len(content) > MOST_IMAGE_BYTES * 4 / 3:
            raise ValueError
        image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
        if image.width * image.height > MOST_IMAGE_PIXELS:
            raise ValueError
        image.load()
    except (ValueError, OSError, binascii.Error, Image.DecompressionBombError, SyntaxError) as error:
        raise ConfigError(f"--{name}: is no image, or too large a one") from error
    return image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")
