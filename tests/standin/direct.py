"""Calls the stand-in's kernels from Python, without MindSpore: for tests of their values and of what they refuse."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from build import TYPE_BITS, build

STORAGE = {
    **{name: np.dtype(name) for name in TYPE_BITS if name not in ("bool", "bfloat16")},
    **{"bool": np.dtype(np.bool_), "bfloat16": np.dtype(np.uint16)},
}
LAYOUTS = ("dense", "transposed", "spaced")


def round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """What is left of float64 values in a type, as float64."""
    return decode(encode(values, dtype), dtype)


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values as a type stores them."""
    if dtype != "bfloat16":
        return np.asarray(values).astype(STORAGE[dtype])
    single = np.array(values, dtype=np.float32, ndmin=1)
    bits = single.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # to nearest, ties to even
    return np.where(np.isnan(single), 0x7FC0, rounded).astype(np.uint16).reshape(np.shape(values))


def decode(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Stored values as float64."""
    if dtype != "bfloat16":
        return stored.astype(np.float64)
    bits = np.array(stored, dtype=np.uint32, ndmin=1) << 16
    return bits.view(np.float32).astype(np.float64).reshape(stored.shape)


class In(NamedTuple):
    """A tensor that a kernel reads; without a type it has the tested one."""

    values: np.ndarray
    dtype: str = ""


class Out(NamedTuple):
    """A tensor that a kernel writes, with the expected values; ``start``: what is in it before."""

    values: np.ndarray
    dtype: str = ""
    start: np.ndarray | None = None


class Number(NamedTuple):
    """An aclScalar."""

    value: float
    dtype: str = "float64"


class Ints(NamedTuple):
    """An aclIntArray."""

    values: Sequence[int]


class Flags(NamedTuple):
    """An aclBoolArray."""

    values: Sequence[bool]


class Ins(NamedTuple):
    """An aclTensorList that a kernel reads; without a type it has the tested one."""

    values: Sequence[np.ndarray]
    dtype: str = ""


class Outs(NamedTuple):
    """An aclTensorList that a kernel writes."""

    values: Sequence[np.ndarray]


Argument = In | Out | Number | Ints | Flags | Ins | Outs | int | float | bool | str | None


class Refused(Exception):
    """The first or second stage failed; the message is CANN's last error."""


class DeviceTensor:
    """Memory in a type and layout, and the view of it that a kernel gets.

    Attributes:
        memory: everything, with what lies between the elements.
        view: the elements.
    """

    def __init__(self, values: np.ndarray, dtype: str, layout: str) -> None:
        stored = encode(values, dtype)
        shape = stored.shape
        if layout == "transposed":
            self.memory = np.zeros(shape[::-1], stored.dtype)
            self.view = self.memory.T
        elif layout == "spaced" and shape:
            self.memory = np.full((*shape[:-1], 2 * shape[-1] + 1), 77).astype(stored.dtype)
            self.view = self.memory[..., 1::2]
        else:
            self.memory = np.zeros(shape, stored.dtype)
            self.view = self.memory
        self.view[...] = stored
        self.dtype = dtype
        self.spaced = layout == "spaced" and bool(shape)

    def read(self) -> np.ndarray:
        return decode(self.view, self.dtype)

    def gaps_are_untouched(self) -> bool:
        return not self.spaced or bool(np.all(self.memory[..., 0::2] == np.asarray(77).astype(self.memory.dtype)))


class Library:
    """The built stand-in."""

    def __init__(self) -> None:
        self.functions = ctypes.CDLL(str(build() / "lib64" / "libascendcl.so"))
        for name in ["Tensor", "Scalar", "IntArray", "BoolArray", "TensorList", "TensorDesc", "DataBuffer"]:
            getattr(self.functions, f"aclCreate{name}").restype = ctypes.c_void_p
        self.functions.aclopCreateAttr.restype = ctypes.c_void_p
        self.functions.aclGetRecentErrMsg.restype = ctypes.c_char_p
        self.functions.standin_kernels.restype = ctypes.c_char_p

    def kernels(self) -> list[str]:
        """Names of every kernel, aclnn and aclop."""
        return self.functions.standin_kernels().decode().split()

    def error(self) -> str:
        return self.functions.aclGetRecentErrMsg().decode()

    def run(
        self, name: str, arguments: Sequence[Argument], dtype: str = "float32", layout: str = "dense"
    ) -> list[DeviceTensor]:
        """Both stages of an aclnn operator.

        Returns:
            The tensors of its `Out` and `Outs`, in order.

        Raises:
            Refused: a stage failed.
        """
        call = _Arguments(self.functions, dtype, layout)
        given = [call.convert(argument) for argument in arguments]
        workspace, executor = ctypes.c_uint64(), ctypes.c_void_p()
        first = getattr(self.functions, f"{name}GetWorkspaceSize")
        second = getattr(self.functions, name)
        try:
            if first(*given, ctypes.byref(workspace), ctypes.byref(executor)):
                raise Refused(self.error())
            if second(None, workspace, executor, None):
                raise Refused(self.error())
        finally:
            call.destroy()
        return call.outputs

    def run_aclop(
        self, name: str, inputs: Sequence[In], outputs: Sequence[Out], dtype: str = "float32", **attributes: bool | int
    ) -> list[DeviceTensor]:
        """An operator by name. An input that is also written is given back after the outputs.

        Raises:
            Refused: it failed.
        """
        tensors = [
            [DeviceTensor(one.values, one.dtype or dtype, "dense") for one in side] for side in (inputs, outputs)
        ]
        functions = self.functions
        attribute = functions.aclopCreateAttr()
        for key, value in attributes.items():
            functions.aclopSetAttrInt(ctypes.c_void_p(attribute), key.encode(), ctypes.c_int64(int(value)))
        handles = []
        for side in tensors:
            shapes = [(ctypes.c_int64 * t.view.ndim)(*t.view.shape) for t in side]
            descs = [
                functions.aclCreateTensorDesc(TYPE_BITS[t.dtype], t.view.ndim, shape, 2)
                for t, shape in zip(side, shapes, strict=True)
            ]
            buffers = [
                functions.aclCreateDataBuffer(ctypes.c_void_p(t.view.ctypes.data), ctypes.c_size_t(t.view.nbytes))
                for t in side
            ]
            handles += [len(side), (ctypes.c_void_p * len(side))(*descs), (ctypes.c_void_p * len(side))(*buffers)]
        if functions.aclopCompileAndExecuteV2(name.encode(), *handles, ctypes.c_void_p(attribute), 0, 0, None, None):
            raise Refused(self.error())
        return [*tensors[1], *tensors[0]]


class _Arguments:
    """What is converted for one call, and destroyed after it."""

    def __init__(self, functions: ctypes.CDLL, dtype: str, layout: str) -> None:
        self.functions, self.dtype, self.layout = functions, dtype, layout
        self.outputs: list[DeviceTensor] = []
        self._kept: list[object] = []
        self._handles: list[tuple[str, int]] = []

    def convert(self, argument: Argument) -> object:
        if argument is None:
            return ctypes.c_void_p()
        if isinstance(argument, In):
            return self._tensor(argument.values, argument.dtype)
        if isinstance(argument, Out):
            start = np.full(argument.values.shape, 55) if argument.start is None else argument.start
            return self._tensor(start, argument.dtype, written=True)
        if isinstance(argument, Ins | Outs):
            written = isinstance(argument, Outs)
            dtype = argument.dtype if isinstance(argument, Ins) else ""
            handles = [self._tensor(one, dtype, written).value for one in argument.values]
            self._handles = self._handles[: -len(handles)]  # the list owns them
            return self._handle("TensorList", (ctypes.c_void_p * len(handles))(*handles), ctypes.c_uint64(len(handles)))
        if isinstance(argument, Number):
            stored = self._keep(np.atleast_1d(encode(np.asarray(argument.value), argument.dtype)))
            return self._handle("Scalar", ctypes.c_void_p(stored.ctypes.data), TYPE_BITS[argument.dtype])
        if isinstance(argument, Ints):
            values = (ctypes.c_int64 * len(argument.values))(*argument.values)
            return self._handle("IntArray", values, ctypes.c_uint64(len(argument.values)))
        if isinstance(argument, Flags):
            flags = (ctypes.c_bool * len(argument.values))(*argument.values)
            return self._handle("BoolArray", flags, ctypes.c_uint64(len(argument.values)))
        if isinstance(argument, bool):
            return ctypes.c_bool(argument)
        if isinstance(argument, int):
            return ctypes.c_int64(argument)
        if isinstance(argument, float):
            return ctypes.c_double(argument)
        return ctypes.c_char_p(argument.encode())

    def _keep(self, thing):
        self._kept.append(thing)
        return thing

    def _handle(self, kind: str, *arguments: object) -> ctypes.c_void_p:
        handle = getattr(self.functions, f"aclCreate{kind}")(*arguments)
        self._handles.append((kind, handle))
        return ctypes.c_void_p(handle)

    def _tensor(self, values: np.ndarray, dtype: str, written: bool = False) -> ctypes.c_void_p:
        tensor = self._keep(DeviceTensor(values, dtype or self.dtype, self.layout))
        if written:
            self.outputs.append(tensor)
        view, size = tensor.view, tensor.view.itemsize
        rank = ctypes.c_uint64(view.ndim)
        offset = (view.ctypes.data - tensor.memory.ctypes.data) // size
        dims = (ctypes.c_int64 * view.ndim)(*view.shape)
        strides = (ctypes.c_int64 * view.ndim)(*(stride // size for stride in view.strides))
        memory = ctypes.c_void_p(tensor.memory.ctypes.data)
        bits = TYPE_BITS[tensor.dtype]
        return self._handle("Tensor", dims, rank, bits, strides, ctypes.c_int64(offset), 2, dims, rank, memory)

    def destroy(self) -> None:
        for kind, handle in reversed(self._handles):
            getattr(self.functions, f"aclDestroy{kind}")(ctypes.c_void_p(handle))
