"""The time embedding on a CPU, against NumPy and mindone's own."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
import pytest

from mindone_ddpm.common.libraries import quiet_imports

with quiet_imports():
    from mindone.diffusers.models.embeddings import Timesteps, get_timestep_embedding


@pytest.mark.parametrize("channels", [32, 33])
@pytest.mark.parametrize("cosine_first", [True, False])
def test_a_time_embedding_is_sines_and_cosines(either_mode, channels, cosine_first):
    times = np.array([0.0, 0.5, 17.0, 499.0], np.float32)
    found = Timesteps(channels, cosine_first, 1.0, scale=2)(ms.Tensor(times)).asnumpy()
    half = channels // 2
    angles = 2.0 * times[:, None].astype(np.float64) * np.exp(-math.log(10000) * np.arange(half) / (half - 1.0))
    parts = [np.cos(angles), np.sin(angles)] if cosine_first else [np.sin(angles), np.cos(angles)]
    expected = np.concatenate([*parts, np.zeros((4, channels % 2))], axis=1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-4)  # of angles up to 1,000, in float32
    own = get_timestep_embedding(ms.Tensor(times), channels, cosine_first, 1.0, 2).asnumpy()
    np.testing.assert_allclose(found, own, atol=2e-4)
