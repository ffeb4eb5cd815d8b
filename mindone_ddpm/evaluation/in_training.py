"""Measure a model, or a folder of pictures, against real pictures: sample, look, gather, merge, compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mindone_ddpm.evaluation import metrics
from mindone_ddpm.evaluation.feature_networks import make_features
from mindone_ddpm.evaluation.metrics import Statistics
from mindone_ddpm.evaluation.statistics import Gathering, kept_statistics, name_figures, sampled, source_of
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.models import schedulers
from mindone_ddpm.runtime.start import Runtime
from mindone_ddpm.sampling import generate


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
            MetricError: the pictures, real or to be made, are too few for a figure.
        """
        config = self.config
        generate.check_steps("--eval_num_inference_steps", config.eval_num_inference_steps, self.job.scheduler)
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
            schedulers.make_sampler("ddim", self.job.scheduler),
            generate.choose_labels(unet, None, config.eval_num_samples),
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
