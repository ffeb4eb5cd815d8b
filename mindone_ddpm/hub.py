"""Put a trained pipeline on the Hugging Face Hub: in the background, tried again, and compared with what arrived."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mindone_ddpm.checkpoint import PIPELINE_INDEX, RUN_CONFIG, SNAPSHOT_PREFIX, files_in, sha256_of
from mindone_ddpm.config import ConfigError, EngineConfig, Problem, PushConfig, first_line

# What a pipeline's repository does not need: training state, logs, other pipelines, and what is being written.
IGNORED = ["checkpoint-*", "abandoned-*", "logs/*", "*/logs/*", "best/*", ".*", "*/.*", RUN_CONFIG]
IGNORED += ["report.html", "preview.png"]  # they show the training data
RETRY_DELAYS_S = (2.0, 10.0, 60.0)
# The Hub's answers that another try will not change.
FINAL_ANSWERS = (400, 401, 403, 404, 413, 422)


class HubProblem(Problem):
    """The Hub has not taken what it was sent; the message is one line, and the folder is whole all the same."""


def check_login(token: str | None) -> None:
    """Raises ConfigError if no token is at hand; before any long work."""
    from huggingface_hub import get_token

    if token is None and get_token() is None:
        raise ConfigError("--push_to_hub: no token found; run `huggingface-cli login`, or set HF_TOKEN")


def files_to_send(folder: Path, logging_dir: str = "logs") -> list[str]:
    """The names of a run's files that belong into its repository; of the grids of samples, only the newest."""
    from huggingface_hub.utils import filter_repo_objects

    names = sorted(path.relative_to(folder).as_posix() for path in files_in(folder))
    names = list(filter_repo_objects(names, ignore_patterns=[*IGNORED, f"{logging_dir}/*"]))
    grids = [name for name in names if name.startswith("samples/")]
    return [name for name in names if name not in grids[:-1]]


def take_snapshot(folder: Path, logging_dir: str) -> Path:
    """The files to send as they are now, in a folder inside, so that training may go on and replace them.

    Hard links where the file system has them: all files of a run are replaced as a whole, never written into.
    """
    names = files_to_send(folder, logging_dir)
    snapshot = Path(tempfile.mkdtemp(prefix=SNAPSHOT_PREFIX, dir=folder))
    for name in names:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(folder / name, snapshot / name)
        except OSError:
            shutil.copy2(folder / name, snapshot / name)
    return snapshot


def upload(snapshot: Path, repository: str, private: bool, token: str | None, message: str) -> tuple[str, int]:
    """Make the repository if need be, send a folder, and compare what the Hub lists with what was sent.

    Returns:
        The repository's address, and how many files were compared.

    Raises:
        HubProblem: something is not there as it was sent. Besides, whatever the Hub's client raises.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    made = api.create_repo(repository, private=private, exist_ok=True)
    api.upload_folder(repo_id=made.repo_id, folder_path=str(snapshot), commit_message=message)
    different = differences(api, made.repo_id, snapshot)
    if different:
        raise HubProblem(f"the Hub has {', '.join(different[:3])} otherwise than sent ({len(different)} file(s))")
    return str(made), len(files_in(snapshot))


def differences(api: Any, repository: str, folder: Path) -> list[str]:
    """Files of a folder that a repository does not list with the same content."""
    listed = {entry.path: entry for entry in api.list_repo_tree(repository, recursive=True) if hasattr(entry, "size")}
    different = []
    for path in files_in(folder):
        name = path.relative_to(folder).as_posix()
        entry = listed.get(name)
        if entry is None or entry.size != path.stat().st_size:
            different.append(name)
        elif entry.lfs is not None:
            different += [name] if entry.lfs.sha256 != sha256_of(path) else []
        elif entry.blob_id != git_blob_id(path):
            different.append(name)
    return different


def git_blob_id(path: Path) -> str:
    """What git calls a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Uploader:
    """Sends a run's pipeline while training goes on. One upload at a time; of those that wait, only the newest goes.

    What fails is tried again, then told in one line; it never stops the run.
    """

    def __init__(self, config: EngineConfig | PushConfig, folder: Path):
        self.folder, self.logging_dir = folder, config.logging_dir
        self.repository = config.hub_model_id or folder.resolve().name
        self.private, self.token = config.hub_private_repo, config.hub_token
        self.waiting: tuple[Path, str] | None = None
        self.thread: threading.Thread | None = None
        self.lock = threading.Lock()
        self.trouble: str | None = None
        self.told: str | None = None

    def submit(self, message: str) -> None:
        """Take the files as they are now, and send them as soon as the upload before is done."""
        try:
            snapshot = take_snapshot(self.folder, self.logging_dir)
        except OSError as error:
            self._fail(error)
            return
        with self.lock:
            if self.waiting is not None:
                shutil.rmtree(self.waiting[0], ignore_errors=True)
            self.waiting = (snapshot, message)
            if self.thread is None:
                self.thread = threading.Thread(target=self._work, name="upload", daemon=True)
                self.thread.start()

    def finish(self) -> bool:
        """Wait for the last upload; says where it is, or why it is not there. Whether it is."""
        thread = self.thread
        if thread is not None:
            thread.join()
        if self.told is not None and self.trouble is None:
            tqdm.write(self.told)
        return self.trouble is None

    def _work(self) -> None:
        while True:
            with self.lock:
                job, self.waiting = self.waiting, None
                if job is None:
                    self.thread = None
                    return
            try:
                self._send(*job)
            finally:
                shutil.rmtree(job[0], ignore_errors=True)

    def _send(self, snapshot: Path, message: str) -> None:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        for delay_s in (*RETRY_DELAYS_S, None):
            try:
                address, count = upload(snapshot, self.repository, self.private, self.token, message)
            except Exception as error:  # the Hub's client raises a dozen kinds
                answer = getattr(getattr(error, "response", None), "status_code", None)
                if delay_s is None or answer in FINAL_ANSWERS:
                    self._fail(error)
                    return
                time.sleep(delay_s)
            else:
                self.trouble, self.told = None, f"uploaded to {address}: {count} files, compared with what was sent"
                return

    def _fail(self, error: Exception) -> None:
        reason = first_line(error)
        if self.token:
            reason = reason.replace(self.token, "***")
        self.trouble = f"the pipeline in {self.folder} could not be uploaded ({reason})"
        tqdm.write(f"warning: {self.trouble}; `mindone-ddpm push --model {self.folder}` tries again", file=sys.stderr)


def push(config: PushConfig) -> None:
    """Upload the pipeline in a folder.

    Raises:
        ConfigError: there is none, or no token.
        HubProblem: the Hub has not taken it.
    """
    folder = Path(config.model)
    if not (folder / PIPELINE_INDEX).is_file():
        raise ConfigError(f"--model {config.model}: is not a pipeline; it has no {PIPELINE_INDEX}")
    check_login(config.hub_token)
    uploader = Uploader(config, folder)
    uploader.submit("Pipeline trained with mindone_ddpm")
    if not uploader.finish():
        raise HubProblem("nothing was lost here")
