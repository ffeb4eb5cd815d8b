"""Fine-tuning Stable Diffusion on captioned images: the text-to-image job, on which the others are built.

The autoencoder is frozen, and mostly the text encoder: they run inside the compiled step without gradients or, with
``cache_latents``, once over the data before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.values import near_multiples
from mindone_ddpm.data.buckets import Size
from mindone_ddpm.data.images import DataError
from mindone_ddpm.data.records import GroupedSamples, ImageRecords, RepeatedSamples, Samples
from mindone_ddpm.evaluation.evaluator import Evaluator
from mindone_ddpm.jobs.text_to_image.buckets import check_buckets, check_step, describe_buckets
from mindone_ddpm.jobs.text_to_image.captions import Captions, open_captioned
from mindone_ddpm.jobs.text_to_image.config import FineTuneConfig, TextToImageConfig
from mindone_ddpm.jobs.text_to_image.latents import FrozenLatents, LatentCache, TextEmbeddings
from mindone_ddpm.jobs.text_to_image.product import fine_tuned_product
from mindone_ddpm.jobs.text_to_image.trained import TrainedParts, trained_parts
from mindone_ddpm.jobs.unconditional.job import network_identity
from mindone_ddpm.models.foreign import pipeline_kind
from mindone_ddpm.models.pipelines import (
    TEXT_PIPELINES,
    XL_PIPELINE,
    is_xl,
    latent_factor,
    load_text_pipeline,
    size_divisor,
    text_encoders,
    tokenizers,
)
from mindone_ddpm.models.precision import freeze, set_compute_precision
from mindone_ddpm.models.schedulers import is_flow
from mindone_ddpm.models.unet import prepare_network
from mindone_ddpm.models.weights import NetworkWeights
from mindone_ddpm.objectives.base import Objective, draw_noise
from mindone_ddpm.objectives.choose import make_objective, training_scheduler
from mindone_ddpm.output.product import Product
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.start import Runtime
from mindone_ddpm.sampling.prompts import generate_from_prompts

# What a text encoder's configuration says about its file, not about the network.
NOT_STRUCTURE = ("_name_or_path", "architectures", "transformers_version")


@dataclass
class Source:
    """Images with captions, of which each row of a batch has one, and the weight of their loss."""

    records: ImageRecords
    captions: Captions
    weight: float = 1.0


class TextToImageLoss(nn.Cell):
    """The loss of each row. The parameters of :meth:`construct` are the columns of a batch, by name.

    Args:
        latents: maps (images, posterior noise) to latents; used where a batch has no latents.
        text: maps tokens to embeddings and pooled ones; used where a batch has no embeddings.
        weights: of the sources. A batch holds the images of all rows from the first source, then those from the second.
    """

    def __init__(
        self, unet: nn.Cell, objective: Objective, latents: nn.Cell, text: nn.Cell, weights: Sequence[float] = (1.0,)
    ):
        super().__init__(auto_prefix=False)
        self.unet = unet
        self.objective = objective
        self.latents: Any = latents
        self.text: Any = text
        self.weights = tuple(weights)

    def construct(
        self,
        noise,
        timesteps,
        images=None,
        posterior_noise=None,
        tokens=None,
        tokens_2=None,
        latents=None,
        embeddings=None,
        pooled=None,
        sizes=None,
        input_noise=None,
    ):
        """Float32 of shape (rows,)."""
        if latents is None:
            latents = self.latents(images, posterior_noise)
        if embeddings is None:
            embeddings, pooled = self.text(tokens, tokens_2)
        model_input, time, target, weight = self.objective.corrupt(latents, noise, timesteps, input_noise)
        if sizes is None:
            prediction = self.unet(model_input, time, embeddings)[0]
        else:  # XL
            more = {"text_embeds": pooled, "time_ids": sizes}
            prediction = self.unet(model_input, time, embeddings, added_cond_kwargs=more)[0]
        losses = self.objective.loss(prediction, target, weight)
        if len(self.weights) == 1:
            return losses
        losses = losses.reshape(len(self.weights), -1)
        total = losses[0] * self.weights[0]
        for number in range(1, len(self.weights)):
            total = total + losses[number] * self.weights[number]
        return total


class FineTuneJob:
    """See :class:`mindone_ddpm.jobs.base.Job`. What every fine-tuning of Stable Diffusion shares.

    Args:
        base: the StableDiffusionPipeline to fine-tune, as :meth:`open_base` gives it.
        sources: of each row's images, such as those of a subject and those of its class. An epoch is as long as the
            longest of them; the others are gone through again. All images of a row have the size of the first.
        trained: which weights train.
        repeats: how often an epoch goes through the longest.
    """

    steps_show_images = False  # but latents

    def __init__(
        self,
        config: FineTuneConfig,
        runtime: Runtime,
        base: Any,
        sources: Sequence[Source],
        trained: TrainedParts,
        product: Product,
        repeats: int = 1,
    ):
        self.config, self.runtime, self.base = config, runtime, base
        self.sources, self.trained, self.product = list(sources), trained, product
        self.unet = base.unet
        self.datasets = self._datasets(repeats)
        self.buckets, groups = sources[0].records.buckets, self.datasets[0].groups
        self.global_batch_size = config.train_batch_size * runtime.world_size
        if self.buckets is not None and groups is not None:
            check_buckets(self.buckets, groups, self.global_batch_size, config.dataloader_drop_last)
        self.objective = objective_of(config, base)
        self.latent_factor = latent_factor(base.vae)
        self.caches: list[LatentCache] = []
        self.caches_texts = config.cache_latents and not trained.text_encoder_trains
        inputs = ("latents",) if config.cache_latents else ("images", "posterior_noise")
        self.is_xl = is_xl(base)
        text = ("embeddings", "pooled") if self.caches_texts else ("tokens", "tokens_2")
        self.columns = (
            *("noise", "timesteps", *inputs),
            *(text if self.is_xl else text[:1]),
            *(["sizes"] if self.is_xl else []),
            *(["input_noise"] if config.input_perturbation else []),
        )
        self.num_samples = len(config.validation_prompts or []) * config.num_validation_images
        self.num_sampling_steps = self._num_sampling_steps()

    def _datasets(self, repeats: int) -> Sequence[Samples]:
        """The rows of an epoch, and the other data sets; in buckets where the first source is."""
        rows, *others = sorted((source.records for source in self.sources), key=len, reverse=True)
        samples: Samples = rows if repeats == 1 else RepeatedSamples(rows, repeats)
        buckets = self.sources[0].records.buckets
        if buckets is not None:
            samples = GroupedSamples(samples, buckets.of_images[np.arange(len(samples)) % len(buckets.of_images)])
        return [samples, *others]

    def _size_of_row(self, index: int) -> Size:
        """Width and height in pixels of the images in a row."""
        records = self.sources[0].records
        return records.size_of(int(index) % len(records))

    def _num_sampling_steps(self) -> int:
        """Of all images that a rank makes, one by one; some samplers evaluate the model more often than asked for."""
        scheduler = self.base.scheduler
        scheduler.set_timesteps(self.config.num_validation_inference_steps)
        return len(scheduler.timesteps) * -(-self.num_samples // self.runtime.world_size)

    # --- training --------------------------------------------------------------------------------------------------

    def trainable(self) -> dict[str, Parameter]:
        return self.trained.trainable()

    def weights(self) -> dict[str, NetworkWeights]:
        return self.trained.weights()

    def identity(self) -> dict[str, Any]:
        encoders = {name: encoder.config.to_dict() for name, encoder in text_encoders(self.base).items()}
        return {
            "unet": network_identity(self.unet),
            "noise": self.objective.identity(),
            "vae": network_identity(self.base.vae),
            **({} if self.buckets is None else {"sizes": self.buckets.counts()}),
            **{
                name: {key: value for key, value in settings.items() if key not in NOT_STRUCTURE}
                for name, settings in encoders.items()
            },
        }

    def before_training(self, show_progress: bool) -> None:
        """Fill the caches of latents and embeddings, or load them from disk; else decode the images once."""
        config = self.config
        if not config.cache_latents:
            for source in self.sources:
                source.records.cache(config.cache_images_mib // len(self.sources), show_progress)
            return
        with distributed.main_first(self.runtime):
            rows = range(len(self.datasets[0]))
            self.caches = [
                LatentCache.open(
                    config,
                    source.records,
                    source.captions,
                    self.base,
                    show_progress,
                    [(row % len(source.records), self._size_of_row(row)) for row in rows],
                    with_texts=self.caches_texts,
                )
                for source in self.sources
            ]

    def make_batch(self, indices: np.ndarray, rngs: list[np.random.Generator]) -> dict[str, np.ndarray]:
        """Noise, float32 (images, latent channels, latent height, latent width); times (images,); then the images in
        [-1, 1], float32 (images, 3, height, width), and the noise of the autoencoder's posterior, like the noise, or
        latents; tokens, int32 (images, length), or embeddings; for XL the tokens of its second text encoder or pooled
        embeddings, and sizes, float32 (images, 6); and input noise where it is used.

        A row has an image from each source: first come those of all rows from the first. Each row draws from its own
        generator, for each source in the same order: flip, crop, time, posterior, noise, caption.
        """
        config, count = self.config, len(indices)
        if config.cache_latents and not self.caches:
            raise DataError("--cache_latents: nothing is cached before training begins")
        num_images = count * len(self.sources)
        width, height = size = self._size_of_row(indices[0])
        latent_size = (height // self.latent_factor, width // self.latent_factor)
        shape = (num_images, self.base.vae.config.latent_channels, *latent_size)
        batch = {name: np.empty(shape, np.float32) for name in ("noise", "posterior_noise", "input_noise")}
        batch["timesteps"] = np.empty(num_images, self.objective.time_dtype)
        if not self.caches:
            batch["images"] = np.empty((num_images, 3, height, width), np.float32)
        batch["sizes"] = np.empty((num_images, 6), np.float32)
        texts, flips = [""] * num_images, [(False, False)] * num_images
        for row, (index, rng) in enumerate(zip(indices, rngs, strict=True)):
            for number, source in enumerate(self.sources):
                place = number * count + row
                image = int(index) if config.streaming else int(index) % len(source.records)
                augmentation = source.records.draw_augmentation(rng)
                flips[place] = augmentation[:2]  # (horizontally, vertically)
                if not self.caches:
                    batch["images"][place] = source.records.augmented(image, augmentation, size)
                if self.is_xl:
                    # Podell et al. 2023, section 2.2: height and width of the image as it is stored, top and left of
                    # its crop, and the height and width that are wanted.
                    geometry = source.records.geometry(image, augmentation, size)
                    batch["sizes"][place] = (*geometry, height, width)
                batch["timesteps"][place] = self.objective.draw_time(rng)
                rng.standard_normal(out=batch["posterior_noise"][place], dtype=np.float32)
                perturbed = draw_noise(rng, batch["noise"][place], config)
                if perturbed is not None:
                    batch["input_noise"][place] = perturbed
                choice, dropped = rng.random(2)
                if dropped >= config.caption_dropout:
                    texts[place] = source.captions.choose(image, choice)
        if self.caches:
            batch["latents"] = self._cached_latents(indices, size, flips, batch["posterior_noise"])
        for which, name in enumerate(("tokens", "tokens_2")):
            if name in self.columns:
                batch[name] = self.sources[0].captions.tokens(texts, which)
        for name in ("embeddings", "pooled"):
            if name in self.columns:
                batch[name] = np.concatenate(
                    [cache.embeddings(texts[part], name) for cache, part in self._cached_parts(count)]
                )
        return {name: batch[name] for name in self.columns}

    def _cached_parts(self, count: int) -> Iterator[tuple[LatentCache, slice]]:
        """The cache of each source, and the place of its images in a batch of ``count`` rows."""
        for number, cache in enumerate(self.caches):
            yield cache, slice(number * count, (number + 1) * count)

    def _cached_latents(
        self, indices: np.ndarray, size: Size, flips: Sequence[tuple[bool, bool]], posterior_noise: np.ndarray
    ) -> np.ndarray:
        return np.concatenate(
            [
                cache.latents([int(i) % len(cache.records) for i in indices], size, flips[part], posterior_noise[part])
                for cache, part in self._cached_parts(len(indices))
            ]
        )

    def loss_cell(self) -> TextToImageLoss:
        return TextToImageLoss(
            self.unet,
            self.objective,
            FrozenLatents(self.base.vae),
            TextEmbeddings(self.base, self.trained.text_encoder_trains),
            [source.weight for source in self.sources],
        )

    # --- results ---------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        self.trained.save(folder)

    def describe(self) -> dict[str, str]:
        config = self.config
        size = f"images at {config.image_size}x{config.image_size}" if self.buckets is None else "images"
        texts = [f"{len(one.records):,} {size}, {one.captions.describe()}" for one in self.sources]
        count = sum(parameter.size for parameter in self.trainable().values())
        return {
            "data": "; ".join(texts),
            **self._describe_buckets(),
            "model": f"{config.pretrained_model_name_or_path}: {self.trained.description}, {count:,} parameters train",
        }

    def _describe_buckets(self) -> dict[str, str]:
        groups = self.datasets[0].groups
        if self.buckets is None or groups is None:
            return {}
        return {"sizes": describe_buckets(self.buckets, groups, self.global_batch_size)}

    def sample(self, sample_ids: Sequence[int], on_step: Callable[[Tensor], object]) -> np.ndarray:
        """Images for the validation prompts: several for the first, then as many for the second, and so on."""
        prompts, each = self.config.validation_prompts or [], self.config.num_validation_images
        return generate_from_prompts(
            self.base,
            [prompts[sample_id // each % len(prompts)] for sample_id in sample_ids],
            sample_ids=sample_ids,
            batch_size=1,  # a UNet of real size needs its time and memory for one
            num_inference_steps=self.config.num_validation_inference_steps,
            guidance_scale=self.config.guidance_scale,
            seed=self.config.seed,
            on_step=on_step,
        )

    def evaluators(self) -> list[Evaluator]:
        return []


class TextToImageJob(FineTuneJob):
    """See :class:`mindone_ddpm.jobs.base.Job`."""

    command, kind = "train_text_to_image", "StableDiffusionPipeline"

    @classmethod
    def open_data(cls, config: TextToImageConfig) -> list[ImageRecords]:
        return [open_captioned(config)[0]]

    @classmethod
    def open(cls, config: TextToImageConfig, runtime: Runtime) -> TextToImageJob:
        """
        Raises:
            ConfigError: the pipeline cannot be fine-tuned here, or the size of the images does not fit it.
        """
        with distributed.main_first(runtime):
            records, texts = open_captioned(config)
        base = open_base(config, (cls.kind,))
        trained = trained_parts(base, config)
        prepare_base(config, runtime, base)
        source = Source(records, Captions(texts, *tokenizers(base)))
        return cls(config, runtime, base, [source], trained, fine_tuned_product(config, cls.command, cls.kind))


class TextToImageXLJob(TextToImageJob):
    """The same for Stable Diffusion XL."""

    command, kind = "train_text_to_image_sdxl", XL_PIPELINE


# --- the pipeline to fine-tune -------------------------------------------------------------------------------------


def open_base(config: FineTuneConfig, kinds: Sequence[str] = TEXT_PIPELINES) -> Any:
    """The pipeline to fine-tune. ``kinds``: the pipeline classes that the job takes.

    Raises:
        ConfigError: it cannot be loaded or fine-tuned, or the size of the images does not fit it.
    """
    name = "--pretrained_model_name_or_path"
    model = str(config.pretrained_model_name_or_path)
    flag = f"{name} {model}"
    kind = pipeline_kind(model, name, config.revision, config.hub)
    if kind in TEXT_PIPELINES and kind not in kinds:
        suited = "train_text_to_image_sdxl" if kind == XL_PIPELINE else "train_text_to_image"
        raise ConfigError(f"{flag}: is a {kind}, which this command does not train; {suited} does")
    base = load_text_pipeline(
        model,
        name,
        revision=config.revision,
        variant=config.variant,
        kinds=kinds,
        vae=config.pretrained_vae_model_name_or_path,
        hub=config.hub,
    )
    divisor = size_divisor(base)
    if config.image_size % divisor:
        raise ConfigError(
            f"--resolution {config.image_size}: the autoencoder and the UNet of this pipeline need a multiple of "
            f"{divisor}, for example {near_multiples(config.image_size, divisor)}"
        )
    check_step(config, divisor)
    if base.unet.config.in_channels != base.vae.config.latent_channels:
        raise ConfigError(
            f"{flag}: its UNet takes {base.unet.config.in_channels} channels (inpainting?); a text-to-image pipeline "
            "is needed"
        )
    if config.prediction_type is not None:
        if is_flow(training_scheduler(base.scheduler)):
            raise ConfigError(
                f"--prediction_type {config.prediction_type}: {flag} was trained by flow matching; leave the flag"
            )
        base.scheduler.register_to_config(prediction_type=config.prediction_type)
    return base


def prepare_base(config: FineTuneConfig, runtime: Runtime, base: Any) -> None:
    """Put the networks in the precision of training, once it is known what trains; the autoencoder is frozen."""
    base.unet.register_to_config(sample_size=config.image_size // latent_factor(base.vae))
    if is_xl(base):
        base.default_sample_size = base.unet.config.sample_size
    freeze(base.vae)
    for network in (base.vae, *text_encoders(base).values()):
        network.set_train(False)
        # XL's own autoencoder overflows in half precision, and says so.
        upcast = network is base.vae and is_xl(base) and base.vae.config.force_upcast
        if not (upcast and config.mixed_precision == "fp16"):
            set_compute_precision(network, config.mixed_precision)
    fused_attention = config.enable_xformers_memory_efficient_attention and runtime.backend.fused_attention
    prepare_network(base.unet, config.mixed_precision, fused_attention, config.gradient_checkpointing)


def objective_of(config: FineTuneConfig, base: Any) -> Objective:
    return make_objective(training_scheduler(base.scheduler), config, weighting="uniform")
