"""Folders of runs without training, and a studio in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import ROOT
from PIL import Image

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def make_run(folder: Path, steps: int = 30, job: str = "train", **settings: Any) -> Path:
    """What a run of so many steps leaves that the studio reads, without weights."""
    (folder / "samples").mkdir(parents=True)
    (folder / "logs").mkdir()
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in {"dataset_name": "digits", **settings}.items()]
    (folder / "training_config.yaml").write_text(f"# mindone-ddpm {job}\n" + "".join(lines))
    with open(folder / "logs" / "metrics.jsonl", "w") as file:
        for step in range(1, steps + 1):
            values = {"train/loss": 1 / step, "train/images_per_second": 100.0 + step}
            file.write(json.dumps({"step": step, **values}) + "\n")
    for step in (10, 20, 30):
        Image.new("RGB", (32, 32), (step * 8, 40, 120)).save(folder / "samples" / f"step-{step:06d}.png")
    return folder


def wait_until(condition, timeout_s: float = 60):
    """What a condition gives once it is true."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
    return found


class Studio:
    """A studio, asked as its pages ask it."""

    def __init__(self, folder: Path, *flags: object):
        command = [sys.executable, "-m", "mindone_ddpm", "studio", str(folder), "--port", "0", *map(str, flags)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
        )
        assert select.select([self.process.stdout], [], [], 60)[0]
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+/(\?token=(\S+))?", line)
        assert found, line + self.process.stdout.read()
        self.address, self.token = found[0].partition("?")[0], found[2]

    def open(self, path: str, data: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and content; content that is JSON is read."""
        request = urllib.request.Request(self.address + path, headers=headers)
        if data is not None:
            request.data = json.dumps(data).encode()
        try:
            with OPENER.open(request, timeout=30) as response:
                status, content = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        with contextlib.suppress(ValueError):
            return status, json.loads(content)
        return status, content

    def get(self, name: str, /, **parameters: str) -> Any:
        status, content = self.open(f"api/{name}?{urllib.parse.urlencode(parameters)}")
        assert status == 200, content
        return content

    def post(self, name: str, /, **content: Any) -> tuple[int, Any]:
        return self.open(f"api/{name}", content, **{"X-Studio": "1"})

    def end(self, number: int = signal.SIGTERM) -> str:
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=30)
        return said


@contextlib.contextmanager
def studio(folder: Path, *flags: object) -> Iterator[Studio]:
    running = Studio(folder, *flags)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end()
