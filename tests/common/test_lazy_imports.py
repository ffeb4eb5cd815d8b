"""Parts of mindone that wait until they are asked for."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT

PROGRAM = """
import sys
from pathlib import Path
import mindone_ddpm.training.loop
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.models.pipelines import load_unconditional, save_pipeline
from mindone_ddpm.models.unet import make_unet
from mindone_ddpm.objectives.choose import make_noise_scheduler
from mindone_ddpm.runtime.start import start

start("CPU", "graph", 0)
config = TrainingConfig(preset="tiny", image_size=16, channels=1)
save_pipeline(make_unet(config), make_noise_scheduler(config), Path("saved"))
load_unconditional("saved")
print("as before:", [finder for finder in sys.meta_path if "mindone_ddpm" in type(finder).__module__] == [])
names = ("transformers", "mindone.transformers", "mindone.peft", "scipy.stats._stats_py")
print("waiting:", *(name for name in names if name not in sys.modules))

import mindone.diffusers.models.unets as unets
from mindone.diffusers.models.unets import UNet2DModel, UNet2DConditionModel
from mindone.diffusers.models import transformers
names = {}
exec("from mindone.diffusers.models.transformers import *", names)
print(type(unets) is type(sys), UNet2DModel.__module__, transformers.DiTTransformer2DModel.__name__)
print("DiTTransformer2DModel" in names)
"""


def test_neither_a_unet_nor_its_pipeline_waits_for_all_of_mindone_and_everything_is_still_there(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    result = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
        timeout=120,
        cwd=tmp_path,
    )
    lines = [line for line in result.stdout.splitlines() if "Config not found" not in line]
    assert lines == [
        "as before: True",
        "waiting: transformers mindone.transformers mindone.peft scipy.stats._stats_py",
        "True mindone.diffusers.models.unets.unet_2d DiTTransformer2DModel",
        "True",
    ], result.stderr
