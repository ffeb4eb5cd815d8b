from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindone_ddpm.data.columns import CalledByName, pack


class WeighedSum(nn.Cell):
    """10 images + noise, + labels * 100 where there are labels, and the sum of factor, a parameter."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.factor = ms.Parameter(ms.Tensor(10.0, ms.float32), name="factor")

    def construct(self, images, noise, input_noise=None, labels=None):
        result = self.factor * images + (noise if input_noise is None else input_noise)
        if labels is not None:
            result = result + labels * 100
        return result


def tensors(*values):
    return [ms.Tensor([value], ms.float32) for value in values]


@pytest.mark.parametrize(
    ("columns", "values", "expected"),
    [
        (("images", "noise"), (1, 2), 12),
        (("noise", "images"), (1, 2), 21),
        (("images", "noise", "labels"), (1, 2, 3), 312),
        (("labels", "images", "noise", "input_noise"), (3, 1, 2, 4), 314),
    ],
)
def test_each_column_goes_to_the_parameter_of_its_name(either_mode, columns, values, expected):
    cell = CalledByName(WeighedSum(), columns)
    assert cell(*tensors(*values)).asnumpy() == [expected]


def test_gradients_and_names_of_parameters_are_those_of_the_cell(either_mode):
    loss = WeighedSum()
    cell = CalledByName(loss, ("labels", "noise", "images"))
    assert [parameter.name for parameter in cell.trainable_params()] == ["factor"]

    def total(*batch):
        return cell(*batch).sum()

    weights = ms.ParameterTuple([loss.factor])
    value, gradients = ms.value_and_grad(total, None, weights=weights)(*tensors(1, 2, 3))
    assert (float(value), float(gradients[0])) == (132.0, 3.0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("images", "noise", "captions"), "WeighedSum.construct has no parameter for the column captions; its param"),
        (("images", "labels"), "WeighedSum.construct needs the column noise; the batch has images, labels"),
    ],
)
def test_columns_that_do_not_fit_the_cell_are_refused_when_it_is_made(columns, message):
    with pytest.raises(TypeError, match=message):
        CalledByName(WeighedSum(), columns)


def test_a_cell_whose_parameters_have_no_names_is_refused():
    class AnyNumber(nn.Cell):
        def construct(self, images, *others):
            return images

    with pytest.raises(TypeError, match=r"AnyNumber.construct: \*others cannot be given a column"):
        CalledByName(AnyNumber(), ("images",))


def test_batches_are_packed_in_the_order_of_the_columns():
    batch = {"noise": np.ones(2), "images": np.zeros(2)}
    columns = ("images", "noise")
    packed = pack(batch, columns)
    assert [values[0] for values in packed] == [0, 1]


def test_a_batch_that_lacks_a_column_or_has_another_is_refused():
    with pytest.raises(ValueError, match="the batch has no column noise; its columns must be images, noise"):
        pack({"images": 0}, ("images", "noise"))
    with pytest.raises(ValueError, match="the batch has an unknown column labels; its columns must be images"):
        pack({"images": 0, "labels": 1}, ("images",))
