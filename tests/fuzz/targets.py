"""What is read from strangers, target by target: how an input is made, and who reads it.

A target works on a folder of its own: ``damage`` puts an input into it, ``read`` gives it to the package as a command
would. What they need to begin with lies in a folder that :func:`make_sources` has filled.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import damage
import numpy as np
import sources

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "tests" / "data" / "runs_of_0_1"
MOST_PIXELS = 1_000_000  # of an image
MOST_MEMORY = 1 << 30  # bytes that the machine is said to have
MOST_SIDE = 64  # of images that are sampled
Rng = random.Random


@dataclass(frozen=True)
class Target:
    """``damage`` fills an empty folder; ``read`` may raise UserError and nothing else. ``share`` of the time."""

    name: str
    damage: Callable[[Rng, Path], None]
    read: Callable[[Path], object]
    share: float = 1.0


def targets(source: Path) -> list[Target]:
    """All targets. ``source``: the folder that :func:`make_sources` has filled."""
    return [
        Target("image", _image, read_image, 4),
        Target("folder", _image_folder, read_image_folder, 2),
        Target("saved-dataset", _in_copy_of(source / "saved"), read_saved_dataset),
        Target("captions", _captions(source), read_captions(source)),
        Target("settings", _settings, read_settings, 2),
        Target("model-config", _in_copy_of(RUNS / "images", ("model.json",)), read_model_config),
        Target("pipeline", _in_copy_of(RUNS / "pipeline", JSON_AND_WEIGHTS), read_pipeline, 2),
        Target("text-pipeline", _in_copy_of(source / "pipeline", JSON_AND_WEIGHTS), read_text_pipeline, 3),
        Target("tokenizer", _in_copy_of(source / "pipeline", ("tokenizer/*",)), read_tokenizer, 2),
        Target("adapters", _in_copy_of(source / "adapters"), read_adapters(source)),
        Target("embedding", _in_copy_of(source / "embedding"), read_embedding(source)),
        Target("checkpoint", _checkpoint(source), CheckpointReader(source), 2),
        Target("run", _in_copy_of(source / "run", RECORDS), read_run),
        Target("snapshots", _in_copy_of(source / "run", ("snapshots/*", "model_index.json")), read_snapshots),
        Target("statistics", _in_copy_of(source / "statistics"), read_statistics),
        Target("rank-table", _rank_table, read_rank_table),
    ]


JSON_AND_WEIGHTS = ("*.json", "*/*.json", "*/*.txt", "*/*.safetensors")
RECORDS = (
    *("training_config.yaml", "product.json", "model_index.json", "logs/*", "best/best.json", "evaluation/*"),
    *("checkpoint-*/training_state.json", "samples/*", "trajectory.png"),
)
EDITS = {".json": damage.damaged_json, ".jsonl": damage.damaged_lines, ".safetensors": damage.damaged_safetensors}
LINES = (".txt", ".csv", ".yaml", ".yml", ".jsonl")


# --- damage --------------------------------------------------------------------------------------------------------


def damage_file(rng: Rng, path: Path) -> None:
    """Damage a file as its kind asks for; now and then remove it, empty it, or put something else in its place."""
    kind = rng.random()
    if kind < 0.03:
        path.unlink()
    elif kind < 0.05:
        path.write_bytes(b"")
    elif kind < 0.07:
        path.unlink()
        rng.choice((path.mkdir, lambda: path.symlink_to("/dev/zero"), lambda: os.mkfifo(path), lambda: link_to(path)))()
    else:
        content = path.read_bytes()
        if path.suffix in EDITS:
            path.write_bytes(EDITS[path.suffix](rng, content))
        elif path.suffix in LINES:
            path.write_bytes(damage.damaged_lines(rng, content))
        else:
            path.write_bytes(damage.damaged_bytes(rng, content))


def link_to(path: Path) -> None:
    """A link that ends at itself."""
    path.symlink_to(path.name)


def _in_copy_of(folder: Path, patterns: tuple[str, ...] = ("*", "*/*")) -> Callable[[Rng, Path], None]:
    """One or two files of a copy are damaged."""

    def make(rng: Rng, target: Path) -> None:
        shutil.copytree(folder, target, dirs_exist_ok=True)
        paths = sorted({path for pattern in patterns for path in target.glob(pattern) if path.is_file()})
        for path in rng.sample(paths, min(len(paths), rng.randint(1, 2))):
            damage_file(rng, path)

    return make


# --- images --------------------------------------------------------------------------------------------------------

NAMES = (
    *("a.png", "ü.png", "a b.jpg", "-x.png", "a\nb.png", "a\x1b[31m.png", "x" * 200 + ".png", "%s.png", "'.png"),
    "[a].png",
)


def _image(rng: Rng, folder: Path) -> None:
    kinds = list(sources.images().values())
    content = rng.choice(kinds)
    if rng.random() < 0.9:
        content = damage.damaged_bytes(rng, content, rng.choice(kinds))
    (folder / "image").write_bytes(content)
    (folder / "how.json").write_text(json.dumps([rng.choice((1, 3, 4)), rng.random() < 0.4, rng.random() < 0.5]))


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


def _image_folder(rng: Rng, folder: Path) -> None:
    """Images with odd names, links, tables of captions, parquet files; some of it damaged."""
    target = folder / "data"
    target.mkdir()
    kinds = list(sources.images().values())
    good = sources.images()["PNG RGB"]
    for number in range(rng.randint(1, 4)):
        content = good if rng.random() < 0.6 else damage.damaged_bytes(rng, rng.choice(kinds), good)
        place = target / rng.choice((".", "train", "test", "a", "a/b", "ü"))
        place.mkdir(parents=True, exist_ok=True)
        (place / (f"{number}.png" if rng.random() < 0.6 else rng.choice(NAMES))).write_bytes(content)
    with contextlib.suppress(OSError):
        for _ in range(rng.randint(0, 2)):
            rng.choice(ODD_ENTRIES)(rng, target)


def _link(rng: Rng, target: Path) -> None:
    to = rng.choice(("nowhere.png", "link.png", "/dev/zero", "/etc/passwd", "..", "."))
    (target / rng.choice(("link.png", "train/link.png", "link"))).symlink_to(to)


def _metadata(rng: Rng, target: Path) -> None:
    names = [str(path.relative_to(target)) for path in target.rglob("*.png")]
    rows = [{"file_name": name, "text": "a text", "label": 1} for name in names]
    name = rng.choice(("metadata.jsonl", "metadata.csv", "metadata.parquet", "train/metadata.jsonl"))
    text = "\n".join(json.dumps(row) for row in rows)
    if name.endswith("csv"):
        text = "file_name,text\n" + "\n".join(f"{row['file_name']},a text" for row in rows)
    content = text.encode("utf-8", "surrogateescape")
    (target / name).parent.mkdir(exist_ok=True)
    (target / name).write_bytes(content if rng.random() < 0.3 else damage.damaged_lines(rng, content))


def _parquet(rng: Rng, target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = sources.images()["PNG RGB"]
    odd = ("/etc/passwd", "/dev/zero", "nowhere", "http://127.0.0.1:9/a.png", "zip://a.png::b.zip", "")
    images = [{"bytes": good, "path": None}, {"bytes": None, "path": rng.choice(odd)}]
    images += [rng.choice(({"bytes": b"", "path": None}, None, {"bytes": good, "path": rng.choice(odd)}))]
    buffer = io.BytesIO()
    pq.write_table(pa.table({rng.choice(("image", "x")): rng.sample(images, rng.randint(1, 3))}), buffer)
    content = buffer.getvalue()
    if rng.random() < 0.5:
        for path in list(target.iterdir()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (target / "a.parquet").write_bytes(content if rng.random() < 0.5 else damage.damaged_bytes(rng, content))


def _other_file(rng: Rng, target: Path) -> None:
    names = ("a.zip", "a.tar", "a.txt", "README.md", "dataset_info.json", "state.json", "a.json", "x.heic")
    path = target / rng.choice(names)
    path.write_bytes(damage.damaged_bytes(rng, rng.choice((b"PK\3\4" + bytes(40), b"{}", b"a", b'{"a": 1}'))))


def _fifo(rng: Rng, target: Path) -> None:
    os.mkfifo(target / "pipe.png")


ODD_ENTRIES = (_link, _metadata, _metadata, _parquet, _parquet, _other_file, _fifo)


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


# --- captions ------------------------------------------------------------------------------------------------------


def _captions(source: Path) -> Callable[[Rng, Path], None]:
    def make(rng: Rng, folder: Path) -> None:
        target = folder / "data"
        shutil.copytree(source / "captioned", target)
        kind = rng.randrange(3)  # .txt files beside the images, or a table of one of two kinds
        for path in target.glob("metadata.*" if kind == 0 else "*.txt"):
            path.unlink()
        if kind:
            (target / ("metadata.csv", "metadata.jsonl")[kind - 1]).unlink()
        for path in sorted((*target.glob("*.txt"), *target.glob("metadata.*"))):
            damage_file(rng, path)

    return make


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


_loaded: dict[str, Any] = {}


def tokenizer_of(source: Path) -> Any:
    if "tokenizer" not in _loaded:
        _loaded["tokenizer"] = _checked_text(source / "pipeline").load("tokenizer")
    return _loaded["tokenizer"]


# --- settings ------------------------------------------------------------------------------------------------------

YAML_PIECES = (
    *("a: &a [x, x]\nb: *a\n", "!!python/object/apply:os.system [true]", "? [1, 2]\n: 3\n", "<<: {a: 1}\n"),
    *("x: !!binary aGk=\n", "x: !!set {a, b}\n", "x: !!omap [a: 1]\n", "2026-13-45", "0x" + "f" * 40, ".inf", "1e400"),
    *("--- a\n--- b\n", "%YAML 9.9\n---\n", "x: |\n  text\n", "'", '"\\u0000"', "\x85", "\ufeff", "[" * 30, "{" * 30),
    *("~", "- - - -\n"),
)


def _settings(rng: Rng, folder: Path) -> None:
    import yaml

    from mindone_ddpm.config.fields import as_dict
    from mindone_ddpm.jobs.base import JOBS

    name = rng.choice(["train", *JOBS])
    values = as_dict(JOBS[name].config())
    kept = {"output_dir": "out"}
    if name == "train":
        kept["dataset_name"] = "digits"
    kept = {**dict(rng.sample(sorted(values.items()), rng.randint(1, 12))), **kept}
    if rng.random() < 0.7:
        kept = damage.damaged_value(rng, kept)
    try:
        text = yaml.safe_dump(json.loads(json.dumps(kept)), allow_unicode=rng.random() < 0.5)
    except (ValueError, yaml.YAMLError):
        text = repr(kept)
    content = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.5:
        lines = text.split("\n")
        lines.insert(rng.randrange(len(lines)), rng.choice(YAML_PIECES))
        content = damage.damaged_lines(rng, "\n".join(lines).encode("utf-8", "surrogatepass"))
    (folder / "settings.yaml").write_bytes(content)
    (folder / "job").write_text(name)


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


# --- models --------------------------------------------------------------------------------------------------------


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
    if max(np.ravel(pipeline.unet.config.sample_size)) > MOST_SIDE:
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


# --- runs ----------------------------------------------------------------------------------------------------------


def training_config(output_dir: Path) -> Any:
    return _config_of_data(
        output_dir, dataset_name="digits", channels=1, model_config_name_or_path=str(RUNS / "images" / "model.json"),
        output_dir=str(output_dir), use_ema=True, max_train_steps=4, device="CPU", cache_dir=None,
        checkpointing_steps=2, snapshot_steps=2, train_batch_size=16, report_to="csv", save_image_steps=4,
        ddpm_num_steps=10, ddpm_num_inference_steps=2, eval_batch_size=4, logging_steps=1, mode="pynative",
    )  # fmt: skip


def _checkpoint(source: Path) -> Callable[[Rng, Path], None]:
    """Damage to a checkpoint; half of the time its record knows the damaged files' hashes."""
    from mindone_ddpm.output.checkpoint import describe_files

    def make(rng: Rng, folder: Path) -> None:
        for step in (2, 4):
            shutil.copytree(source / "run" / f"checkpoint-{step}", folder / f"checkpoint-{step}")
        target = folder / "checkpoint-4"
        record = target / "training_state.json"
        paths = sorted(path for path in target.rglob("*") if path.is_file())
        damage_file(rng, rng.choice([*paths, record, record]))
        if rng.random() < 0.5 and record.is_file():
            with contextlib.suppress(ValueError, OSError, TypeError, RecursionError):
                content = json.loads(record.read_bytes())
                files = {name: about for name, about in describe_files(target).items() if name != record.name}
                record.write_text(json.dumps({**content, "files": files}))

    return make


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
        load_statistics(path)


RANK_TABLE = {
    "version": "1.0",
    "server_count": "2",
    "server_list": [
        {
            "server_id": f"10.0.0.{server}",
            "device": [
                {"device_id": str(device), "device_ip": f"192.1.{server}.{device}", "rank_id": str(2 * server + device)}
                for device in range(2)
            ],
        }
        for server in range(2)
    ],
    "status": "completed",
}


def _rank_table(rng: Rng, folder: Path) -> None:
    (folder / "table.json").write_bytes(damage.damaged_json(rng, json.dumps(RANK_TABLE).encode()))


def read_rank_table(folder: Path) -> None:
    from mindone_ddpm.runtime.launchers import ranks_of

    environment = {"RANK_ID": "1", "RANK_SIZE": "4", "RANK_TABLE_FILE": str(folder / "table.json")}
    ranks_of(environment)


# --- what they begin with ------------------------------------------------------------------------------------------


def make_sources(folder: Path) -> None:
    """Fill a folder with whole files: pipelines, a run, data sets, adapters, an embedding."""
    from datasets import Dataset
    from datasets import Image as ImageFeature
    from make_stable_diffusion import make_pipeline
    from PIL import Image
    from safetensors.numpy import save_file

    from mindone_ddpm.evaluation.statistics import Statistics, save_statistics
    from mindone_ddpm.training.loop import train

    train(training_config(folder / "run"))
    (folder / "run" / "best").mkdir()
    best = {"figure": "fid", "value": 1.5, "step": 4}
    (folder / "run" / "best" / "best.json").write_text(json.dumps(best))
    (folder / "run" / "evaluation").mkdir()
    shutil.copy(folder / "run" / "trajectory.png", folder / "run" / "evaluation" / "copies.png")
    copies = {"suspicious_share": 0.1, "usual_share": 0.1, "median_distance": 1.0, "usual_median_distance": 1.0}
    (folder / "run" / "evaluation" / "copies.json").write_text(json.dumps({**copies, "reference": "held-out images"}))
    images = [{"bytes": sources.images()["PNG RGB"], "path": None}] * 3
    data = Dataset.from_dict({"image": images, "label": [0, 1, 0]}).cast_column("image", ImageFeature())
    data.save_to_disk(folder / "saved")
    captioned = folder / "captioned"
    captioned.mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(captioned / f"{number}.png")
        (captioned / f"{number}.txt").write_text("a handwritten three\na digit\n")
    rows = [{"file_name": f"{number}.png", "text": "a digit", "more": [1]} for number in range(3)]
    (captioned / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (captioned / "metadata.csv").write_text("file_name,text\n" + "".join(f"{n}.png,a digit\n" for n in range(3)))
    shutil.move(make_pipeline(folder / "made"), folder / "pipeline")
    shutil.copytree(RUNS / "adapters", folder / "adapters")
    (folder / "embedding").mkdir()
    save_file({"<three>": np.zeros((2, 32), np.float32)}, folder / "embedding" / "learned_embeds.safetensors")
    statistics = Statistics(4, keeps_features=True)
    statistics.add(np.ones((3, 4), np.float32), np.ones((3, 4), np.float32), range(3), 3)
    (folder / "statistics").mkdir()
    save_statistics(statistics, {"of": "images"}, folder / "statistics" / "a.npz")
