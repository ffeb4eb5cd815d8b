"""The text-to-image job: captioned images to latents and text embeddings to a loss, on Stable Diffusion's UNet.

The same contract as the unconditional job, and the same loop. The autoencoder and the text encoder are frozen: they run
inside the compiled step without gradients or, with ``cache_latents``, once over the data before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.libraries import quiet_imports
from mindone_ddpm.config.groups import near_multiples
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.jobs.text_to_image.captions import Captions
from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig
from mindone_ddpm.jobs.text_to_image.latents import FrozenLatents, LatentCache
from mindone_ddpm.jobs.text_to_image.product import text_to_image_product
from mindone_ddpm.models import lora
from mindone_ddpm.models.pipelines import (
    UNET_WEIGHTS,
    TextPipeline,
    latent_factor,
    load_text_pipeline,
    size_divisor,
)
from mindone_ddpm.models.precision import set_compute_precision
from mindone_ddpm.models.unet import num_parameters
from mindone_ddpm.objectives.ddpm import DenoisingLoss, draw_noise, make_denoising_loss
from mindone_ddpm.sampling.prompts import generate_from_prompts

with quiet_imports():
    from mindone.diffusers import DDPMScheduler


class TextToImageLoss(nn.Cell):
    """The loss of each captioned image: to latents and embeddings, the noise goes in, the UNet answers.

    Args:
        frozen: maps (images, posterior noise, tokens) to (latents, embeddings); None where a batch brings those two.
    """

    def __init__(self, unet: nn.Cell, loss: DenoisingLoss, frozen: nn.Cell | None, has_input_noise: bool):
        super().__init__(auto_prefix=False)
        self.unet = unet
        self.loss = loss
        self.is_cached = frozen is None
        self.frozen: Any = frozen
        self.has_input_noise = has_input_noise

    def construct(self, noise, timesteps, *others):
        """Float32 of shape (batch,)."""
        if self.is_cached:
            latents, embeddings = others[0], others[1]
        else:
            latents, embeddings = self.frozen(others[0], others[1], others[2])
        input_noise = others[-1] if self.has_input_noise else noise
        noisy = self.loss.add_noise(latents, input_noise, timesteps)
        prediction = self.unet(noisy, timesteps, embeddings)[0]
        return self.loss(prediction, latents, noise, timesteps)


class TextToImageJob:
    """Fine-tune the UNet of a Stable Diffusion pipeline, or adapters on it; sample with the pipeline."""

    steps_show_pictures = False  # but latents
    decisive_settings = (
        "prediction_type",
        "caption_dropout",
        "cache_latents",
        "rank",
        "lora_alpha",
        "lora_target_modules",
    )

    def __init__(self, config: TextToImageConfig, records: ImageRecords, captions: Captions, base: Any):
        """``base`` is the StableDiffusionPipeline to fine-tune."""
        self.config, self.records, self.captions, self.base = config, records, captions, base
        self.product = text_to_image_product(config)
        self.unet = base.unet
        self.scheduler = DDPMScheduler.from_config(base.scheduler.config)
        if config.prediction_type is not None:
            self.scheduler.register_to_config(prediction_type=config.prediction_type)
            base.scheduler.register_to_config(prediction_type=config.prediction_type)
        self.num_train_timesteps = self.scheduler.config.num_train_timesteps
        self.latent_size = config.image_size // latent_factor(base.vae)
        self.unet.register_to_config(sample_size=self.latent_size)
        for frozen in (base.vae, base.text_encoder):
            frozen.set_train(False)
            set_compute_precision(frozen, config.mixed_precision)
            for parameter in frozen.get_parameters():
                parameter.requires_grad = False
        if config.rank is not None:
            lora.add_adapters(self.unet, config.rank, config.lora_alpha, config.lora_target_modules.split(","))
        self.cache: LatentCache | None = None
        inputs = ("latents", "embeddings") if config.cache_latents else ("images", "posterior_noise", "tokens")
        self.columns = (
            "noise",
            "timesteps",
            *inputs,
            *(["input_noise"] if config.input_perturbation else []),
            "weights",
        )

    @property
    def weights_file(self) -> str:
        """What :meth:`save_weights` writes."""
        return lora.STATE_FILE if self.config.rank is not None else UNET_WEIGHTS

    @property
    def needs_pictures(self) -> bool:
        """Whether batches are made from pictures, not from what is kept of them."""
        return not self.config.cache_latents

    def named_parameters(self) -> list[tuple[str, ms.Parameter]]:
        """What training changes, by the names under which it is kept in a checkpoint."""
        if self.config.rank is not None:
            return lora.named_adapters(self.unet)
        return list(self.unet.parameters_and_names())

    def save_weights(self, folder: Path) -> None:
        if self.config.rank is not None:
            lora.save_state(self.unet, folder)
        else:
            self.unet.save_pretrained(str(folder))

    def make_batch(self, indices: np.ndarray, generators: list[np.random.Generator]) -> tuple[np.ndarray, ...]:
        """The columns but the weights: noise, float32 (batch, latent channels, latent size, latent size); timesteps,
        int32 (batch,); then images in [-1, 1], float32 (batch, 3, size, size), the noise of the autoencoder's
        posterior, like the noise, and tokens, int32 (batch, length); or latents and embeddings; then input noise.

        Each sample draws from its own generator, always in the same order: flip, crop, timestep, posterior, noise,
        caption.
        """
        config, records = self.config, self.records
        channels = self.base.vae.config.latent_channels
        noise, posterior, perturbed = (
            np.empty((len(indices), channels, self.latent_size, self.latent_size), np.float32) for _ in range(3)
        )
        timesteps = np.empty(len(indices), np.int32)
        images, chosen, flips = [], [], []
        for row, (index, generator) in enumerate(zip(indices, generators, strict=True)):
            if self.cache is None:
                images.append(records.augmented_image(index, generator))
            else:
                flip = generator.random(3)[0] < 0.5  # as many draws as for a picture
                flips.append(records.random_flip and flip)
            timesteps[row] = generator.integers(self.num_train_timesteps)
            generator.standard_normal(out=posterior[row], dtype=np.float32)
            other = draw_noise(generator, noise[row], config)
            if other is not None:
                perturbed[row] = other
            choice, dropped = generator.random(2)
            chosen.append("" if dropped < config.caption_dropout else self.captions.choose(index, choice))
        if self.cache is None:
            inputs = [np.stack(images), posterior, self.captions.tokens(chosen)]
        else:
            inputs = [self.cache.latents(indices, flips, posterior), self.cache.embeddings(chosen)]
        return (noise, timesteps, *inputs, *([perturbed] if config.input_perturbation else []))

    def before_training(self, show_progress: bool) -> None:
        """Fill the cache of latents and embeddings, or take it up from disk."""
        if self.config.cache_latents:
            self.cache = LatentCache.open(self.config, self.records, self.captions, self.base, show_progress)

    def loss_cell(self) -> TextToImageLoss:
        frozen = None
        if not self.config.cache_latents:
            frozen = FrozenLatents(self.base.vae, self.base.text_encoder)
        loss = make_denoising_loss(self.config, self.scheduler)
        return TextToImageLoss(self.unet, loss, frozen, bool(self.config.input_perturbation))

    def pipeline(self) -> Any:
        """What is saved: the whole pipeline, or the adapters alone. The scheduler is the one it came with."""
        return lora.AdapterFile(self.unet) if self.config.rank is not None else TextPipeline(self.base)

    def describe(self) -> dict[str, str]:
        """The plan's lines on data and model."""
        config = self.config
        kind = f"LoRA adapters of rank {config.rank} on it" if config.rank is not None else "its UNet"
        return {
            "data": f"{len(self.records):,} images at {config.image_size}x{config.image_size}, captions from "
            f"'{self.captions.column}'{self.captions.remark()}",
            "model": f"{config.pretrained_model_name_or_path}: {kind}, {num_parameters(self.unet):,} parameters train",
        }

    @property
    def frozen_settings(self) -> dict[str, Any]:
        """Of networks beside the UNet that are compiled with it."""
        return {"vae": dict(self.base.vae.config), "text_encoder": self.base.text_encoder.config.to_dict()}

    @property
    def num_samples(self) -> int:
        """A picture for each validation prompt."""
        return len(self.config.validation_prompts or [])

    @property
    def num_sampling_steps(self) -> int:
        return self.config.num_validation_inference_steps

    def sample(self, numbers: Sequence[int], on_step: Callable[[Any], object]) -> np.ndarray:
        """Pictures for the validation prompts, values in [0, 1], float32 of shape (len(numbers), size, size, 3)."""
        prompts = self.config.validation_prompts or []
        return generate_from_prompts(
            self.base,
            [prompts[number % len(prompts)] for number in numbers],
            numbers=numbers,
            batch_size=1,  # a UNet for real pictures takes its time and memory for one
            num_inference_steps=self.num_sampling_steps,
            guidance_scale=self.config.guidance_scale,
            seed=self.config.seed,
            on_step=on_step,
        )


def make_text_to_image_job(config: TextToImageConfig, records: ImageRecords, caption_column: str) -> TextToImageJob:
    """The job on these images, with the captions of a column.

    Raises:
        ConfigError: the pipeline is not one that can be fine-tuned here, or the size of the images does not fit it.
    """
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
    return TextToImageJob(config, records, captions, base)
