"""Upload a trained model to a hub: in the background, with retries, and compared with what arrived."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from mindone_ddpm.common.errors import ConfigError, UserError, first_line
from mindone_ddpm.common.files import files_in, sha256_of, write_text
from mindone_ddpm.common.hubs import HUGGINGFACE
from mindone_ddpm.common.hubs.base import RemoteFile, choose_hub
from mindone_ddpm.output.card import CARD, LOSS_CURVE, for_hub, license_in
from mindone_ddpm.output.config import PushConfig
from mindone_ddpm.output.product import Product
from mindone_ddpm.output.run_folder import (
    DIFFUSERS_INDEX_FILES,
    PRODUCT_RECORD,
    SAMPLES,
    SNAPSHOT_PREFIX,
    grids_in,
    index_files_in,
    parts_in,
)

# What is sent besides the model itself and the newest grid of samples. Nothing else is.
ALSO_SENT = (PRODUCT_RECORD, CARD, LOSS_CURVE, "LICENSE*")
GRIDS = f"{SAMPLES}/*.png"
RETRY_DELAYS_S = (2.0, 10.0, 60.0)
# A hub's answers that another try does not change.
FINAL_STATUS_CODES = (400, 401, 403, 404, 413, 422)


class HubSettings(Protocol):
    """The settings of an upload."""

    hub: str
    hub_model_id: str | None
    hub_private_repo: bool
    hub_token: str | None
    hub_license: str | None


class HubError(UserError):
    """The hub has not accepted an upload; the message is one line. Nothing in the folder is changed."""


def check_upload(config: HubSettings, folder: Path, license: str | None) -> None:
    """To be called before any long work.

    Args:
        folder: what is uploaded, or where it will be.
        license: that the model card names, or will name.

    Raises:
        ConfigError: the hub's client is not installed, there is no token, or the hub takes no repository of the name
            that is given, by default the folder's, or no model card without a license.
    """
    hub, name = choose_hub(config.hub), config.hub_model_id or folder.resolve().name
    reason = hub.name_problem(name)
    if reason is not None:
        given = "--push_to_hub: give --hub_model_id, because the hub takes no repository"
        flag = "--hub_model_id" if config.hub_model_id else given
        raise ConfigError(f"{flag} {name!r}: {reason}")
    if hub.needs_license and license is None:
        raise ConfigError(f"--hub_license: give a license, such as apache-2.0; {hub.title} takes no card without one")
    hub.check_token(config.hub_token)


# --- which files ---------------------------------------------------------------------------------------------------


def files_to_send(folder: Path, product: Product | None = None) -> list[str]:
    """Names of the files of a run that belong in its repository; of the grids of samples, only the newest.

    Args:
        product: None for a folder whose job is not known: the files are those that diffusers would write.
    """
    wanted = [folder / name for name in index_files_in(folder, product)]
    wanted += [path for pattern in ALSO_SENT for path in folder.glob(pattern) if path.is_file()]
    for part in (folder / name for name in parts_in(folder, product)):
        found = files_in(part) if part.is_dir() else [part]
        wanted += [path for path in found if not path.name.startswith(".")]
    wanted += grids_in(folder)[-1:]
    return sorted({path.relative_to(folder).as_posix() for path in wanted})


def take_snapshot(folder: Path, product: Product | None = None) -> Path:
    """The files to send as they are now, in a folder inside: training may go on and replace them.

    Hard links where the file system has them: all files of a run are replaced, never written into.

    Raises:
        OSError: a file is not there, such as the target of a broken link.
    """
    names = files_to_send(folder, product)
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


# --- one upload ----------------------------------------------------------------------------------------------------


def upload(snapshot: Path, config: HubSettings, name: str, message: str) -> str:
    """Create the repository if need be, send a folder, and compare what the hub lists with what was sent.

    Earlier grids of samples are removed; other files that are only in the repository stay.

    Args:
        name: of the repository, with or without its owner.

    Returns:
        What was done, in one line.

    Raises:
        ConfigError: the repository exists and is public, though a private one is asked for.
        HubError: a file did not arrive as it was sent. Besides, whatever the hub's client raises.
    """
    hub, token = choose_hub(config.hub), config.hub_token
    license = config.hub_license or license_in(snapshot / CARD)
    repository = hub.open_repository(name, config.hub_private_repo, license, token)
    if config.hub_private_repo and repository.private is False:
        raise ConfigError(
            f"{repository.url} is public, and --hub_private_repo asks for a private one: change one of the two"
        )
    fit_card(snapshot / CARD, config, repository.name)
    sent = {path.relative_to(snapshot).as_posix() for path in files_in(snapshot)}
    replaced = [file for file in hub.listing(repository, token) if fnmatch(file, GRIDS) and file not in sent]
    hub.send(repository, snapshot, message, replaced, token)
    listed = hub.listing(repository, token)
    different = differences(listed, snapshot, sent)
    if different:
        raise HubError(f"{hub.title} has {', '.join(different[:3])} otherwise than sent ({len(different)} file(s))")
    others = sorted(listed.keys() - sent - hub.made_by_hub)
    told = f"uploaded to {repository.url}: {len(sent)} files, compared with what was sent"
    return told + (f"; {len(others)} other file(s) there were left alone: {', '.join(others[:3])}" if others else "")


def fit_card(card: Path, config: HubSettings, repository: str) -> None:
    """Have a snapshot's card fit the hub and the repository. The run's own, perhaps a hard link, stays."""
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        write_text(card, for_hub(text, config.hub, repository, config.hub_license))


def differences(listed: dict[str, RemoteFile], folder: Path, names: Collection[str]) -> list[str]:
    """The files of a folder, among ``names``, that a hub does not list with the same size and content."""
    different = []
    for name in sorted(names):
        path, entry = folder / name, listed.get(name)
        if entry is None or entry.size != path.stat().st_size:
            different.append(name)
        elif entry.sha256 is not None:
            different += [name] if entry.sha256 != sha256_of(path) else []
        elif entry.blob_id != git_blob_id(path):
            different.append(name)
    return different


def git_blob_id(path: Path) -> str:
    """git's identifier of a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


# --- in the background ---------------------------------------------------------------------------------------------


class Uploader:
    """Sends a run's result while training goes on. One upload at a time; of those that wait, only the newest is sent.

    A failure is tried again, then reported in one line; it never stops the run.
    """

    def __init__(self, config: HubSettings, folder: Path, product: Product | None = None):
        self.config, self.folder, self.product = config, folder, product
        self.waiting: tuple[Path, str] | None = None
        self.thread: threading.Thread | None = None
        self.lock = threading.Lock()
        self.failure: str | None = None
        self.success: str | None = None

    def submit(self, message: str) -> None:
        """Take the files as they are now, and send them when the upload before is done."""
        try:
            snapshot = take_snapshot(self.folder, self.product)
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
        """Wait for the last upload and say where it is; whether it succeeded."""
        thread = self.thread
        if thread is not None:
            thread.join()
        if self.success is not None and self.failure is None:
            tqdm.write(self.success)
        return self.failure is None

    def _work(self) -> None:
        while True:
            with self.lock:
                waiting, self.waiting = self.waiting, None
                if waiting is None:
                    self.thread = None
                    return
            try:
                self._send(*waiting)
            finally:
                shutil.rmtree(waiting[0], ignore_errors=True)

    def _send(self, snapshot: Path, message: str) -> None:
        name = self.config.hub_model_id or self.folder.resolve().name
        for delay_s in (*RETRY_DELAYS_S, None):
            try:
                success = upload(snapshot, self.config, name, message)
            except Exception as error:  # clients of hubs raise many kinds
                answer = getattr(error, "response", None)
                status_code = getattr(error if answer is None else answer, "status_code", None)
                if delay_s is None or status_code in FINAL_STATUS_CODES or isinstance(error, ConfigError):
                    self._fail(error)
                    return
                time.sleep(delay_s)
            else:
                self.failure, self.success = None, success
                return

    def _fail(self, error: Exception) -> None:
        reason = first_line(error)
        if self.config.hub_token:
            reason = reason.replace(self.config.hub_token, "***")
        noun = "pipeline" if self.product is None else self.product.noun
        self.failure = f"the {noun} in {self.folder} could not be uploaded ({reason})"
        tqdm.write(f"warning: {self.failure}; `{self.command()}` tries again", file=sys.stderr)

    def command(self) -> str:
        """What sends the same folder to the same repository by hand."""
        config, words = self.config, ["mindone-ddpm", "push", "--model", str(self.folder)]
        words += ["--hub", config.hub] if config.hub != HUGGINGFACE else []
        words += ["--hub_model_id", config.hub_model_id] if config.hub_model_id is not None else []
        return shlex.join(words + ["--hub_private_repo"] * config.hub_private_repo)


def push(config: PushConfig, product: Product | None = None) -> None:
    """Upload the model in a folder: a pipeline, or adapters.

    Args:
        product: of a job whose files are not those of diffusers.

    Raises:
        ConfigError: there is none, or no token.
        HubError: the hub has not accepted it.
    """
    folder = Path(config.model)
    if not index_files_in(folder, product):
        wanted = product.index_file if product is not None else next(iter(DIFFUSERS_INDEX_FILES))
        raise ConfigError(f"--model {config.model}: is not a pipeline; it has no {wanted}")
    check_upload(config, folder, config.hub_license or license_in(folder / CARD))
    uploader = Uploader(config, folder, product)
    uploader.submit("Model trained with mindone_ddpm")
    if not uploader.finish():
        raise HubError("nothing was lost here")
