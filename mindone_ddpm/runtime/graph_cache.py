"""Compiled graphs kept from one start of a run to the next of the same, in the user's cache folder.

MindSpore can write a compiled graph to a file and read it back, but it does not look whether the graph's constants (the
table of learning rates, the noise levels) are those of the run at hand. So a graph is filed under a fingerprint of all
that goes into it, and any difference means compiling anew.
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
from mindone_ddpm.backends.cpu.native import library, processor
from mindone_ddpm.common.files import cache_dir

MOST_GRAPHS = 20  # of some megabytes each


SUMS = "sha256"


LEFT_AFTER_S = 24 * 3600.0  # compiling takes minutes at most


def fingerprint(facts: dict[str, Any]) -> str:
    """Of what a graph is made from, of this package's code and the processor, and of the program's script.

    MindSpore refuses a graph that another script has made, because it cannot know what that one changed; and a graph
    names the file of the operators in C++, which another cache folder has elsewhere.
    """
    found = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for path in sorted(Path(mindone_ddpm.__file__).parent.rglob("*.*")):
        if path.suffix in (".py", ".cpp"):
            found.update(path.read_bytes())
    found.update(processor().encode() + os.path.realpath(sys.argv[0]).encode() + str(library()).encode())
    return found.hexdigest()[:24]


@contextlib.contextmanager
def cached_graph(key: str | None) -> Iterator[None]:
    """What is compiled inside is taken from the cache, or put there; with None nothing is.

    Every process works on a copy of its own, and a new entry appears whole: runs may start side by side.
    """
    if key is None:
        yield
        return
    graphs = cache_dir() / "graphs"
    try:
        graphs.mkdir(parents=True, exist_ok=True)
        own = Path(tempfile.mkdtemp(prefix=".own-", dir=graphs))
    except OSError:  # no place to keep anything
        yield
        return
    entry = graphs / key
    try:
        known = _copy_whole(entry, own)
        ms.set_context(enable_compile_cache=True, compile_cache_path=str(own))
        try:
            with _same_sys():
                yield
        finally:
            ms.set_context(enable_compile_cache=False)
        with contextlib.suppress(OSError):  # a full disk, or another process that was first: only the cache suffers
            new_sum = _sum_of(own)
            if new_sum != known:  # none, damaged, or refused by MindSpore for a script that has changed
                (own / SUMS).write_text(new_sum)
                shutil.rmtree(entry, ignore_errors=True)
                own.chmod(0o755)  # other users may share the cache
                own.rename(entry)
            _prune(graphs)
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextlib.contextmanager
def _same_sys() -> Iterator[None]:
    """Keep what is set in ``sys``.

    To find the files that a graph depends on, MindSpore 2.10 makes every module anew that the program's script imports.
    A second ``sys`` puts the outputs and hooks of the first back to those with which Python began; a notebook dies.
    """
    names = ("stdin", "stdout", "stderr", "displayhook", "excepthook", "unraisablehook", "breakpointhook")
    before = {name: getattr(sys, name) for name in names}
    try:
        yield
    finally:
        vars(sys).update(before)


def _sum_of(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


def _copy_whole(entry: Path, own: Path) -> str | None:
    """Copy an entry; its sum, or None where it is not there as it was written."""
    try:
        shutil.copytree(entry, own, dirs_exist_ok=True)
        os.utime(entry)
        found = _sum_of(own)
        if (own / SUMS).read_text() == found:
            return found
    except (OSError, shutil.Error):
        pass
    for path in own.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return None


def _prune(graphs: Path) -> None:
    """Remove the oldest entries beyond the most that are kept, and what starts that were killed have left."""
    for left in graphs.glob(".own-*"):
        if time.time() - left.stat().st_mtime > LEFT_AFTER_S:
            shutil.rmtree(left, ignore_errors=True)
    entries = [path for path in graphs.iterdir() if not path.name.startswith(".")]  # those are at work
    for old in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True)[MOST_GRAPHS:]:
        shutil.rmtree(old, ignore_errors=True)
