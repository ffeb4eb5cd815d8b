"""Counter-based random generators: what is drawn depends on the seed and the position of a sample in the run alone.

So a run is the same with any number of workers, restarts and ranks, and there is no state to save.
"""

from __future__ import annotations

import numpy as np

# What a generator is used for: a part of its key, so that no two uses draw the same numbers.
ORDER_STREAM, SAMPLE_STREAM, IMAGE_STREAM, SPLIT_STREAM, VALIDATION_STREAM, BATCH_STREAM = range(1, 7)


def random_stream(seed: int, stream: int, position: int = 0) -> np.random.Generator:
    """A generator that depends on its arguments alone (Philox; Salmon et al. 2011).

    Args:
        stream: one of the constants above.
        position: of a sample, an epoch, ... in the stream.
    """
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, 0, position, 0], dtype=np.uint64)  # the generator itself counts in the low word
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """The order of the samples in an epoch: a permutation of ``range(num_samples)``, int64."""
    return random_stream(seed, ORDER_STREAM, epoch).permutation(num_samples)
