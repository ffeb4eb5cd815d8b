"""How gradients are cut into the vectors that are summed over the ranks."""

from __future__ import annotations

import itertools

import pytest

from mindone_ddpm.training.step import bucket_ends


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [
        ([3, 4, 5], 100, (3,)),
        ([3, 4, 5], 7, (2, 3)),  # filled to the brim
        ([3, 4, 5], 6, (1, 2, 3)),
        ([9, 1, 1, 9], 2, (1, 3, 4)),  # a tensor that is too large has a part of its own
        ([1], 1, (1,)),
    ],
)
def test_buckets(sizes, most, expected):
    ends = bucket_ends(sizes, most)
    assert ends == expected
    for start, end in itertools.pairwise((0, *ends)):
        assert end > start and (sum(sizes[start:end]) <= most or end == start + 1)
