"""SIGINT, SIGTERM and a limit of time: the first of them asks training to stop after its step."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm


class InterruptWatch:
    """Waits for SIGINT in a separate thread.

    While a graph runs, MindSpore turns SIGINT into SIGTERM, so that a handler could not tell Ctrl-C from a preemption.
    SIGINT is blocked before numpy and MindSpore start their threads, which inherit that; only the waiting thread
    receives it.
    """

    def __init__(self) -> None:
        self.receiver: Callable[[int], None] | None = None
        self.started = False
        self.count = 0

    def start(self) -> None:
        """Call this in the main thread, before numpy or MindSpore is imported."""
        if self.started or threading.current_thread() is not threading.main_thread():
            return
        self.started = True
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        threading.Thread(target=self._wait, daemon=True, name="interrupt_watch").start()

    def _wait(self) -> None:
        while True:
            signal.sigwait({signal.SIGINT})
            self.count += 1
            if self.receiver is not None:
                self.receiver(signal.SIGINT)
            elif self.count == 1:
                _thread.interrupt_main()  # a KeyboardInterrupt in the main thread
            else:
                os._exit(128 + signal.SIGINT)


interrupt_watch = InterruptWatch()


STARTED = time.monotonic()  # of the program: the command line imports this module first


class StopRequest:
    """SIGTERM and SIGINT: the first asks the loop to stop after its step, the second ends the process at once.

    Args:
        max_hours: since the start of the program, after which it asks too; None: no limit.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        self.end = None if max_hours is None else STARTED + 3600.0 * max_hours
        self.signal_number: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        interrupt_watch.receiver = self._receive
        numbers = [signal.SIGTERM] if interrupt_watch.started else [signal.SIGTERM, signal.SIGINT]
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                self.previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        interrupt_watch.receiver = None
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: object = None) -> None:
        if self.signal_number is not None:
            os._exit(128 + number)
        self.signal_number = number
        tqdm.write("stopping after this step; once more to leave at once", file=sys.stderr)

    @property
    def requested(self) -> bool:
        return self.signal_number is not None or (self.end is not None and time.monotonic() >= self.end)
