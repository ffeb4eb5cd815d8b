"""The rooms: imports point one way, and one room alone knows the device."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "mindone_ddpm"


def module_of(path: Path) -> str:
    return ".".join(("mindone_ddpm", *path.relative_to(PACKAGE).with_suffix("").parts))


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def imports_of(path: Path) -> set[str]:
    """The modules of this package that a module imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found & MODULES.keys()


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: imports_of(path) for name, path in MODULES.items()}
    while graph:
        free = [name for name, imported in graph.items() if not imported & graph.keys()]
        assert free, f"a circle among {sorted(graph)}"
        for name in free:
            del graph[name]


def test_numpy_is_not_imported_before_the_program_has_begun():
    """Its threads would be there before SIGINT is blocked, and take it: see runtime.InterruptWatch."""
    program = "import sys, mindone_ddpm.cli; print(sorted({'numpy', 'mindspore', 'datasets'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.stdout.strip() == "[]", result.stderr


def test_nothing_else_asks_which_device_it_is_on():
    for path in PACKAGE.rglob("*.py"):
        if path.stem in ("start", "kernels", "groups", "doctor"):
            continue
        text = path.read_text(encoding="utf-8")
        for word in ("device_target", "get_current_device", '"Ascend"', "'Ascend'"):
            assert word not in text, f"{path.name} asks for the device"


def test_importing_the_package_does_not_import_mindspore():
    code = "import sys, mindone_ddpm, mindone_ddpm.cli; print('mindspore' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.stdout.strip() == "False"
