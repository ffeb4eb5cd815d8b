"""What makes a run the same run: settings that must not change on resume, and the key of its compiled graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mindone_ddpm.common.libraries import versions
from mindone_ddpm.config.fields import as_dict
from mindone_ddpm.runtime import graph_cache

if TYPE_CHECKING:
    from mindone_ddpm.training.setup import Training

# Settings that may not change from one start of a run to the next: with another value, going on is not the same run.
DECISIVE_SETTINGS = (
    "image_size",
    "resize_mode",
    "center_crop",
    "random_flip",
    "image_interpolation_mode",
    "random_vertical_flip",
    "streaming",
    "streaming_buffer_size",
    "dataloader_drop_last",
    "loss_type",
    "huber_c",
    "snr_gamma",
    "noise_offset",
    "input_perturbation",
    "gradient_accumulation_steps",
    "optimizer",
    "mixed_precision",
    "use_ema",
    "seed",
)


# Settings that shape the rest of the run, and are told when they change.
SHAPING_SETTINGS = (
    "train_batch_size",
    "num_epochs",
    "max_train_steps",
    "learning_rate",
    "scale_lr",
    "lr_scheduler",
    "lr_warmup_steps",
    "lr_num_cycles",
    "lr_power",
    "lr_step_rules",
    "loss_scaling",
    "loss_scale",
)


def identity_of(training: Training) -> dict[str, Any]:
    """What must be the same for a checkpoint to be this run's."""
    names = (*DECISIVE_SETTINGS, *training.job.decisive_settings)
    settings = {name: getattr(training.config, name) for name in names}
    unet = {key: value for key, value in dict(training.unet.config).items() if not key.startswith("_")}
    return {
        **settings,
        "global_batch_size": training.plan.global_batch_size,
        "data": f"{len(training.records)} images, {training.data_fingerprint}",
        "unet": {key: list(value) if isinstance(value, tuple) else value for key, value in sorted(unet.items())},
    }


PLACES = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint")


def graph_key(training: Training) -> str | None:
    """What the compiled step is filed under; None where it is not kept."""
    config, runtime = training.config, training.runtime
    wanted = config.compile_cache == "on" or (config.compile_cache == "auto" and runtime.backend.caches_graphs)
    if not wanted or runtime.mode != "graph" or not is_cacheable(training):
        return None
    # Where it is written, and from where it goes on, are the only settings that surely leave no trace in the graph.
    settings = {name: value for name, value in as_dict(config).items() if name not in PLACES}
    facts = {
        "settings": settings,
        "identity": identity_of(training),
        "schedule": (training.schedule.total_steps, training.plan.num_samples),
        "noise": {name: value for name, value in training.job.scheduler.config.items() if not name.startswith("_")},
        "ranks": (runtime.rank, runtime.world_size),
        "others": training.job.frozen_settings,
        "versions": versions(),
    }
    return graph_cache.fingerprint(facts, runtime.backend)


def is_cacheable(training: Training) -> bool:
    """Whether all that is compiled is this package's or mindone's: nobody can know what a user's own cells hold."""
    kinds = [type(training.job), *(type(cell) for _, cell in training.step_cell.cells_and_names())]
    return all(kind.__module__.split(".")[0] in ("mindone_ddpm", "mindone", "mindspore") for kind in kinds)
