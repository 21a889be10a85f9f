"""However a process ends, the target is what it was or what it was to become, and the next run leaves nothing else."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tinyhf
from killing import Writer, campaign, content, forked, warmed

from sift_cli import api
from sift_cli.core import files, scratch
from sift_cli.core.files import atomic, atomic_folder, check_folder, check_writable
from sift_cli.errors import OutputBusy, OutputExists, OutputUnwritable

OURS = "ours.bin"
NEW, OLD = b"new" * 100_000, b"old"


def write_file(force: bool) -> None:
    with atomic(Path("out"), force=force) as new, open(new, "wb") as file:
        for begin in range(0, len(NEW), 60_000):
            file.write(NEW[begin : begin + 60_000])
            file.flush()


def write_folder(force: bool) -> None:
    with atomic_folder(Path("out"), ours=OURS, force=force) as new:
        (new / "deep" / "er").mkdir(parents=True)
        for name in (OURS, "weights", "deep/er/notes"):
            (new / name).write_bytes(NEW)


def old_file(path: Path) -> None:
    path.write_bytes(OLD)


def old_folder(path: Path) -> None:
    (path / "mine").mkdir(parents=True)
    (path / OURS).write_bytes(OLD)
    (path / "mine" / "too").write_bytes(OLD)


FILE = Writer("a file", write_file, "out", old_file)
FOLDER = Writer("a folder", write_folder, "out", old_folder)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wide") / "wide.safetensors"
    api.transform("nets:tiny_plain", path, input_shape=(1, 3, 8, 8), sparsity="3/4")
    return path


# -- kill -9 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", [FILE, FOLDER], ids=lambda writer: writer.name)
def test_killed(tmp_path: Path, writer: Writer) -> None:
    outcome = campaign(writer, tmp_path, 20)
    assert not outcome.failed
    assert outcome.found.keys() == {"old", "new"}


def test_sift_densify_killed(tmp_path: Path, wide: Path) -> None:
    from sift_cli.app import app

    shutil.copy(wide, tmp_path)

    def write(force: bool) -> None:
        app(["densify", "wide.safetensors", "-o", "out.safetensors", *(["--force"] if force else [])])

    writer = Writer("sift densify", write, "out.safetensors", old_file)
    warmed(writer, tmp_path)
    outcome = campaign(writer, tmp_path, 12)
    assert not outcome.failed
    assert outcome.found["old"] >= 6


def in_place(force: bool) -> None:
    with open("out", "wb") as file:
        file.write(NEW[:1000])
        file.flush()
        os.truncate("out", 1000)  # a moment that is seen
        file.write(NEW[1000:])


def with_litter(force: bool) -> None:
    Path(f"out.{os.getpid()}").write_bytes(NEW)
    os.replace(f"out.{os.getpid()}", "out")


def test_the_campaign_can_fail(tmp_path: Path) -> None:
    halves = campaign(Writer("in place", in_place, "out", old_file), tmp_path, 10)
    assert halves.found["half"] > 0
    assert halves.failed
    for one in tmp_path.iterdir():
        one.unlink()
    litter = campaign(Writer("with litter", with_litter, "out", old_file), tmp_path, 10)
    assert litter.litter > 0
    assert litter.found["half"] == 0


def test_two_renames_instead_of_one_swap(tmp_path: Path) -> None:
    """Killed between the two there is no folder; whoever comes next, and be it refused, finds the old one."""
    out = tmp_path / "out"
    old_folder(out)
    before = content(out)
    rename = os.rename

    def once(source: Path, target: Path) -> None:
        if target.name == "out":
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    def killed() -> None:  # in a process of its own
        files._exchange = lambda one, other: False  # type: ignore[assignment]
        os.rename = once  # type: ignore[assignment]
        write_folder(True)

    assert forked(killed, tmp_path).status == signal.SIGKILL
    assert not out.exists()
    with pytest.raises(OutputExists):
        check_folder(out, force=False, ours=OURS)
    assert content(out) == before
    assert os.listdir(tmp_path) == ["out"]
    assert forked(lambda: write_folder(True), tmp_path).status == 0
    assert not (out / "mine").exists()


def test_what_a_killed_one_left_goes_even_if_the_next_one_is_refused(tmp_path: Path) -> None:
    left = scratch.beside(tmp_path / "out")
    for check in (check_writable, lambda path, force: check_folder(path, force=force, ours=OURS)):
        (left / "deep").mkdir(parents=True)
        (left / "new").write_bytes(b"half of it")
        old_file(tmp_path / "out")
        with pytest.raises((OutputExists, OutputUnwritable)):
            check(tmp_path / "out", force=False)
        assert os.listdir(tmp_path) == ["out"]


# -- two processes -----------------------------------------------------------------------------------------------------


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is writing ``out``, and has forked one that outlives it."""
    program = """
import os, sys, time
from pathlib import Path
from sift_cli.core.files import atomic
with atomic(Path("out"), force=True) as new:
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    new.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_the_second_one_is_refused_before_any_work(
    tmp_path: Path, holder: subprocess.Popen[str], sift: Callable[..., Any]
) -> None:
    old_file(tmp_path / "out")
    for write in (check_writable, lambda path, force: atomic(path, force=force).__enter__()):
        with pytest.raises(OutputBusy) as caught:
            write(tmp_path / "out", force=True)
        assert caught.value.exit_code == 10
    (tmp_path / "out.safetensors").symlink_to("out")
    refused = sift("densify", "no-such-file.safetensors", "-o", "out.safetensors", "--force")
    assert refused.exit_code == 10
    assert f"error: another process is writing {tmp_path / 'out'}\n" in refused.stderr  # where the link leads
    holder.kill()
    holder.wait()
    write_out(tmp_path / "out")  # although a process lives that was forked while the lock was held
    assert sorted(os.listdir(tmp_path)) == ["out", "out.safetensors"]
    assert (tmp_path / "out").read_bytes() == NEW


def write_out(path: Path, *, force: bool = True) -> None:
    with atomic(path, force=force) as new:
        new.write_bytes(NEW)


def test_threads_are_kept_apart_too(tmp_path: Path) -> None:
    with atomic(tmp_path / "out") as new:
        with pytest.raises(OutputBusy):
            write_out(tmp_path / "out")
        write_out(tmp_path / "another")
        new.write_bytes(OLD)
    assert (tmp_path / "out").read_bytes() == OLD


def test_many_writers_and_one_whole_file(tmp_path: Path) -> None:
    """Each of twelve processes writes what no other does, again and again; all are whole, and some are refused."""

    def write(number: int) -> None:
        for _ in range(30):
            try:
                with atomic(Path("out"), force=True) as new:
                    new.write_bytes(bytes([number]) * 100_000)
            except OutputBusy:
                pass
            data = Path("out").read_bytes() if Path("out").exists() else bytes([number]) * 100_000
            if len(data) != 100_000 or len(set(data)) != 1:
                os._exit(3)

    children = []
    for number in range(12):
        child = os.fork()
        if child == 0:
            try:
                os.chdir(tmp_path)
                write(number)
                os._exit(0)
            finally:
                os._exit(4)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 12
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with atomic(tmp_path / "out") as new:
        write_out(tmp_path / "out")  # nobody can know
        new.write_bytes(OLD)
        with pytest.raises(OutputExists):
            check_writable(tmp_path / "out", force=False)
        (tmp_path / "out").unlink()
    assert (tmp_path / "out").read_bytes() == OLD
    assert os.listdir(tmp_path) == ["out"]


def test_the_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    old_file(tmp_path / "precious" / "new")
    scratch.beside(tmp_path / "out").symlink_to("precious")
    with pytest.raises(OutputUnwritable, match="in the way"):
        write_out(tmp_path / "out")
    assert content(tmp_path / "precious" / "new") == content_of(OLD, tmp_path)


def content_of(data: bytes, folder: Path) -> str:
    path = folder / "compared"
    path.write_bytes(data)
    return content(path)


# -- Ctrl-C and SIGTERM ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(tmp_path: Path, wide: Path, by: signal.Signals, code: int) -> None:
    """At each moment: one line, nothing left, and the old file unless the new one was there already."""
    from sift_cli import app

    said = tmp_path / "said"

    def run() -> None:
        sys.argv = ["sift", "densify", str(wide), "-o", "out.safetensors", "--force"]
        with open(said, "w") as sys.stderr:
            app.main()

    (tmp_path / "work").mkdir()
    out = tmp_path / "work" / "out.safetensors"
    usual = forked(run, tmp_path / "work")
    assert usual.status == 0
    new, sentences = out.read_bytes(), set()
    assert len(usual.moments) > 15
    for event in range(1, len(usual.moments) + 1):
        out.write_bytes(OLD)
        stopped = forked(run, tmp_path / "work", event=event, by=by)
        assert os.waitstatus_to_exitcode(stopped.status) == code
        (line,) = said.read_text().splitlines()
        sentences.add(line)
        assert out.read_bytes() == (OLD if "nothing was written" in line else new) or line == "error: interrupted"
        assert out.read_bytes() in (OLD, new)
        api.inspect(wide)
        with pytest.raises(OutputExists):
            check_writable(out, force=False)
        assert os.listdir(tmp_path / "work") == ["out.safetensors"]
    assert sentences == {"error: interrupted", "error: interrupted; nothing was written to out.safetensors"}


def test_interrupted_once_more_while_it_cleans_up(tmp_path: Path, wide: Path) -> None:
    """Each thing that it removes brings another SIGTERM."""
    from sift_cli import app

    said = tmp_path / "said"

    def impatient(event: str, _: tuple[object, ...]) -> None:
        if event in ("os.remove", "os.rmdir", "shutil.rmtree"):
            os.kill(os.getpid(), signal.SIGTERM)

    def run() -> None:
        sys.argv = ["sift", "densify", str(wide), "-o", "out.safetensors"]
        sys.addaudithook(impatient)
        with open(said, "w") as sys.stderr:
            app.main()

    (tmp_path / "work").mkdir()
    stopped = forked(run, tmp_path / "work", event=10, by=signal.SIGTERM)
    assert os.waitstatus_to_exitcode(stopped.status) == 143
    assert said.read_text() == "error: interrupted; nothing was written to out.safetensors\n"
    assert os.listdir(tmp_path / "work") == []


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_before_a_command_begins(tmp_path: Path, by: signal.Signals, code: int) -> None:
    from sift_cli import app

    def run() -> None:
        sys.argv = ["sift", "inspect", "nothing.pt"]
        app.SiftGroup.__init__ = lambda *_, **__: signal.raise_signal(by)  # type: ignore[assignment]
        with open("said", "w") as sys.stderr:
            app.main()

    assert os.waitstatus_to_exitcode(forked(run, tmp_path).status) == code
    assert (tmp_path / "said").read_text().strip() == "error: interrupted"


# -- disks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_a_limit_of_the_system(tmp_path: Path, write: Callable[[bool], None]) -> None:
    (old_file if write is write_file else old_folder)(tmp_path / "out")
    before = content(tmp_path / "out")

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(OutputUnwritable, match=r"^cannot write .*out: File too large$"):
            write(True)

    assert forked(limited, tmp_path).status == 0
    assert content(tmp_path / "out") == before
    assert os.listdir(tmp_path) == ["out"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte, 700 kB of which are taken."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "sift-test", disk], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("no file system can be mounted here")
    (disk / "taken").write_bytes(bytes(700_000))
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk(small_disk: Path, wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_disk)
    for old, write in ((old_file, write_file), (old_folder, write_folder)):
        old(small_disk / "out")
        before = content(small_disk / "out")
        with pytest.raises(OutputUnwritable, match=r"^cannot write .*out: No space left on device$"):
            write_out(Path("out")) if write is write_file and _fill(small_disk) else write(True)
        assert content(small_disk / "out") == before
        assert sorted(os.listdir(small_disk)) == ["out", "taken"]
        shutil.rmtree("out") if old is old_folder else Path("out").unlink()
    _fill(small_disk)
    for name in ("out.safetensors", "out.pt"):
        with pytest.raises(OutputUnwritable, match=r"No space left on device|is the disk full"):
            api.densify(wide, small_disk / name, arch="nets:tiny_plain")
    assert os.listdir(small_disk) == ["taken"]


def test_a_disk_that_takes_half_of_a_folder(small_disk: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tinyhf.folder(tmp_path / "gpt2", "gpt2")
    with pytest.raises(OutputUnwritable, match="is the disk full"):
        api.transform(tmp_path / "gpt2", small_disk / "wide", sparsity="3/4")
    assert os.listdir(small_disk) == ["taken"]


def _fill(disk: Path) -> bool:
    """Leave room for a folder and not for a file."""
    with open(disk / "taken", "ab") as file:
        free = os.statvfs(disk)
        file.write(bytes(max(0, (free.f_bavail - 3) * free.f_frsize)))
    return True


def test_a_disk_that_is_read_only(small_disk: Path) -> None:
    old_file(small_disk / "out")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputUnwritable, match="is not writable"):
        write_out(small_disk / "out")
    with pytest.raises(OutputUnwritable, match="is not writable"):
        check_folder(small_disk / "folder", force=False, ours=OURS)
    assert (small_disk / "out").read_bytes() == OLD


def test_a_folder_that_vanishes(tmp_path: Path) -> None:
    for writing in (atomic, lambda path: atomic_folder(path, ours=OURS)):
        (tmp_path / "there").mkdir()

        def write() -> None:
            with writing(tmp_path / "there" / "out") as new:  # noqa: B023
                shutil.rmtree(tmp_path / "there")
                (new if writing is atomic else new / OURS).write_bytes(NEW)  # noqa: B023

        with pytest.raises(OutputUnwritable, match="No such file or directory"):
            write()
        assert not (tmp_path / "there").exists()


def test_what_the_system_says_of_another_file_is_not_the_outputs_fault(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "input"))
    with pytest.raises(OutputUnwritable), atomic(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")


# -- kinds of targets --------------------------------------------------------------------------------------------------


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to("store/file")
    write_out(tmp_path / "link", force=False)  # it led to nothing yet
    assert (tmp_path / "store" / "file").read_bytes() == NEW
    old_file(tmp_path / "store" / "file")
    with pytest.raises(OutputExists):
        write_out(tmp_path / "link", force=False)
    write_out(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "store" / "file").read_bytes() == NEW
    assert sorted(os.listdir(tmp_path)) == ["link", "store"]
    assert os.listdir(tmp_path / "store") == ["file"]
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("nowhere/file")
    with pytest.raises(OutputUnwritable, match="nowhere does not exist"):
        write_out(tmp_path / "link")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OutputUnwritable, match="in a circle"):
        write_out(tmp_path / "circle")


def test_of_hard_links_only_this_name_changes(tmp_path: Path) -> None:
    old_file(tmp_path / "out")
    os.link(tmp_path / "out", tmp_path / "other")
    write_out(tmp_path / "out")
    assert ((tmp_path / "out").read_bytes(), (tmp_path / "other").read_bytes()) == (NEW, OLD)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions(tmp_path: Path, umask: int) -> None:
    def mode(path: Path) -> int:
        return path.stat().st_mode & 0o7777

    def private(name: str, *, force: bool = False) -> None:
        with atomic_folder(tmp_path / name, ours=OURS, force=force) as new:
            (new / "deep").mkdir()
            for file in (new / OURS, new / "deep" / "file"):
                file.touch(mode=0o600)  # as the safetensors library does

    before = os.umask(umask)
    try:
        write_out(tmp_path / "new")
        private("folder")
        assert mode(tmp_path / "new") == 0o666 & ~umask
        assert mode(tmp_path / "folder") == mode(tmp_path / "folder" / "deep") == 0o777 & ~umask
        assert mode(tmp_path / "folder" / "deep" / "file") == 0o666 & ~umask
        for path, kept in ((tmp_path / "new", 0o640), (tmp_path / "folder", 0o750)):
            path.chmod(kept)
        write_out(tmp_path / "new")
        private("folder", force=True)
        assert mode(tmp_path / "new") == 0o640
        assert mode(tmp_path / "folder") == 0o750
    finally:
        os.umask(before)


def test_a_folder_keeps_the_bits_that_its_files_get_their_group_by(tmp_path: Path) -> None:
    def folder(*, force: bool = False) -> int:
        with atomic_folder(tmp_path / "shared" / "out", ours=OURS, force=force) as new:
            (new / OURS).touch()
        return (tmp_path / "shared" / "out").stat().st_mode & 0o7777

    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2775)
    (tmp_path / "shared" / "plain").mkdir()
    made = folder()
    assert made == (tmp_path / "shared" / "plain").stat().st_mode & 0o7777
    assert made & 0o2000
    (tmp_path / "shared" / "out").chmod(0o3770)
    assert folder(force=True) == 0o3770


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_the_owner_is_kept(tmp_path: Path) -> None:
    old_file(tmp_path / "out")
    os.chown(tmp_path / "out", 12345, 54321)
    write_out(tmp_path / "out")
    about = (tmp_path / "out").stat()
    assert (about.st_uid, about.st_gid) == (12345, 54321)


@pytest.mark.parametrize("special", ["/dev/full", "/dev/null", "/dev/stdout", "pipe"])
def test_what_is_no_file(tmp_path: Path, special: str) -> None:
    path = Path(special)
    if special == "pipe":
        path = tmp_path / "pipe"
        os.mkfifo(path)
    elif special == "/dev/stdout":
        read, written = os.pipe()
        path = Path(f"/proc/self/fd/{written}") if Path("/proc/self/fd").exists() else path
    with pytest.raises(OutputUnwritable, match="no regular file"):
        check_writable(path, force=True)  # which all writers ask first: a test that fails has to leave /dev alone
    if special == "/dev/stdout":
        os.close(read)
        os.close(written)


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "n" * 240, "out.safetensors"])
def test_long_names(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        write_out(tmp_path / name)
        with atomic_folder(tmp_path / f"f{name[1:]}", ours=OURS, force=True) as new:
            (new / OURS).write_bytes(NEW)
    assert sorted(os.listdir(tmp_path)) == sorted([name, f"f{name[1:]}"])
    for call in (write_out, lambda path: check_folder(path, force=True, ours=OURS)):
        with pytest.raises(OutputUnwritable, match="File name too long"):
            call(tmp_path / ("n" * 256))


def test_long_names_are_told_apart(tmp_path: Path) -> None:
    one, other = tmp_path / ("n" * 250 + "1"), tmp_path / ("n" * 250 + "2")
    with atomic(one) as new:
        write_out(other)
        new.write_bytes(OLD)
    assert (one.read_bytes(), other.read_bytes()) == (OLD, NEW)
