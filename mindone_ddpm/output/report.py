"""One page about a run that opens anywhere: curves, samples over the epochs, settings. Nothing is fetched for it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import Any

import mindone_ddpm
from mindone_ddpm.common.errors import ConfigError, first_line
from mindone_ddpm.common.files import write_text
from mindone_ddpm.common.json_files import read_table
from mindone_ddpm.common.yaml_files import read_yaml
from mindone_ddpm.config.fields import changed_settings
from mindone_ddpm.config.values import COPIES_FILE, COPIES_GRID, EVALUATION, TRAJECTORY_STRIP
from mindone_ddpm.output import charts, page
from mindone_ddpm.output.metrics_log import Curves, read_curves, recent_mean
from mindone_ddpm.output.records import STATE_RECORD, checkpoints_in, is_best, read_record
from mindone_ddpm.output.run_folder import (
    BEST,
    BEST_RECORD,
    DIFFUSERS_INDEX_FILES,
    RUN_CONFIG,
    grids_in,
    index_files_in,
)

REPORT = "report.html"

Preview = Callable[[dict[str, Any]], Path | None]

TITLES = {
    "train/loss": "loss",
    "train/learning_rate": "learning rate",
    "train/grad_norm": "gradient norm",
    "train/images_per_second": "images per second",
    "train/skipped_updates": "skipped updates",
    "train/loss_scale": "loss scale",
}
NOISY = ("train/loss", "train/grad_norm", "train/images_per_second")  # shown with, or as, a running mean
PLACES = ("output_dir", "resume_from_checkpoint", "overwrite_output_dir")  # of runs, which always differ
MOSTLY_CONSTANT = ("train/skipped_updates", "train/loss_scale")  # shown only where they change


def write_report(
    run: Path, output: Path | None = None, preview: Preview | None = None, config_class: type | None = None
) -> Path:
    """Write the page of a run's folder; where it is.

    Args:
        output: by default ``report.html`` in the folder.
        preview: makes an image of the data from the run's settings; None where the data are not at hand.
        config_class: of the run's job, whose defaults the settings are compared with; None: of no known job.

    Raises:
        ConfigError: the folder holds no run.
    """
    settings, curves = read_run(run)
    data_image = preview(settings) if preview is not None and settings else None
    text = report_text(run, settings, curves, data_image, config_class)
    return write_page(output or run / REPORT, text)


def write_comparison(runs: Sequence[Path], output: Path) -> Path:
    """Write one page that compares runs: curves in the same axes, samples side by side, settings that differ.

    Raises:
        ConfigError: a folder holds no run, or there are more than the charts have colours.
    """
    if len(runs) > charts.MOST_RUNS:
        raise ConfigError(f"{len(runs)} runs: at most {charts.MOST_RUNS} can be compared on a page")
    return write_page(output, comparison_text(runs, [read_run(run) for run in runs]))


def read_run(run: Path) -> tuple[dict[str, Any], Curves]:
    """Settings and metrics of a run. Raises ConfigError: the folder holds none."""
    if not run.is_dir():
        raise ConfigError(f"{run}: no such folder")
    settings = read_settings(run)
    curves = read_curves(run / str(settings.get("logging_dir", "logs")))
    if not settings and not curves and not index_files_in(run):
        raise ConfigError(f"{run}: holds no run; give the --output_dir of a training")
    return settings, curves


def write_page(target: Path, text: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)
    return target


def read_settings(run: Path) -> dict[str, Any]:
    """The settings that a run has recorded in its folder; empty where there are none."""
    path = run / RUN_CONFIG
    if not path.is_file():
        return {}
    try:
        return dict(read_yaml(path))
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)})") from error


def report_text(
    run: Path,
    settings: dict[str, Any],
    curves: Curves,
    data_image: Path | None = None,
    config_class: type | None = None,
) -> str:
    """The page. ``data_image``: of the data, before and after preprocessing."""
    grids = grids_in(run)
    strip = run / TRAJECTORY_STRIP
    data = page.image(data_image) if data_image is not None else ""
    return page.document(
        run.resolve().name,
        [
            page.section("In short", page.table(summary(run, settings, curves))),
            page.section("Samples over the epochs", page.image_slider(grids, list(map(grid_name, grids)))),
            page.section("Denoising", page.image(strip)) if strip.is_file() else "",
            page.section("Curves", curve_figures({run.name: curves}) or "<p>None recorded.</p>"),
            page.section("Loss by timestep", timestep_figure(curves)),
            page.section("Data: above as stored, below as the model sees it", data),
            copies_section(run),
            settings_section(settings, config_class),
            page.section("Versions", page.table(versions(run))),
        ],
    )


def grid_name(path: Path) -> str:
    """What a grid of samples is called: by the epoch or the step in its file's name."""
    if path.stem.isdigit():
        return f"epoch {int(path.stem)}"
    step = path.stem.removeprefix("step-")
    return f"step {int(step):,}" if step.isdigit() else path.stem


def settings_section(settings: dict[str, Any], config_class: type | None) -> str:
    """The settings that differ from the defaults; the others can be opened."""
    tables = []
    for some in changed_settings(config_class, settings):
        tables.append({name: as_text(value) for name, value in some.items() if value is not None})
    changed, others = tables
    more = page.details(f"{len(others)} settings at their default", page.table(others)) if others else ""
    heading = "Settings that differ from the default" if more else "Settings"
    return page.section(heading, (page.table(changed) if changed else "") + more)


def comparison_text(runs: Sequence[Path], read: Sequence[tuple[dict[str, Any], Curves]]) -> str:
    """The page of several runs. ``read``: settings and metrics of each."""
    names = run_names(runs)
    facts = [summary(run, settings, curves) for run, (settings, curves) in zip(runs, read, strict=True)]
    all_settings = [settings for settings, _ in read]
    legend = page.legend(names)
    figures = []
    for run, name in zip(runs, names, strict=True):
        grids = grids_in(run)
        if grids:
            figures.append(page.figure(f"{name}, {grid_name(grids[-1])}", page.image(grids[-1])))
    curves = curve_figures({name: curves for name, (_, curves) in zip(names, read, strict=True)})
    differing = differing_settings(all_settings)
    return page.document(
        " / ".join(names),
        [
            page.section("In short", page.columns(names, joined(facts))),
            page.section("Curves", legend + curves if curves else "<p>None recorded.</p>"),
            page.section("Last samples", "".join(figures)),
            page.section("Settings that differ", page.columns(names, differing) if differing else "<p>None.</p>"),
            page.section("Versions", page.columns(names, joined([versions(run) for run in runs]))),
        ],
    )


def run_names(runs: Sequence[Path]) -> list[str]:
    """The names of the runs' folders, with as much of their paths as tells them apart."""
    paths = [run.resolve() for run in runs]
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, 1)]  # the same run more than once


def joined(tables: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    """Rows of several tables as one, each with a value of every table."""
    return {
        name: [table.get(name, "") for table in tables] for name in dict.fromkeys(key for one in tables for key in one)
    }


def as_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def copies_section(run: Path) -> str:
    """What ``evaluate --copies`` has found, where its output folder is the run's own ``evaluation/``."""
    folder = run / EVALUATION
    try:
        about = read_table(folder / COPIES_FILE)
        rows = {
            "suspicious generated images": f"{about['suspicious_share']:.1%} ({about['usual_share']:.1%} is usual)",
            "median distance to the nearest training image": f"{about['median_distance']:.4g}",
            f"the same of {about['reference']}": f"{about['usual_median_distance']:.4g}",
        }
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return ""
    caption = "The closest pairs: a generated image, and to its right the nearest training image"
    pairs = page.figure(caption, page.image(folder / COPIES_GRID)) if (folder / COPIES_GRID).is_file() else ""
    return page.section("Copies of training images", page.table(rows) + pairs)


# --- tables --------------------------------------------------------------------------------------------------------


def summary(run: Path, settings: dict[str, Any], curves: Curves) -> dict[str, str]:
    """How long the run was, how good it is, what it has saved."""
    rows: dict[str, str] = {}
    losses = curves.get("train/loss", {})
    if losses:
        rows["steps"] = f"{max(losses):,}"
        rows["loss"] = recent_mean(losses)
    rates = sorted(curves.get("train/images_per_second", {}).values())
    if rates:
        rows["throughput"] = f"{rates[len(rates) // 2]:.1f} images per second, median"
    skips = list(curves.get("train/skipped_updates", {}).values())
    if skips:
        rows["skipped updates"] = f"{skips[-1]:.0f}"
    data = settings.get("dataset_name") or settings.get("train_data_dir")
    if data:
        rows["data"] = str(data)
    for name, points in curves.items():
        if name.startswith("eval/") and not is_detail(name) and points:
            rows[name.removeprefix("eval/")] = f"{list(points.values())[-1]:.5g} at step {max(points):,}"
    best = run / BEST / BEST_RECORD
    with contextlib.suppress(OSError, ValueError):  # there is none, or it is damaged
        about = read_table(best)
        if is_best(about):
            rows["best"] = f"{about['figure']} {about['value']:.5g} at step {about['step']:,}"
    rows["checkpoints"] = ", ".join(f"{step:,}" for step, _ in checkpoints_in(run)) or "none"
    saved = index_files_in(run)
    rows[DIFFUSERS_INDEX_FILES[saved[0]] if saved else "pipeline"] = "saved" if saved else "not yet saved"
    return rows


def versions(run: Path) -> dict[str, str]:
    """Of the newest checkpoint's run, or of this program."""
    for _, folder in reversed(checkpoints_in(run)):
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):  # it is damaged, or has none
            return {name: str(value) for name, value in read_record(folder / STATE_RECORD)["versions"].items()}
    return {"mindone_ddpm": mindone_ddpm.__version__}


# --- curves --------------------------------------------------------------------------------------------------------


def is_detail(name: str) -> bool:
    """Whether a curve belongs to another: a loss by timestep, a standard deviation."""
    return is_of_times(name) or name.endswith("_std")


def is_of_times(name: str) -> bool:
    """Whether a curve is of the validation loss in a range of times, such as t000-099 or s0.0-0.1."""
    return re.search(r"validation_loss_[ts]\d", name) is not None


def chart_figures(curves_by_run: Mapping[str, Curves]) -> list[tuple[str, str]]:
    """(title, SVG) of each metric, the loss first; without those that say nothing. Several runs share the axes."""
    names = {name for curves in curves_by_run.values() for name in curves}
    ordered = [*(name for name in TITLES if name in names), *sorted(names - TITLES.keys())]
    figures = []
    for name in ordered:
        chosen = {run: curves.get(name, {}) for run, curves in curves_by_run.items()}
        values = {value for curve in chosen.values() for value in curve.values()}
        is_constant = name in MOSTLY_CONSTANT and len(values) == 1
        if is_detail(name) or is_constant or not any(map(isfinite, values)):
            continue
        title = TITLES.get(name, name.removeprefix("eval/"))
        with_mean = name in NOISY
        if len(chosen) == 1:
            chart = charts.curve_chart(next(iter(chosen.values())), with_mean=with_mean)
        else:
            chart = charts.compared_chart(chosen, with_mean=with_mean)
        figures.append((title, charts.to_svg(chart, title)))
    return figures


def curve_figures(curves_by_run: Mapping[str, Curves]) -> str:
    return "".join(page.figure(title, svg) for title, svg in chart_figures(curves_by_run))


def differing_settings(settings: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """The settings in which runs differ, without those of places: the value of each run, by name."""
    names = dict.fromkeys(name for one in settings for name in one)
    rows = {name: [as_text(one.get(name, "")) for one in settings] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1 and name not in PLACES}


def timestep_figure(curves: Curves) -> str:
    """The validation loss over ranges of timesteps, at the first and at the last step at which it was measured."""
    ranges = sorted(name for name in curves if is_of_times(name))
    if not ranges:
        return ""
    steps = sorted(curves[ranges[0]])
    names = [name.rpartition("_")[2] for name in ranges]
    lines = []
    for step, style in {steps[0]: "line earlier", steps[-1]: "line"}.items():
        values = [curves[name].get(step, nan) for name in ranges]
        points = [(float(place), value) for place, value in enumerate(values) if isfinite(value)]
        lines.append(charts.Line(style, points, f"step {step:,}"))
    if not all(line.points for line in lines):
        return ""
    text = f"from clean (left) to noise (right); step {steps[0]:,} grey, step {steps[-1]:,} blue"
    return page.figure(text, charts.to_svg(charts.lay_out(lines, names=names), "loss by timestep"))
