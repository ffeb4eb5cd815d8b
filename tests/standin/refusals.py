"""Calls, on MindSpore's Ascend backend, what CANN does not take. Prints a line for each: its name and the error."""

from __future__ import annotations

import json
import sys

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint, ops

functional = mint.nn.functional
IMAGES = np.ones((2, 4, 8, 8))
FILTERS = np.ones((4, 4, 3, 3))
CALLS = {
    "float64 convolution": lambda: functional.conv2d(Tensor(IMAGES), Tensor(FILTERS)),
    "float64 product": lambda: mint.matmul(Tensor(IMAGES), Tensor(IMAGES)),
    "float64 group norm": lambda: functional.group_norm(Tensor(IMAGES), 2),
    "integer silu": lambda: functional.silu(Tensor(IMAGES.astype(np.int32))),
    "no kernel": lambda: mint.special.exp2(Tensor(IMAGES.astype(np.float32))),
    "bfloat16 product": lambda: mint.matmul(Tensor(IMAGES, ms.bfloat16), Tensor(IMAGES, ms.bfloat16)),
    "large heads": lambda: ops.flash_attention_score(
        *(Tensor(np.ones((1, 4, 1600), np.float16)) for _ in range(3)), head_num=2, input_layout="BSH"
    ),
    "float32 silu": lambda: functional.silu(Tensor(IMAGES.astype(np.float32))),
}

if __name__ == "__main__":
    ms.set_device("Ascend")
    for name, call in CALLS.items():
        try:
            result = call()
            result.asnumpy()
            error = ""
        except (RuntimeError, TypeError, ValueError) as failure:
            error = " ".join(str(failure).split())
        print(json.dumps({"call": name, "error": error}), flush=True)
    sys.stdout.flush()
