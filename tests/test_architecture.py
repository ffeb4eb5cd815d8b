"""The rooms: imports point one way, and one room alone knows the device."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mindone_ddpm"


# The folders of the package, from the top to the bottom. A module may import from its own folder and from those below.
LAYERS = [
    "cli",
    "studio",
    "training",
    "averages",
    "jobs",
    "evaluation",
    "output",
    "sampling",
    "objectives",
    "models",
    "data",
    "runtime",
    "backends",
    "config",
    "common",
]
# Pairs on the same level, which do not know each other.
STRANGERS = {("evaluation", "output"), ("models", "data"), ("objectives", "data")}
LIGHT = ("config", "common.errors", "common.files", "jobs.base", "cli")  # and every config.py: read for --help
MOST_LINES = 450


def module_of(path: Path) -> str:
    return ".".join(("mindone_ddpm", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(path: Path, everywhere: bool) -> set[str]:
    """The modules of this package that a module imports, inside functions too if ``everywhere``; not for types."""
    found, nodes = set(), [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if is_for_types(node) or (not everywhere and isinstance(node, ast.FunctionDef)):
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found & MODULES.keys()


def folder_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_every_folder_has_its_layer():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders | {"cli"} == set(LAYERS)


def test_imports_point_down():
    for name, path in MODULES.items():
        own = folder_of(name)
        if own in ("", "__main__"):
            continue
        for imported in imports_of(path, everywhere=True):
            other = folder_of(imported)
            if other in ("", own):
                continue
            assert LAYERS.index(other) > LAYERS.index(own), f"{name} imports {imported}"
            assert (own, other) not in STRANGERS, f"{name} imports {imported}"


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: imports_of(path, everywhere=False) for name, path in MODULES.items()}
    while graph:
        free = [name for name, imported in graph.items() if not imported & graph.keys()]
        assert free, f"a circle among {sorted(graph)}"
        for name in free:
            del graph[name]


@pytest.mark.parametrize("folder", ["mindone_ddpm", "tests"])
def test_modules_are_short(folder):
    sources = [path for kind in ("*.py", "*.cpp", "*.h") for path in (ROOT / folder).rglob(kind)]
    long = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}


def test_the_tests_have_the_same_folders():
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(LAYERS) - {"cli"} <= folders


def test_numpy_is_not_imported_before_the_program_has_begun():
    """Its threads would be there before SIGINT is blocked, and take it: see runtime.InterruptWatch."""
    program = "import sys, mindone_ddpm.cli; print(sorted({'numpy', 'mindspore', 'datasets'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.stdout.strip() == "[]", result.stderr


# The backends themselves; where the device is chosen; the setting's values; what examines the machine for a person.
KNOW_DEVICES = ("backends/", "runtime/start.py", "config/groups.py", "runtime/doctor.py")
DEVICE_NAMES = {"Ascend", "GPU", "CPU", "device_target", "get_current_device"}


def test_nothing_else_asks_which_device_it_is_on():
    """No device's name is compared or looked up elsewhere: what depends on the device is a field of its Backend."""
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        if place.startswith(KNOW_DEVICES):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            said = node.value if isinstance(node, ast.Constant) else getattr(node, "attr", getattr(node, "id", None))
            assert not (isinstance(said, str) and said in DEVICE_NAMES), f"{place} asks for the device"
            compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            asks = {ast.unparse(side) for side in compared if isinstance(side, ast.Attribute)}
            assert not {text for text in asks if text.endswith((".device", "backend.name"))}, f"{place}: {asks}"


def test_importing_the_package_does_not_import_mindspore():
    code = "import sys, mindone_ddpm, mindone_ddpm.cli; print('mindspore' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.stdout.strip() == "False"
