"""Files of the main job on a small net, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tiny.pt``, its transform ``w.safetensors`` and the export ``w.onnx`` of that; a test gets
    copies."""
    from sift_cli.app import app
    from sift_cli.models import load as load_model

    folder = tmp_path_factory.mktemp("made")
    checkpoint, artifact, graph = folder / "tiny.pt", folder / "w.safetensors", folder / "w.onnx"
    torch.save(load_model("nets:tiny_resnet", input_shape=(1, 3, 8, 8)).module.state_dict(), checkpoint)
    arch = ("--arch", "nets:tiny_resnet")
    for command in (
        ("transform", checkpoint, *arch, "--input", "1x3x8x8", "--sparsity", "0.75", "-o", artifact),
        ("export", artifact, *arch, "--format", "onnx", "-o", graph, "--min-sparsity", "0"),
    ):
        done = CliRunner().invoke(app, [str(argument) for argument in command])
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def files(made: Path, tmp_path: Path) -> Path:
    """An empty folder with copies of the files of ``made``, which ``sift`` runs in."""
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path
