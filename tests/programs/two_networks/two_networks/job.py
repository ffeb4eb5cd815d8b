"""The job: the loss is that of the sum of a UNet's and a corrector's predictions."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from PIL import Image
from safetensors.numpy import save_file

from mindone_ddpm.data.open import open_records
from mindone_ddpm.models.foreign import PIPELINE_INDEX
from mindone_ddpm.models.pipelines import make_pipeline
from mindone_ddpm.models.unet import make_unet, prepare_network
from mindone_ddpm.models.weights import WholeNetwork
from mindone_ddpm.objectives.base import draw_noise
from mindone_ddpm.objectives.choose import make_noise_scheduler
from mindone_ddpm.objectives.ddpm import DDPMObjective
from mindone_ddpm.output.product import Product
from mindone_ddpm.sampling.generate import generate


class Corrector(nn.Cell):
    """One number for each channel of the input."""

    def __init__(self, channels):
        super().__init__()
        self.gain = ms.Parameter(ms.Tensor(np.zeros((1, channels, 1, 1)), ms.float32), name="gain")

    def construct(self, images):
        return ops.mul(images, self.gain)


class CorrectorWeights:
    file_name = "corrector.safetensors"

    def __init__(self, corrector):
        self.corrector = corrector

    def parameters(self):
        return [("gain", self.corrector.gain)]

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"gain": self.corrector.gain.asnumpy()}, folder / self.file_name)


class Loss(nn.Cell):
    def __init__(self, unet, corrector, objective):
        super().__init__(auto_prefix=False)
        self.unet, self.corrector, self.objective = unet, corrector, objective

    def construct(self, timesteps, noise, images):
        model_input, time, target, weight = self.objective.corrupt(images, noise, timesteps)
        prediction = self.unet(model_input, time)[0] + self.corrector(model_input)
        return self.objective.loss(prediction, target, weight)


class TwoNetworksJob:
    columns = ("images", "noise", "timesteps")
    steps_show_images = True
    num_samples, num_sampling_steps = 4, 3

    def __init__(self, config, runtime, records, unet, scheduler):
        self.config, self.runtime, self.records, self.unet = config, runtime, records, unet
        self.objective = DDPMObjective.for_scheduler(scheduler, config)
        self.corrector = Corrector(config.channels)
        self.datasets = [records]
        self.product = Product(
            command="train_two_networks",
            noun="pipeline",
            index_file=PIPELINE_INDEX,
            parts=("unet", "scheduler", "corrector"),
            pipeline_tag="unconditional-image-generation",
            tags=("stripes",),
            pipeline_class="DDPMPipeline",
        )
        prepare_network(unet, config.mixed_precision, False, config.gradient_checkpointing)

    @classmethod
    def open_data(cls, config):
        folder = Path(config.train_data_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(config.num_made_images):
            path = folder / f"{number:03d}.png"
            if not path.exists():
                stripes = np.indices((16, 16))[number % 2] // (1 + number % 3) % 2 * 255
                Image.fromarray(stripes.astype(np.uint8)).save(path)
        return [open_records(config, config.channels)]

    @classmethod
    def open(cls, config, runtime):
        (records,) = cls.open_data(config)
        return cls(config, runtime, records, make_unet(config), make_noise_scheduler(config))

    def trainable(self):
        return {**{f"unet.{p.name}": p for p in self.unet.trainable_params()}, "gain": self.corrector.gain}

    def weights(self):
        return {"unet": WholeNetwork(self.unet), "corrector": CorrectorWeights(self.corrector)}

    def identity(self):
        return {"noise": self.objective.identity()}

    def before_training(self, show_progress):
        pass

    def make_batch(self, indices, rngs):
        images = np.stack([self.records.augmented_image(i, rng) for i, rng in zip(indices, rngs, strict=True)])
        times = np.array([self.objective.draw_time(rng) for rng in rngs], self.objective.time_dtype)
        noise = np.empty_like(images)
        for row, rng in enumerate(rngs):
            draw_noise(rng, noise[row], self.config)
        return {"noise": noise, "timesteps": times, "images": images}

    def loss_cell(self):
        return Loss(self.unet, self.corrector, self.objective)

    def sample(self, sample_ids, on_step):
        options = {"batch_size": len(sample_ids), "num_inference_steps": 3, "seed": 0, "on_step": on_step}
        return generate(self.unet, self.objective.scheduler(), sample_ids=sample_ids, **options)

    def save(self, folder):
        make_pipeline(self.unet, self.objective.scheduler()).save_pretrained(str(folder))
        CorrectorWeights(self.corrector).save(Path(folder) / "corrector")

    def describe(self):
        return {"data": f"{len(self.records)} images of stripes", "model": "a UNet and a corrector"}

    def evaluators(self):
        return []
