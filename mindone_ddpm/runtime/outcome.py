"""How a rank tells the launcher that its work has ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from pathlib import Path

# Names a folder in which each rank writes with what status its work has ended.
OUTCOMES = "MINDONE_DDPM_OUTCOMES"


def append_to_log() -> None:
    """Called by a rank when it starts: what it prints is appended to its log, which the launcher cuts when it is long.

    msrun opens the log at a place of its own, at which writing would go on.
    """
    if OUTCOMES not in os.environ or "RANK_ID" not in os.environ:
        return
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
                fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_APPEND)


def appends_to_log(process: int) -> bool:
    """Whether a rank has called :func:`append_to_log`: a custom script may not."""
    about = Path(f"/proc/{process}/fdinfo/1").read_text()
    found = re.search(r"flags:\s*([0-7]+)", about)
    return found is not None and bool(int(found[1], 8) & os.O_APPEND)


def record_outcome(status: int) -> None:
    """Called by a rank when its work has ended, before MindSpore takes the cluster down: that crashes now and then.

    A rank that did well then waits for the others on its machine, because msrun kills all when one crashes.
    """
    if OUTCOMES not in os.environ or "RANK_ID" not in os.environ:
        return
    folder = Path(os.environ[OUTCOMES])
    try:
        (folder / os.environ["RANK_ID"]).write_text(str(status))
        while status == 0 and len(list(folder.iterdir())) < int(os.environ[OUTCOMES + "_RANKS"]):
            time.sleep(0.05)
    except OSError:
        pass  # the launcher is gone
