from __future__ import annotations

import numpy as np
import pytest
from data_helpers import folder_config, make_source

from mindone_ddpm.data.images import DataError
from mindone_ddpm.data.plan import Plan
from mindone_ddpm.jobs.unconditional.config import TrainingConfig
from mindone_ddpm.jobs.unconditional.data import open_records


def stream_config(folder, **values) -> TrainingConfig:
    return folder_config(folder, streaming=True, **{"max_train_samples": 12, "streaming_buffer_size": 4, **values})


def test_a_stream_gives_every_image_once_an_epoch_in_another_order(image_folder):
    records = open_records(stream_config(image_folder))
    plain = open_records(folder_config(image_folder))
    known = {plain.image(number).tobytes() for number in range(12)}
    epochs = [[records.image(12 * epoch + place).tobytes() for place in range(12)] for epoch in range(2)]
    assert [set(epoch) for epoch in epochs] == [known, known]
    assert epochs[0] != epochs[1]


def test_a_stream_is_the_same_from_the_middle_and_over_ranks(image_folder):
    alone = make_source(stream_config(image_folder), Plan(0, 12, 5))
    expected = [alone[number] for number in range(6)]
    later = make_source(stream_config(image_folder), Plan(0, 12, 5), first=4, count=2)
    for found, wanted in zip([later[0], later[1]], expected[4:], strict=True):
        for column, reference in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(column, reference)
    halves = [make_source(stream_config(image_folder), Plan(0, 12, 3, rank, 2)) for rank in range(2)]
    whole = make_source(stream_config(image_folder), Plan(0, 12, 6))
    for number in range(4):
        both = [half[number] for half in halves]
        for column, parts in zip(whole[number], zip(*both, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), column)


def test_a_stream_must_say_how_long_it_is(image_folder):
    with pytest.raises(DataError, match="does not say how long it is; give --max_train_samples"):
        open_records(stream_config(image_folder, max_train_samples=None))
    records = open_records(stream_config(image_folder, max_train_samples=20))
    with pytest.raises(DataError, match="the stream ended after 12 of 20 images; give --max_train_samples 12"):
        records.image(13)


def test_fewer_images_can_be_asked_for(image_folder):
    assert len(open_records(folder_config(image_folder, max_train_samples=5))) == 5
