"""The native library, where there is one: models have to run without it, too."""

from __future__ import annotations

import pytest

from sift_cli.errors import RuntimeUnavailable
from sift_cli.runtime import library_path


@pytest.fixture(scope="session")
def library() -> str | None:
    try:
        return library_path()
    except RuntimeUnavailable:
        return None
