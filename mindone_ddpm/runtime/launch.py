"""Start a job on several ranks with msrun, show the main rank's progress, and end it cleanly whatever happens."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import psutil

import mindone_ddpm
from mindone_ddpm.backends.choose import max_local_ranks
from mindone_ddpm.common import rotation
from mindone_ddpm.common.errors import ConfigError, first_line, plain_lines
from mindone_ddpm.common.hubs import HUGGINGFACE, TOKEN_VARIABLES
from mindone_ddpm.runtime.launchers import ranks_of
from mindone_ddpm.runtime.outcome import OUTCOMES, appends_to_log
from mindone_ddpm.runtime.restarts import supervise
from mindone_ddpm.runtime.signals import interrupt_watch

PACKAGE = Path(mindone_ddpm.__file__).parent
DEFAULT_PORT = 8118
SECONDS_BETWEEN_LOOKS = 5.0  # at the size of the ranks' logs
SCHEDULER_GRACE_S = 2.0  # a rank that fails takes the scheduler with it: then the rank is what is told


# What MindSpore's C++ side logs of its connections whatever its log level.
MINDSPORE_CHATTER = re.compile(rb"\[(?:INFO|WARNING)\] [A-Z_]+\(\d+,[^\n]*\n")


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--workers", metavar="INT", type=int, required=True, help="ranks on all machines together"
    )
    parser.add_argument("--local_workers", metavar="INT", type=int, help="ranks on this machine (default: all)")
    parser.add_argument("--node_rank", metavar="INT", type=int, default=0, help="number of this machine, from 0")
    parser.add_argument("--master_addr", metavar="HOST", default="127.0.0.1", help="address of machine 0")
    parser.add_argument("--master_port", metavar="PORT", type=int, help="free port there (default: found, or 8118)")
    parser.add_argument(
        "--cluster_timeout_s", metavar="INT", type=int, default=300, help="wait this long for all ranks (default: 300)"
    )
    parser.add_argument(
        "--stop_timeout_s",
        metavar="INT",
        type=int,
        default=600,
        help="ranks asked to stop have this long (default: 600)",
    )
    parser.add_argument(
        "--bind_core", action="store_true", help="give each rank the cores that are near its NPU, as msrun finds them"
    )
    parser.add_argument(
        "--max_restarts",
        metavar="INT",
        type=int,
        default=0,
        help="after a failure start again so often from the last checkpoint, as long as that goes further (default: 0)",
    )
    parser.add_argument(
        "job", nargs=argparse.REMAINDER, help="the command to run: train ..., or a script and its flags"
    )


def without_token(job: Sequence[str]) -> tuple[list[str], str | None]:
    """A command without ``--hub_token``, and that token: msrun writes the command into its log."""
    rest, token = [], None
    words = iter(job)
    for word in words:
        if word == "--hub_token":
            token = next(words, None)
        elif word.startswith("--hub_token="):
            token = word.partition("=")[2]
        else:
            rest.append(word)
    return rest, token


def hub_of(job: Sequence[str]) -> str:
    """The hub that a command names, in a flag or in its YAML file; what is wrong there is for the command to say."""
    from mindone_ddpm.common.yaml_files import read_yaml  # here, because --help has no use for it

    named, file, words = None, None, iter(job)
    for word in words:
        flag, _, value = word.partition("=")
        if flag in ("--hub", "--config"):
            value = value or next(words, "")
            named, file = (value, file) if flag == "--hub" else (named, value)
    if named is None and file is not None:
        with contextlib.suppress(OSError, ValueError):
            content = read_yaml(Path(file))
            named = content.get("hub") if isinstance(content, dict) else None
    return str(named or HUGGINGFACE)


def port_is_free(host: str, port: int) -> bool:
    """Whether nothing listens there. Raises OSError where there is no such host."""
    with contextlib.closing(socket.socket()) as probe:
        probe.settimeout(2.0)
        return probe.connect_ex((host, port)) != 0


def find_free_port() -> int:
    """A port below those that the system gives to outgoing connections, which come and go while ranks start."""
    while True:
        port = random.randint(12000, 32000)
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def check(arguments: argparse.Namespace, shared: Sequence[str]) -> None:
    """Raises ConfigError with all that is wrong. ``shared``: the commands that several ranks can run together."""
    ranks = ranks_of(os.environ)
    if ranks is not None:
        raise ConfigError(
            f"launch: this is rank {ranks.rank} of {ranks.size} already, by {ranks.source}; give the command itself"
        )
    problems = []
    local = arguments.workers if arguments.local_workers is None else arguments.local_workers
    if arguments.workers < 1:
        problems.append(f"-n {arguments.workers}: must be at least 1")
    elif not 1 <= local <= arguments.workers:
        problems.append(f"--local_workers {local}: must be from 1 to -n ({arguments.workers})")
    if not arguments.job:
        problems.append("give the command to run after the options, for example: train --dataset_name digits")
    elif not arguments.job[0].endswith(".py") and arguments.job[0] not in shared:
        problems.append(f"{arguments.job[0]}: ranks can share {', '.join(shared)}, or a script that ends in .py")
    most = max_local_ranks()
    if most is not None and local > most:
        problems.append(f"-n: {local} ranks on this machine, which has {most} NPUs; use --local_workers")
    if arguments.bind_core and most is None:
        problems.append("--bind_core: no NPU on this machine; on a CPU each rank has cores of its own already")
    several_machines = local < arguments.workers
    if arguments.max_restarts and several_machines:
        problems.append(
            "--max_restarts: is for the ranks of one machine; with several, let the scheduler start them again"
        )
    if several_machines and arguments.master_addr in ("127.0.0.1", "localhost"):
        problems.append("--master_addr: with several machines, give the address of machine 0")
    try:
        socket.getaddrinfo(arguments.master_addr, None)
    except (OSError, UnicodeError) as error:
        problems.append(f"--master_addr {arguments.master_addr}: is no host that can be found ({first_line(error)})")
    if arguments.max_restarts < 0:
        problems.append(f"--max_restarts {arguments.max_restarts}: must be at least 0")
    elif arguments.max_restarts and arguments.job and arguments.job[0] == "evaluate":
        problems.append(
            "--max_restarts: is for training; an evaluation that failed goes on by itself when started again"
        )
    if arguments.node_rank < 0:
        problems.append(f"--node_rank {arguments.node_rank}: must be at least 0")
    port = arguments.master_port or (DEFAULT_PORT if several_machines else None)
    if port is not None and not 1024 <= port <= 65535:
        problems.append(f"--master_port {port}: must be from 1024 to 65535")
    elif port is not None and arguments.node_rank == 0 and not problems:
        try:
            if not port_is_free(arguments.master_addr, port):
                problems.append(f"--master_port {port}: is in use; give another")
        except OSError as error:
            problems.append(f"--master_addr {arguments.master_addr}: {first_line(error)}")
    if problems:
        raise ConfigError(*problems)


def launch(arguments: argparse.Namespace, output_dir: Path) -> int:
    """Run the job to its end, with logs in ``output_dir``. Returns 0, or the status of the first rank that failed.

    Args:
        arguments: as :func:`check` has found them good.
    """

    def start(words: list[str]) -> tuple[int, bool]:
        return launch_once(arguments, words, output_dir)

    return supervise(start, arguments.job, output_dir, arguments.max_restarts)


def launch_once(arguments: argparse.Namespace, words: Sequence[str], output_dir: Path) -> tuple[int, bool]:
    """Run the job ``words`` once. Returns 0 or the status of the first rank that failed, and whether it was asked to
    stop."""
    local = arguments.local_workers or arguments.workers
    log_dir = output_dir / "logs" / "workers"
    log_dir.mkdir(parents=True, exist_ok=True)
    for old in log_dir.glob("*.log"):
        old.replace(old.with_suffix(".log.before"))  # the last start's explain its failure
    job, token = without_token(words)
    port = arguments.master_port or (DEFAULT_PORT if local < arguments.workers else find_free_port())
    bin_dir = str(Path(sys.executable).parent)
    script = job if job[0].endswith(".py") else [str(PACKAGE / "__main__.py"), *job]
    command = [
        *(str(Path(bin_dir) / "msrun"), f"--worker_num={arguments.workers}", f"--local_worker_num={local}"),
        *(f"--master_addr={arguments.master_addr}", f"--master_port={port}", f"--log_dir={log_dir}", "--join=True"),
        # The number of no rank: msrun is to show no log, since this program does.
        *(f"--cluster_time_out={arguments.cluster_timeout_s}", f"--tail_worker_log={arguments.workers}", *script),
    ]
    if arguments.bind_core:
        command.insert(1, "--bind_core=True")
    if local < arguments.workers:
        command.insert(1, f"--node_rank={arguments.node_rank}")
    environment = dict(os.environ)
    for name in ("MS_ROLE", "MS_NODE_ID"):  # of the container, as Ascend Operator sets them; msrun sets its own
        environment.pop(name, None)
    environment["PATH"] = bin_dir + os.pathsep + environment.get("PATH", "")  # msrun starts `python` from PATH
    environment["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), *filter(None, [environment.get("PYTHONPATH")])])
    if token is not None:
        environment[TOKEN_VARIABLES.get(hub_of(job), TOKEN_VARIABLES[HUGGINGFACE])] = token
    outcomes = Path(tempfile.mkdtemp(prefix="mindone-ddpm-"))
    environment |= {OUTCOMES: str(outcomes), OUTCOMES + "_RANKS": str(local)}
    threads = max(1, len(os.sched_getaffinity(0)) // local)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    environment.setdefault("TQDM_MININTERVAL", "1")  # seconds: a bar in a log grows by a line each time
    if max_local_ranks() is None:
        environment["MINDONE_DDPM_LOCAL_RANKS"] = str(local)
    with open(log_dir / "msrun.log", "wb") as msrun_log:
        process = subprocess.Popen(
            command, stdout=msrun_log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        running = Job(process, log_dir, outcomes, arguments.node_rank * local, local, arguments.stop_timeout_s)
        return running.watch(), running.asked_to_stop_at is not None
    finally:
        shutil.rmtree(outcomes, ignore_errors=True)


class Job:
    """A running msrun with its ranks on this machine."""

    def __init__(
        self,
        process: subprocess.Popen,
        log_dir: Path,
        outcomes: Path,
        first_rank: int,
        num_ranks: int,
        stop_timeout_s: float,
    ):
        self.stop_timeout_s = stop_timeout_s
        self.outcomes, self.num_ranks = outcomes, num_ranks
        self.process, self.log_dir, self.first_rank = process, log_dir, first_rank
        self.workers: dict[int, int] = {}  # process id -> rank
        self.seen: dict[int, psutil.Process] = {}
        self.scheduler: psutil.Process | None = None
        self.scheduler_gone_at: float | None = None
        self.asked_to_stop_at: float | None = None
        self.stop_signal = 0
        self.shown: IO[bytes] | None = None
        self.in_a_line = False  # the main rank's bar ends without one
        self.look_at_logs_at = 0.0

    def watch(self) -> int:
        interrupt_watch.receiver = self.ask_to_stop
        previous = signal.signal(signal.SIGTERM, self.ask_to_stop)
        failure: tuple[int, int] | None = None
        try:
            while self.process.poll() is None and failure is None:
                self.find_processes()
                self.show_progress()
                self.limit_logs()
                failure = self.find_failure()
                if failure is None and self.scheduler_is_lost():
                    break
                if self.asked_to_stop_at and time.monotonic() - self.asked_to_stop_at > self.stop_timeout_s:
                    print(
                        f"warning: the ranks did not stop within {self.stop_timeout_s:g} s; ending them",
                        file=sys.stderr,
                    )
                    break
                time.sleep(0.1)
            failure = failure or self.find_failure()
            if failure is not None:
                self.wait_for_the_others(failure[1])
            self.show_progress()
            if self.in_a_line:
                print(file=sys.stderr)
        finally:
            interrupt_watch.receiver = None
            self.end_all()
            signal.signal(signal.SIGTERM, previous)
            if self.shown is not None:
                self.shown.close()
        return self.verdict(failure)

    def find_processes(self) -> None:
        """Know every process of the job, and which of them is which rank."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.seen.setdefault(child.pid, child)
                if child.pid in self.workers:
                    continue
                with contextlib.suppress(psutil.Error):
                    # Between fork and exec a child still shows msrun's own environment: it is asked again next time.
                    environment = child.environ()
                    if child.ppid() != self.process.pid:
                        continue
                    if environment.get("MS_ROLE") == "MS_SCHED":
                        self.scheduler = child
                    if environment.get("MS_ROLE") == "MS_WORKER":
                        self.workers[child.pid] = int(environment.get("MS_NODE_ID", environment.get("RANK_ID", -1)))

    def show_progress(self) -> None:
        """Copy what the first rank here has printed since the last time."""
        path = self.log_dir / f"worker_{self.first_rank}.log"
        if self.shown is None:
            if not path.exists():
                return
            self.shown = open(path, "rb")  # noqa: SIM115  (read on until the job ends)
        new = MINDSPORE_CHATTER.sub(b"", self.shown.read())
        if new:
            sys.stderr.buffer.write(new)
            sys.stderr.flush()
            self.in_a_line = not new.endswith(b"\n")

    def limit_logs(self) -> None:
        """Move what the ranks' logs hold to their older parts where it is much; ranks append to them."""
        if time.monotonic() < self.look_at_logs_at:
            return
        self.look_at_logs_at = time.monotonic() + SECONDS_BETWEEN_LOOKS
        for pid, rank in self.workers.items():
            log = self.log_dir / f"worker_{rank}.log"
            with contextlib.suppress(OSError):
                if log.stat().st_size > rotation.MOST_BYTES and appends_to_log(pid):
                    self.show_progress()
                    if rotation.cut(log) and rank == self.first_rank and self.shown is not None:
                        self.shown.seek(0)

    def find_failure(self) -> tuple[int, int] | None:
        """(process id, exit status) of the first rank that failed, as msrun saw it."""
        text = (self.log_dir / "msrun.log").read_text(errors="replace")
        found = re.search(r"Worker process (\d+) exit with exception. Error code: (-?\d+)", text)
        return (int(found.group(1)), int(found.group(2))) if found else None

    def scheduler_is_lost(self) -> bool:
        """Whether MindSpore's scheduler, which runs beside rank 0, has ended seconds ago while ranks are at work."""
        if self.scheduler is None or len(self.recorded()) == self.num_ranks:
            return False
        with contextlib.suppress(psutil.Error):
            if self.scheduler.is_running() and self.scheduler.status() != psutil.STATUS_ZOMBIE:
                return False
        self.scheduler_gone_at = self.scheduler_gone_at or time.monotonic()
        return time.monotonic() - self.scheduler_gone_at > SCHEDULER_GRACE_S

    def wait_for_the_others(self, status: int) -> None:
        """Ranks that were asked to stop end by themselves within moments of each other."""
        deadline = time.monotonic() + (5.0 if status in (128 + signal.SIGTERM, 128 + signal.SIGINT) else 0.0)
        while time.monotonic() < deadline and any(psutil.pid_exists(pid) for pid in self.workers):
            time.sleep(0.1)

    def ask_to_stop(self, number: int, _: object = None) -> None:
        """Ctrl-C or SIGTERM: the ranks finish their step and write a checkpoint. The second time, all end at once."""
        if self.asked_to_stop_at is not None:
            self.end_all()
            os._exit(128 + number)
        self.asked_to_stop_at, self.stop_signal = time.monotonic(), number
        for pid in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def end_all(self) -> None:
        self.find_processes()
        for child in self.seen.values():
            with contextlib.suppress(psutil.Error):
                child.kill()
        self.process.kill()
        self.process.wait()

    def recorded(self) -> dict[int, int]:
        """How the work of each rank has ended, where it has."""
        texts = {int(path.name): path.read_text() for path in self.outcomes.iterdir()}
        return {rank: int(text) for rank, text in texts.items() if text}

    def verdict(self, failure: tuple[int, int] | None) -> int:
        recorded = self.recorded()
        if len(recorded) == self.num_ranks and not any(recorded.values()):
            return 0  # whatever happened when the cluster was taken down
        if failure is None and self.scheduler_gone_at is not None and self.asked_to_stop_at is None:
            print(
                "error: MindSpore's scheduler, through which the ranks find each other, has ended or was killed; the "
                f"ranks are ended too; its log is {self.log_dir / 'scheduler.log'}",
                file=sys.stderr,
            )
            return 1
        if failure is None:
            status = self.process.returncode
            if self.asked_to_stop_at is not None:
                return 128 + self.stop_signal
            if status != 0:
                print(f"error: the ranks did not come together; see {self.log_dir}", file=sys.stderr)
            return 0 if status == 0 else 1
        pid, status = failure
        rank: int | str = self.workers.get(pid, "?")
        status = recorded.get(self.workers.get(pid, -1)) or status
        log = self.log_dir / f"worker_{rank}.log"
        if status in (128 + signal.SIGTERM, 128 + signal.SIGINT) and self.asked_to_stop_at is not None:
            return 128 + self.stop_signal
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        print(f"error: rank {rank} {how}: {last_words(log)}; its log is {log}", file=sys.stderr)
        return 128 - status if status < 0 else status


def last_words(log: Path) -> str:
    """The last line of a log that says an error, or the last line.

    On Ascend, MindSpore's message begins on the line after the error's name, and CANN's own follows it.
    """
    lines = plain_lines(log.read_text(errors="replace")) if log.exists() else []
    starts = [at for at, line in enumerate(lines) if re.match(r"error: |\w*(Error|Exception)\b", line)]
    if not starts:
        return (lines or ["it said nothing"])[-1][:300]
    at = starts[-1]
    count = 3 if re.fullmatch(r"\w+:?", lines[at]) else 1
    return " ".join(lines[at : at + count])[:300]
