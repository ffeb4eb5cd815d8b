from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from mindone_ddpm.common.randomness import epoch_order
from mindone_ddpm.data.plan import Plan

GROUPS = np.array([0, 1, 0, 2, 0, 1, 0, 0, 1, 0, 0])  # of sizes 7, 3 and 1


def batches_of(epoch: int, groups=None, num_samples=13, batch_size=2, world_size=1, **settings):
    """For each batch of an epoch, its samples on all ranks, and the places of all rows."""
    plans = [
        Plan(5, num_samples, batch_size, rank, world_size, groups=groups, **settings) for rank in range(world_size)
    ]
    per_epoch = plans[0].batches_per_epoch
    order = epoch_order(5, epoch, num_samples)
    planned = [
        [plan.batch(number, order) for plan in plans] for number in range(epoch * per_epoch, (epoch + 1) * per_epoch)
    ]
    samples = [[int(i) for part in parts for i in part.indices[part.is_sample]] for parts in planned]
    return samples, [int(place) for parts in planned for part in parts for place in part.places]


@pytest.mark.parametrize(("num_samples", "batch_size", "world_size"), [(12, 4, 1), (13, 4, 1), (13, 2, 3), (7, 3, 2)])
def test_every_sample_is_seen_once_in_an_epoch(num_samples, batch_size, world_size):
    samples, places = batches_of(1, None, num_samples, batch_size, world_size)
    assert list(chain(*samples)) == list(epoch_order(5, 1, num_samples))
    assert places[:num_samples] == list(range(num_samples, 2 * num_samples))


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_batch_that_is_not_full_can_be_left_out(world_size):
    samples, _ = batches_of(1, None, 13, 2, world_size, drop_last=True)
    assert len(samples) == 13 // (2 * world_size)
    assert list(chain(*samples)) == list(epoch_order(5, 1, 13)[:12])


@pytest.mark.parametrize(("batch_size", "world_size"), [(2, 1), (1, 2), (3, 1), (2, 2)])
def test_a_batch_is_of_one_group(batch_size, world_size):
    for epoch in range(3):
        samples, places = batches_of(epoch, GROUPS, len(GROUPS), batch_size, world_size)
        assert sorted(chain(*samples)) == list(range(len(GROUPS)))
        assert all(len({GROUPS[index] for index in batch}) == 1 for batch in samples)
        assert len(set(places)) == len(places)  # no two rows draw the same numbers
        size = batch_size * world_size
        assert len(samples) == -(-7 // size) + -(-3 // size) + 1
    assert batches_of(0, GROUPS, len(GROUPS), 2)[0] != batches_of(1, GROUPS, len(GROUPS), 2)[0]


def test_the_batches_of_groups_come_in_a_random_order():
    groups = np.repeat([0, 1], 40)
    samples, _ = batches_of(0, groups, 80, 4)
    of_batches = [int(groups[batch[0]]) for batch in samples]
    assert of_batches != sorted(of_batches) and of_batches != sorted(of_batches, reverse=True)
    assert samples == batches_of(0, groups, 80, 4)[0]
    halves, _ = batches_of(0, groups, 80, 2, world_size=2)
    assert halves == samples


def test_groups_without_batches_that_are_not_full():
    samples, _ = batches_of(0, GROUPS, len(GROUPS), 2, drop_last=True)
    assert sorted(len(batch) for batch in samples) == [2, 2, 2, 2]  # three of the first group, one of the second


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("drop_last", [False, True])
def test_samples_are_counted_by_batches(groups, drop_last):
    plan = Plan(5, 11, 2, groups=groups, drop_last=drop_last)
    sizes = []
    for epoch in range(3):
        sizes += [len(batch) for batch in batches_of(epoch, groups, 11, 2, drop_last=drop_last)[0]]
    for number in range(len(sizes)):
        assert plan.samples_before(number) == sum(sizes[:number])
        assert plan.batch_after(plan.samples_before(number)) == number
    assert plan.samples_before(plan.batches_per_epoch) == plan.samples_per_epoch
    first = sizes[0]
    assert plan.batch_after(first - 1) == 0 and plan.batch_after(first) == 1
