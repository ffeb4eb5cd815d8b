"""The studio's own process, asked by its addresses: whom it lets in, what it gives, what it starts."""

from __future__ import annotations

import base64
import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, run_program
from made_runs import Studio, make_run, studio, wait_until
from PIL import Image

from mindone_ddpm.studio.folder import StudioFolder
from mindone_ddpm.studio.tasks import Tasks
from mindone_ddpm.studio.worker import read_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("studio") / "runs & <b>more</b>"
    make_run(root / "first", learning_rate=1e-3)
    make_run(root / "<img src=x onerror=alert(1)>")
    damaged = make_run(root / "damaged")
    (damaged / "training_config.yaml").write_bytes(b"\xff\xfe[")
    (damaged / "logs" / "metrics.jsonl").write_bytes(b"\x00\xff\n{}\n")
    (damaged / "samples" / "step-000010.png").write_bytes(b"no image")
    (root.parent / "secret.png").write_bytes(b"secret")
    (root / "notes.txt").write_text("secret")
    (root / "link.png").symlink_to(root.parent / "secret.png")
    return root


@pytest.fixture(scope="module")
def running(folder):
    with studio(folder) as one:
        yield one


def test_the_page_and_all_that_it_is_made_of(running):
    status, page = running.open("")
    assert status == 200 and b"app.js" in page and b"http:" not in page and b"https:" not in page
    names = [path.name for path in (ROOT / "mindone_ddpm" / "studio" / "static").iterdir()]
    for name in (*names, "charts.js", "charts.css"):
        status, content = running.open(name)
        assert status == 200 and content, name
        # The one address is the name of the language SVG, in the icon; it is not fetched.
        assert b"//" not in content.replace(b"http://www.w3.org/2000/svg", b"").replace(b"// ", b""), name
    with_headers = subprocess.run(["curl", "-sI", running.address], capture_output=True, text=True)
    if with_headers.returncode == 0:
        assert "default-src 'none'" in with_headers.stdout


def test_all_runs_are_listed_damaged_ones_too(running):
    runs = {run["name"]: run for run in running.get("overview")["runs"]}
    assert set(runs) == {"first", "damaged", "<img src=x onerror=alert(1)>"}
    assert runs["first"]["step"] == 30 and runs["first"]["job"] == "train"
    assert runs["damaged"]["problem"] and runs["damaged"]["loss"] is None
    details = running.get("run", path="damaged")
    assert details["problem"] and details["grids"]
    figures = running.get("charts", path="<img src=x onerror=alert(1)>")["figures"]
    assert figures and "<img" not in figures[0]["svg"]


@pytest.mark.parametrize(
    "path",
    ["../secret.png", "/etc/hostname", "link.png", "notes.txt", "first/training_config.yaml", "first/samples", "a\0b"],
)
def test_paths_outside_and_files_that_are_no_images_are_refused(running, path):
    status, content = running.open(f"api/image?{'path=' + path.replace(chr(0), '%00')}")
    assert status in (400, 404) and list(content) == ["problems"], content


def test_addresses_outside_are_refused(running):
    for path in ("../setup.py", "..%2f..%2fsetup.py", "%2e%2e/setup.py", "static/../app.py", ".hidden", "app.py"):
        status, content = running.open(path)
        assert status == 404 and b"setup(" not in bytes(str(content), "utf-8"), path
    for name in ("run", "charts", "config"):
        status, content = running.open(f"api/{name}?path=../{running.address}")
        assert status == 400, content
    status, content = running.open("api/run?path=first/samples")
    assert status == 400 and content["problems"] == ["'first/samples': holds no run"]


def test_other_sites_are_refused(running):
    status, content = running.open("", Host="evil.example")
    assert status == 403 and b"not the studio's" in content
    status, _ = running.open("api/stop", {"path": "first"})  # without the header that only its own page sends
    assert status == 403
    assert running.open("api/sample", [1], **{"X-Studio": "1"}) == (400, {"problems": ["the request is not a table"]})


def test_what_is_wrong_with_a_form_is_said_at_once(running):
    values = {"learning_rate": "x", "output_dir": "/tmp/x", "train_data_dir": "nowhere", "unheard_of": "1"}
    status, found = running.post("check", command="train", name="../outside", values=values)
    assert status == 200 and found["yaml"] == ""
    problems = "\n".join(found["problems"])
    assert "not in the studio's folder" in problems and "--unheard_of: unknown setting" in problems
    assert "--output_dir: unknown setting" in problems
    _, found = running.post("check", command="train", name="first", values={"dataset_name": "digits"})
    assert found["problems"] == ["--output_dir first: is there already; give another name"]
    values = {"dataset_name": "digits", "train_batch_size": "8", "use_ema": "true", "learning_rate": ""}
    _, found = running.post("check", command="train", name="new", values=values)
    lines = found["yaml"].splitlines()
    assert found["problems"] == [] and {"dataset_name: digits", "train_batch_size: 8", "use_ema: true"} < {*lines}
    for ranks in ("0", "x", 10**6, [2]):
        _, found = running.post("check", command="train", name="new", values=values, ranks=ranks)
        assert [line.startswith("--workers ") for line in found["problems"]] == [True]
    _, found = running.post("check", command="train", name="new", values=values, ranks=" 2 ")
    assert found["command"] == "mindone-ddpm launch -n 2 train --config config.yaml"
    status, found = running.post("start", command="train", name="new", values={})
    assert status == 400 and found["problems"][0].startswith("--dataset_name or --train_data_dir")
    status, found = running.post("start", command="sample", name="new", values={})
    assert status == 400
    for name, content in (("resume", {"path": "damaged"}), ("stop", {"path": "first"}), ("sample", {"models": []})):
        status, found = running.post(name, **content)
        assert status == 400 and found["problems"], name
    assert running.get("tasks") == []  # nothing was started


def test_the_fields_of_every_form(running):
    for job in (*running.get("jobs"), {"name": "sample"}, {"name": "inpaint"}):
        fields = running.get("fields", command=job["name"])
        names = [field["name"] for field in fields]
        assert len(names) > 10 and not {"output_dir", "hub_token"} & {*names}
        assert fields[0]["first"] and not fields[-1]["first"]
    assert running.open("api/fields?command=doctor")[0] == 400


@pytest.mark.slow
def test_a_run_on_two_ranks_is_started_stopped_and_resumed(tmp_path, small_model):
    values = {"dataset_name": "digits", "image_size": 8, "channels": 1, "train_batch_size": 32, "save_image_epochs": 0}
    values |= {"model_config_name_or_path": str(small_model), "max_train_steps": 4000, "checkpointing_steps": 20}
    with studio(tmp_path) as one:
        status, _ = one.post("start", command="train", name="run", values=values, ranks=2)
        assert status == 200
        wait_until(lambda: list((tmp_path / "run").glob("checkpoint-*")), 240)
        assert one.post("stop", path="run") == (200, {})
        wait_until(lambda: one.get("run", path="run")["state"] == "stopped", 120)
        config = tmp_path / "run" / "training_config.yaml"
        before = one.get("run", path="run")
        assert before["ranks"] == 2 and before["step"] < 4000
        settings, last = config.read_text(), before["step"] + 20
        config.write_text(settings.replace("max_train_steps: 4000", f"max_train_steps: {last}"))
        assert one.post("resume", path="run")[0] == 200
        wait_until(lambda: one.get("run", path="run")["state"] == "finished", 240)
        after = one.get("run", path="run")
        assert after["ranks"] == 2 and after["step"] == last
        assert [task["command"].split()[:4] for task in one.get("tasks")] == [["mindone-ddpm", "launch", "-n", "2"]] * 2


def test_two_browsers_and_the_load(running):
    first, second = running.get("overview"), running.get("overview")
    assert first["runs"] == second["runs"]
    load = running.get("machine")
    assert 0 <= load["processor_percent"] <= 100 and load["memory_total"] > load["memory_used"] > 0


def test_a_picture_that_is_none_is_refused(running):
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "png")
    good = "data:image/png;base64," + base64.b64encode(image.getvalue()).decode()
    for bad in ("", "data:text/html,x", "data:image/png;base64,AAAA", "data:image/png;base64,???"):
        status, found = running.post("inpaint", model="first", values={}, image=bad, mask=good)
        assert (status, found) == (400, {"problems": ["--image: is no image, or too large a one"]})


def test_a_token_is_needed_elsewhere(folder):
    with studio(folder, "--host", "0.0.0.0") as one:
        assert one.token and len(one.token) >= 20
        one.address = f"http://127.0.0.1:{one.address.rsplit(':', 1)[1]}"
        assert one.open("")[0] == 401 and one.open("api/overview")[0] == 401 and one.open("?token=wrong")[0] == 401
        assert one.open("api/overview", Authorization=f"Bearer {one.token}")[0] == 200
        assert one.open("api/overview", Cookie=f"mindone_ddpm_studio={one.token}", Host="other.example")[0] == 200
        assert one.open("api/stop", {}, Cookie=f"mindone_ddpm_studio={one.token}")[0] == 403
        said = one.end(signal.SIGINT)
    assert one.process.returncode == 0 and "the studio has ended" in said and "Traceback" not in said


def test_what_is_wrong_is_said_before_it_listens(folder, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run_program("studio", folder, "--port", port)
        assert result.returncode == 2
        assert result.stderr == f"error: --port {port}: is in use; give another, or 0 for a free one\n"
    for flags, text in (
        ([tmp_path / "nowhere"], "nowhere: no such folder"),
        ([folder, "--port", 70000], "--port 70000: must be between 0 and 65535"),
        ([folder, "--token", "short"], "--token: must have at least 16 characters"),
        ([folder, "--host", "203.0.113.1"], "--host 203.0.113.1: is no address of this machine"),
    ):
        result = run_program("studio", *flags)
        assert result.returncode == 2 and text in result.stderr and result.stderr.count("\n") == 1, result.stderr


def test_it_says_which_extra_is_missing(folder, tmp_path):
    (tmp_path / "starlette.py").write_text("raise ModuleNotFoundError('x', name='starlette')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "mindone_ddpm", "studio", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert result.returncode == 2
    assert result.stderr == "error: studio: starlette is not installed; run `pip install 'mindone-ddpm[studio]'`\n"


def test_a_folder_without_runs(tmp_path):
    with studio(tmp_path) as one:
        assert one.get("overview")["runs"] == [] and one.get("models") == []
    assert list(tmp_path.iterdir()) == []  # a look leaves nothing


def test_a_task_outlives_the_studio(tmp_path):
    tasks = Tasks(StudioFolder(tmp_path))
    # A command that does not end by itself, twice in the queue, and one that fails at once.
    endless = ["studio", str(tmp_path), "--port", "0"]
    names = [tasks.start(tasks.new_folder("sample"), endless, queued=True) for _ in range(2)]
    failed = tasks.start(tasks.new_folder("plan"), ["train", "--no_such_flag"], queued=False)
    with studio(tmp_path) as one:

        def states() -> dict[str, str]:
            return {task["id"]: task["state"] for task in one.get("tasks")}

        wait_until(lambda: states() == {names[0]: "running", names[1]: "waiting", failed: "failed"})
        assert "--no_such_flag: unknown option" in one.get("task", task=failed)["log"]
    with Studio(tmp_path).process as process:  # a new studio finds them
        process.kill()
    with studio(tmp_path) as one:
        assert states()[names[0]] == "running"
        assert one.post("stop_task", task=names[0]) == (200, {})
        wait_until(lambda: states()[names[0]] == "stopped" and states()[names[1]] == "running")
        worker = read_table(tmp_path / "studio" / names[1] / "status.json")["process"]
        children = psutil.Process(worker).children()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: states()[names[1]] == "lost")
        assert one.post("stop_task", task=names[1])[0] == 400 and one.post("stop_task", task="../x")[0] == 400
    for child in children:  # what a killed worker had started goes on
        child.kill()
