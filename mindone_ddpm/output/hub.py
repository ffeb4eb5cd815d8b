"""Put a trained pipeline on the Hugging Face Hub: in the background, tried again, and compared with what arrived."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mindone_ddpm.common.errors import ConfigError, UserError, first_line
from mindone_ddpm.common.files import files_in, sha256_of
from mindone_ddpm.config.groups import EngineConfig
from mindone_ddpm.models import lora
from mindone_ddpm.models.foreign import PIPELINE_INDEX
from mindone_ddpm.output.card import CARD, LOSS_CURVE, for_repository
from mindone_ddpm.output.checkpoint import PRODUCT_RECORD, SNAPSHOT_PREFIX, grids_in, parts_of_product
from mindone_ddpm.output.config import PushConfig

# What a pipeline's repository holds, besides the pipeline's parts and the newest grid of samples: nothing else is sent.
SENT = (PIPELINE_INDEX, lora.WEIGHTS_FILE, PRODUCT_RECORD, CARD, LOSS_CURVE, "LICENSE*")


GRIDS = "samples/*.png"


MADE_BY_THE_HUB = {".gitattributes"}


RETRY_DELAYS_S = (2.0, 10.0, 60.0)


# The Hub's answers that another try will not change.
FINAL_ANSWERS = (400, 401, 403, 404, 413, 422)


class HubError(UserError):
    """The Hub has not taken what it was sent; the message is one line, and the folder is whole all the same."""


def check_login(token: str | None) -> None:
    """Raises ConfigError if no token is at hand; before any long work."""
    from huggingface_hub import get_token

    if token is None and get_token() is None:
        raise ConfigError("--push_to_hub: no token found; run `huggingface-cli login`, or set HF_TOKEN")


def files_to_send(folder: Path) -> list[str]:
    """The names of a run's files that belong into its repository; of the grids of samples, only the newest."""
    wanted = [path for pattern in SENT for path in folder.glob(pattern) if path.is_file()]
    for part in parts_of(folder):
        wanted += [path for path in files_in(folder / part) if not path.name.startswith(".")]
    wanted += grids_in(folder)[-1:]
    return sorted(path.relative_to(folder).as_posix() for path in wanted)


def parts_of(folder: Path) -> set[str]:
    """The folders of a pipeline: those this package writes, and those that its index names."""
    try:
        index = json.loads((folder / PIPELINE_INDEX).read_text(encoding="utf-8"))
        named = {name for name, kind in index.items() if isinstance(kind, list) and (folder / name).is_dir()}
    except (OSError, ValueError, AttributeError):
        named = set()
    return named | {*parts_of_product(folder)}


def take_snapshot(folder: Path) -> Path:
    """The files to send as they are now, in a folder inside, so that training may go on and replace them.

    Hard links where the file system has them: all files of a run are replaced as a whole, never written into.

    Raises:
        OSError: a file is not there, such as the aim of a broken link.
    """
    names = files_to_send(folder)
    snapshot = Path(tempfile.mkdtemp(prefix=SNAPSHOT_PREFIX, dir=folder))
    try:
        for name in names:
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            source = (folder / name).resolve()  # a symbolic link would point elsewhere from in there
            try:
                os.link(source, snapshot / name)
            except OSError:
                shutil.copy2(source, snapshot / name)
    except OSError:
        shutil.rmtree(snapshot, ignore_errors=True)
        raise
    return snapshot


def upload(snapshot: Path, repository: str, private: bool, token: str | None, message: str) -> str:
    """Make the repository if need be, send a folder, and compare what the Hub lists with what was sent.

    Grids of samples that were there before are removed; all else that the folder does not hold is left alone.

    Returns:
        What was done, in one line.

    Raises:
        ConfigError: the repository is there, and public, though a private one is asked for.
        HubError: something is not there as it was sent. Besides, whatever the Hub's client raises.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    made = api.create_repo(repository, private=private or None, exist_ok=True)
    if private and api.repo_info(made.repo_id).private is False:
        raise ConfigError(f"{made} is public, and --hub_private_repo asks for a private one: change one of the two")
    write_card_for(made.repo_id, snapshot)
    api.upload_folder(repo_id=made.repo_id, folder_path=str(snapshot), commit_message=message, delete_patterns=[GRIDS])
    different, others = differences(api, made.repo_id, snapshot)
    if different:
        raise HubError(f"the Hub has {', '.join(different[:3])} otherwise than sent ({len(different)} file(s))")
    told = f"uploaded to {made}: {len(files_in(snapshot))} files, compared with what was sent"
    return told + (f"; {len(others)} other file(s) there were left alone: {', '.join(others[:3])}" if others else "")


def write_card_for(repository: str, snapshot: Path) -> None:
    """Have the card name the repository that it is sent to."""
    path = snapshot / CARD
    if path.is_file():
        text = for_repository(path.read_text(encoding="utf-8", errors="replace"), repository)
        path.unlink()  # a hard link to the run's own
        path.write_text(text, encoding="utf-8")


def differences(api: Any, repository: str, folder: Path) -> tuple[list[str], list[str]]:
    """Files of a folder that a repository does not list with the same content; and files that only it lists."""
    listed = {entry.path: entry for entry in api.list_repo_tree(repository, recursive=True) if hasattr(entry, "size")}
    different, sent = [], set(MADE_BY_THE_HUB)
    for path in files_in(folder):
        name = path.relative_to(folder).as_posix()
        sent.add(name)
        entry = listed.get(name)
        if entry is None or entry.size != path.stat().st_size:
            different.append(name)
        elif entry.lfs is not None:
            different += [name] if entry.lfs.sha256 != sha256_of(path) else []
        elif entry.blob_id != git_blob_id(path):
            different.append(name)
    return different, sorted(listed.keys() - sent)


def git_blob_id(path: Path) -> str:
    """What git calls a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Uploader:
    """Sends a run's pipeline while training goes on. One upload at a time; of those that wait, only the newest goes.

    What fails is tried again, then told in one line; it never stops the run.
    """

    def __init__(self, config: EngineConfig | PushConfig, folder: Path):
        self.folder, self.named = folder, config.hub_model_id
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
            snapshot = take_snapshot(self.folder)
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
                told = upload(snapshot, self.repository, self.private, self.token, message)
            except Exception as error:  # the Hub's client raises a dozen kinds
                answer = getattr(getattr(error, "response", None), "status_code", None)
                if delay_s is None or answer in FINAL_ANSWERS or isinstance(error, ConfigError):
                    self._fail(error)
                    return
                time.sleep(delay_s)
            else:
                self.trouble, self.told = None, told
                return

    def _fail(self, error: Exception) -> None:
        reason = first_line(error)
        if self.token:
            reason = reason.replace(self.token, "***")
        self.trouble = f"the pipeline in {self.folder} could not be uploaded ({reason})"
        tqdm.write(f"warning: {self.trouble}; `{self.command()}` tries again", file=sys.stderr)

    def command(self) -> str:
        """What sends the same folder to the same place by hand."""
        words = ["mindone-ddpm", "push", "--model", str(self.folder)]
        words += ["--hub_model_id", self.named] if self.named is not None else []
        return shlex.join(words + ["--hub_private_repo"] * self.private)


def push(config: PushConfig) -> None:
    """Upload the pipeline in a folder, or the adapters.

    Raises:
        ConfigError: there is none, or no token.
        HubError: the Hub has not taken it.
    """
    folder = Path(config.model)
    if not any((folder / name).is_file() for name in (PIPELINE_INDEX, lora.WEIGHTS_FILE)):
        raise ConfigError(f"--model {config.model}: is not a pipeline; it has no {PIPELINE_INDEX}")
    check_login(config.hub_token)
    uploader = Uploader(config, folder)
    uploader.submit("Pipeline trained with mindone_ddpm")
    if not uploader.finish():
        raise HubError("nothing was lost here")
