"""Images in, batches out.

An :class:`ImageRecords` is a Hugging Face data set seen as pictures of one size; :func:`make_loader` feeds it to
MindSpore through a ``GeneratorDataset`` whose items are whole batches. What a batch holds is a function of the seed
and of its number alone: the order of an epoch, the flips, the noise and the timesteps come from counter-based
generators keyed by the position of a sample in the run, so nothing depends on workers, restarts or ranks.
"""

from __future__ import annotations

import numpy as np

# The use that a random stream is for; part of its key, so that no two streams are alike.
ORDER_STREAM, SAMPLE_STREAM, PICTURE_STREAM, SPLIT_STREAM, VALIDATION_STREAM = range(1, 6)


def random_stream(seed: int, stream: int, position: int = 0) -> np.random.Generator:
    """A generator that depends on its arguments alone (Philox; Salmon et al. 2011): no state, nothing to restore."""
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, 0, position, 0], dtype=np.uint64)  # the low words count within the stream
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """The order of the samples in an epoch: a permutation of ``range(num_samples)``, int64."""
    return random_stream(seed, ORDER_STREAM, epoch).permutation(num_samples)


def batch_places(first: int, batch_size: int, count: int) -> list[int]:
    """Which of ``count`` things the batch from ``first`` on holds: filled up with the last, so that its size stays."""
    return [min(first + place, count - 1) for place in range(batch_size)]
