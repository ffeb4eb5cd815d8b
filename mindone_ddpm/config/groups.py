"""Groups of settings. Each is a flat dataclass; a configuration is a class that inherits the groups it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mindone_ddpm.config.fields import Settings, setting
from mindone_ddpm.config.hub import HubChoice, HubConfig
from mindone_ddpm.config.values import parse_step_rules

MOST_PIXELS = 8192  # along a side

MAX_IMAGE_PIXELS = 100_000_000

FEATURES = ["inception", "digits", "pixels"]
BUILT_IN_DATASETS = ("digits",)


DIGITS_IMAGE_SIZE = 8


LR_SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "piecewise_constant",
)


BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")


PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


LOSS_TYPES = ("mse", "l1", "huber")


SAMPLERS = ("ddpm", "ddim", "dpmsolver++", "euler", "euler_ancestral", "heun", "unipc", "pndm")
CLIPPING_SAMPLERS = ("ddpm", "ddim", "dpmsolver++", "unipc")  # they can cut predicted images to the range of images


TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")


METRICS = ("fid", "kid", "precision_recall", "inception_score")


# What they give, and whether more is better.
HIGHER_IS_BETTER = {"fid": False, "kid": False, "precision": True, "recall": True, "inception_score": True}


TRACKERS = ("none", "tensorboard", "wandb", "swanlab", "csv", "jsonl")


OPTIMIZERS = ("adamw", "adamw_no_correction", "sgd", "lion", "adafactor")


INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box")


DEVICES = ("auto", "Ascend", "GPU", "CPU")


MODES = ("graph", "pynative")
# MindSpore has O2 as well: the whole graph on the device by CANN's graph engine. It is deprecated since 2.9.
JIT_LEVELS = ("auto", "O0", "O1")
JIT_LEVEL_HELP = (
    "of graphs: O0 launches operator by operator, O1 fuses some operators first; auto: MindSpore's own choice, O0 "
    "except on the first Atlas training series"
)


@dataclass
class DataConfig(HubChoice):
    """Which images, and how they are prepared."""

    heading: ClassVar[str] = "data"

    dataset_name: str | None = setting(
        None, "'digits' (built in), a data set's name on the hub, or a folder written by save_to_disk"
    )
    dataset_config_name: str | None = setting(None, "configuration of the data set, where it has several")
    dataset_split: str = setting("train", "split to train on")
    train_data_dir: str | None = setting(
        None, "folder of images (nested or flat, with or without metadata.jsonl), or of parquet files"
    )
    image_column: str | None = setting(None, "column that holds the images; found by its type when not given")
    max_train_samples: int | None = setting(
        None, "use only the first N images; with streaming, the length of an epoch", low=1
    )
    streaming: bool = setting(
        False, "read the data set as a stream, for one that is larger than the disk", resume="locked"
    )
    streaming_buffer_size: int = setting(
        1000, "images among which a stream is shuffled; 1: its own order", low=1, resume="locked"
    )
    on_bad_image: str = setting(
        "stop",
        "an image that cannot be read: stop names it and ends the run; skip decodes all once at the start, names those "
        "that cannot be read and trains on the others",
        choices=("stop", "skip"),
        outside_graph=True,
    )
    max_image_pixels: int = setting(
        MAX_IMAGE_PIXELS,
        "an image of more pixels is not read: a small file can hold one that fills the memory",
        low=1,
        outside_graph=True,
    )
    cache_dir: str | None = setting(None, "where `datasets` keeps its cache", private=True)
    image_size: int = setting(
        128, "side of the square images in pixels", aliases=["resolution"], low=2, high=MOST_PIXELS, resume="locked"
    )
    resize_mode: str = setting(
        "squash",
        "squash: to a square, as in the tutorial; crop: shorter side, then crop",
        choices=["squash", "crop"],
        resume="locked",
    )
    image_interpolation_mode: str = setting(
        "bilinear", "how images are resized; all but nearest are antialiased", choices=INTERPOLATIONS, resume="locked"
    )
    center_crop: bool = setting(
        False, "with resize_mode crop (which this implies): crop in the middle, not at random", resume="locked"
    )
    random_flip: bool | None = setting(
        None, "flip half the images left to right; on, but for the built-in digits", resume="locked"
    )
    random_vertical_flip: bool = setting(False, "flip half the images upside down", resume="locked")
    dataloader_drop_last: bool = setting(
        False,
        "end an epoch before a batch that is not full; a short one makes a noisy update, where data are few",
        resume="locked",
    )
    dataloader_num_workers: int = setting(
        0, "processes that decode images, at most one a core; 0: a thread, enough where the images fit in memory", low=0
    )
    cache_images_mib: int = setting(
        1024, "keep the resized images in memory if they take at most this many MiB; 0: never", low=0
    )

    def own_problems(self) -> list[str]:
        problems = []
        if self.dataset_name is None and self.train_data_dir is None:
            problems.append(
                "--dataset_name or --train_data_dir: give one of them ('--dataset_name digits' is built in)"
            )
        if self.dataset_name is not None and self.train_data_dir is not None:
            problems.append("--dataset_name and --train_data_dir: give only one of them")
        if self.streaming and self.dataloader_num_workers > 1:
            problems.append(
                "--streaming and --dataloader_num_workers: a stream is read by one process; leave the latter"
            )
        if self.streaming and self.on_bad_image == "skip":
            problems.append("--streaming and --on_bad_image skip: a stream cannot be read through at the start")
        return problems


@dataclass
class LossConfig(Settings):
    """The training loss."""

    heading: ClassVar[str] = "loss"

    loss_type: str = setting("mse", "distance between prediction and target", choices=LOSS_TYPES, resume="locked")
    huber_c: float = setting(
        0.1, "with loss_type huber: quadratic below this distance, linear above", above=0, resume="locked"
    )
    snr_gamma: float | None = setting(
        None, "weight the timesteps by Min-SNR with this gamma; 5 is recommended", above=0, resume="locked"
    )
    noise_offset: float = setting(
        0.0, "add noise of this scale, one number per channel; 0.1 is usual", low=0, resume="locked"
    )
    input_perturbation: float = setting(
        0.0,
        "add noise of this scale to the noise of the input, but not to the target; 0.1 is recommended",
        low=0,
        resume="locked",
    )


@dataclass
class LoopConfig(Settings):
    """How long a run is, and the size of its updates."""

    heading: ClassVar[str] = "length and batches"

    train_batch_size: int = setting(16, "images per device and micro-batch", low=1, resume="report")
    num_epochs: int = setting(50, "passes over the data", aliases=["num_train_epochs"], low=1, resume="report")
    max_train_steps: int | None = setting(
        None, "optimizer steps; decides over num_epochs when given", low=1, resume="report"
    )
    max_hours: float | None = setting(
        None,
        "stop with a checkpoint and status 0 so many hours after the program's start, before a queue's limit; "
        "--resume_from_checkpoint auto goes on",
        above=0,
        outside_graph=True,
    )
    gradient_accumulation_steps: int = setting(1, "micro-batches per optimizer step", low=1, resume="locked")
    seed: int = setting(
        0, "decides initial weights, data order, flips, noise and samples", low=0, high=2**32 - 1, resume="locked"
    )


@dataclass
class OptimizerConfig(Settings):
    """The optimizer and its learning-rate schedule."""

    heading: ClassVar[str] = "optimizer"

    learning_rate: float = setting(1e-4, "peak learning rate", above=0, resume="report")
    scale_lr: bool = setting(False, "multiply the learning rate by ranks x batch x accumulation", resume="report")
    lr_scheduler: str = setting("cosine", "schedule, by optimizer step", choices=LR_SCHEDULERS, resume="report")
    lr_warmup_steps: int = setting(500, "steps in which the learning rate rises from 0", low=0, resume="report")
    lr_num_cycles: float | None = setting(
        None, "cosine: waves, 0.5 by default; cosine_with_restarts: restarts, 1 by default", above=0, resume="report"
    )
    lr_power: float = setting(1.0, "power of the polynomial schedule", above=0, resume="report")
    lr_step_rules: str | None = setting(
        None,
        "piecewise_constant: factor:until_step pairs and a last factor, such as 1:1000,0.1:2000,0.01",
        resume="report",
    )
    optimizer: str = setting(
        "adamw",
        "adamw: with bias correction; adamw_no_correction: the tutorial's AdamWeightDecay; sgd: with momentum "
        "adam_beta1; lion; adafactor",
        choices=OPTIMIZERS,
        resume="locked",
    )
    adam_beta1: float = setting(0.95, "decay of the first moment", low=0, resume="locked")
    adam_beta2: float = setting(0.999, "decay of the second moment", low=0, resume="locked")
    adam_weight_decay: float = setting(1e-6, "decoupled weight decay", low=0, resume="locked")
    adam_epsilon: float = setting(1e-8, "added to the denominator", above=0, resume="locked")
    max_grad_norm: float = setting(1.0, "clip the global gradient norm to this; 0: do not clip", low=0, resume="locked")

    def own_problems(self) -> list[str]:
        problems = []
        if self.adam_beta1 >= 1 or self.adam_beta2 >= 1:
            problems.append("--adam_beta1 and --adam_beta2: must be below 1")
        if (self.lr_scheduler == "piecewise_constant") != (self.lr_step_rules is not None):
            problems.append("--lr_scheduler piecewise_constant and --lr_step_rules: belong together")
        elif self.lr_step_rules is not None:
            try:
                parse_step_rules(self.lr_step_rules)
            except ValueError:
                problems.append(
                    f"--lr_step_rules {self.lr_step_rules}: must be factor:until_step pairs with rising steps, and a "
                    "last factor, such as 1:1000,0.1:2000,0.01"
                )
        return problems


@dataclass
class PrecisionConfig(Settings):
    """Compute precision, loss scaling and memory."""

    heading: ClassVar[str] = "precision and memory"

    mixed_precision: str = setting(
        "auto",
        "compute precision; auto: fp16 on Ascend and GPU, no (float32) on CPU",
        choices=["auto", "no", "fp16", "bf16"],
        resume="locked",
    )
    loss_scaling: str = setting(
        "static",
        "dynamic halves the scale at an overflow and doubles it now and then",
        choices=["static", "dynamic"],
        resume="report",
    )
    loss_scale: float | None = setting(
        None, "the loss scale, or the first one; 65536 with fp16, else 1", above=0, resume="report"
    )
    max_consecutive_skips: int = setting(50, "updates skipped in a row, for overflow, before the run gives up", low=1)
    gradient_checkpointing: bool = setting(False, "save memory by computing activations again in the backward pass")
    enable_xformers_memory_efficient_attention: bool = setting(
        False, "on Ascend: mindone's fused attention; elsewhere there is none, and attention stays as it is"
    )


@dataclass
class EMAConfig(Settings):
    """The moving average of the weights."""

    heading: ClassVar[str] = "moving average of the weights"

    use_ema: bool = setting(
        False, "keep a moving average of the weights; samples and the pipeline are made with it", resume="locked"
    )
    ema_inv_gamma: float = setting(
        1.0, "the decay after step n is 1 - (1 + (n-1)/inv_gamma)^-power", above=0, resume="locked"
    )
    ema_power: float = setting(0.75, "see ema_inv_gamma", above=0, resume="locked")
    ema_max_decay: float = setting(0.9999, "the decay's upper bound", low=0, resume="locked")
    ema_decay: float | None = setting(None, "a fixed decay instead", low=0, resume="locked")
    snapshot_steps: int = setting(
        0,
        "steps between snapshots of two averages in half precision, from which `mindone-ddpm average` makes one of any "
        "width afterwards; 0: none",
        low=0,
        resume="locked",
    )

    def own_problems(self) -> list[str]:
        if max(self.ema_max_decay, self.ema_decay or 0.0) > 1:
            return ["--ema_max_decay and --ema_decay: must be at most 1"]
        return []


@dataclass
class OutputConfig(Settings):
    """What a run writes, and when."""

    heading: ClassVar[str] = "output"

    output_dir: str = setting("model", "folder for the pipeline, samples and logs", private=True, outside_graph=True)
    overwrite_output_dir: bool = setting(
        False, "allow an output_dir that already holds a run", private=True, outside_graph=True
    )
    save_image_epochs: int = setting(
        10, "epochs between grids of samples; 0: never", aliases=["save_images_epochs"], low=0
    )
    save_image_steps: int = setting(
        0,
        "optimizer steps between grids of samples; decides over save_image_epochs when given",
        aliases=["validation_steps"],
        low=0,
    )
    save_model_epochs: int = setting(30, "epochs between saved pipelines (and one at the end)", low=0)
    save_dtype: str = setting("float32", "type of the saved pipeline's weights", choices=["float32", "fp16", "bf16"])
    logging_dir: str = setting("logs", "folder for the trackers, inside output_dir", private=True)
    logging_steps: int = setting(10, "steps between fetches of the loss from the device", low=1)
    report_to: str = setting(
        "tensorboard", "trackers, with commas between", aliases=["logger"], choices=TRACKERS, several=True
    )

    def own_problems(self) -> list[str]:
        problems = []
        if Path(self.logging_dir).is_absolute() or {".", ".."} & set(Path(self.logging_dir).parts or ["."]):
            problems.append(f"--logging_dir {self.logging_dir}: must be a folder's name inside --output_dir")
        if "none" in self.report_to.split(",") and self.report_to != "none":
            problems.append(f"--report_to {self.report_to}: none stands alone")
        return problems


@dataclass
class CheckpointConfig(Settings):
    """Checkpoints, and resuming from them."""

    heading: ClassVar[str] = "checkpoints"

    checkpointing_steps: int = setting(500, "optimizer steps between checkpoints; 0: none", low=0)
    checkpoints_total_limit: int | None = setting(2, "keep this many checkpoints, the newest; none: all", low=1)
    resume_from_checkpoint: str | None = setting(
        None,
        "latest; a checkpoint's folder; or auto: the latest if there is one, else start",
        private=True,
        outside_graph=True,
    )
    accept_changes: bool = setting(False, "resume although settings that decide the result have changed")
    on_checkpoint_error: str = setting(
        "continue", "when a checkpoint cannot be written: go on with the old one, or stop", choices=["continue", "stop"]
    )


@dataclass
class MachineConfig(Settings):
    """The device, and the ranks."""

    heading: ClassVar[str] = "device and ranks"

    distributed: bool = setting(
        False, "accepted for old command lines: a launch by msrun is noticed by itself", private=True
    )
    local_rank: int | None = setting(None, "accepted for old command lines, like distributed", private=True)
    step_timeout_s: float = setting(
        1800.0, "with several ranks: one that takes longer for a step ends the job", above=0
    )
    device: str = setting("auto", "auto takes the first that is there", choices=DEVICES)
    mode: str = setting("graph", "graph compiles the step; pynative runs it operator by operator", choices=MODES)
    jit_level: str = setting("auto", JIT_LEVEL_HELP, choices=JIT_LEVELS)
    deterministic: bool = setting(
        False, "same bits in every run on an NPU or GPU too, at some cost; a CPU always gives the same"
    )
    max_device_memory: int | None = setting(None, "use at most so many GiB of the device's memory", low=1)
    compile_cache: str = setting(
        "auto",
        "keep the compiled step for the next start of the same run; auto: on a CPU, where this was tested",
        choices=["auto", "on", "off"],
    )


@dataclass
class EngineConfig(
    MachineConfig,
    HubConfig,
    CheckpointConfig,
    OutputConfig,
    EMAConfig,
    PrecisionConfig,
    OptimizerConfig,
    LoopConfig,
    LossConfig,
    DataConfig,
):
    """The settings that every kind of training has."""


@dataclass
class LabelConfig(Settings):
    """Training with classes."""

    heading: ClassVar[str] = "classes"

    class_conditional: bool = setting(
        False, "train with class labels, so that images of a class can be sampled", resume="locked"
    )
    label_column: str | None = setting(None, "column of the class labels; found by its type when not given")
    label_dropout: float = setting(
        0.1, "share of labels dropped in training, which guidance at sampling requires", low=0, high=1, resume="locked"
    )

    def own_problems(self) -> list[str]:
        if self.label_column is not None and not self.class_conditional:
            return ["--label_column: has a meaning with --class_conditional only"]
        return []
