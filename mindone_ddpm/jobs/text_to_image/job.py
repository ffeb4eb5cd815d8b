"""The text-to-image job: fine-tune Stable Diffusion's UNet, or LoRA adapters on it, on captioned images.

The autoencoder and the text encoder are frozen: they run inside the compiled step without gradients or, with
``cache_latents``, once over the data before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.values import near_multiples
from mindone_ddpm.data.images import DataError
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.evaluation.evaluator import Evaluator
from mindone_ddpm.jobs.text_to_image.captions import Captions, open_captioned
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig
from mindone_ddpm.jobs.text_to_image.latents import FrozenLatents, LatentCache
from mindone_ddpm.jobs.text_to_image.product import text_to_image_product
from mindone_ddpm.jobs.unconditional.job import network_identity
from mindone_ddpm.models import lora
from mindone_ddpm.models.pipelines import latent_factor, load_text_pipeline, save_text_pipeline, size_divisor
from mindone_ddpm.models.precision import set_compute_precision
from mindone_ddpm.models.schedulers import is_flow
from mindone_ddpm.models.unet import num_parameters, prepare_network
from mindone_ddpm.models.weights import AdapterWeights, NetworkWeights, WholeNetwork
from mindone_ddpm.objectives.base import Objective, draw_noise
from mindone_ddpm.objectives.choose import make_objective, training_scheduler
from mindone_ddpm.output.product import Product
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.start import Runtime
from mindone_ddpm.sampling.prompts import generate_from_prompts

# What a text encoder's configuration says about its file, not about the network.
NOT_STRUCTURE = ("_name_or_path", "architectures", "transformers_version")


class TextToImageLoss(nn.Cell):
    """The loss of each captioned image. The parameters of :meth:`construct` are the columns of a batch, by name.

    Args:
        frozen: maps (images, posterior noise, tokens) to (latents, embeddings); None where a batch has those two.
    """

    def __init__(self, unet: nn.Cell, objective: Objective, frozen: nn.Cell | None):
        super().__init__(auto_prefix=False)
        self.unet = unet
        self.objective = objective
        self.is_cached = frozen is None
        self.frozen: Any = frozen

    def construct(
        self,
        noise,
        timesteps,
        images=None,
        posterior_noise=None,
        tokens=None,
        latents=None,
        embeddings=None,
        input_noise=None,
    ):
        """Float32 of shape (batch,)."""
        if not self.is_cached:
            latents, embeddings = self.frozen(images, posterior_noise, tokens)
        model_input, time, target, weight = self.objective.corrupt(latents, noise, timesteps, input_noise)
        prediction = self.unet(model_input, time, embeddings)[0]
        return self.objective.loss(prediction, target, weight)


class TextToImageJob:
    """See :class:`mindone_ddpm.jobs.base.Job`."""

    steps_show_images = False  # but latents

    def __init__(
        self, config: TextToImageConfig, runtime: Runtime, records: ImageRecords, captions: Captions, base: Any
    ):
        """``base`` is the StableDiffusionPipeline to fine-tune."""
        self.config, self.runtime, self.records, self.captions, self.base = config, runtime, records, captions, base
        self.unet = base.unet
        self.datasets = [records]
        scheduler = training_scheduler(base.scheduler)
        if config.prediction_type is not None:
            if is_flow(scheduler):
                raise ConfigError(
                    f"--prediction_type {config.prediction_type}: --pretrained_model_name_or_path "
                    f"{config.pretrained_model_name_or_path} was trained by flow matching; leave the flag"
                )
            scheduler.register_to_config(prediction_type=config.prediction_type)
            base.scheduler.register_to_config(prediction_type=config.prediction_type)
        self.objective: Objective = make_objective(scheduler, config, weighting="uniform")
        self.latent_size = config.image_size // latent_factor(base.vae)
        self.unet.register_to_config(sample_size=self.latent_size)
        for frozen in (base.vae, base.text_encoder):
            frozen.set_train(False)
            set_compute_precision(frozen, config.mixed_precision)
            for parameter in frozen.get_parameters():
                parameter.requires_grad = False
        if config.rank is not None:
            lora.add_adapters(self.unet, config.rank, config.lora_alpha, config.lora_target_modules.split(","))
        fused_attention = config.enable_xformers_memory_efficient_attention and runtime.backend.fused_attention
        prepare_network(self.unet, config.mixed_precision, fused_attention, config.gradient_checkpointing)
        self.cache: LatentCache | None = None
        inputs = ("latents", "embeddings") if config.cache_latents else ("images", "posterior_noise", "tokens")
        self.columns = ("noise", "timesteps", *inputs, *(["input_noise"] if config.input_perturbation else []))
        self.product: Product = text_to_image_product(config)
        self.num_samples = len(config.validation_prompts or [])  # an image for each prompt
        self.num_sampling_steps = config.num_validation_inference_steps

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
            records, caption_column = open_captioned(config)
        base = load_text_pipeline(
            str(config.pretrained_model_name_or_path),
            "--pretrained_model_name_or_path",
            revision=config.revision,
            variant=config.variant,
        )
        divisor = size_divisor(base)
        if config.image_size % divisor:
            raise ConfigError(
                f"--resolution {config.image_size}: the autoencoder and the UNet of this pipeline need a multiple of "
                f"{divisor}, for example {near_multiples(config.image_size, divisor)}"
            )
        if base.unet.config.in_channels != base.vae.config.latent_channels:
            raise ConfigError(
                f"--pretrained_model_name_or_path {config.pretrained_model_name_or_path}: its UNet takes "
                f"{base.unet.config.in_channels} channels (inpainting?); a text-to-image pipeline is needed"
            )
        captions = Captions(records, caption_column, base.tokenizer, config.streaming)
        return cls(config, runtime, records, captions, base)

    # --- training --------------------------------------------------------------------------------------------------

    def trainable(self) -> dict[str, Parameter]:
        return {name: parameter for name, parameter in self.unet.parameters_and_names() if parameter.requires_grad}

    def weights(self) -> dict[str, NetworkWeights]:
        return {"unet": AdapterWeights(self.unet) if self.config.rank is not None else WholeNetwork(self.unet)}

    def identity(self) -> dict[str, Any]:
        text_encoder = self.base.text_encoder.config.to_dict()
        return {
            "unet": network_identity(self.unet),
            "noise": self.objective.identity(),
            "vae": network_identity(self.base.vae),
            "text_encoder": {name: value for name, value in text_encoder.items() if name not in NOT_STRUCTURE},
        }

    def before_training(self, show_progress: bool) -> None:
        """Fill the cache of latents and embeddings, or load it from disk; else decode the images once."""
        if not self.config.cache_latents:
            self.records.cache(self.config.cache_images_mib, show_progress)
            return
        with distributed.main_first(self.runtime):
            self.cache = LatentCache.open(self.config, self.records, self.captions, self.base, show_progress)

    def make_batch(self, indices: np.ndarray, rngs: list[np.random.Generator]) -> dict[str, np.ndarray]:
        """Noise, float32 (batch, latent channels, latent size, latent size); timesteps, int32 (batch,); then images in
        [-1, 1], float32 (batch, 3, size, size), the noise of the autoencoder's posterior, like the noise, and tokens,
        int32 (batch, length); or latents and embeddings; and input noise where it is used.

        Each sample draws from its own generator, always in the same order: flip, crop, timestep, posterior, noise,
        caption.
        """
        config, records = self.config, self.records
        if config.cache_latents and self.cache is None:
            raise DataError("--cache_latents: nothing is cached before training begins")
        shape = (len(indices), self.base.vae.config.latent_channels, self.latent_size, self.latent_size)
        batch = {name: np.empty(shape, np.float32) for name in ("noise", "posterior_noise", "input_noise")}
        batch["timesteps"] = np.empty(len(indices), self.objective.time_dtype)
        images, chosen, flips = [], [], []
        for row, (index, rng) in enumerate(zip(indices, rngs, strict=True)):
            if self.cache is None:
                images.append(records.augmented_image(index, rng))
            else:
                flips.append(records.draw_augmentation(rng)[:2])  # (horizontally, vertically)
            batch["timesteps"][row] = self.objective.draw_time(rng)
            rng.standard_normal(out=batch["posterior_noise"][row], dtype=np.float32)
            perturbed = draw_noise(rng, batch["noise"][row], config)
            if perturbed is not None:
                batch["input_noise"][row] = perturbed
            choice, dropped = rng.random(2)
            chosen.append("" if dropped < config.caption_dropout else self.captions.choose(index, choice))
        if self.cache is None:
            batch |= {"images": np.stack(images), "tokens": self.captions.tokens(chosen)}
        else:
            batch["latents"] = self.cache.latents(indices, flips, batch["posterior_noise"])
            batch["embeddings"] = self.cache.embeddings(chosen)
        return {name: batch[name] for name in self.columns}

    def loss_cell(self) -> TextToImageLoss:
        frozen = None if self.config.cache_latents else FrozenLatents(self.base.vae, self.base.text_encoder)
        return TextToImageLoss(self.unet, self.objective, frozen)

    # --- results ---------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """The whole pipeline, or the adapters alone. The scheduler is the one that the pipeline came with."""
        if self.config.rank is not None:
            lora.save_adapters(self.unet, folder)
        else:
            save_text_pipeline(self.base, folder)

    def describe(self) -> dict[str, str]:
        config = self.config
        kind = f"LoRA adapters of rank {config.rank} on it" if config.rank is not None else "its UNet"
        return {
            "data": f"{len(self.records):,} images at {config.image_size}x{config.image_size}, captions from "
            f"'{self.captions.column}'{self.captions.remark()}",
            "model": f"{config.pretrained_model_name_or_path}: {kind}, {num_parameters(self.unet):,} parameters train",
        }

    def sample(self, sample_ids: Sequence[int], on_step: Callable[[Tensor], object]) -> np.ndarray:
        """Images for the validation prompts."""
        prompts = self.config.validation_prompts or []
        return generate_from_prompts(
            self.base,
            [prompts[sample_id % len(prompts)] for sample_id in sample_ids],
            sample_ids=sample_ids,
            batch_size=1,  # a UNet of real size needs its time and memory for one
            num_inference_steps=self.num_sampling_steps,
            guidance_scale=self.config.guidance_scale,
            seed=self.config.seed,
            on_step=on_step,
        )

    def evaluators(self) -> list[Evaluator]:
        return []
