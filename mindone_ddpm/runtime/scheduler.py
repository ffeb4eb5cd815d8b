"""The scheduler of MindSpore's cluster as a process of its own: rank 0 starts it where msrun does not.

It ends when all ranks have ended. If rank 0 is gone and the others do not end, it ends a minute later.
"""

from __future__ import annotations

import os
import threading
import time

GRACE_S = 60.0  # for the other ranks after rank 0


def end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_after, args=(os.getppid(),), daemon=True).start()
    from mindspore import communication

    communication.init()
