"""The unconditional job: images to noisy images to a loss, and the pipeline that samples from what was learned.

A job is a small contract: which columns a batch has, how it is made, how it becomes one loss a sample, and which
pipeline holds the result. It has no loop of its own. With classes, an image's label goes in beside the timestep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn

from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.product import unconditional_product
from mindone_ddpm.models.dropout import DropoutKeys, draw_dropout_key
from mindone_ddpm.models.pipelines import UNET_WEIGHTS, make_pipeline
from mindone_ddpm.models.schedulers import make_noise_scheduler
from mindone_ddpm.models.unet import load_unet, make_unet, num_parameters, unet_name
from mindone_ddpm.objectives.ddpm import DenoisingLoss, draw_noise, make_denoising_loss
from mindone_ddpm.sampling.generate import generate


class UnconditionalLoss(nn.Cell):
    """The loss of each image: the noise goes in, the UNet answers, ``loss`` compares.

    The columns of a batch are those of the job without the weights, in its order.
    """

    def __init__(
        self, unet: nn.Cell, loss: DenoisingLoss, has_labels: bool, has_input_noise: bool, keys: DropoutKeys | None
    ):
        super().__init__(auto_prefix=False)
        self.unet = unet
        self.loss = loss
        self.has_labels, self.has_input_noise = has_labels, has_input_noise
        self.has_keys = keys is not None
        self.keys: Any = keys

    def construct(self, images, noise, timesteps, *others):
        """Float32 of shape (batch,)."""
        place = 0
        input_noise, labels = noise, None
        if self.has_input_noise:
            input_noise = others[place]
            place += 1
        if self.has_labels:
            labels = others[place]
            place += 1
        if self.has_keys:
            self.keys(others[place])
        noisy = self.loss.add_noise(images, input_noise, timesteps)
        prediction = self.unet(noisy, timesteps, labels)[0]
        return self.loss(prediction, images, noise, timesteps)


class UnconditionalJob:
    """Train a UNet2DModel on images, sample with a DDPMPipeline."""

    steps_show_pictures = True  # what :meth:`sample` hands to ``on_step``
    # Settings of this job without which going on from a checkpoint would not be the same run.
    decisive_settings = (
        "channels",
        "preserve_input_precision",
        "ddpm_num_steps",
        "ddpm_beta_schedule",
        "rescale_betas_zero_snr",
        "prediction_type",
        "loss_weighting",
        "class_conditional",
        "label_dropout",
        "validation_split",
    )

    needs_pictures = True  # for its batches
    weights_file = UNET_WEIGHTS  # what `save_weights` writes

    def __init__(self, config: TrainingConfig, records: ImageRecords, unet: Any, scheduler: Any):
        self.config, self.records, self.unet, self.scheduler = config, records, unet, scheduler
        self.product = unconditional_product(config)
        self.num_train_timesteps = scheduler.config.num_train_timesteps
        self.num_classes = len(records.labels.names) if records.labels is not None else 0
        self.keys = DropoutKeys.for_network(unet, config.train_batch_size)
        self.columns = (
            "images",
            "noise",
            "timesteps",
            *(["input_noise"] if config.input_perturbation else []),
            *(["labels"] if config.class_conditional else []),
            *(["dropout_keys"] if self.keys is not None else []),
            "weights",
        )

    def make_batch(self, indices: np.ndarray, generators: list[np.random.Generator]) -> tuple[np.ndarray, ...]:
        """The columns but the weights: images in [-1, 1] and noise, float32 of shape (batch, channels, size, size);
        timesteps, int32 (batch,); and as far as they are asked for input noise, like the noise, and labels and
        dropout keys, int32 (batch,). A label that is left out is the number after the last class.

        Each sample draws from its own generator, always in the same order: flip, crop, timestep, noise, label, key.
        """
        records, config = self.records, self.config
        shape = (len(indices), records.channels, records.size, records.size)
        images, noise = np.empty(shape, np.float32), np.empty(shape, np.float32)
        timesteps, labels, keys = (np.zeros(len(indices), np.int32) for _ in range(3))
        input_noise = np.empty(shape, np.float32) if config.input_perturbation else None
        for row, (index, generator) in enumerate(zip(indices, generators, strict=True)):
            images[row] = records.augmented_image(index, generator)
            timesteps[row] = generator.integers(self.num_train_timesteps)
            perturbed = draw_noise(generator, noise[row], config)
            if input_noise is not None:
                input_noise[row] = perturbed
            if config.class_conditional:
                dropped = generator.random() < config.label_dropout
                labels[row] = self.num_classes if dropped else records.label(index)
            if self.keys is not None:
                keys[row] = draw_dropout_key(generator)
        columns: dict[str, Any] = {"input_noise": input_noise, "labels": labels, "dropout_keys": keys}
        return (images, noise, timesteps, *(columns[name] for name in self.columns[3:-1]))

    def named_parameters(self) -> list[tuple[str, Any]]:
        """What training changes, by the names under which it is kept in a checkpoint."""
        return list(self.unet.parameters_and_names())

    def save_weights(self, folder: Path) -> None:
        self.unet.save_pretrained(str(folder))

    def before_training(self, show_progress: bool) -> None:
        """Nothing has to be made beforehand."""

    def loss_cell(self) -> UnconditionalLoss:
        loss = make_denoising_loss(self.config, self.scheduler)
        has_input_noise = bool(self.config.input_perturbation)
        return UnconditionalLoss(self.unet, loss, self.config.class_conditional, has_input_noise, self.keys)

    def pipeline(self) -> Any:
        """mindone's ``DDPMPipeline``."""
        return make_pipeline(self.unet, self.scheduler)

    def describe(self) -> dict[str, str]:
        """The plan's lines on data and model."""
        config, classes = self.config, f", {self.num_classes} classes" if self.num_classes else ""
        return {
            "data": f"{len(self.records):,} images at {config.image_size}x{config.image_size}, "
            f"{config.channels} channel(s){classes}"
            + (f", and {len(self.records.held_out):,} not trained on" if self.records.held_out else ""),
            "model": f"{unet_name(config)}, {num_parameters(self.unet):,} parameters",
        }

    @property
    def frozen_settings(self) -> dict[str, Any]:
        """Of networks beside the UNet that are compiled with it: there are none."""
        return {}

    @property
    def num_samples(self) -> int:
        """Pictures in a grid of samples."""
        return self.config.eval_batch_size

    @property
    def num_sampling_steps(self) -> int:
        return self.config.ddpm_num_inference_steps

    def sample(self, numbers: Sequence[int], on_step: Callable[[Any], object]) -> np.ndarray:
        """Pictures for a grid, values in [0, 1], float32 of shape (len(numbers), size, size, channels).

        Picture ``i`` is the same whenever it is made, and shows class ``i`` modulo their number.
        """
        labels = [number % self.num_classes for number in numbers] if self.num_classes else None
        return generate(
            self.unet,
            self.scheduler,
            numbers=numbers,
            batch_size=len(numbers),
            num_inference_steps=self.num_sampling_steps,
            seed=self.config.seed,
            labels=labels,
            guidance_scale=self.config.guidance_scale,
            on_step=on_step,
        )


def make_unconditional_job(config: TrainingConfig, records: ImageRecords) -> UnconditionalJob:
    """The job on these images, with a fresh UNet or with that of ``pretrained_model_name_or_path``."""
    names = [] if records.labels is None else records.labels.names
    if config.pretrained_model_name_or_path is not None:
        unet, scheduler = load_unet(config, names)
    else:
        unet, scheduler = make_unet(config, names), make_noise_scheduler(config)
    return UnconditionalJob(config, records, unet, scheduler)
