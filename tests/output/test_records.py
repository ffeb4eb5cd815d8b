"""Records of checkpoints that are damaged or made up: refused in a line, and the checkpoint before is taken."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindone_ddpm.output import checkpoint, records
from mindone_ddpm.output.checkpoint import STATE_RECORD, CheckpointError

GOOD = {
    "progress": {"step": 3, "batch_number": 3, "skips": 0, "samples_seen": 12, "best": None, "measured": {"fid": 2}},
    "world_size": 1, "identity": {}, "config": {"seed": 0}, "versions": {}, "files": {},
}  # fmt: skip
FILE = {"bytes": 1, "sha256": "0" * 64}


def changed(path: str, value: object) -> dict:
    record = copy.deepcopy(GOOD)
    *parts, last = path.split(".")
    place = record
    for part in parts:
        place = place[part]
    place[last] = value
    return record


def write(folder: Path, record: object) -> Path:
    folder.mkdir()
    (folder / STATE_RECORD).write_text(record if isinstance(record, str) else json.dumps(record))
    return folder


@pytest.mark.parametrize(
    "record",
    [
        *("", "[]", "null", "{", "[" * 100000, '{"files": []}', {"files": {}}),
        changed("files", []),
        *(changed("files", {name: FILE}) for name in ("/etc/passwd", "../a", "a/../../b", "", "a\0b")),
        *(
            changed("files", {"a": file})
            for file in (None, {}, {"bytes": -1, "sha256": "0" * 64}, {**FILE, "sha256": 5})
        ),
        *(changed(f"progress.{name}", -5) for name in ("step", "batch_number", "skips", "samples_seen")),
        *(changed("progress.step", value) for value in (None, "3", 3.5, True, [3], 2**70)),
        *(changed("progress.best", value) for value in ([], {}, {"figure": 1, "value": 2, "step": 3})),
        changed("progress.measured", {"fid": "two"}),
        *(changed("world_size", value) for value in (0, -1, None, "1")),
        *(changed(name, value) for name in ("progress", "config", "identity") for value in ([], None, "x")),
    ],
)
def test_records_that_are_refused(record, tmp_path):
    folder = write(tmp_path / "checkpoint-3", record)
    with pytest.raises(CheckpointError) as error:
        checkpoint.read_record(folder)
    assert str(error.value).startswith(f"{folder}: {STATE_RECORD} is damaged: ") and "\n" not in str(error.value)
    good = write(tmp_path / "checkpoint-2", GOOD)
    warnings: list[str] = []
    assert checkpoint.find_checkpoint("latest", tmp_path, warnings.append) == (good, GOOD)
    assert len(warnings) == 1


def test_weights_that_are_none_though_their_hash_is_right(tmp_path):
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"\xff" * 100)
    write_record = {**GOOD, "files": checkpoint.describe_files(folder)}
    (folder / STATE_RECORD).write_text(json.dumps(write_record))
    with pytest.raises(CheckpointError, match=r"a\.safetensors: is damaged \("):
        checkpoint.read_record(folder)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from([*GOOD]), ANY), st.dictionaries(st.sampled_from([*GOOD["progress"]]), ANY))
def test_whatever_it_holds_it_is_read_or_refused(tmp_path_factory, parts, progress):
    path = tmp_path_factory.getbasetemp() / "record.json"
    path.write_text(json.dumps({**GOOD, "progress": {**GOOD["progress"], **progress}, **parts}))
    try:
        found = records.read_record(path)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert found["progress"]["step"] >= 0 and found["world_size"] > 0


def test_a_record_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MOST_BYTES", 1 << 20)
    folder = write(tmp_path / "checkpoint-3", " " * ((1 << 20) + 1))
    with pytest.raises(CheckpointError, match="is larger than 1 MiB"):
        checkpoint.read_record(folder)
