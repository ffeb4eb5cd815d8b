"""Damaged files, for as long as one likes: each is read, or refused by one UserError; nothing else may happen.

    python tests/fuzz/fuzz.py [--seconds S] [--seed N] [--target NAME ...] [--faults FOLDER]
    python tests/fuzz/fuzz.py --again FOLDER...      reads inputs again that were kept in FOLDER

A target's inputs are read in a child, in slices of the time. It has a limit of memory, and a limit of time for each
input. What goes wrong (another exception, a signal, a hang, a message of several lines) is kept, once for each place in
the code: the input, and what was said. The last lines are a table of the inputs tried. Exit status 1 if any went wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "programs"), str(HERE.parents[1])]

import sources  # noqa: E402
from started_process import import_everything  # noqa: E402
from targets import Target, targets  # noqa: E402
from whole import make_sources  # noqa: E402

import mindone_ddpm.common.environment  # noqa: E402, F401  (sets variables before MindSpore is imported)
from mindone_ddpm.common.errors import ConfigError, UserError  # noqa: E402

SLICE_S = 20.0
MOST_SECONDS = 20.0  # for one input; the machine may be busy
START_S = 120.0  # until a child has read its first input
MOST_BYTES = 2 << 30  # that one input may add to the process
MOST_MESSAGE = 2000  # characters of a line


class Fault(Exception):
    """An input that was neither read nor refused as it should be."""


@dataclass
class Tally:
    """What came of a target's inputs."""

    read: int = 0
    refused: int = 0
    faults: Counter = field(default_factory=Counter)
    slowest_s: float = 0.0
    largest_bytes: int = 0
    seconds: float = 0.0

    @property
    def tried(self) -> int:
        return self.read + self.refused + sum(self.faults.values())


# --- one input -----------------------------------------------------------------------------------------------------


def outcome(target: Target, folder: Path) -> str:
    """``read`` or ``refused``; another text is the place of a fault, with its message behind a line break."""
    try:
        target.read(folder)
    except UserError as error:
        problem = problem_of(error)
        return "refused" if problem is None else f"message: {problem}\n{error}"
    except MemoryError:
        return f"memory: {place()}\n{traceback.format_exc()}"
    except Exception as error:
        return f"{type(error).__name__} {place()}\n{traceback.format_exc()}"
    return "read"


def problem_of(error: UserError) -> str | None:
    """What is wrong with a message: it must be one line, or one for each setting, that a terminal shows as it is."""
    lines = str(error).split("\n")
    if not str(error).strip():
        return f"empty {place()}"
    if len(lines) > 1 and not isinstance(error, ConfigError):
        return f"several lines {place()}"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", str(error)):
        return f"control characters {place()}"
    if max(map(len, lines)) > MOST_MESSAGE:
        return f"long {place()}"
    return None


def place() -> str:
    """Where the exception that is being handled left the package."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [frame for frame in frames if "/mindone_ddpm/" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].name}"


# --- in a child ----------------------------------------------------------------------------------------------------


def work(target: Target, seed: int, first: int, until: float, scratch: Path, pipe: int) -> None:
    """Read inputs from number ``first`` on; a line of JSON before and after each goes to ``pipe``."""
    limit_memory()
    number = first
    while time.monotonic() < until or number == first:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        os.write(pipe, json.dumps({"number": number}).encode() + b"\n")
        target.damage(random.Random(f"{seed} {target.name} {number}"), scratch)
        before, began = peak_bytes(), time.monotonic()
        found = outcome(target, scratch)
        answer = {"outcome": found[:5000], "seconds": time.monotonic() - began, "bytes": peak_bytes() - before}
        os.write(pipe, json.dumps(answer).encode() + b"\n")
        number += 1
        if number % 50 == 0:
            gc.collect()


def limit_memory() -> None:
    status = Path("/proc/self/status").read_text()
    used = int(re.search(r"VmData:\s+(\d+)", status)[1]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + 2 * MOST_BYTES, used + 2 * MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES))


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


# --- in the parent -------------------------------------------------------------------------------------------------


class Fuzzer:
    def __init__(self, seed: int, faults: Path, scratch: Path):
        self.seed, self.faults, self.scratch = seed, faults, scratch
        self.tallies: dict[str, Tally] = {}
        self.next: Counter = Counter()
        self.kept: set[str] = set()

    def run_slice(self, target: Target, seconds: float) -> None:
        tally = self.tallies.setdefault(target.name, Tally())
        began = time.monotonic()
        folder = self.scratch / target.name
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            quiet = os.open(self.scratch / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            os.chdir(self.scratch)
            try:
                work(target, self.seed, self.next[target.name], began + seconds, folder, writing)
            except BaseException:
                traceback.print_exc()
                os._exit(3)
            os._exit(0)
        os.close(writing)
        how = self.follow(target, tally, child, reading)
        os.close(reading)
        if how is not None:
            said = (self.scratch / "said").read_text(errors="replace")[-3000:]
            self.keep(target, tally, f"{how}\n{said}", folder)
        self.next[target.name] += 1
        tally.seconds += time.monotonic() - began

    def follow(self, target: Target, tally: Tally, child: int, pipe: int) -> str | None:
        """Count what the child says; how it ended, if not by itself."""
        rest, limit_s, is_reading = b"", START_S, False
        while True:
            if not select.select([pipe], [], [], limit_s)[0]:
                with contextlib.suppress(OSError):
                    stack = Path(f"/proc/{child}/status").read_text()
                    print(re.search(r"State:.*", stack)[0], file=sys.stderr)
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return f"hang of more than {limit_s:g} s"
            data = os.read(pipe, 1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in map(json.loads, lines):
                if "number" in line:
                    self.next[target.name], is_reading = line["number"], True
                else:
                    limit_s, is_reading = MOST_SECONDS, False
                    self.count(target, tally, line)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return None
        code = os.waitstatus_to_exitcode(status)
        when = "" if is_reading else " between inputs"
        return f"ended by signal {-code}{when}" if code < 0 else f"ended with status {code}{when}"

    def count(self, target: Target, tally: Tally, line: dict[str, Any]) -> None:
        tally.slowest_s = max(tally.slowest_s, line["seconds"])
        tally.largest_bytes = max(tally.largest_bytes, line["bytes"])
        if line["bytes"] > MOST_BYTES:
            line["outcome"] = f"memory: {line['bytes'] >> 20} MiB, then {line['outcome']}"
        if line["outcome"] in ("read", "refused"):
            setattr(tally, line["outcome"], getattr(tally, line["outcome"]) + 1)
        else:
            self.keep(target, tally, line["outcome"], self.scratch / target.name)

    def keep(self, target: Target, tally: Tally, what: str, folder: Path) -> None:
        """Keep the input of a fault, made again from its number, if its place is new."""
        head = what.split("\n")[0]
        tally.faults[head] += 1
        if f"{target.name} {head}" in self.kept:
            return
        self.kept.add(f"{target.name} {head}")
        number = self.next[target.name]
        name = f"{target.name}-{hashlib.sha256(head.encode()).hexdigest()[:8]}"
        print(f"FAULT {target.name} {number}: {head}", flush=True)
        kept = self.faults / name
        shutil.rmtree(kept, ignore_errors=True)
        (kept / "input").mkdir(parents=True)
        target.damage(random.Random(f"{self.seed} {target.name} {number}"), kept / "input")
        (kept / "said.txt").write_text(f"seed {self.seed}, input {number}\n{what}\n")
        (kept / "target").write_text(target.name)

    def table(self) -> str:
        lines = [
            f"{'target':<16}{'inputs':>10}{'read':>10}{'refused':>10}{'faults':>8}{'slowest s':>11}{'MiB more':>10}"
        ]
        for name, tally in self.tallies.items():
            lines.append(
                f"{name:<16}{tally.tried:>10,}{tally.read:>10,}{tally.refused:>10,}{sum(tally.faults.values()):>8,}"
                f"{tally.slowest_s:>11.2f}{tally.largest_bytes / 2**20:>10.0f}"
            )
        total = sum(tally.tried for tally in self.tallies.values())
        faults = sum(sum(tally.faults.values()) for tally in self.tallies.values())
        return "\n".join([*lines, f"{total:,} inputs, {faults:,} faults in {len(self.kept)} places, seed {self.seed}"])


def make_images() -> None:
    """Before the first fork; libtiff says on standard error which kinds it does not write."""
    kept, quiet = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    try:
        sources.images()
    finally:
        os.dup2(kept, 2)


def prepared_sources(folder: Path) -> Path:
    """The sources in a folder, made in a child: this process starts nothing of MindSpore."""
    if not (folder / "made-all").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        child = os.fork()
        if child == 0:
            try:
                make_sources(folder)
                (folder / "made-all").touch()
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        os.waitpid(child, 0)
        if not (folder / "made-all").exists():
            raise SystemExit("the files to begin with could not be made")
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description="see the module's text")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--target", action="append")
    parser.add_argument("--faults", type=Path, default=Path("fuzz-faults"))
    parser.add_argument("--sources", type=Path, help="where the whole files are, or are put (default: a new folder)")
    parser.add_argument("--again", nargs="+", type=Path)
    arguments = parser.parse_args()
    import_everything()
    make_images()
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="mindone-ddpm-fuzz-") as scratch:
        source = prepared_sources((arguments.sources or Path(scratch) / "sources").resolve())
        known = {target.name: target for target in targets(source)}
        if arguments.again:
            for folder in arguments.again:
                with tempfile.TemporaryDirectory() as copy:
                    shutil.copytree(folder / "input", copy, dirs_exist_ok=True, symlinks=True)
                    print(f"{folder}: {outcome(known[(folder / 'target').read_text()], Path(copy))}")
            return 0
        chosen = [known[name] for name in arguments.target or known]
        fuzzer = Fuzzer(arguments.seed, arguments.faults.resolve(), Path(scratch))
        print(f"seed {arguments.seed}", flush=True)
        began = time.monotonic()
        slice_s = min(SLICE_S, arguments.seconds / sum(target.share for target in chosen))
        while time.monotonic() - began < arguments.seconds:
            for target in chosen:
                left_s = arguments.seconds - (time.monotonic() - began)
                if left_s > 0:
                    fuzzer.run_slice(target, min(slice_s * target.share, left_s))
    print(fuzzer.table())
    return 1 if fuzzer.kept else 0


if __name__ == "__main__":
    sys.exit(main())
