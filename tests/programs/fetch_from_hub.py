"""What the package reads from a hub: the classes of a pipeline and of its parts, and a data set."""

import sys
from pathlib import Path

from mindone_ddpm.config.groups import DataConfig
from mindone_ddpm.data.datasets import open_dataset
from mindone_ddpm.models.foreign import open_pipeline, pipeline_kind

hub, model, data = sys.argv[1:]
print(pipeline_kind(model, hub=hub))
checked = open_pipeline(model, ("DDPMPipeline",), hub=hub)
print(sorted(checked.classes.items()), sorted(path.name for path in checked.folder.rglob("*") if path.is_file()))
dataset, column = open_dataset(DataConfig(hub=hub, dataset_name=data))
print(len(dataset), column, dataset.features["label"].names)
print(Path(dataset[0][column]["path"] or "").name)
