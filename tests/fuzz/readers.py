"""Who reads what strangers write: for each target of :mod:`targets`, as a command of the package would."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "tests" / "data" / "runs_of_0_1"
MOST_PIXELS = 1_000_000  # of an image
MOST_MEMORY = 1 << 30  # bytes that the machine is said to have
MOST_SIDE = 64  # of images that are sampled
_loaded: dict[str, Any] = {}


def read_image(folder: Path) -> None:
    """As training reads it, from memory or from a file, in 8 bits or not rounded."""
    from mindone_ddpm.data.images import oriented_size
    from mindone_ddpm.data.records import ImageRecords

    channels, precise, in_memory = json.loads((folder / "how.json").read_text())
    path = folder / "image"
    stored = {"bytes": path.read_bytes(), "path": None} if in_memory else {"bytes": None, "path": str(path)}
    records = ImageRecords(
        [{"image": stored}], "image", 8, channels, "crop", False, False, precise=precise, max_pixels=MOST_PIXELS
    )
    oriented_size(stored["bytes"], stored["path"])
    image = records.image(0)
    assert image.shape == (channels, 8, 8), image.shape
    assert image.dtype == (np.float32 if precise else np.uint8) and np.isfinite(image).all()


def _config_of_data(folder: Path, **more: Any) -> Any:
    from mindone_ddpm.jobs.unconditional.config import TrainingConfig

    return TrainingConfig(**{"image_size": 8, "cache_dir": str(folder / "cache"), **more})


def _read_records(config: Any) -> None:
    from mindone_ddpm.data.open import open_records

    config.check()
    records = open_records(config, 3, labels=config if config.class_conditional else None)
    records.fingerprint()
    for index in range(len(records)):
        records.image(index)


def read_image_folder(folder: Path) -> None:
    choice = len(list((folder / "data").rglob("*")))
    _read_records(
        _config_of_data(
            folder,
            train_data_dir=str(folder / "data"),
            on_bad_image=("stop", "skip")[choice % 2],
            max_image_pixels=MOST_PIXELS,
            class_conditional=choice % 3 == 0,
        )
    )


def read_saved_dataset(folder: Path) -> None:
    _read_records(_config_of_data(folder, dataset_name=str(folder), max_image_pixels=MOST_PIXELS))


def read_captions(source: Path) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from mindone_ddpm.jobs.text_to_image.captions import Captions, open_captioned
        from mindone_ddpm.jobs.text_to_image.config import TextToImageConfig

        config = TextToImageConfig(
            pretrained_model_name_or_path=str(source / "pipeline"),
            train_data_dir=str(folder / "data"),
            image_size=16,
            cache_dir=str(folder / "cache"),
        )
        config.check()
        records, texts = open_captioned(config)
        captions = Captions(texts, tokenizer_of(source))
        captions.tokens([captions.choose(index, 0.5) for index in range(len(records))])

    return read


def tokenizer_of(source: Path) -> Any:
    if "tokenizer" not in _loaded:
        _loaded["tokenizer"] = _checked_text(source / "pipeline").load("tokenizer")
    return _loaded["tokenizer"]


def read_settings(folder: Path) -> None:
    from mindone_ddpm.config.parse import from_dict, read_yaml, to_yaml
    from mindone_ddpm.jobs.base import JOBS, job_of_config

    config_class = JOBS[(folder / "job").read_text()].config
    problems: list[str] = []
    values = read_yaml(str(folder / "settings.yaml"), config_class, problems)
    with _only_user_errors():
        job_of_config(folder / "settings.yaml")
    config: Any = from_dict(config_class, values, problems)
    config.check()
    to_yaml(config)


@contextlib.contextmanager
def _only_user_errors() -> Any:
    """What is told of one part of an input does not keep the others from being read."""
    from mindone_ddpm.common.errors import UserError

    with contextlib.suppress(UserError):
        yield


def read_model_config(folder: Path) -> None:
    from mindone_ddpm.models import unet

    config = _config_of_data(folder, dataset_name="digits", channels=1)
    config.model_config_name_or_path = str(folder / "model.json")
    config.check()
    with mock.patch.object(unet, "memory_bytes", lambda: MOST_MEMORY):
        unet.make_unet(config)


def read_pipeline(folder: Path) -> None:
    """As ``sample`` does, two steps with each of two samplers."""
    from mindone_ddpm.sampling.api import load, sample

    pipeline = load(str(folder), device="CPU", mode="pynative")
    if max(np.ravel(pipeline.unet.config.sample_size or 0)) > MOST_SIDE:
        return
    for scheduler in (None, "ddim"):
        sample(pipeline, num_images=1, num_inference_steps=2, scheduler=scheduler)


def _checked_text(folder: Path) -> Any:
    from mindone_ddpm.models.foreign import open_pipeline
    from mindone_ddpm.models.pipelines import TEXT_PIPELINES

    return open_pipeline(str(folder), TEXT_PIPELINES)


def read_text_pipeline(folder: Path) -> None:
    from mindone_ddpm.sampling.api import load, sample

    pipeline = load(str(folder), device="CPU", mode="pynative")
    sample(pipeline, num_images=1, num_inference_steps=2, prompts="a digit", height=16, width=16)


def read_tokenizer(folder: Path) -> None:
    from mindone_ddpm.jobs.text_to_image.captions import Captions, same_texts

    tokenizer = _checked_text(folder).load("tokenizer")
    captions = Captions(same_texts(["a handwritten three", "", "ü" * 100], 1, ""), tokenizer)
    tokens = captions.tokens(captions.all_texts)
    assert tokens.ndim == 2 and tokens.dtype == np.int32


def _text_pipeline(source: Path) -> Any:
    from mindone_ddpm.models.pipelines import load_text_pipeline
    from mindone_ddpm.runtime.start import start

    start("CPU", "pynative", 0)
    if "pipeline" not in _loaded:
        _loaded["pipeline"] = load_text_pipeline(str(source / "pipeline"))
    return _loaded["pipeline"]


def read_adapters(source: Path) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from mindone_ddpm.models.lora import merge_adapters

        merge_adapters(_text_pipeline(source), [f"{folder}:0"])

    return read


def read_embedding(source: Path) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from mindone_ddpm.models.new_tokens import load_into

        pipeline = _text_pipeline(source)
        table, tokenizer = pipeline.text_encoder.get_input_embeddings(), pipeline.tokenizer
        try:
            pipeline.tokenizer = tokenizer.__class__.from_pretrained(str(source / "pipeline" / "tokenizer"))
            load_into(pipeline, [str(folder)])
        finally:
            pipeline.text_encoder.set_input_embeddings(table)
            pipeline.tokenizer = tokenizer

    return read


def training_config(output_dir: Path) -> Any:
    return _config_of_data(
        output_dir, dataset_name="digits", channels=1, model_config_name_or_path=str(RUNS / "images" / "model.json"),
        output_dir=str(output_dir), use_ema=True, max_train_steps=4, device="CPU", cache_dir=None,
        checkpointing_steps=2, snapshot_steps=2, train_batch_size=16, report_to="csv", save_image_steps=4,
        ddpm_num_steps=10, ddpm_num_inference_steps=2, eval_batch_size=4, logging_steps=1, mode="pynative",
    )  # fmt: skip


class CheckpointReader:
    """As a run that resumes: the same parts of a run, prepared once."""

    def __init__(self, source: Path):
        self.source, self.training = source, None

    def __call__(self, folder: Path) -> None:
        from mindone_ddpm.training.resume import resume
        from mindone_ddpm.training.setup import prepare

        if self.training is None:
            self.training = prepare(training_config(Path("nowhere")))
        self.training.config.output_dir = str(folder)
        for wanted in ("latest", "checkpoint-4"):
            self.training.config.resume_from_checkpoint = wanted
            with _only_user_errors():
                resume(self.training)


def read_run(folder: Path) -> None:
    """As ``report`` does, and a run that resumes in the folder, whose logs and products are there already."""
    from mindone_ddpm.jobs.unconditional.product import unconditional_product
    from mindone_ddpm.output.card import write_card
    from mindone_ddpm.output.report import write_report
    from mindone_ddpm.output.run_folder import run_products
    from mindone_ddpm.output.tracking import make_tracker

    with _only_user_errors():
        write_report(folder)
    run_products(folder)
    config = training_config(folder)
    make_tracker("csv", folder / "logs", 4).close()
    write_card(config, unconditional_product(config), {}, folder, 4, 4)


def read_snapshots(folder: Path) -> None:
    from mindone_ddpm.averages.command import average
    from mindone_ddpm.averages.config import AverageConfig

    shutil.rmtree(folder / "average", ignore_errors=True)
    average(folder, AverageConfig(width=0.08, output_dir=str(folder / "average")))


def read_statistics(folder: Path) -> None:
    from mindone_ddpm.evaluation.statistics import load_statistics

    for path in sorted(folder.glob("*.npz")):
        statistics, _ = load_statistics(path)
        assert statistics.mean.shape == (statistics.width,) and statistics.covariance.ndim == 2
        if statistics.keeps_features and statistics.count:
            statistics.rows()


def read_rank_table(folder: Path) -> None:
    from mindone_ddpm.runtime.launchers import ranks_of

    environment = {"RANK_ID": "1", "RANK_SIZE": "4", "RANK_TABLE_FILE": str(folder / "table.json")}
    ranks_of(environment)
