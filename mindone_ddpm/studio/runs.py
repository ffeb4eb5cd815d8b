"""What the pages say about a run: from its files alone, which another process may be writing."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindone_ddpm.common.errors import ConfigError, UserError, first_line
from mindone_ddpm.common.locks import FolderLock
from mindone_ddpm.config.fields import changed_settings
from mindone_ddpm.config.values import TRAJECTORY_STRIP
from mindone_ddpm.jobs.base import class_of_config, job_of_config
from mindone_ddpm.output import report, run_state
from mindone_ddpm.output.metrics_log import METRICS_FILE, RECENT_STEPS, Curves, add_values, parse_line
from mindone_ddpm.output.records import checkpoints_in
from mindone_ddpm.output.run_folder import RUN_CONFIG, grids_in, index_files_in
from mindone_ddpm.studio.folder import StudioFolder

LOST = "lost"  # says that it is running, and no process holds the folder
UNKNOWN = "unknown"  # of a run that has no record of its state
MOST_CACHED_RUNS = 64


class LiveCurves:
    """The metrics of runs, of which only new lines are read. A memory of files, which can be lost at any time."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], int, Curves]] = {}  # file, bytes read, curves
        self._lock = threading.Lock()

    def read(self, run: Path, logging_dir: str = "logs") -> Curves:
        """All metrics of a run, each by step. A file that was replaced or cut is read anew."""
        path = run / logging_dir / METRICS_FILE
        with self._lock:
            try:
                about = path.stat()
            except OSError:
                self._known.pop(path, None)
                return {}
            identity = (about.st_dev, about.st_ino)
            known, offset, curves = self._known.get(path, ((0, 0), 0, {}))
            if known != identity or about.st_size < offset:
                offset, curves = 0, {}
            with path.open("rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):  # still being written
                        break
                    offset += len(line)
                    add_values(curves, parse_line(line) or {})
            if len(self._known) >= MOST_CACHED_RUNS:
                self._known.pop(next(iter(self._known)))
            self._known[path] = (identity, offset, curves)
            return {name: dict(points) for name, points in curves.items()}


class Runs:
    """The runs of a folder."""

    def __init__(self, folder: StudioFolder):
        self.folder = folder
        self.curves = LiveCurves()

    def settings(self, run: Path) -> tuple[dict[str, Any], str]:
        """A run's settings, and what is wrong with their file: a damaged run is shown too."""
        try:
            return report.read_settings(run), ""
        except ConfigError as error:
            return {}, first_line(error).replace(f"{run}/", "")

    def curves_of(self, run: Path, settings: dict[str, Any]) -> Curves:
        logging_dir = str(settings.get("logging_dir", "logs"))
        inside = (run / logging_dir).resolve().is_relative_to(run)
        try:
            return self.curves.read(run, logging_dir if inside else "logs")
        except OSError:
            return {}

    def summary(self, run: Path) -> dict[str, Any]:
        """A line of the list of runs."""
        settings, problem = self.settings(run)
        curves = self.curves_of(run, settings)
        losses = curves.get("train/loss", {})
        recent = [value for value in list(losses.values())[-RECENT_STEPS:] if math.isfinite(value)]
        grids = grids_in(run)
        rates = list(curves.get("train/images_per_second", {}).values())
        state = state_of(run)
        step = max(losses, default=0)
        rate, batch = rates[-1] if rates else 0.0, state.get("images_per_step", 0)
        left = state.get("total_steps", 0) - step
        return {
            "path": self.folder.name_of(run),
            "name": run.name,
            "job": job_of(run),
            **{name: state.get(name) for name in ("state", "message", "total_steps", "ranks", "can_stop")},
            "problem": problem,
            "step": step,
            "loss": sum(recent) / len(recent) if recent else None,
            "rate": rate,
            "skips": int(list(curves.get("train/skipped_updates", {0: 0.0}).values())[-1]),
            "seconds_left": left * batch / rate if state["state"] == run_state.RUNNING and rate and batch else None,
            "updated": modified(run, settings),
            "grid": self.folder.name_of(grids[-1]) if grids else None,
            "checkpoints": [number for number, _ in checkpoints_in(run)],
            "saved": bool(index_files_in(run)),
        }

    def details(self, run: Path) -> dict[str, Any]:
        """All about one run but its charts."""
        settings, _ = self.settings(run)
        curves = self.curves_of(run, settings)
        changed, others = changed_settings(class_of_config(run / RUN_CONFIG), settings)
        strip = run / TRAJECTORY_STRIP
        return {
            **self.summary(run),
            "rows": report.summary(run, settings, curves),
            "changed": texts(changed),
            "defaults": texts(others),
            "grids": [{"path": self.folder.name_of(path), "name": report.grid_name(path)} for path in grids_in(run)],
            "trajectory": self.folder.name_of(strip) if strip.is_file() else None,
            "points": sum(map(len, curves.values())),
            "versions": report.versions(run),
            "resumable": bool(checkpoints_in(run)) and not problem_of_resuming(run),
        }

    def charts(self, runs: Sequence[Path]) -> list[dict[str, str]]:
        """Title and SVG of each chart: of one run, or of several in one pair of axes."""
        names = report.run_names(runs)
        curves = {name: self.curves_of(run, self.settings(run)[0]) for name, run in zip(names, runs, strict=True)}
        return [{"title": title, "svg": svg} for title, svg in report.chart_figures(curves)]

    def differences(self, runs: Sequence[Path]) -> dict[str, list[str]]:
        """The settings in which runs differ: the values of each run, by name."""
        return report.differing_settings([self.settings(run)[0] for run in runs])


def state_of(run: Path) -> dict[str, Any]:
    """The run's own record of its state, corrected by whether a process holds the folder."""
    about = run_state.read_state(run) or {"state": UNKNOWN, "total_steps": 0}
    holder = FolderLock(run, "").holder()
    if holder is not None:
        about = {**about, "state": run_state.RUNNING, "message": ""}
    elif about["state"] == run_state.RUNNING:
        # A run on another machine may hold a lock that this one's file system does not show.
        elsewhere = about.get("host") != socket.gethostname() and time.time() - modified(run, {}) < 600
        about = about if elsewhere else {**about, "state": LOST}
    return {**about, "process": holder, "can_stop": bool(holder) and holder != os.getpid()}


def modified(run: Path, settings: dict[str, Any]) -> float:
    """When a run was last written to, in seconds since 1970."""
    newest = 0.0
    for path in (run / str(settings.get("logging_dir", "logs")) / METRICS_FILE, run / RUN_CONFIG, run):
        try:
            newest = max(newest, path.stat().st_mtime)
        except OSError:
            continue
    return newest


def job_of(run: Path) -> str:
    try:
        return job_of_config(run / RUN_CONFIG)
    except (UserError, ValueError):
        return ""


def problem_of_resuming(run: Path) -> str:
    return "" if job_of(run) else "its settings cannot be read"


def texts(settings: dict[str, Any]) -> dict[str, str]:
    return {name: report.as_text(value) for name, value in settings.items()}
