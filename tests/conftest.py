"""Fixtures that several test folders share."""

from __future__ import annotations

import functools
import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: threads would only be in each other's way
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from typer.testing import CliRunner, Result

# How long an example takes says something of the machine and nothing of sift.
hypothesis.settings.register_profile("sift", deadline=None)
hypothesis.settings.load_profile("sift")

SHAPE = (1, 3, 8, 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what takes longest: the sanitized builds. At the end the other processes would wait for them."""
    items.sort(key=lambda item: item.path.parent.name != "native")


@pytest.fixture(scope="session", autouse=True)
def one_table_of_operators() -> None:
    """For each export torch reads the sources of its 500 ONNX functions anew: .4 of the .6 s of a small model."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))


@pytest.fixture
def tiny() -> Callable[..., object]:
    """``tiny("tiny_resnet")`` → a LoadedModel of :mod:`nets` with seeded weights."""
    from sift_cli import models

    def load(name: str = "tiny_resnet", seed: int = 0) -> object:
        return models.load(f"nets:{name}", seed=seed, input_shape=SHAPE)

    return load


@pytest.fixture
def sift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command line in an empty folder: ``sift("flops", "model.onnx")``."""
    from sift_cli.app import app

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, input: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)

    return run


@pytest.fixture(scope="session")
def oldest_onnxruntime() -> str:
    """A Python interpreter with onnxruntime 1.17, the oldest one that is supported, in ``SIFT_ORT117_PYTHON``."""
    python = os.environ.get("SIFT_ORT117_PYTHON")
    if not python:
        pytest.skip("SIFT_ORT117_PYTHON names no interpreter with onnxruntime 1.17")
    return python
