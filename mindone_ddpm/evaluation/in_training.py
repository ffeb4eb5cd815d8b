"""FID, KID, precision and recall of a model in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mindone_ddpm.data.records import ImageRecords
from mindone_ddpm.evaluation import metrics
from mindone_ddpm.evaluation.collector import StatisticsCollector, cached_statistics
from mindone_ddpm.evaluation.config import EvaluationConfig
from mindone_ddpm.evaluation.feature_networks import make_features
from mindone_ddpm.evaluation.image_sources import generated_images, record_images
from mindone_ddpm.evaluation.statistics import Statistics
from mindone_ddpm.models import schedulers
from mindone_ddpm.runtime.start import Runtime
from mindone_ddpm.sampling.from_config import check_steps
from mindone_ddpm.sampling.generate import choose_labels

BATCH_SIZE = 50
FORWARD_PASSES_PER_TRAINED_IMAGE = 3  # a step costs about three forward passes


class QualityEvaluator:
    """Metrics of images made with the current weights, split over the ranks; an Evaluator.

    Args:
        settings: ``eval_metrics`` must be set.
        records: the real images.
        unet, scheduler: what makes the images.
        seed, guidance_scale: of the images.
    """

    name = "quality"

    def __init__(
        self,
        settings: EvaluationConfig,
        runtime: Runtime,
        records: ImageRecords,
        unet: Any,
        scheduler: Any,
        seed: int,
        guidance_scale: float = 1.0,
    ):
        assert settings.eval_metrics is not None
        self.settings, self.runtime, self.records = settings, runtime, records
        self.unet, self.scheduler = unet, scheduler
        self.seed, self.guidance_scale = seed, guidance_scale
        self.every, self.best_metric = settings.eval_metrics_steps, settings.save_best
        self.wanted = settings.eval_metrics.split(",")
        self.network = make_features(
            settings.eval_features, settings.inception_weights, settings.eval_resize, settings.hub
        )
        self.real: Statistics | None = None

    def prepare(self) -> None:
        """Extract the features of the real images.

        Raises:
            ConfigError: more denoising steps are asked for than the model has noise levels.
            MetricError: the images, real or generated, are too few for a metric.
        """
        settings = self.settings
        check_steps("--eval_num_inference_steps", settings.eval_num_inference_steps, self.scheduler)
        advice = " (--eval_num_samples), or --eval_metrics kid"
        metrics.check_count(self.wanted, settings.eval_num_samples, self.network.width, advice=advice)
        if self.wanted != ["inception_score"]:
            source, count, what = record_images(self.records)
            metrics.check_count(self.wanted, count, self.network.width, advice=", or --eval_metrics kid")
            self.real = cached_statistics(self.network, self.wanted, source, count, what, BATCH_SIZE, self.runtime)

    def describe_cost(self, total_steps: int, images_per_step: int) -> str:
        settings = self.settings
        times = 1 if not self.every else -(-total_steps // self.every)
        passes = times * settings.eval_num_samples * settings.eval_num_inference_steps
        cost = passes / (FORWARD_PASSES_PER_TRAINED_IMAGE * total_steps * images_per_step)
        return (
            f"{settings.eval_metrics}, {times} time(s), some {cost:.0%} of the training's time, and "
            f"{settings.eval_features} features of {settings.eval_num_samples:,} images each time"
        )

    def run(self, on_batch: Callable[[], object]) -> dict[str, float]:
        """By the names that metrics have in ``metrics.json``."""
        settings = self.settings
        images = generated_images(
            self.unet,
            schedulers.make_sampler(schedulers.metrics_sampler(self.scheduler), self.scheduler),
            choose_labels(self.unet, None, settings.eval_num_samples),
            BATCH_SIZE,
            num_inference_steps=settings.eval_num_inference_steps,
            seed=self.seed,
            guidance_scale=self.guidance_scale,
        )
        collector = StatisticsCollector(self.network, self.wanted, keeps_features=False, path=None, what="")
        fake = collector.run(images, settings.eval_num_samples, BATCH_SIZE, self.runtime, "evaluating", on_batch)
        found = metrics.compute_metrics(self.wanted, self.real, fake, seed=self.seed)
        return {self.key_of(name): value for name, value in found.items()}

    def shown(self, found: dict[str, float]) -> list[str]:
        return [name for name in found if not name.endswith("_std")]

    def key_of(self, metric: str) -> str:
        return metrics.metric_name(metric, self.network.prefix)

    @property
    def conditions(self) -> dict[str, Any]:
        return {
            "features": self.network.identity,
            "num_samples": self.settings.eval_num_samples,
            "num_inference_steps": self.settings.eval_num_inference_steps,
            "guidance_scale": self.guidance_scale,
        }
