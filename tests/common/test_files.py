"""Files and folders that are replaced as a whole, with the permissions that the user wants."""

from __future__ import annotations

import os
import stat
import threading

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from mindone_ddpm.common import files


@pytest.fixture(params=[0o022, 0o077], ids=["umask 022", "umask 077"])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def permissions(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_at_the_end_only(tmp_path):
    path = tmp_path / "image.png"
    path.write_text("old")
    with files.atomic_path(path) as other:
        assert other.parent == tmp_path and other.suffix == ".png" and other.name.startswith(".")
        other.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["image.png"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="broken"), files.atomic_path(path) as other:
        other.write_text("half")
        raise ValueError("broken")
    with pytest.raises(FileNotFoundError), files.atomic_path(path):
        pass  # nothing was written
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_writers_of_the_same_file_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "a.txt"
    with files.atomic_path(path) as first, files.atomic_path(path) as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert path.read_text() == "1"  # renamed last


def test_a_file_of_another_process_can_be_left_in_place(tmp_path):
    path = tmp_path / "library.so"
    with files.atomic_path(path, overwrite=False) as other:
        other.write_text("mine")
    opened = path.stat().st_ino
    with files.atomic_path(path, overwrite=False) as other:
        other.write_text("later")
    assert path.read_text() == "mine" and path.stat().st_ino == opened and names(tmp_path) == ["library.so"]


def test_texts_and_bytes(tmp_path):
    files.write_text(tmp_path / "a", "grüße\n")
    files.write_bytes(tmp_path / "b", b"\x00\xff")
    assert (tmp_path / "a").read_bytes() == "grüße\n".encode() and (tmp_path / "b").read_bytes() == b"\x00\xff"


def test_arrays_as_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    files.save_safetensors({"turned": table.T, "step": np.int32(7)}, path, {"format": "pt"})
    found = load_file(path)
    np.testing.assert_array_equal(found["turned"], table.T)
    assert found["step"].shape == () and found["step"] == 7
    with safe_open(path, framework="np") as opened:
        assert opened.metadata() == {"format": "pt"}
    assert names(tmp_path) == ["a.safetensors"]


def test_permissions_are_those_of_new_files(tmp_path, umask):
    """safetensors writes its files as 0600."""
    files.save_safetensors({"a": np.zeros(2)}, tmp_path / "a.safetensors")
    with files.atomic_path(tmp_path / "program", mode=0o777) as other:
        other.write_text("#!/bin/sh\n")
    with files.atomic_folder(tmp_path / "folder") as other:
        (other / "closed").touch(0o600)
    with files.added_files(tmp_path / "shared", last="closed") as other:
        (other / "closed").touch(0o600)
    assert permissions(tmp_path / "a.safetensors") == 0o666 & ~umask
    assert permissions(tmp_path / "program") == 0o777 & ~umask
    assert permissions(tmp_path / "folder") == permissions(tmp_path / "shared") == 0o777 & ~umask
    assert permissions(tmp_path / "folder" / "closed") == permissions(tmp_path / "shared" / "closed") == 0o666 & ~umask


def test_the_umask_is_read_without_changing_it(umask):
    seen = set()

    def look() -> None:
        for _ in range(200):
            seen.add(files.current_umask())

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {umask}


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "checkpoint-1"
    with files.atomic_folder(folder) as other:
        (other / "old").touch()
    with files.atomic_folder(folder) as other:
        (other / "unet").mkdir()
        (other / "unet" / "new").touch()
        assert names(folder) == ["old"]
    assert names(folder) == ["unet"] and names(tmp_path) == ["checkpoint-1"]
    with pytest.raises(OSError, match="full"), files.atomic_folder(folder) as other:
        raise OSError(28, "full")
    assert names(folder) == ["unet"] and names(tmp_path) == ["checkpoint-1"]


def test_files_are_added_to_a_folder_the_index_last(tmp_path, monkeypatch):
    folder, moved, replace = tmp_path / "model", [], os.replace
    folder.mkdir()
    (folder / "notes").touch()
    monkeypatch.setattr(os, "replace", lambda source, target: (moved.append(target.name), replace(source, target)))
    with files.added_files(folder, last="index.json") as other:
        for name in ("a/z.txt", "index.json", "unet/b.txt"):
            (other / name).parent.mkdir(exist_ok=True)
            (other / name).touch()
        assert names(folder)[1:] == ["notes"]
    assert sorted(moved[:2]) == ["b.txt", "z.txt"] and moved[2:] == ["index.json"]
    assert names(folder) == ["a", "index.json", "notes", "unet"]
    with pytest.raises(OSError, match="full"), files.added_files(folder, last="index.json") as other:
        (other / "half").touch()
        raise OSError(28, "full")
    assert names(folder) == ["a", "index.json", "notes", "unet"]


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    for folder in ("samples", "unet"):
        (tmp_path / folder).mkdir()
    left = [files.temporary_path(tmp_path / name) for name in ("README.md", "samples/0001.png", "checkpoint-5")]
    left += [tmp_path / ".README.md.tmp"]  # of version 0.1
    for path in left:
        path.touch()
    folders = [files.temporary_path(tmp_path / "checkpoint-7", "old"), tmp_path / ".pipeline.tmp"]
    for path in folders:
        (path / "unet").mkdir(parents=True)
    kept = [".hidden", "notes.tmp", "samples/.mine.tmp", "unet/config.json"]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / ".mine.tmp").mkdir()
    files.remove_leftovers(tmp_path)
    assert not [path for path in (*left, *folders) if path.exists()]
    assert all((tmp_path / name).exists() for name in [*kept, ".mine.tmp"])
