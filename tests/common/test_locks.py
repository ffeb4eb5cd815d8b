"""Locks on folders, with real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
from conftest import ROOT

from mindone_ddpm.common.errors import ConfigError
from mindone_ddpm.common.locks import LOCK_FILE, FolderLock

HOLDER = """
import os, sys, time
from pathlib import Path
from mindone_ddpm.common.locks import FolderLock
with FolderLock(Path(sys.argv[1]), "--output_dir").hold():
    if len(sys.argv) > 2 and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


def hold_elsewhere(folder, *words: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(folder), *words]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == "held\n"
    return process


def test_one_process_holds_it_and_others_are_told_which(tmp_path):
    holder = hold_elsewhere(tmp_path)
    lock = FolderLock(tmp_path, "--output_dir")
    message = f"--output_dir {tmp_path}: process {holder.pid} on {socket.gethostname()} writes there since 20"
    for attempt in (lock.check, lock.acquire):
        with pytest.raises(ConfigError) as error:
            attempt()
        assert str(error.value).startswith(message)
    holder.communicate("")
    assert list(tmp_path.iterdir()) == []
    with lock.hold():
        assert (tmp_path / LOCK_FILE).is_file()


def test_a_dead_holders_lock_is_free_though_its_children_live(tmp_path):
    holder = hold_elsewhere(tmp_path, "with a child")
    child = int(subprocess.run(["pgrep", "-P", str(holder.pid)], capture_output=True, text=True).stdout)
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK_FILE).is_file()
    with FolderLock(tmp_path, "--output_dir").hold():
        pass
    os.kill(child, signal.SIGKILL)


def test_a_folder_made_for_nothing_is_removed(tmp_path):
    with FolderLock(tmp_path / "a" / "run", "--output_dir").hold():
        assert (tmp_path / "a" / "run").is_dir()
    assert not (tmp_path / "a" / "run").exists()
    with FolderLock(tmp_path / "run", "--output_dir").hold():
        (tmp_path / "run" / "file").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]


def test_a_removed_folder_is_noticed_and_locked_again(tmp_path):
    lock = FolderLock(tmp_path / "run", "--output_dir")
    with lock.hold():
        assert not lock.is_lost()
        (tmp_path / "run" / LOCK_FILE).unlink()
        (tmp_path / "run").rmdir()
        assert lock.is_lost()
        lock.acquire()
        assert not lock.is_lost()


def test_a_damaged_lock_file_and_a_place_that_cannot_be_written(tmp_path):
    holder = hold_elsewhere(tmp_path)
    (tmp_path / LOCK_FILE).write_text("[]")
    with pytest.raises(ConfigError, match="another process writes there; stop it, or give another folder"):
        FolderLock(tmp_path, "--output_dir").check()
    holder.communicate("")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written to"), FolderLock(tmp_path / "file", "--output_dir").hold():
        pass
