"""What is read from strangers, target by target: how an input is made, and who reads it.

A target works on a folder of its own: ``damage`` puts an input into it, ``read`` gives it to the package as a command
would. What they need to begin with lies in a folder that :func:`whole.make_sources` has filled.
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

import damage
import readers
import sources
from readers import RUNS

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
        Target("image", _image, readers.read_image, 4),
        Target("folder", _image_folder, readers.read_image_folder, 2),
        Target("saved-dataset", _in_copy_of(source / "saved"), readers.read_saved_dataset),
        Target("captions", _captions(source), readers.read_captions(source)),
        Target("settings", _settings, readers.read_settings, 2),
        Target("model-config", _in_copy_of(RUNS / "images", ("model.json",)), readers.read_model_config),
        Target("pipeline", _in_copy_of(RUNS / "pipeline", JSON_AND_WEIGHTS), readers.read_pipeline, 2),
        Target("text-pipeline", _in_copy_of(source / "pipeline", JSON_AND_WEIGHTS), readers.read_text_pipeline, 3),
        Target("tokenizer", _in_copy_of(source / "pipeline", ("tokenizer/*",)), readers.read_tokenizer, 2),
        Target("adapters", _in_copy_of(source / "adapters"), readers.read_adapters(source)),
        Target("embedding", _in_copy_of(source / "embedding"), readers.read_embedding(source)),
        Target("checkpoint", _checkpoint(source), readers.CheckpointReader(source), 2),
        Target("run", _in_copy_of(source / "run", RECORDS), readers.read_run),
        Target("snapshots", _in_copy_of(source / "run", ("snapshots/*", "model_index.json")), readers.read_snapshots),
        Target("statistics", _in_copy_of(source / "statistics"), readers.read_statistics),
        Target("rank-table", _rank_table, readers.read_rank_table),
    ]


JSON_AND_WEIGHTS = ("*.json", "*/*.json", "*/*.txt", "*/*.safetensors")


RECORDS = (
    *("training_config.yaml", "product.json", "model_index.json", "logs/*", "best/best.json", "evaluation/*"),
    *("checkpoint-*/training_state.json", "samples/*", "trajectory.png"),
)


EDITS = {".json": damage.damaged_json, ".jsonl": damage.damaged_lines, ".safetensors": damage.damaged_safetensors}


LINES = (".txt", ".csv", ".yaml", ".yml", ".jsonl")


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
