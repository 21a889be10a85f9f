from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sift_cli.core import files
from sift_cli.core.files import atomic_folder
from sift_cli.errors import OutputExists, OutputUnwritable

OURS = "ours.bin"


def fill(path: Path, text: str, *, force: bool = False, error: Exception | None = None) -> None:
    with atomic_folder(path, ours=OURS, force=force) as folder:
        (folder / OURS).write_text(text)
        if error is not None:
            raise error


def test_it_appears_whole_and_readable(tmp_path: Path) -> None:
    fill(tmp_path / "out", "new")
    assert (tmp_path / "out" / OURS).read_text() == "new"
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~umask
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [RuntimeError("failed"), OSError(errno.ENOSPC, "No space left on device")])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, error: Exception) -> None:
    fill(tmp_path / "out", "old")
    expected = OutputUnwritable if isinstance(error, OSError) else RuntimeError
    with pytest.raises(expected):
        fill(tmp_path / "out", "half", force=True, error=error)
    assert (tmp_path / "out" / OURS).read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_rename_that_fails_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "out", "old")
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if str(source).endswith("new"):
            raise OSError(errno.EACCES, "Permission denied")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    with pytest.raises(OutputUnwritable):
        fill(tmp_path / "out", "new", force=True)
    assert (tmp_path / "out" / OURS).read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_only_a_folder_of_its_own_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    with pytest.raises(OutputExists):
        fill(tmp_path / "out", "new")
    fill(tmp_path / "out", "new", force=True)
    assert (tmp_path / "out" / OURS).read_text() == "new"
    (tmp_path / "home").mkdir()
    fill(tmp_path / "home", "an empty one is free")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputUnwritable, match="sift did not write"):
        fill(tmp_path / "precious", "new", force=True)
    assert (tmp_path / "precious" / "thesis.tex").read_text() == "years of work"


def test_what_is_no_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(OutputUnwritable, match="no folder"):
            fill(tmp_path / name, "new", force=True)
    with pytest.raises(OutputUnwritable, match="does not exist"):
        fill(tmp_path / "no" / "out", "new")
    assert (tmp_path / "file").read_text() == "precious"
