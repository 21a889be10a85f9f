"""The slice of onnxruntime's C API that sift declares by hand, against the real header."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

HEADER = "onnxruntime_c_api.h"
#: Packages with the header, and how to fetch one: Debian's from its 13 on, and one of npm's (150 MB, which npm keeps).
FETCH = (("apt-get", "download", "libonnxruntime-dev"), ("npm", "pack", "com.github.asus4.onnxruntime"))
SECONDS = 60


def unpacked(package: Path) -> Path:
    """The folder of ``package``'s headers, beside it."""
    folder = package.with_suffix("")
    if package.suffix == ".deb":
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True, timeout=SECONDS)
    else:
        with tarfile.open(package) as archive:
            archive.extractall(folder, [file for file in archive if file.name.endswith(".h")], filter="data")
    return folder


@pytest.fixture(scope="session")
def onnxruntime_header(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one that ``SIFT_ORT_HEADER`` names, else that of the first package that can be had."""
    if given := os.environ.get("SIFT_ORT_HEADER"):
        return Path(given).resolve()
    why = []
    for command in FETCH:
        folder = tmp_path_factory.mktemp(command[0])
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=SECONDS)
            return next(header for package in folder.iterdir() for header in unpacked(package).rglob(HEADER))
        except (OSError, subprocess.SubprocessError, tarfile.TarError, StopIteration) as error:
            why.append(f"{' '.join(command)}: {error!r}")
    pytest.skip(f"no {HEADER} at hand; SIFT_ORT_HEADER may name one. Tried " + "; ".join(why))


def test_the_declared_slice_is_what_onnxruntimes_header_says(
    onnxruntime_header: Path, build: Callable[..., Path]
) -> None:
    build("check_ort_api", f"-DSIFT_ORT_HEADER={onnxruntime_header}")
