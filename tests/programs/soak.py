"""A run of two ranks that is disturbed at random again and again, until it has the same bits as an undisturbed one.

    python tests/programs/soak.py [--seconds S] [--seed N] [--steps N] [--folder FOLDER]

Round after round for S seconds: a run of N steps is started, faults of random kinds hit it at random moments, and it is
started again with the same command until it is done. Then its weights, its average and its optimizer's state must be
those of the undisturbed run, bit by bit. The last lines say how many faults of each kind there were, and how long it
took until the next step. As root the run's folder is a small disk of its own, which is filled up now and then; the
links between the ranks are cut by closing their sockets. Exit status 1 where bits differ or a round does not end.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "data" / "runs_of_0_1" / "images" / "model.json"
DISK = "48m"
MOST_ROUND_S = 1800.0
PIDFD_GETFD = 438  # the system call's number, on every processor
RUNS_ON = (0, 1, 128 + signal.SIGTERM, 128 + signal.SIGKILL, -signal.SIGKILL)  # after these it is started again


def command(folder: Path, steps: int, step_timeout_s: float) -> list[str]:
    words = [
        *(sys.executable, "-m", "mindone_ddpm", "launch", "-n", 2, "--max_restarts", 3, "--stop_timeout_s", 60),
        *("train", "--dataset_name", "digits", "--channels", 1, "--image_size", 8, "--train_batch_size", 8),
        *("--model_config_name_or_path", MODEL, "--use_ema", "--random_flip", "--gradient_accumulation_steps", 2),
        *("--max_train_steps", steps, "--checkpointing_steps", 10, "--checkpoints_total_limit", 3),
        *("--save_image_epochs", 0, "--report_to", "csv", "--logging_steps", 1, "--step_timeout_s", step_timeout_s),
        *("--device", "CPU", "--output_dir", folder, "--resume_from_checkpoint", "auto"),
    ]
    return list(map(str, words))


# --- the run -------------------------------------------------------------------------------------------------------


class Run:
    """The launcher with its ranks; started again where it has ended."""

    def __init__(self, folder: Path, steps: int, log: Path, step_timeout_s: float):
        self.folder, self.log = folder, log
        self.command = command(folder, steps, step_timeout_s)
        self.process: subprocess.Popen | None = None
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with self.log.open("ab") as said:
            said.write(f"--- start {self.starts}\n".encode())
            self.process = subprocess.Popen(
                self.command, stdout=said, stderr=said, env=environment, start_new_session=True
            )

    def ranks(self) -> list[psutil.Process]:
        found = []
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if child.environ().get("MS_ROLE") == "MS_WORKER" and child.status() != psutil.STATUS_ZOMBIE:
                        found.append(child)
        return [child for child in found if child.ppid() != self.process.pid]

    def step(self) -> int:
        """The last step that was logged; -1 where there is none."""
        try:
            lines = (self.folder / "logs" / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
            return json.loads(lines[-1])["step"] if lines else -1
        except (OSError, ValueError, KeyError, IndexError):
            return -1

    def end_all(self) -> None:
        """Kill the launcher, msrun, the scheduler and the ranks, whoever their parents are by now."""
        while True:
            found = [process for process in psutil.process_iter() if self._is_ours(process)]
            for process in found:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self.process.wait()
            psutil.wait_procs(found, timeout=5)
            if not found:
                return

    def _is_ours(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return str(self.folder) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
        return False


# --- faults --------------------------------------------------------------------------------------------------------


def kill_rank(run: Run, rng: random.Random) -> None:
    os.kill(rng.choice(run.ranks()).pid, signal.SIGKILL)


def kill_all(run: Run, rng: random.Random) -> None:
    run.end_all()


def ask_to_stop(run: Run, rng: random.Random) -> None:
    run.process.send_signal(signal.SIGTERM)


def pause_rank(run: Run, rng: random.Random) -> None:
    process = rng.choice(run.ranks())
    process.suspend()
    time.sleep(rng.uniform(0.5, 5.0))
    with contextlib.suppress(psutil.Error):
        process.resume()


def freeze_rank(run: Run, rng: random.Random) -> None:
    """It never comes back: the others must notice."""
    rng.choice(run.ranks()).suspend()


def fill_disk(run: Run, rng: random.Random) -> None:
    """For some seconds; half of the time a little is free, so that a file is cut short."""
    filler = run.folder.parent / "filler"
    free = rng.choice((0, rng.randrange(200_000)))
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(min(1 << 16, max(4096, shutil.disk_usage(filler.parent).free - free))))
            if shutil.disk_usage(filler.parent).free <= free:
                break
    time.sleep(rng.uniform(2.0, 8.0))
    filler.unlink(missing_ok=True)


def cut_link(run: Run, rng: random.Random) -> None:
    """Close the connections of a rank, as both ends see it."""
    process = rng.choice(run.ranks())
    descriptor = os.pidfd_open(process.pid)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_ESTABLISHED and connection.fd >= 0:
                copy = libc.syscall(PIDFD_GETFD, descriptor, connection.fd, 0)
                if copy >= 0:
                    libc.shutdown(copy, 2)
                    os.close(copy)
    finally:
        os.close(descriptor)


def damage_checkpoint(run: Run, rng: random.Random) -> None:
    """All is killed, and the newest checkpoint has a byte that is another, or is cut short; the one before is whole."""
    run.end_all()
    checkpoints = sorted(run.folder.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
    if len(checkpoints) < 2:
        return
    path = rng.choice(sorted(one for one in checkpoints[-1].rglob("*") if one.is_file()))
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content[: rng.choice((len(content), rng.randrange(len(content))))]))


FAULTS: dict[str, Callable[[Run, random.Random], None]] = {
    "kill -9 of a rank": kill_rank,
    "kill -9 of all": kill_all,
    "SIGTERM": ask_to_stop,
    "SIGSTOP, then SIGCONT": pause_rank,
    "SIGSTOP for good": freeze_rank,
    "cut link": cut_link,
    "damaged checkpoint": damage_checkpoint,
    "full disk": fill_disk,
}


# --- rounds --------------------------------------------------------------------------------------------------------


class Soak:
    def __init__(self, scratch: Path, steps: int, seed: int, has_disk: bool, step_timeout_s: float):
        self.scratch, self.steps, self.rng, self.step_timeout_s = scratch, steps, random.Random(seed), step_timeout_s
        self.kinds = [name for name in FAULTS if has_disk or name != "full disk"]
        self.next_kinds: list[str] = []
        self.recoveries: dict[str, list[float]] = defaultdict(list)
        self.starts = self.rounds = 0

    def round(self, number: int, disturbed: bool, until: float) -> Path:
        """One run to its end; the folder that holds it."""
        folder = self.scratch / "disk" / f"run-{number}"
        run = Run(folder, self.steps, self.scratch / "said.log", self.step_timeout_s)
        try:
            self.follow(run, number, disturbed, until)
        finally:
            run.end_all()
        self.starts += run.starts
        return folder

    def follow(self, run: Run, number: int, disturbed: bool, until: float) -> None:
        """Start a run, disturb it, and start it again until it is done."""
        began, run_on = time.monotonic(), disturbed
        run.start()
        while True:
            if time.monotonic() - began > MOST_ROUND_S:
                raise SystemExit(f"round {number} did not end within {MOST_ROUND_S:g} s; see {run.log}")
            if self.wait(run, self.rng.uniform(1.0, 6.0) if run_on else 1.0):
                if run.process.returncode == 0 and (run.folder / f"checkpoint-{self.steps}").is_dir():
                    break
                # The disk may have been full when the last checkpoint was written: then it is trained again to there.
                if run.process.returncode not in RUNS_ON or not disturbed:
                    raise SystemExit(f"round {number}: status {run.process.returncode}; see {run.log}")
                run.start()
                continue
            run_on = disturbed and time.monotonic() < until
            if run_on and 0 < run.step() < self.steps - 2 and len(run.ranks()) == 2:
                self.disturb(run)

    @staticmethod
    def wait(run: Run, seconds: float) -> bool:
        """Whether the run has ended within that time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(seconds)
            return True
        return False

    def draw(self) -> str:
        """A random kind; none comes again before all others have come."""
        if not self.next_kinds:
            self.next_kinds = self.rng.sample(self.kinds, len(self.kinds))
        return self.next_kinds.pop()

    def disturb(self, run: Run) -> None:
        kind = self.draw()
        at, began = run.step(), time.monotonic()
        try:
            FAULTS[kind](run, self.rng)
        except (psutil.Error, ProcessLookupError, IndexError):  # it has ended by itself at this moment
            return
        last, changed_at = run.step(), time.monotonic()
        while time.monotonic() - began < MOST_ROUND_S / 2:
            if run.process.poll() is not None:
                if run.process.returncode == 0:
                    break
                if run.process.returncode not in RUNS_ON:
                    return  # told by the round
                run.start()
            now = run.step()
            # Two lines in a row that were written since: the run has taken a step.
            if now > last >= 0 and time.monotonic() - changed_at > 0.5:
                break
            last = now if now >= 0 else last
            time.sleep(0.1)
        seconds = time.monotonic() - began
        self.recoveries[kind].append(seconds)
        print(f"  step {at:>4}: {kind}, next step after {seconds:.1f} s", flush=True)

    def report(self, seconds: float) -> str:
        lines = [f"{'fault':<24}{'count':>6}{'median s':>10}{'longest s':>11}"]
        for kind in FAULTS:
            found = self.recoveries.get(kind, [])
            if found:
                lines.append(f"{kind:<24}{len(found):>6}{median(found):>10.1f}{max(found):>11.1f}")
        total = sum(map(len, self.recoveries.values()))
        return "\n".join(
            [*lines, f"{total} faults, {self.starts} starts by hand, {self.rounds} rounds bit-equal, {seconds:.0f} s"]
        )


def products(folder: Path) -> dict[str, bytes]:
    """What must be the same: weights, average, optimizer's state, and the pipeline."""
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    paths = [*last.rglob("*.safetensors"), folder / "unet" / "diffusion_pytorch_model.safetensors"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@contextlib.contextmanager
def small_disk(folder: Path):
    """A disk of its own at a folder, where the system allows it; whether it does."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], capture_output=True)
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", folder], check=False)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=7200.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument(
        "--step_timeout_s", type=float, default=45.0, help="the first step is compiled: more on a busy machine"
    )
    parser.add_argument("--folder", type=Path, help="where the log is kept (default: a temporary folder)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.monotonic()
    until = began + arguments.seconds
    print(f"seed {arguments.seed}", flush=True)
    scratch = arguments.folder or Path(tempfile.mkdtemp(prefix="mindone-ddpm-soak-"))
    scratch.mkdir(parents=True, exist_ok=True)
    with small_disk(scratch / "disk") as has_disk:
        if not has_disk:
            print("no disk can be mounted here: none is filled", flush=True)
        soak = Soak(scratch, arguments.steps, arguments.seed, has_disk, arguments.step_timeout_s)
        expected = products(soak.round(0, False, until))
        print(f"the undisturbed run took {time.monotonic() - began:.0f} s", flush=True)
        shutil.rmtree(scratch / "disk" / "run-0")
        while time.monotonic() < until:
            folder = soak.round(soak.rounds + 1, True, until)
            found = products(folder)
            different = [name for name in expected if found.get(name) != expected[name]]
            if different or found.keys() != expected.keys():
                shutil.copytree(folder, scratch / "different")
                print(soak.report(time.monotonic() - began))
                print(f"round {soak.rounds + 1}: other bits in {', '.join(different)}; see {scratch}/different")
                return 1
            soak.rounds += 1
            print(f"round {soak.rounds}: the same bits in {len(found)} files", flush=True)
            shutil.rmtree(folder)
    print(soak.report(time.monotonic() - began))
    return 0


if __name__ == "__main__":
    sys.exit(main())
