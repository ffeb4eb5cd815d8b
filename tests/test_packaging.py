"""What would be released: both archives hold what is needed, and say what they need."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from conftest import ROOT

import mindone_ddpm


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[Path, Path]:
    """A wheel, built from the sdist, built from a copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "mindone_ddpm", source / "mindone_ddpm", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(source / "dist"), str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return next((source / "dist").glob("*.whl")), next((source / "dist").glob("*.tar.gz"))


def test_the_wheel_holds_the_package_and_nothing_else(archives):
    wheel, sdist = archives
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    kinds = (".py", ".cpp", ".h", ".typed", ".html", ".js", ".css", ".svg")
    here = [path for path in (ROOT / "mindone_ddpm").rglob("*") if path.suffix in kinds]
    assert names == {path.relative_to(ROOT).as_posix() for path in here}
    with tarfile.open(sdist) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert names <= inside and {"README.md", "LICENSE", "setup.py"} <= inside


def test_the_wheel_says_what_it_is(archives):
    archive = zipfile.ZipFile(archives[0])
    name = next(name for name in archive.namelist() if name.endswith("METADATA"))
    metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Version"] == mindone_ddpm.__version__
    assert set(metadata.get_all("Provides-Extra")) >= {"tracking", "studio", "gpu", "dev", "docs"}
    needed = metadata.get_all("Requires-Dist")
    assert any(line.startswith("mindspore<") for line in needed) and any(
        line.startswith("mindone==") for line in needed
    )
    points = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert "mindone-ddpm = mindone_ddpm.cli:main" in points


def test_twine_accepts_both(archives):
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, archives)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_installed_wheel_starts(archives, tmp_path):
    """From a folder of its own, with this environment's libraries."""
    target = tmp_path / "site"
    install = ["install", "--quiet", "--no-deps", "--target", str(target), str(archives[0])]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    flags = ["train", "--dataset_name", "digits", "--max_train_steps", "7", "--print_config"]
    program = f"import sys, mindone_ddpm.cli as cli; print(cli.__file__); sys.exit(cli.main({flags}))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(target)}
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(target)) and "max_train_steps: 7" in result.stdout
