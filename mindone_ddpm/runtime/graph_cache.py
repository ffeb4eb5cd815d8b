"""Compiled graphs, cached in the user's cache folder from one start of a run to the next.

MindSpore can write a compiled graph to a file and read it back, but it does not check whether the graph's constants
(the table of learning rates, the noise levels) are those of this run. So the cache key is a fingerprint of everything
that goes into a graph: after any change it is compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore as ms

import mindone_ddpm
from mindone_ddpm.backends.base import Backend
from mindone_ddpm.common.files import cache_dir

MOST_GRAPHS = 20  # of some megabytes each
SUMS = "sha256"
LEFT_AFTER_S = 24 * 3600.0  # compiling takes minutes at most


def fingerprint(facts: dict[str, Any], backend: Backend) -> str:
    """The cache key: of what a graph is made from, of the device, of this package's code, and of the program's script.

    MindSpore refuses a graph that another script has made, because it cannot know what that one changed.
    """
    facts = {**facts, "device": backend.name, "backend": backend.graph_facts()}
    found = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for path in sorted(Path(mindone_ddpm.__file__).parent.rglob("*.*")):
        if path.suffix in (".py", ".cpp", ".h"):
            found.update(path.read_bytes())
    found.update(os.path.realpath(sys.argv[0]).encode())
    return found.hexdigest()[:24]


@contextlib.contextmanager
def cached_graph(key: str | None) -> Iterator[None]:
    """A graph that is compiled inside is taken from the cache, or put there; with None neither.

    Every process works on its own copy, and a new entry is written atomically: runs may start at the same time.
    """
    if key is None:
        yield
        return
    graphs = cache_dir() / "graphs"
    try:
        graphs.mkdir(parents=True, exist_ok=True)
        own = Path(tempfile.mkdtemp(prefix=".own-", dir=graphs))
    except OSError:  # no folder that can be written to
        yield
        return
    entry = graphs / key
    try:
        known = _copy_entry(entry, own)
        ms.set_context(enable_compile_cache=True, compile_cache_path=str(own))
        try:
            with _same_sys():
                yield
        finally:
            ms.set_context(enable_compile_cache=False)
        with contextlib.suppress(OSError):  # a full disk, or another process was first: only the cache suffers
            new_sum = _checksum(own)
            if new_sum != known:  # missing, damaged, or refused by MindSpore because the script has changed
                (own / SUMS).write_text(new_sum)
                shutil.rmtree(entry, ignore_errors=True)
                own.chmod(0o755)  # other users may share the cache
                own.rename(entry)
            _prune(graphs)
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextlib.contextmanager
def _same_sys() -> Iterator[None]:
    """Keep the streams and hooks that are set in ``sys``.

    To find the files that a graph depends on, MindSpore 2.10 creates every module again that the program's script
    imports. Creating ``sys`` again resets its streams and hooks to those of Python's start, which breaks a notebook.
    """
    names = ("stdin", "stdout", "stderr", "displayhook", "excepthook", "unraisablehook", "breakpointhook")
    before = {name: getattr(sys, name) for name in names}
    try:
        yield
    finally:
        vars(sys).update(before)


def _checksum(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


def _copy_entry(entry: Path, own: Path) -> str | None:
    """Copy an entry. Returns its checksum, or None if it is missing or damaged."""
    try:
        shutil.copytree(entry, own, dirs_exist_ok=True)
        os.utime(entry)
        found = _checksum(own)
        if (own / SUMS).read_text() == found:
            return found
    except (OSError, shutil.Error):
        pass
    for path in own.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return None


def _prune(graphs: Path) -> None:
    """Remove the oldest entries beyond :data:`MOST_GRAPHS`, and what killed processes have left."""
    for left in graphs.glob(".own-*"):
        if time.time() - left.stat().st_mtime > LEFT_AFTER_S:
            shutil.rmtree(left, ignore_errors=True)
    entries = [path for path in graphs.iterdir() if not path.name.startswith(".")]  # those are in use
    for old in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True)[MOST_GRAPHS:]:
        shutil.rmtree(old, ignore_errors=True)
