"""The whole files that are damaged, beside the images of :mod:`sources`: pipelines, a run, data sets, adapters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import sources
from readers import RUNS, training_config


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
