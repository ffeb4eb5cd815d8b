"""Trackers: where the metrics and images of a run go. They only write; only the main process has any."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import yaml
from PIL import Image

from mindone_ddpm.common import rotation
from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.common.files import atomic_path, write_text
from mindone_ddpm.output.metrics_log import METRICS_FILE, MetricsLog

# What the loop logs: the first three for every step, the others whenever it fetches from the device.
SCALARS = (
    "train/loss",
    "train/learning_rate",
    "train/grad_norm",
    "train/images_per_second",
    "train/skipped_updates",
    "train/loss_scale",
)

# What trackers leave in their folder.
EVENT_FILES = "events.out.tfevents.*"
FILES = (
    EVENT_FILES,
    "metrics.csv",
    "metrics.csv.[0-9]*",
    "evaluation.csv",
    METRICS_FILE,
    f"{METRICS_FILE}.[0-9]*",
    "hparams.yml",
    "wandb",
    "wandb_run_id.txt",
    "swanlab",
    "swanlab_run_id.txt",
)


MOST_EVENT_FILES = 16  # of the largest size, that TensorBoard's files may be together
CALLS_BETWEEN_LOOKS = 1000  # at their size


class Tracker(Protocol):
    """What receives the metrics and images of a run, by optimizer step."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Metrics of a step, by name such as ``train/loss`` or ``eval/fid``."""

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """An image that was made at a step."""

    def close(self) -> None:
        """Write what is not written yet. Called once, also when the run fails."""


class Trackers:
    """Several trackers as one; with none, a tracker that does nothing."""

    def __init__(self, trackers: Iterable[Tracker] = ()):
        self.trackers = list(trackers)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for tracker in self.trackers:
            tracker.scalars(step, values)

    def image(self, step: int, name: str, image: Image.Image) -> None:
        for tracker in self.trackers:
            tracker.image(step, name, image)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()


class TensorBoardTracker:
    """Event files that ``tensorboard --logdir FOLDER`` shows; what an earlier start logged after ``step`` is hidden.

    Where one is large, the next begins; the oldest are removed when all together are :data:`MOST_EVENT_FILES` as large.
    """

    def __init__(self, folder: Path, step: int, settings: dict[str, Any], most_bytes: int = rotation.MOST_BYTES):
        self.folder, self.most_bytes, self.calls, self.files = folder, most_bytes, 0, 0
        self._open(step + 1 if step else None)
        if not step:
            self.writer.add_text("settings", "\n".join(f"    {name}: {value}" for name, value in settings.items()), 0)

    def _open(self, purge_step: int | None = None) -> None:
        from tensorboardX import SummaryWriter

        self.writer: Any = SummaryWriter(str(self.folder), purge_step=purge_step, filename_suffix=f".{self.files}")
        self.files += 1

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.calls += 1
        if self.calls % CALLS_BETWEEN_LOOKS == 0:
            self._limit()

    def image(self, step: int, name: str, image: Image.Image) -> None:
        self.writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._limit()

    def _limit(self) -> None:
        self.writer.flush()
        sizes = {path: path.stat() for path in self.folder.glob(EVENT_FILES)}
        newest_first = sorted(sizes, key=lambda path: (sizes[path].st_mtime_ns, path.name), reverse=True)
        if not newest_first or sizes[newest_first[0]].st_size <= self.most_bytes:
            return
        self.writer.close()
        self._open()
        total = 0
        for path in newest_first:
            total += sizes[path].st_size
            if total > MOST_EVENT_FILES * self.most_bytes:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        self.writer.close()


class ClientTracker(ABC):
    """A tracker whose own client keeps the run. A resumed run keeps its id.

    Attributes:
        name: of the client's module, its command, and what ``--report_to`` calls it.
        installed_by: what to do where it is not.

    Raises:
        ConfigError: the client is not installed, or cannot start a run.
    """

    name: ClassVar[str]
    installed_by: ClassVar[str]

    def __init__(self, folder: Path, step: int, settings: dict[str, Any]):
        flag = f"--report_to {self.name}"
        try:
            self.client: Any = importlib.import_module(self.name)
        except ImportError as error:
            raise ConfigError(f"{flag}: is not installed; {self.installed_by}") from error
        folder.mkdir(parents=True, exist_ok=True)
        id_file = folder / f"{self.name}_run_id.txt"
        known = id_file.read_text(encoding="utf-8").strip() if step and id_file.exists() else None
        try:
            self.run: Any = self.start(
                folder, project="mindone-ddpm", id=known, resume="allow" if known else None, config=settings
            )
        except Exception as error:  # its client raises many kinds
            raise ConfigError(
                f"{flag}: no run could be started ({first_line(error)}); log in with `{self.name} login`, or set "
                f"{self.name.upper()}_MODE=offline"
            ) from error
        id_file.write_text(self.run.id, encoding="utf-8")

    @abstractmethod
    def start(self, folder: Path, **settings: Any) -> Any:
        """A run of the client, with these settings and its own."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def image(self, step: int, name: str, image: Image.Image) -> None:
        self.run.log({name: self.client.Image(image.convert("RGB"))}, step=step)

    def close(self) -> None:
        self.run.finish()


class WandbTracker(ClientTracker):
    """Weights & Biases; offline with ``WANDB_MODE=offline``."""

    name = "wandb"
    installed_by = "run `pip install mindone-ddpm[tracking]`"

    def start(self, folder: Path, **settings: Any) -> Any:
        quiet = self.client.Settings(silent=True, console="off")
        return self.client.init(dir=str(folder), settings=quiet, **settings)


class SwanLabTracker(ClientTracker):
    """SwanLab; offline with ``SWANLAB_MODE=offline``.

    Of the machine, its load is sent. The command line is not, because a token may be in it.
    """

    name = "swanlab"
    installed_by = "run `pip install 'mindone-ddpm[swanlab]'`, or with MindSpore 2.10 what docs/tracking.md says"

    def start(self, folder: Path, **settings: Any) -> Any:
        own = self.client.Settings(
            interactive=False,
            terminal={"proxy_type": "none"},
            probe={"runtime": False, "git": False, "requirements": False},
        )
        with _silence():
            return self.client.init(log_dir=str(folder / "swanlab"), settings=own, **settings)

    def close(self) -> None:
        with _silence():
            super().close()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what a client prints off the terminal; what it raises passes."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


class CsvTracker:
    """``metrics.csv`` with one row per step, and ``evaluation.csv`` with step, name and value of evaluation metrics.

    Rows are written at once; those after ``step`` are removed at the start. A long ``metrics.csv`` has older parts, see
    :mod:`mindone_ddpm.common.rotation`.
    """

    columns = ("step", *SCALARS)

    def __init__(self, folder: Path, step: int, most_bytes: int = rotation.MOST_BYTES):
        folder.mkdir(parents=True, exist_ok=True)
        self.training, self.evaluation = folder / "metrics.csv", folder / "evaluation.csv"
        self.most_bytes = self.thin_at = most_bytes
        _keep_rows(self.training, step, len(self.columns), ",".join(self.columns))
        if self.evaluation.exists():
            _keep_rows(self.evaluation, step, 3)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        if not self.training.exists():  # its folder was removed
            self.training.parent.mkdir(parents=True, exist_ok=True)
            self.training.write_text(f"{','.join(self.columns)}\n", encoding="utf-8")
        if not values.keys() & {*SCALARS}:  # evaluation metrics, of which each run has its own
            with open(self.evaluation, "a", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows([step, name, value] for name, value in values.items())
            return
        with open(self.training, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, extrasaction="ignore").writerow({"step": step, **values})
            size = file.tell()
        if size > self.thin_at:
            with contextlib.suppress(OSError):  # a full disk: it is tried again later
                rotation.thin(self.training, head=1)
            self.thin_at = rotation.next_limit(self.training.stat().st_size, self.most_bytes)

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """Tables hold no images."""

    def close(self) -> None:
        """Nothing is open."""


def _keep_rows(path: Path, step: int, num_columns: int, head: str | None = None) -> None:
    """Keep the whole rows of a table up to a step; a kill may have cut the last one short. ``head``: its first line."""
    with atomic_path(path) as tmp_path, open(tmp_path, "wb") as new:
        if head is not None:
            new.write(head.encode() + b"\r\n")
        if path.is_file():
            with open(path, "rb") as old:
                whole = (line for line in old if _is_whole(line, num_columns))
                new.writelines(line for line in whole if int(line.split(b",")[0]) <= step)


def _is_whole(line: bytes, num_columns: int) -> bool:
    cells = line.split(b",")
    return len(cells) == num_columns and re.fullmatch(rb"[0-9]{1,18}", cells[0]) is not None and line.endswith(b"\n")


def make_tracker(names: str, folder: Path, step: int = 0, settings: dict[str, Any] | None = None) -> Tracker:
    """The metrics log, and the trackers in ``names``, with commas between, all writing into ``folder``.

    Args:
        names: ``jsonl`` is the metrics log itself; ``none`` is that alone.
        step: of a resumed run: what was written after it is removed, or hidden.
        settings: the run's hyperparameters, without secrets; also written to ``hparams.yml``, except with ``none``.

    Raises:
        ConfigError: a tracker cannot be started.
    """
    try:
        return _open_trackers(set(names.split(",")) - {"none"}, folder, step, settings or {})
    except OSError as error:
        where = f" ({error.filename2 or error.filename})" if error.filename else ""
        raise ConfigError(f"--logging_dir {folder}: cannot be written{where}: {error.strerror or error}") from error


def _open_trackers(chosen: set[str], folder: Path, step: int, settings: dict[str, Any]) -> Tracker:
    trackers: list[Tracker] = [MetricsLog(folder, step)]
    if chosen:
        write_text(folder / "hparams.yml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    if "wandb" in chosen:
        trackers.append(WandbTracker(folder, step, settings))
    if "swanlab" in chosen:
        trackers.append(SwanLabTracker(folder, step, settings))
    if "tensorboard" in chosen:
        trackers.append(TensorBoardTracker(folder, step, settings))
    if "csv" in chosen:
        trackers.append(CsvTracker(folder, step))
    return Trackers(trackers)


def clear_logs(folder: Path) -> None:
    """Remove what trackers left in a folder; all other files stay."""
    for pattern in FILES:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
