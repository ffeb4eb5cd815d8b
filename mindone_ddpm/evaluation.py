"""Measure a model, or a folder of pictures, against real pictures: sample, look, gather, merge, compare."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mindone_ddpm import checkpoint, distributed, metrics, models, sampling
from mindone_ddpm.config import (
    ConfigError,
    EvaluateConfig,
    TrainingConfig,
    check_evaluation,
    check_writable,
    unwritable,
)
from mindone_ddpm.data import (
    IMAGE_ENDINGS,
    DataProblem,
    ImageRecords,
    StreamedRecords,
    batch_places,
    convert_channels,
    decode_image,
    open_records,
)
from mindone_ddpm.features import FeatureNetwork, make_features
from mindone_ddpm.metrics import Statistics, load_if_whole, load_statistics, save_statistics
from mindone_ddpm.runtime import Runtime, cache_dir, start, versions

METRICS_FILE, FEATURES_FILE = "metrics.json", "features.npz"
DEFAULT_NUM_SAMPLES = 10_000
SAVE_EVERY_S = 30.0  # of sampling that an interruption may cost
# What the figures of other features than Inception's are called, so that nobody takes them for the published ones.
OTHER_NAMES = {"fid": "frechet_distance", "kid": "kernel_distance", "kid_std": "kernel_distance_std"}

# Gives the pixels, uint8 (pictures, height, width, channels), of pictures by their numbers.
Source = Callable[[list[int]], np.ndarray]


# --- pictures ------------------------------------------------------------------------------------------------------


class Folder:
    """The pictures of a folder, in the order of their names, all of one size."""

    def __init__(self, folder: str, flag: str):
        self.flag = flag
        self.paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_ENDINGS)
        self.paths = [path for path in self.paths if path.name not in ("grid.png", sampling.TRAJECTORY_STRIP)]
        if not self.paths:
            raise DataProblem(f"{flag} {folder}: there are no pictures in it")
        self.shape = self.read(self.paths[0]).shape

    def __len__(self) -> int:
        return len(self.paths)

    @functools.cached_property
    def content(self) -> str:
        """Names the pictures by what they hold."""
        return hashlib.sha256("".join(map(checkpoint.sha256_of, self.paths)).encode()).hexdigest()

    def read(self, path: Path) -> np.ndarray:
        picture = decode_image(None, str(path), str(path))
        pixels = np.asarray(convert_channels(picture, 1 if picture.mode in ("L", "1", "I;16", "I") else 3))
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    def __call__(self, numbers: list[int]) -> np.ndarray:
        pictures = []
        for number in numbers:
            pixels = self.read(self.paths[number])
            if pixels.shape != self.shape:
                raise DataProblem(
                    f"{self.flag}: {self.paths[number]} is {_size(pixels.shape)}, but {self.paths[0]} is "
                    f"{_size(self.shape)}; all must be the same"
                )
            pictures.append(pixels)
        return np.stack(pictures)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} with {shape[2]} channel(s)"


def real_records(config: EvaluateConfig, unet: Any) -> Any:
    """The data set of real pictures, made as large as the model's."""
    channels, size, _ = sampling.picture_shape(unet)
    names = [
        *("dataset_name", "dataset_config_name", "dataset_split", "train_data_dir", "image_column"),
        *("max_train_samples", "resize_mode", "image_interpolation_mode"),
    ]
    settings = {name: getattr(config, name) for name in names}
    # Where they are cut, it is their middle that is looked at, in training too.
    settings["center_crop"] = config.resize_mode == "crop"
    return open_records(TrainingConfig(**settings, image_size=size, channels=channels))


def sampled(unet: Any, scheduler: Any, labels: list[int] | None, batch_size: int, **settings: Any) -> Source:
    """The pictures of a model; each depends on the seed and its number only.

    ``labels`` are those of all pictures; ``settings`` are what :func:`sampling.generate` takes beside them.
    """

    def pictures(numbers: list[int]) -> np.ndarray:
        # Filled up to the batch size, so that nothing is compiled anew for the last batch.
        filled = [numbers[place] for place in batch_places(0, batch_size, len(numbers))]
        chosen = None if labels is None else [labels[number] for number in filled]
        values = sampling.generate(unet, scheduler, numbers=filled, batch_size=batch_size, labels=chosen, **settings)
        return sampling.to_pixels(values)[: len(numbers)]

    return pictures


# --- statistics ----------------------------------------------------------------------------------------------------


def look(network: FeatureNetwork, pixels: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and logits; the last batch is filled up, so that the network keeps its shape."""
    features, logits = network(pixels[batch_places(0, batch_size, len(pixels))])
    return features[: len(pixels)], logits[: len(pixels)]


def own_batches(runtime: Runtime, count: int, batch_size: int) -> Iterator[list[int]]:
    """This rank's share of the numbers, batch by batch: every batch goes to the next rank in turn.

    As many on every rank, so that the ranks may meet at each; the last may be empty.
    """
    for start_of_round in range(0, count, runtime.world_size * batch_size):
        first = start_of_round + runtime.rank * batch_size
        yield list(range(first, min(first + batch_size, count)))


class Gathering:
    """Statistics of one side, gathered by this rank, and kept in a file so that an interruption costs little."""

    def __init__(self, network: FeatureNetwork, wanted: list[str], keeps_features: bool, path: Path | None, what: str):
        self.network, self.path, self.what = network, path, what
        self.with_logits = "inception_score" in wanted
        self.statistics = Statistics(network.width, keeps_features or metrics.keeps_features(wanted))
        self.done = 0
        kept = None if path is None else load_if_whole(path)
        if kept is not None and kept[1].get("what") == what:
            self.statistics, self.done = kept[0], kept[1]["batches"]

    def save(self) -> None:
        if self.path is not None:
            save_statistics(self.statistics, {"what": self.what, "batches": self.done}, self.path)

    def run(
        self,
        source: Source,
        count: int,
        batch_size: int,
        runtime: Runtime,
        text: str,
        on_batch: Callable[[], object] = lambda: None,
    ) -> Statistics:
        """Look at all pictures; what all ranks have gathered together.

        ``on_batch`` is called before each batch, equally often on every rank.
        """
        shares = list(own_batches(runtime, count, batch_size))
        bar = tqdm(
            total=sum(map(len, shares)),
            initial=sum(map(len, shares[: self.done])),
            desc=text,
            unit="img",
            dynamic_ncols=True,
            disable=not runtime.is_main,
        )
        saved_at = time.monotonic()
        with bar:
            try:
                for numbers in shares[self.done :]:
                    on_batch()
                    if numbers:
                        features, logits = look(self.network, source(numbers), batch_size)
                        self.statistics.add(features, logits if self.with_logits else None, numbers, count)
                    self.done += 1
                    bar.update(len(numbers))
                    if time.monotonic() - saved_at > SAVE_EVERY_S:
                        self.save()
                        saved_at = time.monotonic()
            except KeyboardInterrupt:
                if self.statistics.count == sum(map(len, shares[: self.done])):  # not amid a batch
                    self.save()
                raise
        self.save()
        return merge_over_ranks(runtime, self.statistics)


def merge_over_ranks(runtime: Runtime, own: Statistics) -> Statistics:
    """The statistics of all ranks together, on every rank."""
    if runtime.world_size == 1:
        return own
    whole = Statistics(own.width, own.keeps_features)
    whole.count = int(distributed.sum_exactly(runtime, np.array([own.count], np.float64))[0])
    whole.total = distributed.sum_exactly(runtime, own.total)
    whole.products = distributed.sum_exactly(runtime, own.products)
    classes = int(distributed.gather_rows(runtime, np.array([_classes(own)], np.float32)).max())
    if classes:
        mine = own.arrays() if own.shares is not None else {}
        zeros = np.zeros((own.splits, classes)), np.zeros(own.splits), np.zeros(own.splits)
        whole.shares, whole.entropies, whole.split_counts = (
            distributed.sum_exactly(runtime, mine.get(name, empty))
            for name, empty in zip(("shares", "entropies", "split_counts"), zeros, strict=True)
        )
    if own.keeps_features:
        rows = np.concatenate(own.features) if own.features else np.zeros((0, own.width), np.float32)
        whole.features = [distributed.gather_any(runtime, rows)]
        numbers = distributed.gather_any(runtime, np.array(own.numbers, np.float32))
        whole.numbers = numbers.astype(int).tolist()
    return whole


def _classes(statistics: Statistics) -> int:
    return 0 if statistics.shares is None else statistics.shares.shape[1]


def source_of(records: ImageRecords) -> tuple[Source, int, str]:
    """The pictures of a data set as the model sees them; how many they are; and what says which they are."""

    def source(numbers: list[int]) -> np.ndarray:
        pictures = np.stack([records.picture(number) for number in numbers]).transpose(0, 2, 3, 1)
        return pictures if pictures.dtype == np.uint8 else sampling.to_pixels(pictures)

    shape = (records.size, records.channels, records.resize_mode, records.interpolation, records.precise)
    stream = (records.seed, records.buffer_size) if isinstance(records, StreamedRecords) else ()
    return source, len(records), f"data set {records.fingerprint(most=len(records))}, {shape + stream}"


def kept_statistics(
    network: FeatureNetwork, wanted: list[str], source: Source, count: int, what: str, batch_size: int, runtime: Runtime
) -> Statistics:
    """Of real pictures: from the user's cache folder, or by looking at them, and then kept there."""
    keeps = metrics.keeps_features(wanted)
    key = hashlib.sha256(repr((what, network.identity, keeps)).encode()).hexdigest()[:24]
    folder = cache_dir() / "statistics"
    kept = load_if_whole(folder / f"{key}.npz")
    missing = distributed.any_rank(runtime, kept is None)  # on a machine of its own, or damaged
    if kept is not None and not missing:
        return kept[0]
    partial = folder / f"{key}-{runtime.rank}-of-{runtime.world_size}-by-{batch_size}.npz"
    gathering = Gathering(network, wanted, False, None if unwritable(folder) else partial, what)
    statistics = gathering.run(source, count, batch_size, runtime, "real pictures")
    try:
        if runtime.is_main:
            save_statistics(statistics, {"network": network.identity, "what": what}, folder / f"{key}.npz")
        partial.unlink(missing_ok=True)
    except OSError:
        pass  # looked at again the next time
    return statistics


def real_statistics(
    config: EvaluateConfig, network: FeatureNetwork, wanted: list[str], runtime: Runtime, unet: Any
) -> Statistics | None:
    """Of the real pictures: from a file, from the cache, or by looking at them."""
    if config.real_statistics is not None:
        statistics, about = load_statistics(Path(config.real_statistics))
        if about.get("network") != network.identity:
            raise ConfigError(
                f"--real_statistics {config.real_statistics}: are of {about.get('network', 'another network')}, "
                f"but the features here are of {network.identity}"
            )
        if metrics.keeps_features(wanted) and not statistics.keeps_features:
            raise ConfigError(f"--real_statistics {config.real_statistics}: {metrics.NO_FEATURES}")
        return statistics
    if config.real is not None:
        folder = Folder(config.real, "--real")
        source: Source = folder
        count, what = len(folder), f"folder {folder.content}"
    elif config.dataset_name is not None or config.train_data_dir is not None:
        with distributed.main_first(runtime):
            records = real_records(config, unet)
        source, count, what = source_of(records)
    else:
        return None
    statistics = kept_statistics(network, wanted, source, count, what, config.batch_size, runtime)
    if config.save_real_statistics is not None and runtime.is_main:
        about = {"network": network.identity, "what": what}
        save_statistics(statistics, about, Path(config.save_real_statistics))
    return statistics


# --- the whole -----------------------------------------------------------------------------------------------------


def name_figures(network: FeatureNetwork, found: dict[str, float]) -> dict[str, float]:
    if not network.prefix:
        return found
    return {network.prefix + OTHER_NAMES.get(name, name): value for name, value in found.items()}


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Measure; the figures by name, which also go to ``metrics.json`` in the output folder.

    Raises:
        ConfigError, DataProblem, MetricProblem, RuntimeProblem: what will not do, before the long part where possible.
    """
    check_evaluation(config)
    output_dir = Path(config.output_dir)
    check_writable(output_dir)
    runtime = start(config.device, config.mode, config.seed)
    wanted = config.metrics.split(",")
    network = make_features(config.features, config.inception_weights, config.resize)
    pipeline = models.load_pipeline(config.model) if config.model else None
    folder = Folder(config.fake, "--fake") if config.fake is not None else None
    count = len(folder) if folder is not None else config.num_samples or DEFAULT_NUM_SAMPLES
    metrics.check_count(wanted, count, network.width, config.force)
    if folder is not None:
        source: Source = folder
        sampler: dict[str, Any] = {}
        content = folder.content
    else:
        assert pipeline is not None
        source, sampler = model_source(config, pipeline, count)
        content = content_of_model(config.model)
    real = real_statistics(config, network, wanted, runtime, None if pipeline is None else pipeline.unet)
    if real is not None:
        metrics.check_count(wanted, real.count, network.width, config.force)

    output_dir.mkdir(parents=True, exist_ok=True)
    partial = output_dir / f".statistics-{runtime.rank}-of-{runtime.world_size}.npz"
    # What must be the same for a gathering to go on where it was interrupted.
    facts = [content, sampler, count, config.batch_size, config.metrics, config.keep_features, network.identity]
    gathering = Gathering(network, wanted, config.keep_features, partial, json.dumps(facts))
    started = time.perf_counter()
    fake = gathering.run(source, count, config.batch_size, runtime, "pictures of the model" if pipeline else "pictures")
    seconds = time.perf_counter() - started
    found = name_figures(network, metrics.figures(wanted, real, fake, config.force, config.seed))
    if runtime.is_main:
        write_metrics(config, sampler, network, real, fake, found, seconds, output_dir)
        if config.keep_features:
            np.savez(output_dir / FEATURES_FILE, features=fake.rows())
    distributed.barrier(runtime)
    partial.unlink(missing_ok=True)
    return found


def model_source(config: EvaluateConfig, pipeline: Any, count: int) -> tuple[Source, dict[str, Any]]:
    """The pictures of a model; and all that they follow from, beside the model."""
    scheduler = models.make_sampler(config.scheduler, pipeline.scheduler)
    labels = sampling.choose_labels(pipeline.unet, config.class_label, count)
    settings = {
        "num_inference_steps": sampling.inference_steps(config, config.scheduler, scheduler),
        "seed": config.seed,
        "guidance_scale": sampling.class_guidance(config, labels),
        "eta": config.eta,
    }
    source = sampled(pipeline.unet, scheduler, labels, config.batch_size, **settings)
    return source, {"scheduler": config.scheduler, **settings, "class_label": config.class_label}


def content_of_model(model: str) -> str:
    """The hash of its UNet's weights; of a name on the Hub, the name."""
    weights = Path(model) / "unet" / models.UNET_WEIGHTS
    return checkpoint.sha256_of(weights) if weights.is_file() else model


class Evaluator:
    """Figures of a model in training: of pictures made by DDIM with the weights that it has, split over the ranks."""

    batch_size = 50

    def __init__(self, config: TrainingConfig, runtime: Runtime, job: Any):
        assert config.eval_metrics is not None
        self.config, self.runtime, self.job = config, runtime, job
        self.wanted = config.eval_metrics.split(",")
        self.network = make_features(config.eval_features, config.inception_weights, config.eval_resize)
        self.real: Statistics | None = None

    def prepare(self) -> None:
        """Look at the real pictures.

        Raises:
            ConfigError: more denoising steps are asked for than the model has noise levels.
            MetricProblem: the pictures, real or to be made, are too few for a figure.
        """
        config = self.config
        sampling.check_steps("--eval_num_inference_steps", config.eval_num_inference_steps, self.job.scheduler)
        advice = " (--eval_num_samples), or --eval_metrics kid"
        metrics.check_count(self.wanted, config.eval_num_samples, self.network.width, advice=advice)
        if self.wanted != ["inception_score"]:
            source, count, what = source_of(self.job.records)
            metrics.check_count(self.wanted, count, self.network.width, advice=", or --eval_metrics kid")
            self.real = kept_statistics(self.network, self.wanted, source, count, what, self.batch_size, self.runtime)

    def share_of_training(self, total_images: int, evaluations: int) -> float:
        """The cost of all evaluations as a share of that of the steps: a step costs about three ways forward."""
        config = self.config
        return evaluations * config.eval_num_samples * config.eval_num_inference_steps / (3 * total_images)

    def figures(self, on_batch: Callable[[], object]) -> dict[str, float]:
        """By the names that they have in ``metrics.json``; ``on_batch`` is called as :meth:`Gathering.run` does."""
        config, unet = self.config, self.job.unet
        pictures = sampled(
            unet,
            models.make_sampler("ddim", self.job.scheduler),
            sampling.choose_labels(unet, None, config.eval_num_samples),
            self.batch_size,
            num_inference_steps=config.eval_num_inference_steps,
            seed=config.seed,
            guidance_scale=config.guidance_scale,
        )
        gathering = Gathering(self.network, self.wanted, False, None, "")
        count = config.eval_num_samples
        fake = gathering.run(pictures, count, self.batch_size, self.runtime, "evaluating", on_batch)
        return name_figures(self.network, metrics.figures(self.wanted, self.real, fake, seed=config.seed))

    @property
    def conditions(self) -> dict[str, Any]:
        """What must be the same for two values of a figure to compare."""
        config = self.config
        return {
            "features": self.network.identity,
            "num_samples": config.eval_num_samples,
            "num_inference_steps": config.eval_num_inference_steps,
            "guidance_scale": config.guidance_scale,
        }

    def named(self, figure: str) -> str:
        """What a figure of ``--save_best`` is called among :meth:`figures`."""
        return next(iter(name_figures(self.network, {figure: 0.0})))


def write_metrics(
    config: EvaluateConfig,
    sampler: dict[str, Any],
    network: FeatureNetwork,
    real: Statistics | None,
    fake: Statistics,
    found: dict[str, float],
    seconds: float,
    output_dir: Path,
) -> None:
    """All that somebody needs to make the figures again."""
    of_data_set = ("dataset_config_name", "dataset_split", "image_column", "max_train_samples", "resize_mode")
    preparation = {name: getattr(config, name) for name in (*of_data_set, "image_interpolation_mode")}
    about = {
        "metrics": found,
        "num_samples": fake.count,
        "num_real": None if real is None else real.count,
        "model": config.model or None,
        "fake": config.fake,
        "real": config.real or config.dataset_name or config.train_data_dir or config.real_statistics,
        "real_preparation": preparation if config.dataset_name or config.train_data_dir else None,
        "sampler": sampler or None,
        "features": network.identity,
        "forced": config.force,
        "seconds": round(seconds, 1),
        "versions": versions(),
    }
    checkpoint.write_text(output_dir / METRICS_FILE, json.dumps(about, indent=2) + "\n")
    fewest = fake.count if real is None else min(real.count, fake.count)
    if config.force and "fid" in config.metrics.split(",") and fewest <= network.width:
        print(
            f"warning: fid of {fewest} pictures for features of width {network.width}: too high by far, and not to be "
            "compared with anything",
            file=sys.stderr,
        )


def show(found: dict[str, float]) -> str:
    """The figures as a table for a person; a spread stands behind its figure."""
    rows = []
    for name, value in found.items():
        if not name.endswith("_std"):
            spread = f" ± {found[name + '_std']:.5g}" if name + "_std" in found else ""
            rows.append((name, f"{value:.6g}{spread}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
