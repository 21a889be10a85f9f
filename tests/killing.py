"""Kill what writes, with -9 and at any moment, and look at what is left.

Each run is a forked process of this one, which has imported everything, and so takes no longer than its work. A third
of the kills is at a random time; a third at a time between the first and the last that the run does to a file; a third
right before one of these, as Python's audit events tell them.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import io
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sift_cli.core.scratch import SUFFIX

#: What a run does to files, by Python's names of audit events.
DOING = {
    *("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.truncate"),
    *("fcntl.flock", "fcntl.lockf", "shutil.copyfile", "shutil.rmtree", "os.scandir", "ctypes.dlsym"),
}
#: A run that takes longer hangs.
PATIENCE = 300


@dataclass(frozen=True)
class Writer:
    """Something that writes one file or folder.

    Attributes:
        name: What it is called in a report.
        write: Writes ``target`` in the current folder; ``write(force)`` replaces what is there.
        target: Name of the file or folder.
        old: Puts something there to be replaced.
        again: The next run after a kill, of any command that writes ``target``; ``write(True)`` is every tenth, and all
            of them by default.
        digest: What tells the old one from the new one; raises ValueError on a half. By default all bytes and names.
        goes_on: Whether ``again`` has to come to what ``write`` makes.
    """

    name: str
    write: Callable[[bool], object]
    target: str
    old: Callable[[Path], object]
    again: Callable[[], object] | None = None
    digest: Callable[[Path], str] = field(default=lambda path: content(path))
    goes_on: bool = False


@dataclass(frozen=True)
class Run:
    """How a run ended: the status of ``waitpid`` and, in seconds since it began, its end and when it touched files."""

    status: int
    seconds: float
    moments: Sequence[float]


def content(path: Path) -> str:
    """A digest of a file, or of all that is in a folder; "nothing" where there is neither."""
    if not path.exists():
        return "nothing"
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    summed = hashlib.sha256()
    for file in files:
        inside = file.read_bytes() if file.is_file() else b""
        summed.update(f"{file.relative_to(path)} {len(inside)} ".encode() + inside)
    return summed.hexdigest()


def scratch_in(path: Path) -> list[str]:
    """The scratch folders within a folder that consists of files which are written one by one."""
    return [str(one.relative_to(path.parent)) for one in path.rglob(f".*{SUFFIX}*")]


def warmed(writer: Writer, folder: Path) -> None:
    """Run it here, so that forked processes find what was imported and remembered; and leave nothing."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        unseen = io.StringIO()
        with contextlib.redirect_stdout(unseen), contextlib.redirect_stderr(unseen), contextlib.suppress(SystemExit):
            writer.write(True)
    finally:
        os.chdir(before)
        _delete(folder / writer.target)


def _delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def forked(
    run: Callable[[], object],
    folder: Path,
    *,
    after: float | None = None,
    event: int | None = None,
    by: signal.Signals = signal.SIGKILL,
) -> Run:
    """Run in ``folder``, in a process of its own, which gets a signal ``after`` that many seconds or at its n-th
    event."""
    reading, writing = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(run, folder, event, by, writing)
    os.close(writing)
    if after is not None:
        time.sleep(after)
        os.kill(child, by)
    with open(reading, "rb") as told:
        moments = [float(line) - began for line in told.read().split()]
    _, status = os.waitpid(child, 0)
    return Run(status, time.monotonic() - began, moments)


def _in_child(run: Callable[[], object], folder: Path, event: int | None, by: signal.Signals, told: int) -> None:
    count = 0

    def hook(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if name not in DOING:
            return
        first = arguments[0] if arguments else None
        inside = isinstance(first, str | os.PathLike) and (
            not os.path.isabs(first) or Path(first).is_relative_to(folder)
        )
        if inside or name.startswith(("fcntl", "ctypes")):
            count += 1
            os.write(told, b"%f\n" % time.monotonic())
            if count == event:
                os.kill(os.getpid(), by)

    code = 1
    try:
        os.chdir(folder)
        silent = os.open(os.devnull, os.O_RDWR)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job does not have
        signal.alarm(PATIENCE)
        sys.addaudithook(hook)
        run()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        os._exit(code)


@dataclass
class Outcome:
    """What a campaign found.

    Attributes:
        kills: Processes that were killed before they had ended.
        found: How often the target was "old", "new" or "half" then.
        litter: How often there was something else in the folder after the next run.
        failed: What was wrong, in words.
    """

    kills: int = 0
    found: Counter[str] = field(default_factory=Counter)
    litter: int = 0
    failed: list[str] = field(default_factory=list)


def campaign(writer: Writer, folder: Path, kills: int, seed: int = 0) -> Outcome:
    """Kill ``writer`` in ``folder``, which has what it reads and nothing else in it, so many times.

    In turns there is something to replace and there is nothing. After each kill the target has to be what it was or
    what an undisturbed run makes; after the next run, this and nothing else.
    """
    target, random_ = folder / writer.target, random.Random(seed)
    inputs = set(os.listdir(folder))

    def reset(old: bool) -> str:
        _delete(target)
        if old:
            writer.old(target)
        return writer.digest(target)

    def whole(force: bool) -> tuple[Run, str]:
        run = forked(lambda: writer.write(force), folder)
        assert run.status == 0, f"{writer.name} ended with {os.waitstatus_to_exitcode(run.status)} by itself"
        return run, writer.digest(target)

    gc.freeze()  # a collection in a forked process would copy all of memory
    undisturbed: dict[bool, Run] = {}
    made = set()
    for force in (False, True):
        reset(force)
        undisturbed[force], digest = whole(force)
        made.add(digest)
    assert len(made) == 1, f"{writer.name} does not write the same twice"
    (new,) = made
    result = Outcome()
    while result.kills < kills:
        force = bool(random_.getrandbits(1))
        old, usual, write = reset(force), undisturbed[force], functools.partial(writer.write, force)
        match random_.randrange(3):
            case 0:
                run = forked(write, folder, after=random_.uniform(0, usual.seconds))
            case 1:
                run = forked(write, folder, after=random_.uniform(usual.moments[0], usual.moments[-1]))
            case _:
                run = forked(write, folder, event=random_.randint(1, len(usual.moments)))
        if run.status == 0:
            continue  # it was quicker
        assert os.waitstatus_to_exitcode(run.status) == -signal.SIGKILL, f"{writer.name} failed by itself"
        result.kills += 1
        left = sorted(set(os.listdir(folder)) - inputs)
        try:
            found = writer.digest(target)
            kind = {old: "old", new: "new"}.get(found, "half")
        except ValueError as error:
            found, kind = str(error), "half"
        result.found[kind] += 1
        if kind == "half":
            result.failed.append(f"{'with' if force else 'without'} an old one: {found}; there is {left}")
        anew = writer.again is None or result.kills % 10 == 0
        again = forked((lambda: writer.write(True)) if anew else writer.again, folder)
        over = sorted({*os.listdir(folder), *scratch_in(target)} - inputs - {writer.target})
        if again.status != 0 or ((anew or writer.goes_on) and writer.digest(target) != new):
            result.failed.append(f"the next run ended with {os.waitstatus_to_exitcode(again.status)}, after {left}")
        if over:
            result.litter += 1
            result.failed.append(f"the next run left {over}")
    return result
