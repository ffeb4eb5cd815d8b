"""The rooms: imports point one way, and one room alone knows the device."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "mindone_ddpm"
# A room may import from rooms on lower floors only.
FLOORS = [
    ["config", "lazy_imports"],
    ["rendezvous", "cuda"],
    ["runtime"],
    ["native", "convert"],
    ["kernels", "graph_cache", "distributed", "launch", "doctor"],
    ["precision", "dropout", "metrics"],
    ["data", "models", "optimizers", "objectives", "lora", "features"],
    ["sampling", "captions"],
    ["latents", "prompting"],
    ["unconditional", "text_to_image"],
    ["step", "ema"],
    ["checkpoint", "tracking", "history"],
    ["card"],
    ["hub", "preview", "editing", "evaluation"],
    ["validation", "report"],
    ["trainer"],
    ["cli"],
    ["__main__", "__init__"],
]
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def imports_of(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mindone_ddpm"):
            inside = (node.module or "").split(".")[1:]
            rooms.update(inside[:1] or [alias.name for alias in node.names if alias.name in FLOOR_OF])
    return rooms


def test_every_room_has_its_floor():
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(FLOOR_OF)


def test_imports_point_one_way():
    # runtime puts the device's kernels in place; __init__ prepares the environment.
    allowed = {("runtime", "kernels")}
    for path in PACKAGE.glob("*.py"):
        for room in imports_of(path):
            if (path.stem, room) not in allowed:
                assert FLOOR_OF[room] < FLOOR_OF[path.stem], f"{path.stem} imports {room}"


def test_numpy_is_not_imported_before_the_program_has_begun():
    """Its threads would be there before SIGINT is blocked, and take it: see runtime.InterruptWatch."""
    program = "import sys, mindone_ddpm.cli; print(sorted({'numpy', 'mindspore', 'datasets'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.stdout.strip() == "[]", result.stderr


def test_nothing_else_asks_which_device_it_is_on():
    for path in PACKAGE.glob("*.py"):
        if path.stem in ("runtime", "kernels", "config", "doctor"):
            continue
        text = path.read_text(encoding="utf-8")
        for word in ("device_target", "get_current_device", '"Ascend"', "'Ascend'"):
            assert word not in text, f"{path.name} asks for the device"


def test_importing_the_package_does_not_import_mindspore():
    code = "import sys, mindone_ddpm, mindone_ddpm.cli; print('mindspore' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.stdout.strip() == "False"
