"""Counter-based random generators: what is drawn depends on the seed and the position of a sample in the run alone.

So a run is the same with any number of workers, restarts and ranks, and there is no state to save.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# What a generator is used for: a part of its key, so that no two uses draw the same numbers.
ORDER_STREAM, SAMPLE_STREAM, IMAGE_STREAM, SPLIT_STREAM, VALIDATION_STREAM, BATCH_STREAM, SHARE_STREAM = range(1, 8)
GOLDEN_RATIO = (5**0.5 - 1) / 2


def random_stream(seed: int, stream: int, position: int = 0) -> np.random.Generator:
    """A generator that depends on its arguments alone (Philox; Salmon et al. 2011).

    Args:
        stream: one of the constants above.
        position: of a sample, an epoch, ... in the stream.
    """
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, 0, position, 0], dtype=np.uint64)  # the generator itself counts in the low word
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def even_share(rng: np.random.Generator) -> float:
    """A number from 0 to 1 that depends on the seed and the position of a generator, and is not drawn from it.

    The numbers of successive positions lie evenly: the fractional parts of the multiples of the golden ratio fall, one
    after the other, into the largest gaps that are left (Knuth 1998, section 6.4, theorem S). So those of a batch are
    spread evenly too, however it is divided among ranks and accumulated steps.

    Args:
        rng: from :func:`random_stream`.
    """
    state = rng.bit_generator.state["state"]
    return (_first_share(int(state["key"][0])) + int(state["counter"][2]) * GOLDEN_RATIO) % 1.0


@lru_cache(maxsize=8)
def _first_share(seed: int) -> float:
    return float(random_stream(seed, SHARE_STREAM).random())


def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """The order of the samples in an epoch: a permutation of ``range(num_samples)``, int64."""
    return random_stream(seed, ORDER_STREAM, epoch).permutation(num_samples)
