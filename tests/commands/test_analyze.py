"""``sift analyze`` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from incidence import projective_plane
from safetensors.numpy import save_file
from typer.testing import Result

from sift_cli import api
from sift_cli.checkpoint import open_checkpoint

Sift = Callable[..., Result]


def document(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A projective plane beside a diagonal; in the second file the plane's last edge is gone."""
    plane = projective_plane(3).astype(np.float32)
    tensors = {"fc.weight": plane, "head.weight": np.diag([5.0, 3.0, 1.0]).astype(np.float32)}
    save_file(tensors, tmp_path / "a.safetensors")
    plane[tuple(np.argwhere(plane)[-1])] = 0
    save_file(tensors, tmp_path / "b.safetensors")
    return tmp_path / "a.safetensors", tmp_path / "b.safetensors"


def test_json(sift: Sift, two: tuple[Path, Path]) -> None:
    data = document(sift("analyze", *two, "--json"))
    assert data["schema"] == "sift.analysis/1"
    first, second = data["checkpoints"]
    assert first["ramanujan_gap"] == pytest.approx(sqrt(3), rel=1e-13)
    assert first["weighted_gap"] == pytest.approx((4 - sqrt(3) + 2) / 2, rel=1e-13)
    assert first["overlap"] == {"previous": None, "first": None}
    plane, diagonal = first["layers"]
    assert plane["singular_values"] == pytest.approx([4, sqrt(3)], rel=1e-13)
    assert (plane["bound"], plane["imdb"]) == (pytest.approx(2 * sqrt(3)), pytest.approx(sqrt(3)))
    assert plane["mean_degree"] == {"left": 4, "right": 4}
    undefined = ("bound", "ramanujan_gap", "relative_ramanujan_gap", "imdb", "relative_imdb", "imsg")
    assert [diagonal[name] for name in undefined] == [None] * 6
    assert diagonal["weighted_singular_values"] == pytest.approx([5, 3], rel=1e-13)
    overlap = second["layers"][0]["overlap"]["previous"]
    assert overlap == {"shared": 51, "before": 52, "after": 51, "jaccard": 51 / 52, "kept": 51 / 52, "churn": 1 / 103}
    assert second["overlap"]["first"]["churn"] == 1 / 109


def test_tables(sift: Sift, two: tuple[Path, Path]) -> None:
    done = sift("analyze", *two, "--layers")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    rows = [line.split() for line in done.stdout.splitlines()]
    diagonal = next(row for row in rows if row[:1] == ["head.weight"])
    assert diagonal == [
        "head.weight",
        "3",
        "×",
        "3",
        "1.0",
        "×",
        "1.0",
        "1",
        "1",
        "–",
        "–",
        "2",
        "–",
        "–",
        "–",
        "–",
        "–",
    ]
    plane = next(row for row in rows if row[:1] == ["fc.weight"])
    assert plane[7:14] == ["4", "1.732", "1.732", "0.5", "2.268", "1.732", "2.268"]
    first, second = (next(row for row in rows if row[:2] == [str(path), "2"]) for path in two)
    assert first[-3:] == ["–", "–", "–"]
    assert second[-3:] == ["0.9818", "0.9818", "0.0092"]
    back = [line.split() for line in sift("analyze", *two, two[0], "--layers").stdout.splitlines()]
    assert [row[-1] for row in back if row[:1] == ["fc.weight"]] == ["–", "0.0097", "0.0097"]
    assert [row[-1] for row in back if row[:2] == [str(two[0]), "2"]] == ["–", "0.0092"]
    assert "fc.weight" not in sift("analyze", *two).stdout
    assert "churn" not in sift("analyze", two[0]).stdout


def test_nothing_sparse(sift: Sift, tmp_path: Path) -> None:
    for name in "ab":
        save_file({"w": np.ones((4, 4), np.float32)}, tmp_path / f"{name}.safetensors")
    done = sift("analyze", "a.safetensors", "--json")
    assert done.exit_code == 4
    assert done.stderr.startswith("error: nothing is sparse in a.safetensors: there is no mask, and no weight matrix")
    assert json.loads(done.stdout)["exit_code"] == 4
    assert "nothing is sparse in any of the 2 files" in sift("analyze", "a.safetensors", "b.safetensors").stderr


def test_refusals(sift: Sift, two: tuple[Path, Path]) -> None:
    assert sift("analyze").exit_code == 2
    assert sift("analyze", two[0], "--inputs-first").stderr.endswith("\nhint: sift analyze --help\n")
    assert sift("analyze", "nowhere.pt").exit_code == 3
    assert sift("analyze", two[0], "--inputs-first", "h.*").exit_code == 4


def test_artifact_and_its_onnx_file_say_the_same(sift: Sift) -> None:
    api.transform("nets:tiny_resnet", "m.safetensors", kind="wide", sparsity="0.75", input_shape=(1, 3, 8, 8))
    api.export("m.safetensors", "m.onnx", arch="nets:tiny_resnet")
    (stored,) = document(sift("analyze", "m.safetensors", "--json"))["checkpoints"]
    (exported,) = document(sift("analyze", "m.onnx", "--json"))["checkpoints"]
    with open_checkpoint("m.safetensors") as checkpoint:
        masks = {name: checkpoint.mask(name) for name, spec in checkpoint.tensors.items() if spec.nonzero is not None}
    assert [layer["name"] for layer in stored["layers"]] == list(masks)
    for layer in stored["layers"]:
        singular = np.linalg.svd(masks[layer["name"]].to_bool().reshape(layer["shape"][0], -1), compute_uv=False)
        assert layer["singular_values"] == pytest.approx(list(singular[:2]), rel=1e-12)

    def masked(one: dict[str, Any]) -> list[tuple[Any, ...]]:
        return sorted((x["edges"], x["ramanujan_gap"], x["imdb"]) for x in one["layers"])

    assert masked(exported) == masked(stored)


def test_two_runs_are_equal_and_need_no_torch(two: tuple[Path, Path]) -> None:
    code = (
        "import json, sys; from sift_cli import api; "
        f"print(json.dumps(api.analyze({[str(path) for path in two]!r}).to_json())); "
        "print([name for name in ('torch', 'scipy', 'onnx') if name in sys.modules])"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.splitlines()[1] == "[]"
