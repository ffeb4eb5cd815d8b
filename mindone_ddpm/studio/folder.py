"""The folder that the studio shows: what is in it, and which paths a page may ask for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.values import ADAPTERS_FILE, ADAPTERS_STATE_FILE, EMBEDDING_FILE
from mindone_ddpm.models.foreign import PIPELINE_INDEX
from mindone_ddpm.output.metrics_log import METRICS_FILE
from mindone_ddpm.output.records import checkpoints_in
from mindone_ddpm.output.run_folder import BEST, RUN_CONFIG

MOST_LEVELS = 3  # below the folder, in which runs are looked for
MOST_FOLDERS = 5000  # that are looked into
OWN_FOLDER = "studio"  # for what is made here
# Folders of a run that hold no other runs.
PARTS_OF_RUNS = {"samples", "logs", "snapshots", "evaluation", "unet", "unet_ema", "vae", "scheduler", "wandb"}


class Model(NamedTuple):
    """Something to sample with.

    Attributes:
        path: relative to the studio's folder.
        kind: ``pipeline``, ``checkpoint``, ``lora`` or ``embedding``.
    """

    path: str
    kind: str


class StudioFolder:
    """The one folder that a studio shows.

    Args:
        root: exists.

    Raises:
        ConfigError: it is no folder.
    """

    def __init__(self, root: Path):
        if not root.is_dir():
            raise ConfigError(f"studio {root}: no such folder")
        self.root = root.resolve()
        self.tasks = self.root / OWN_FOLDER

    def inside(self, name: str) -> Path:
        """The path of a file or folder that a page names, relative to the studio's folder.

        Raises:
            ConfigError: it leads out of the folder, also by way of a link, or is no path.
        """
        try:
            path = (self.root / name).resolve()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.stat()  # of a name that is too long, for one, resolve() says nothing
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"{name[:100]!r}: is no path") from error
        if Path(name).is_absolute() or not path.is_relative_to(self.root):
            raise ConfigError(f"{name[:100]!r}: is not in the studio's folder")
        return path

    def name_of(self, path: Path) -> str:
        """A path relative to the studio's folder."""
        return path.relative_to(self.root).as_posix()

    def runs(self) -> list[Path]:
        """The folders of runs, by name."""
        return sorted(path for path in self._folders() if is_run(path))

    def models(self) -> list[Model]:
        """Pipelines, checkpoints that can be sampled, adapters and learned words."""
        found = []
        for folder in sorted(self._folders()):
            name = self.name_of(folder)
            if (folder / PIPELINE_INDEX).is_file():
                found.append(Model(name, "pipeline"))
                found += [Model(f"{name}/{path.name}", "checkpoint") for path in sampled_checkpoints(folder)]
            if (folder / BEST / PIPELINE_INDEX).is_file():
                found.append(Model(f"{name}/{BEST}", "pipeline"))
            for file, kind in ((ADAPTERS_FILE, "lora"), (EMBEDDING_FILE, "embedding")):
                if (folder / file).is_file():
                    found.append(Model(name, kind))
            for _, checkpoint in checkpoints_in(folder):
                if (checkpoint / "unet" / ADAPTERS_STATE_FILE).is_file():
                    found.append(Model(self.name_of(checkpoint), "lora"))
        return found

    def _folders(self) -> Iterator[Path]:
        """The folder itself and those in it, without links, hidden ones, and parts of runs."""
        waiting, looked_into = [(self.root, 0)], 0
        while waiting and looked_into < MOST_FOLDERS:
            folder, level = waiting.pop(0)
            looked_into += 1
            yield folder
            if level == MOST_LEVELS or (level and is_run(folder)):
                continue
            try:
                with os.scandir(folder) as entries:
                    names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:
                continue
            hidden = {name for name in names if name.startswith(".") or name in PARTS_OF_RUNS}
            if level == 0:
                hidden.add(OWN_FOLDER)
            waiting += [(folder / name, level + 1) for name in names if name not in hidden]


def is_run(folder: Path) -> bool:
    return any(map(os.path.isfile, (folder / RUN_CONFIG, folder / "logs" / METRICS_FILE)))


def sampled_checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints that hold a whole UNet, where the run has saved the other parts of a pipeline."""
    if not (run / PIPELINE_INDEX).is_file():
        return []
    return [path for _, path in checkpoints_in(run) if (path / "unet" / "config.json").is_file()]
