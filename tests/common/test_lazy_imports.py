"""Parts of mindone that wait until they are asked for."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT

PROGRAM = """
import sys
import mindone_ddpm.training.loop
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.models.unet import make_unet
from mindone_ddpm.runtime.start import start

start("CPU", "graph", 0)
make_unet(TrainingConfig(preset="tiny", image_size=16, channels=1))
print("as before:", [finder for finder in sys.meta_path if "mindone_ddpm" in type(finder).__module__] == [])
waiting = [name for name in ("transformers", "mindone.transformers", "mindone.peft") if name not in sys.modules]
print("waiting:", *waiting)

import mindone.diffusers.models.unets as unets
from mindone.diffusers.models.unets import UNet2DModel, UNet2DConditionModel
from mindone.diffusers.models import transformers
names = {}
exec("from mindone.diffusers.models.transformers import *", names)
print(type(unets) is type(sys), UNet2DModel.__module__, transformers.DiTTransformer2DModel.__name__)
print("DiTTransformer2DModel" in names)
"""


def test_a_unet_does_not_wait_for_all_of_mindone_and_everything_is_still_there(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    result = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=120
    )
    lines = [line for line in result.stdout.splitlines() if "Config not found" not in line]
    assert lines == [
        "as before: True",
        "waiting: transformers mindone.transformers mindone.peft",
        "True mindone.diffusers.models.unets.unet_2d DiTTransformer2DModel",
        "True",
    ], result.stderr
