"""Random requests to the studio: each gets an answer, none gets a file that is not the studio's to show."""

from __future__ import annotations

import json
import urllib.parse

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_runs import make_run, studio

SECRET = "not to be shown"
READ = ("overview", "models", "tasks", "run", "charts", "config", "log", "task", "fields", "jobs", "image", "other", "")
ACT = ("check", "plan", "start", "resume", "stop", "stop_task", "sample", "inpaint", "overview")
PIECES = (
    *("..", ".", "/", "\\", "%2e%2e", "%2f", "\0", "first", "samples", "logs", "link", "link.png", "secret.png"),
    *("notes.txt", "training_config.yaml", "unet", "http:", "//", "?", "#", "é", "🙂", "a" * 300, "1e999", "-1"),
)
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join) | st.text(max_size=30)
KEYS = ("path", "command", "task", "name", "values", "ranks", "model", "models", "image", "mask", "language", "since")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    root = tmp_path_factory.mktemp("addresses") / "runs"
    make_run(root / "first")
    outside = root.parent / "outside"
    outside.mkdir()
    for path in (outside / "secret.png", root.parent / "secret.png", root / "notes.txt", root / "first" / "notes.txt"):
        path.write_text(SECRET)
    (root / "link.png").symlink_to(root.parent / "secret.png")
    (root / "link").symlink_to(outside)
    with studio(root) as one:
        yield one


def check(answer: tuple[int, object], asked: object) -> None:
    status, content = answer
    assert status < 500, (asked, content)
    text = content.decode(errors="replace") if isinstance(content, bytes) else json.dumps(content)
    assert SECRET not in text and "Traceback" not in text, asked


@settings(max_examples=150, deadline=None)
@example(name="run", query={"path": "a" * 300})
@example(name="charts", query={})
@given(name=st.sampled_from(READ), query=st.dictionaries(st.sampled_from(KEYS), TEXTS, max_size=3))
def test_whatever_is_read(running, name, query):
    encoded = urllib.parse.urlencode({key: value.encode("utf-8", "replace") for key, value in query.items()})
    check(running.open(f"api/{name}?{encoded}"), (name, query))


@settings(max_examples=100, deadline=None)
@given(path=TEXTS)
def test_whatever_file_is_asked_for(running, path):
    check(running.open(urllib.parse.quote(path.encode("utf-8", "replace"), safe="/.%")), path)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(ACT), content=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4) | VALUES)
def test_whatever_is_sent(running, name, content):
    """No run is named as a whole here, so none is started."""
    if isinstance(content, dict) and content.get("path") == "first":
        return
    check(running.open(f"api/{name}", content, **{"X-Studio": "1"}), (name, content))
    assert running.process.poll() is None
