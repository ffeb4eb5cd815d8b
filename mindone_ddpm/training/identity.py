"""What makes a run the same run: what a checkpoint must agree with, and the key of the compiled graph."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mindone_ddpm.common.libraries import versions
from mindone_ddpm.config.fields import as_dict, settings_by_resume, settings_outside_graph
from mindone_ddpm.runtime import graph_cache

if TYPE_CHECKING:
    from mindone_ddpm.data.records import Samples
    from mindone_ddpm.training.run import Shapes, Training


def identity_of(training: Training) -> dict[str, Any]:
    """What must be the same for a checkpoint to be this run's: locked settings, data, networks, objective. JSON."""
    config, batch_size = training.config, training.plan.global_batch_size
    settings = {name: getattr(config, name) for name in settings_by_resume(type(config), "locked")}
    found = {**settings, "global_batch_size": batch_size, **training.data_identity, **training.job.identity()}
    return json.loads(json.dumps(found))  # as it is read back: keys are strings, and tuples are lists


def identity_of_data(datasets: Sequence[Samples]) -> dict[str, str]:
    """Size and fingerprint of each data set, under ``data``, ``data_2``, ..."""
    texts = [f"{len(records)} images, {records.fingerprint()}" for records in datasets]
    return {"data" if number == 1 else f"data_{number}": text for number, text in enumerate(texts, 1)}


def graph_key(training: Training, shapes: Iterable[Shapes] = ()) -> str | None:
    """The name under which the compiled step is cached; None where it is not cached.

    Args:
        shapes: of the batches for which it is compiled.
    """
    config, runtime = training.config, training.runtime
    wanted = config.compile_cache == "on" or (config.compile_cache == "auto" and runtime.backend.caches_graphs)
    if not wanted or runtime.mode != "graph" or not is_cacheable(training):
        return None
    outside = settings_outside_graph(type(config))
    facts = {
        "settings": {name: value for name, value in as_dict(config).items() if name not in outside},
        "identity": identity_of(training),
        "schedule": (training.schedule.total_steps, training.plan.num_samples),
        "shapes": sorted(shapes),
        "ranks": (runtime.rank, runtime.world_size, runtime.device),
        "versions": versions(),
    }
    return graph_cache.fingerprint(facts, runtime.backend)


def is_cacheable(training: Training) -> bool:
    """Whether all that is compiled comes from this package or mindone: what custom cells hold cannot be known."""
    kinds = [type(training.job), *(type(cell) for _, cell in training.step_cell.cells_and_names())]
    return all(kind.__module__.split(".")[0] in ("mindone_ddpm", "mindone", "mindspore") for kind in kinds)


def differences(training: Training, record: dict[str, Any]) -> tuple[list[str], list[str]]:
    """How a run differs from the one that wrote a checkpoint: what must be the same, and what is only reported.

    Args:
        record: of the checkpoint. What an older version did not write there is not compared.
    """
    config, before = training.config, record["config"]
    old, new = record["identity"], identity_of(training)
    locked = []
    for name in settings_by_resume(type(config), "locked"):
        if name in before and before[name] != getattr(config, name):
            locked.append(f"{name} is {getattr(config, name)}, was {before[name]}")
    for name in new.keys() - {*settings_by_resume(type(config), "locked")}:
        if name not in old:
            continue
        if isinstance(new[name], dict) and isinstance(old[name], dict):
            for key, value in new[name].items():
                if old[name].get(key) != value:
                    locked.append(f"{name} {key} is {value}, was {old[name].get(key)}")
        elif old[name] != new[name]:
            locked.append(f"{name} is {new[name]}, was {old[name]}")
    shaping = [(name, before.get(name), getattr(config, name)) for name in settings_by_resume(type(config), "report")]
    shaping.append(("ranks", record["world_size"], training.plan.world_size))
    return locked, [f"{name} is {now}, was {was}" for name, was, now in shaping if was != now]
