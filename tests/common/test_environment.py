"""Importing the package changes nothing; importing what imports MindSpore sets its environment variables first."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from mindone_ddpm.common import environment

PACKAGE = ROOT / "mindone_ddpm"
OURS = {environment.ONEDNN_LIMIT, environment.LIMITED_HERE, *environment.DEFAULTS}


def run_python(program: str, **more: str) -> str:
    """What it prints, in a process without any of the variables."""
    variables = {name: value for name, value in os.environ.items() if name not in OURS}
    variables |= {"PYTHONPATH": str(ROOT), **more}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=variables)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


IMPORT = """
import os, sys
before = dict(os.environ), list(sys.meta_path), os.sched_getaffinity(0), set(sys.modules)
import mindone_ddpm
dir(mindone_ddpm)
assert (dict(os.environ), list(sys.meta_path), os.sched_getaffinity(0)) == before[:3]
print(sorted({name.split(".")[0] for name in sys.modules.keys() - before[3]} - sys.stdlib_module_names))
"""


@pytest.mark.parametrize("rank", [{}, {"MS_ROLE": "MS_WORKER", "DEVICE_ID": "0", "MINDONE_DDPM_LOCAL_RANKS": "2"}])
def test_importing_the_package_changes_nothing(rank):
    assert run_python(IMPORT, **rank) == "['mindone_ddpm']"


def imports_mindspore(path: Path) -> bool:
    """At its own import, outside functions."""
    nodes = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while nodes:
        node = nodes.pop()
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.split(".")[0] in ("mindspore", "mindone") for name in names):
            return True
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            nodes += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return False


def test_every_folder_that_imports_mindspore_sets_its_variables_first():
    folders = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if imports_mindspore(path)}
    assert len(folders) > 5
    for folder in folders:
        assert "import environment" in (PACKAGE / folder / "__init__.py").read_text(encoding="utf-8"), folder


SHOW = """
import json, os, sys
{imports}
print(json.dumps({{name: os.environ.get(name) for name in {names}}}))
"""


def variables_after(imports: str, **more: str) -> dict[str, str | None]:
    return json.loads(run_python(SHOW.format(imports=imports, names=sorted(OURS)), **more))


def test_a_users_own_values_win():
    found = variables_after("import mindone_ddpm.training", GLOG_v="1", ONEDNN_MAX_CPU_ISA="SSE41")
    assert found["GLOG_v"] == "1" and found["ONEDNN_MAX_CPU_ISA"] == "SSE41"
    assert found[environment.LIMITED_HERE] is None and found["TOKENIZERS_PARALLELISM"] == "false"


AFTER_MINDSPORE = """
import mindspore as ms
from mindone_ddpm.backends.cpu.native import find_onednn
from mindone_ddpm.runtime.start import start
start("CPU", "pynative", 0)
ms.ops.conv2d(ms.ops.ones((1, 8, 8, 8)), ms.ops.ones((8, 8, 3, 3))).asnumpy()
import ctypes
print(ctypes.CDLL(str(find_onednn())).dnnl_get_effective_cpu_isa())
"""


@pytest.mark.skipif(not environment.onednn_is_limited(), reason="MindSpore's oneDNN needs no limit here")
def test_the_limit_holds_where_mindspore_was_imported_first():
    avx2 = 7
    assert int(run_python(AFTER_MINDSPORE, GLOG_v="3").splitlines()[-1]) <= avx2
