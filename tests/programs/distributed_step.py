"""Run under msrun by test_distributed.py and test_ranks.py: one linear model on two ranks, each with its own inputs.

    distributed_step.py <folder> <mode> <device>

Writes what each rank ends with to <folder>/rank<r>.json.
"""

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / folder) for folder in (".", "training")]

import numpy as np  # noqa: E402

from mindone_ddpm.runtime import start  # noqa: E402

here = start.start(sys.argv[3], sys.argv[2], seed=0)

import mindspore as ms  # noqa: E402
from test_step import BETA1, BETA2, DECAY, EPSILON, RATE, LinearLoss, batch  # noqa: E402

from mindone_ddpm.runtime import distributed  # noqa: E402
from mindone_ddpm.training.optimizers import AdamW  # noqa: E402
from mindone_ddpm.training.step import DiffusionTrainStep, OptimizerUpdate, SumOverRanks  # noqa: E402

loss = LinearLoss()
if here.rank == 1:
    loss.weight.set_data(ms.Tensor(np.full((3, 2), 9.0), ms.float32))  # to be replaced by rank 0's
parameters = ms.ParameterTuple(loss.trainable_params())
distributed.broadcast_parameters(here, parameters)
optimizer = AdamW(parameters, BETA1, BETA2, EPSILON, DECAY, backend=here.backend)
boundary = OptimizerUpdate(
    optimizer, np.full(9, RATE), max_grad_norm=1.0, world_size=here.world_size, backend=here.backend
)
step = DiffusionTrainStep(loss, boundary)

# Rank 0 has two samples, rank 1 one sample and one filling.
x = [np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]), np.array([[2.0, 0.0, 1.0], [7.0, 7.0, 7.0]])][here.rank]
weights = [[1.0, 1.0], [1.0, 0.0]][here.rank]
overflowing = x * (np.inf if here.rank == 1 else 1.0)

results = []
for inputs in (x, overflowing, x):
    mean_loss, norm, _ = step.run([batch(inputs, weights)])
    results.append({"loss": float(mean_loss), "norm": float(norm), "skips": int(boundary.skips)})

# Several tensors in more than one vector: the parts are (2,) with (2, 2), then (7,), then (3,).
shapes = [(2,), (2, 2), (7,), (3,)]
names = [f"w{number}" for number in range(len(shapes))]
tensors = [
    ms.Parameter(ms.Tensor(np.zeros(shape), ms.float32), name) for name, shape in zip(names, shapes, strict=True)
]
sums = SumOverRanks(ms.ParameterTuple(tensors), most_elements=6)
own = [np.arange(np.prod(shape)).reshape(shape) * 10.0**here.rank for shape in shapes]
summed, *scalars = sums(
    tuple(ms.Tensor(values, ms.float32) for values in own),
    ms.Tensor(2.0 + here.rank, ms.float32),
    ms.Tensor(5.0, ms.float32),
)
record = {
    "ends": sums.ends,
    "summed": [values.asnumpy().tolist() for values in (*summed, *scalars)],
    "results": results,
    "weight": loss.weight.asnumpy().tolist(),
    "step": int(boundary.step),
    "any": [distributed.any_rank(here, here.rank == 1), distributed.any_rank(here, False)],
    "shared": distributed.broadcast_object(here, {"from": here.rank, "text": "x" * 70_000 + "\u4e2d"})
    == {
        "from": 0,
        "text": "x" * 70_000 + "\u4e2d",
    },
    "gathered": distributed.gather_rows(here, np.full((2, 1), 0.25 + here.rank, np.float32)).ravel().tolist(),
}
(Path(sys.argv[1]) / f"rank{here.rank}.json").write_text(json.dumps(record))
