"""What can be said about Ascend without one: MindSpore's own documentation of what is called, the graph that is
compiled, and which of the package's own operators would be in it."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from conftest import ROOT, run_program, without_substitutes

from mindone_ddpm.backends.base import measure_plain

PACKAGE = ROOT / "mindone_ddpm"
PLATFORMS = re.compile(r"Supported Platforms:\s*(?:\n\s*(?P<line>``.*)|\n\s*(?P<table>\+-[\s\S]*?)\n\s*\n)")
# Run on a CPU by test_substitutes.py and test_distributed.py, though their documentation does not name it.
PROVED_ON_CPU = {
    "mindspore.ops.conv2d",
    "mindspore.ops.interpolate",
    "mindspore.ops.AllGather",
    "mindspore.ops.Broadcast",
}


# --- what MindSpore's documentation says ---------------------------------------------------------------------------


def mindspore_names(path: Path) -> set[str]:
    """Every name of MindSpore that a file uses, written out: ``mindspore.ops.square``."""
    tree, known = ast.parse(path.read_text(encoding="utf-8")), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "mindspore":
                    known[alias.asname or "mindspore"] = alias.name if alias.asname else "mindspore"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mindspore":
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    names = set()
    for node in ast.walk(tree):
        parts, at = [], node
        while isinstance(at, ast.Attribute):
            parts.append(at.attr)
            at = at.value
        if isinstance(at, ast.Name) and at.id in known:
            names.add(".".join([known[at.id], *reversed(parts)]))
    return names


def resolve(name: str):
    """The object of that name, or of the longest part of it that there is: a value's own methods are left out."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        return functools.reduce(getattr, parts[length:], found)
    raise ImportError(name)


def platforms(documented: object) -> set[str] | None:
    """What an object's documentation lists; None where it lists nothing."""
    found = PLATFORMS.search(inspect.getdoc(documented) or "")
    return None if found is None else {device for device in ("Ascend", "GPU", "CPU") if device in found.group(0)}


def uses() -> dict[str, set[str]]:
    """Names of MindSpore, and the modules that use them."""
    modules: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for name in mindspore_names(path):
            modules.setdefault(name, set()).add(path.relative_to(PACKAGE).as_posix())
    return modules


@pytest.fixture
def own_operators():
    with without_substitutes():
        yield


def test_every_operator_is_documented_for_ascend(own_operators):
    listed = {name: platforms(resolve(name)) for name in uses()}
    operators = {name: devices for name, devices in listed.items() if devices is not None}
    assert len(operators) > 60
    assert [name for name, devices in operators.items() if "Ascend" not in devices] == []


def test_what_is_documented_for_no_device_is_no_operator(own_operators):
    """Modules, types, settings; anything else would have to be looked into."""
    rest = {name for name in uses() if platforms(resolve(name)) is None and not inspect.ismodule(resolve(name))}
    settings = {"set_context", "set_device", "set_seed", "get_seed"}
    settings |= {"set_deterministic", "hal.get_device_name"}
    values = {"Parameter", "ParameterTuple", "Tensor", "ParallelMode", "GRAPH_MODE", "PYNATIVE_MODE", "__file__"}
    dtypes = {"bfloat16", "bool_", "float16", "float32", "int32"}
    known = {f"mindspore.{name}" for name in settings | values | dtypes} | {"mindspore.ParallelMode.DATA_PARALLEL"}
    data = {"mindspore.dataset.GeneratorDataset", "mindspore.dataset.config.set_prefetch_size"}  # run on the host
    others = {"mindspore.ops.concat", "mindspore.mint.nn.Conv2d.__init__"}  # another name of ops.cat; what is replaced
    assert rest <= known | data | others


def test_what_replaces_an_operator_is_documented_for_the_devices_that_lack_it(own_operators):
    for name, modules in uses().items():
        devices = platforms(resolve(name))
        is_substitute = bool(modules & {"backends/substitutes.py", "backends/cpu/operators.py"})
        if is_substitute and devices is not None and ".mint." not in name:  # mint is what is replaced
            assert "GPU" in devices, name
            assert "CPU" in devices or name in PROVED_ON_CPU, name


def test_methods_of_tensors_are_documented_for_ascend(own_operators):
    """In the modules whose code is compiled, by name: whatever has a method of a tensor's name may be one."""
    checked = 0
    compiled = [
        *PACKAGE.glob("objectives/*.py"),
        *(PACKAGE / "backends" / name for name in ("base.py", "substitutes.py", "cpu/operators.py", "cpu/fused.py")),
        PACKAGE / "evaluation" / "inception.py",
    ]
    compiled += [PACKAGE / "models" / f"{name}.py" for name in ("dropout", "precision", "lora")]
    compiled += [PACKAGE / "training" / f"{name}.py" for name in ("step", "ema", "optimizers")]
    for path in compiled:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                devices = platforms(getattr(ms.Tensor, node.func.attr, None))
                if devices is not None:
                    assert "Ascend" in devices, f"{path.name}: Tensor.{node.func.attr}"
                    checked += 1
    assert checked > 50


# --- the compiled graph --------------------------------------------------------------------------------------------


def graphs_of(folder: Path) -> str:
    """The graphs that MindSpore wrote just before it hands them to the device."""
    paths = sorted(folder.rglob("*_validate_*.ir"))
    assert paths, "MindSpore wrote no graph"
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)


def not_for_ascend(graphs: str) -> list[str]:
    """Lines with a tensor of 64-bit floats, or of a shape that is not known beforehand."""
    dynamic = r"Tensor\[\w+\]\]?>?, \([^)]*-\d"
    return [line for line in graphs.splitlines() if re.search(rf"Float64|F64\(|{dynamic}", line)]


CONTROL = """
from mindone_ddpm.runtime.start import start
start("CPU", "graph", 0)
import mindspore as ms
from mindspore import nn
class Case(nn.Cell):
    def construct(self, x):
        {body}
cell = Case()
cell.set_inputs(ms.Tensor(shape=[{shape}], dtype=ms.float32))
cell(ms.Tensor([1.0, 2.0], ms.float32))
"""


@pytest.mark.parametrize(
    ("body", "shape", "found"),
    [
        ("return x + x", "2", False),
        ("return (x.astype(ms.float64) * 2).sum()", "2", True),
        ("return x + x", "None", True),
    ],
)
def test_the_reader_of_graphs_sees_what_it_looks_for(body, shape, found, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MS_DEV_SAVE_GRAPHS": "1"}
    environment["MS_DEV_SAVE_GRAPHS_PATH"] = str(tmp_path)
    program = tmp_path / "control.py"
    program.write_text(CONTROL.format(body=body, shape=shape))
    subprocess.run([sys.executable, str(program)], check=True, env=environment, capture_output=True)
    assert bool(not_for_ascend(graphs_of(tmp_path))) is found


@pytest.mark.slow  # tests/standin/test_trace.py looks for the same in what is launched
@pytest.mark.parametrize("job", ["train", "train_text_to_image"])
def test_no_float64_and_no_dynamic_shape_reaches_the_device(job, request, digits_flags, tmp_path):
    """A step as on Ascend: MindSpore's own operators where they can run here, half precision, clipping, an average."""
    flags = digits_flags if job == "train" else request.getfixturevalue("text_flags")
    graphs = tmp_path / "graphs"
    result = run_program(
        *(job, *flags, "--max_train_steps", 1, "--mixed_precision", "fp16", "--snr_gamma", 5, "--output_dir"),
        *(tmp_path / "run", "--compile_cache", "off", "--gradient_accumulation_steps", 2),
        MINDONE_DDPM_NATIVE="0",
        MS_DEV_SAVE_GRAPHS="1",
        MS_DEV_SAVE_GRAPHS_PATH=str(graphs),
    )
    assert result.returncode == 0, result.stderr
    written = graphs_of(graphs)
    assert "DiffusionTrainStep" in written and "WindowUpdate" in written and "Float16" in written
    assert not_for_ascend(written) == []


# --- which operators it would be made of ---------------------------------------------------------------------------


STUBBED = """
import sys
from mindone_ddpm.backends import ascend, base
from mindone_ddpm.common.libraries import quiet_imports
from mindone_ddpm.runtime import start
start.available_devices = lambda: ["Ascend", "CPU"]
with quiet_imports():
    import mindspore as ms
    from mindspore import mint
    import mindspore.mint.nn.functional as functional
    import mindone.diffusers.models.resnet as resnet
    import mindone.diffusers.models.attention_processor as attention
owners = (mint, functional, mint.nn.Conv2d, mint.nn.GroupNorm, mint.nn.LayerNorm, mint.nn.Dropout, ms.Tensor,
          resnet.ResnetBlock2D, attention.Attention)
before = [dict(vars(owner)) for owner in owners]
asked = []
ms.set_device = asked.append
found = start.start("auto", "graph", 0)
assert asked == ["Ascend"] and found.device == "Ascend", asked
for owner, kept in zip(owners, before):
    changed = {name for name in vars(owner) if vars(owner)[name] is not kept.get(name)}
    assert not changed, (owner, changed)
assert not {name for name in sys.modules if name.startswith("mindone_ddpm.backends.")} - {
    "mindone_ddpm.backends." + name for name in ("base", "choose", "ascend", "gpu", "gpu.cuda")}
some = [ms.Parameter(ms.Tensor([1.0]))] * 2
ms.hal.get_device_name = lambda device: "Ascend910A"
assert found.backend.gradients(some[:1]) == (base.measure_plain, base.rescale_plain)
ms.hal.get_device_name = lambda device: "Ascend910B1"
assert found.backend.adamw(some) is ascend.adam_fused and found.backend.ema(some) is base.move_averages_plain
assert found.backend.gradients(some) == (base.measure_plain, base.rescale_plain)
assert found.backend.gradients(some[:1]) == (ascend.measure_ieee, base.rescale_plain)
assert found.backend.default_precision == "fp16" and not found.backend.caches_graphs and found.rendezvous is None
print("whole")
"""


def test_on_ascend_nothing_is_replaced(tmp_path):
    """In a process of its own whose MindSpore is told that it has an NPU, and where nothing was compiled before."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MINDONE_DDPM_CACHE": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", STUBBED], capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == "whole", result.stderr
    assert list(tmp_path.iterdir()) == []


def test_overflow_is_found_by_mindspores_own_check(monkeypatch):
    """It asks the NPU's status where numbers saturate instead of becoming infinite."""
    gradients = (ms.Tensor(np.ones(3), ms.float32), ms.Tensor(np.ones(2), ms.float32))
    monkeypatch.setattr(ms.amp, "all_finite", lambda found: ms.Tensor(False))
    squares, finite = measure_plain(gradients)
    assert squares.asnumpy() == 5.0 and not finite.asnumpy()
