from __future__ import annotations

import numpy as np
import pytest

from mindone_ddpm.data.batching import in_batches, map_batches, pad_batch


def test_a_short_batch_is_padded_with_its_last_item():
    assert pad_batch(["a", "b"], 4) == ["a", "b", "b", "b"]
    assert pad_batch(["a", "b"], 2) == ["a", "b"]


def test_all_batches_have_one_size_and_say_how_much_is_real():
    assert list(in_batches(range(5), 2)) == [([0, 1], 2), ([2, 3], 2), ([4, 4], 1)]
    assert list(in_batches([7], 3)) == [([7, 7, 7], 1)]
    assert list(in_batches([], 3)) == []


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_a_function_of_padded_batches_is_trimmed(count):
    sizes = []

    def squares(numbers):
        sizes.append(len(numbers))
        return np.square(numbers)

    np.testing.assert_array_equal(map_batches(squares, range(count), 4), np.arange(count) ** 2)
    assert set(sizes) == {4}
