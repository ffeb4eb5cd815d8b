"""What a user sees where an NPU, or a kernel, is not there."""

from __future__ import annotations

import pytest
from conftest import run_program
from standin import run_on_standin

FAILS = """
import sys
import numpy as np
import mindspore as ms
import mindone_ddpm as md
from mindone_ddpm.runtime.start import start

def main():
    start("Ascend", "MODE", seed=0)
    print(ms.ops.lgamma(ms.Tensor(np.ones((2, 3)), ms.float32)).asnumpy())
    return 0

sys.exit(md.run(main))
"""


@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_a_kernel_that_is_missing_is_named_in_the_last_line(mode):
    result = run_on_standin("-c", FAILS.replace("MODE", mode))
    assert result.returncode == 1 and "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: the NPU failed: ") and "CustLgamma" in last and "stand-in" in last


def test_without_an_npu_ascend_is_refused_in_one_line(tmp_path):
    flags = ["train", "--device", "Ascend", "--dataset_name", "digits", "--output_dir", tmp_path / "run"]
    result = run_program(*flags)
    assert result.returncode == 2 and not (tmp_path / "run").exists()
    assert result.stderr == "error: --device Ascend: not found on this machine; there is CPU\n"

    # An NPU without CANN.
    (tmp_path / "davinci0").touch()
    result = run_program(*flags, MINDONE_DDPM_NPU_FOLDER=str(tmp_path))
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: --device Ascend: MindSpore cannot use it (")
