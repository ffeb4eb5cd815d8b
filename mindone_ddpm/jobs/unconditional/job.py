"""The unconditional job: train a UNet2DModel on images, with labels or without, and sample with a DDPMPipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from tqdm import tqdm

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.config.groups import BUILT_IN_DATASETS
from mindone_ddpm.data.augment import CONDITION_SIZE, draw_transform, warp
from mindone_ddpm.data.columns import CalledByName
from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.data.scaling import to_model_range
from mindone_ddpm.evaluation.evaluator import Evaluator
from mindone_ddpm.evaluation.in_training import QualityEvaluator
from mindone_ddpm.evaluation.validation_loss import NUM_BUCKETS, ValidationLoss
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.data import open_records
from mindone_ddpm.jobs.unconditional.product import unconditional_product
from mindone_ddpm.jobs.unconditional.recipe import apply_recipe
from mindone_ddpm.models import schedulers
from mindone_ddpm.models.augment_condition import AugmentCondition
from mindone_ddpm.models.dropout import DropoutKeys, draw_dropout_key
from mindone_ddpm.models.pipelines import save_pipeline
from mindone_ddpm.models.unet import load_unet, make_unet, num_parameters, prepare_network, unet_name
from mindone_ddpm.models.weights import LooseParameters, NetworkWeights, WholeNetwork
from mindone_ddpm.objectives.base import Objective, draw_noise
from mindone_ddpm.objectives.choose import make_noise_scheduler, make_objective, training_scheduler
from mindone_ddpm.objectives.coupling import nearest_order
from mindone_ddpm.output.product import Product
from mindone_ddpm.runtime import distributed
from mindone_ddpm.runtime.start import Runtime
from mindone_ddpm.sampling.generate import generate


class UnconditionalLoss(nn.Cell):
    """The loss of each image. The parameters of :meth:`construct` are the columns of a batch, by name.

    Args:
        keys: of the network's keyed dropout; None where it has none.
        augment: tells the network how images were augmented; None where they were not.
    """

    def __init__(
        self,
        unet: nn.Cell,
        objective: Objective,
        keys: DropoutKeys | None = None,
        augment: AugmentCondition | None = None,
    ):
        super().__init__(auto_prefix=False)
        self.unet = unet
        self.objective = objective
        self.keys: Any = keys
        self.augment: Any = augment

    def construct(self, images, noise, timesteps, input_noise=None, labels=None, dropout_keys=None, augmentation=None):
        """Float32 of shape (batch,)."""
        if augmentation is not None:
            self.augment(augmentation)
        if dropout_keys is not None:
            self.keys(dropout_keys)
        model_input, time, target, weight = self.objective.corrupt(images, noise, timesteps, input_noise)
        prediction = self.unet(model_input, time, labels)[0]
        return self.objective.loss(prediction, target, weight)


class UnconditionalJob:
    """See :class:`mindone_ddpm.jobs.base.Job`."""

    steps_show_images = True

    def __init__(self, config: TrainingConfig, runtime: Runtime, records: ImageRecords, unet: Any, scheduler: Any):
        """
        Args:
            unet: a UNet2DModel that fits the images.
            scheduler: a DDPMScheduler, or one of flow matching: the noise levels to train on.
        """
        self.config, self.runtime, self.records, self.unet = config, runtime, records, unet
        self.objective: Objective = make_objective(scheduler, config, config.loss_weighting)
        if config.noise_coupling != "independent" and not self.objective.any_coupling:
            raise ConfigError(f"--noise_coupling {config.noise_coupling}: is for --objective flow_matching")
        self.datasets = [records]
        self.num_classes = len(records.labels.names) if records.labels is not None else 0
        self.keys = DropoutKeys.for_network(unet, config.train_batch_size)
        self.augment: AugmentCondition | None = None
        if config.augment_probability > 0:
            self.augment = AugmentCondition.for_network(unet, config.train_batch_size, CONDITION_SIZE)
        fused_attention = config.enable_xformers_memory_efficient_attention and runtime.backend.fused_attention
        prepare_network(unet, config.mixed_precision, fused_attention, config.gradient_checkpointing)
        self.columns = (
            "images",
            "noise",
            "timesteps",
            *(["input_noise"] if config.input_perturbation else []),
            *(["labels"] if config.class_conditional else []),
            *(["dropout_keys"] if self.keys is not None else []),
            *(["augmentation"] if self.augment is not None else []),
        )
        self.product: Product = unconditional_product(config, len(records))
        self.num_samples = config.eval_batch_size
        self.sampler, self.num_sampling_steps = schedulers.sampler_for(scheduler, config.ddpm_num_inference_steps)

    @classmethod
    def open_data(cls, config: TrainingConfig) -> list[ImageRecords]:
        return [open_records(config)]

    @classmethod
    def open(cls, config: TrainingConfig, runtime: Runtime) -> UnconditionalJob:
        with distributed.main_first(runtime):
            (records,) = cls.open_data(config)
        config, reasons = apply_recipe(config, len(records), runtime.world_size)
        if runtime.is_main:
            for line in reasons:
                tqdm.write(f"  recipe: {line}")
        names = [] if records.labels is None else records.labels.names
        if config.pretrained_model_name_or_path is not None:
            unet, scheduler = load_unet(config, names)
            scheduler = training_scheduler(scheduler)
        else:
            unet, scheduler = make_unet(config, names), make_noise_scheduler(config)
        return cls(config, runtime, records, unet, scheduler)

    # --- training --------------------------------------------------------------------------------------------------

    def trainable(self) -> dict[str, Parameter]:
        found = {name: parameter for name, parameter in self.unet.parameters_and_names() if parameter.requires_grad}
        return found | ({} if self.augment is None else {"augment.weight": self.augment.weight})

    def weights(self) -> dict[str, NetworkWeights]:
        found: dict[str, NetworkWeights] = {"unet": WholeNetwork(self.unet)}
        if self.augment is not None:
            found["augment"] = LooseParameters({"weight": self.augment.weight})
        return found

    def identity(self) -> dict[str, Any]:
        return {"unet": network_identity(self.unet), "noise": self.objective.identity()}

    def before_training(self, show_progress: bool) -> None:
        self.records.cache(self.config.cache_images_mib, show_progress)

    def make_batch(self, indices: np.ndarray, rngs: list[np.random.Generator]) -> dict[str, np.ndarray]:
        """Images in [-1, 1] and noise, float32 of shape (batch, channels, size, size); the objective's times
        (batch,); and where they are used: input noise, like the noise; labels and dropout keys, int32 (batch,);
        what the augmentation did, float32 (batch, CONDITION_SIZE).

        The label of an image whose label is dropped is the number after the last class. Each sample draws from its own
        generator, always in the same order: flip, crop, augmentation, timestep, noise, label, key.
        With ``noise_coupling`` the noise of the batch is put into another order then.
        """
        records, config = self.records, self.config
        shape = (len(indices), records.channels, records.size, records.size)
        batch = {name: np.empty(shape, np.float32) for name in ("images", "noise", "input_noise")}
        batch |= {name: np.zeros(len(indices), np.int32) for name in ("labels", "dropout_keys")}
        batch["augmentation"] = np.zeros((len(indices), CONDITION_SIZE), np.float32)
        batch["timesteps"] = np.zeros(len(indices), self.objective.time_dtype)
        for row, (index, rng) in enumerate(zip(indices, rngs, strict=True)):
            batch["images"][row] = records.augmented_image(index, rng)
            if self.augment is not None:
                transform = draw_transform(rng, config.augment_probability)
                batch["images"][row] = warp(batch["images"][row], transform.matrix)
                batch["augmentation"][row] = transform.condition
            batch["timesteps"][row] = self.objective.draw_time(rng)
            perturbed = draw_noise(rng, batch["noise"][row], config)
            if perturbed is not None:
                batch["input_noise"][row] = perturbed
            if config.class_conditional:
                dropped = rng.random() < config.label_dropout
                batch["labels"][row] = self.num_classes if dropped else records.label(index)
            if self.keys is not None:
                batch["dropout_keys"][row] = draw_dropout_key(rng)
        if config.noise_coupling != "independent":
            self._couple(batch)
        return {name: batch[name] for name in self.columns}

    def _couple(self, batch: dict[str, np.ndarray]) -> None:
        """Put the noise of a batch into the order in which it lies nearest to the images."""
        order = nearest_order(batch["images"], batch["noise"], (batch["labels"], batch["augmentation"]))
        for name in {"noise", "input_noise"} & {*self.columns}:
            batch[name] = batch[name][order]

    def loss_cell(self) -> UnconditionalLoss:
        return UnconditionalLoss(self.unet, self.objective, self.keys, self.augment)

    # --- results ---------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        save_pipeline(self.unet, self.objective.scheduler(), folder)

    def describe(self) -> dict[str, str]:
        config, classes = self.config, f", {self.num_classes} classes" if self.num_classes else ""
        held_out = f", and {len(self.records.held_out):,} held out" if self.records.held_out else ""
        return {
            "data": f"{len(self.records):,} images at {config.image_size}x{config.image_size}, "
            f"{config.channels} channel(s){classes}{held_out}",
            **self._describe_augmentation(),
            "model": f"{unet_name(config)}, {num_parameters(self.unet):,} parameters",
        }

    def _describe_augmentation(self) -> dict[str, str]:
        if self.augment is None:
            return {}
        text = f"each of six transformations with probability {self.config.augment_probability:g}"
        if self.config.dataset_name in BUILT_IN_DATASETS:
            text += (
                "; mirrored or turned digits are none, and only what the network is told keeps them from the samples"
            )
        return {"augmented": text}

    def sample(self, sample_ids: Sequence[int], on_step: Callable[[Tensor], object]) -> np.ndarray:
        """Image ``i`` is the same whenever it is made, and shows class ``i`` modulo their number."""
        labels = [sample_id % self.num_classes for sample_id in sample_ids] if self.num_classes else None
        return generate(
            self.unet,
            self.sampler,
            sample_ids=sample_ids,
            batch_size=len(sample_ids),
            num_inference_steps=self.num_sampling_steps,
            seed=self.config.seed,
            labels=labels,
            guidance_scale=self.config.guidance_scale,
            on_step=on_step,
        )

    def evaluators(self) -> list[Evaluator]:
        config = self.config
        found: list[Evaluator] = []
        if self.records.held_out is not None:
            found.append(self.validation_loss(self.records.held_out))
        if config.eval_metrics is not None:
            scheduler, guidance_scale = self.objective.scheduler(), config.guidance_scale
            found.append(
                QualityEvaluator(config, self.runtime, self.records, self.unet, scheduler, config.seed, guidance_scale)
            )
        return found

    def validation_loss(self, held_out: ImageRecords) -> ValidationLoss:
        """The plain loss on images that are not trained on."""
        config, objective = self.config, self.objective
        columns: dict[str, Any] = {"images": ms.float32, "noise": ms.float32, "timesteps": objective.time_type}
        if held_out.labels is not None:
            columns["labels"] = ms.int32

        def make_row(index: int, rng: np.random.Generator, bucket: int) -> dict[str, Any]:
            image = to_model_range(held_out.image(index))
            row: dict[str, Any] = {"images": image, "timesteps": objective.draw_time_within(rng, bucket, NUM_BUCKETS)}
            row["noise"] = rng.standard_normal(image.shape, dtype=np.float32)
            if held_out.labels is not None:
                row["labels"] = held_out.label(index)
            return row

        return ValidationLoss(
            self.runtime,
            self.unet,
            CalledByName(UnconditionalLoss(self.unet, objective.plain()), tuple(columns)),
            columns,
            make_row,
            num_held_out=len(held_out),
            num_images=config.validation_num_images,
            batch_size=config.train_batch_size,
            bucket_names=objective.bucket_names(NUM_BUCKETS),
            every=config.validation_loss_steps,
        )


def network_identity(network: Any) -> dict[str, Any]:
    """A network's configuration, as JSON has it."""
    settings = {key: value for key, value in dict(network.config).items() if not key.startswith("_")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in sorted(settings.items())}
