"""``sift diff`` as it is typed, on tensors whose differences were made by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from graphs import graph
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch
from typer.testing import Result

from sift_cli.analysis.elements import CHUNK, elements

Sift = Callable[..., Result]


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    w = np.zeros((4, 4), np.float32)
    w[0] = 1  # four weights are kept
    v = w.copy()
    v[0, 0], v[1, 1] = 0, -3  # one of them goes, and another comes: 3 in both, 5 in either, 2 of 8 places differ
    n, m = np.array([np.nan, 1, -0.0], np.float32), np.array([np.nan, 1, 0.0], np.float32)
    half = np.array([1, np.nan, 0.1], np.float32)
    save_file({"w": w, "n": n, "gone": n, "r": w, "t": half, "same": n}, tmp_path / "a.safetensors")
    other = {"w": v, "n": m, "new": n, "r": w.reshape(2, 8), "t": half.astype(np.float16), "same": n}
    save_file(other, tmp_path / "b.safetensors")
    return tmp_path / "a.safetensors", tmp_path / "b.safetensors"


def document(done: Result) -> dict[str, Any]:
    assert done.exit_code in (0, 1), done.output
    return json.loads(done.stdout)


def test_json(sift: Sift, two: tuple[Path, Path]) -> None:
    a, b = two
    data = document(sift("diff", *two, "--json"))
    assert set(data) == {"schema", "equal", "before", "after", "counts", "masks", "tensors"}
    assert (data["schema"], data["equal"]) == ("sift.diff/1", False)
    assert data["counts"] == {"same": 1, "added": 1, "removed": 1, "reshaped": 1, "retyped": 1, "changed": 2}
    overlap = {"shared": 3, "before": 4, "after": 4, "jaccard": 3 / 5, "kept": 3 / 4, "churn": 2 / 8}
    assert data["masks"] == overlap
    tensors = {one.pop("name"): one for one in data["tensors"]}
    nothing = {"elements": None, "masks": None}
    assert tensors == {
        "w": {
            "change": "changed", "shape": [[4, 4], [4, 4]], "dtype": ["F32", "F32"],
            "elements": {"differing": 2, "max_abs": 3.0, "nonfinite": 0}, "masks": overlap,
        },
        "n": {  # the same NaN is the same, and −0 is not 0
            "change": "changed", "shape": [[3], [3]], "dtype": ["F32", "F32"],
            "elements": {"differing": 1, "max_abs": 0.0, "nonfinite": 0}, "masks": None,
        },
        "gone": {"change": "removed", "shape": [[3], None], "dtype": ["F32", None], **nothing},
        "new": {"change": "added", "shape": [None, [3]], "dtype": [None, "F32"], **nothing},
        "r": {"change": "reshaped", "shape": [[4, 4], [2, 8]], "dtype": ["F32", "F32"], **nothing},
        "t": {  # of two types values are compared, and what rounds to float16 is another value
            "change": "retyped", "shape": [[3], [3]], "dtype": ["F32", "F16"],
            "elements": {"differing": 1, "max_abs": float(np.float32(.1)) - float(np.float16(.1)), "nonfinite": 0},
            "masks": None,
        },
    }  # fmt: skip
    for side, path, params in ((data["before"], a, 3 * 3 + 2 * 16 + 3), (data["after"], b, 3 * 3 + 2 * 16 + 3)):
        assert (side["path"], side["format"], side["tensors"]) == (str(path), "safetensors", 6)
        assert (side["parameters"], side["bytes"]) == (params, path.stat().st_size)
        assert (side["macs"], side["flops"]) == (None, None)
        assert "no architecture" in side["uncounted"]


def test_table_and_exit_codes(sift: Sift, two: tuple[Path, Path]) -> None:
    done = sift("diff", *two)
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["w", "changed", "4×4", "F32", "2", "3", "3", "5", "0.2500"] in lines
    assert ["r", "reshaped", "4×4", "→", "2×8", "F32", "–", "–", "–", "–", "–"] in lines
    assert not any(line[:1] == ["same"] for line in lines)
    assert done.stdout.splitlines()[-1] == "different"
    assert sift("diff", *two, "--exit-code").exit_code == 1
    same = sift("diff", two[0], two[0], "--exit-code")
    assert (same.exit_code, same.stdout.splitlines()[-1]) == (0, "equal")
    assert sift("diff", two[0], "nowhere.pt", "--exit-code").exit_code == 3


def test_two_formats(sift: Sift) -> None:
    tensors = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(5)}
    save_file(tensors, "a.safetensors")
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, "a.pt")
    onnx.save(graph("(float[1,3] x) => (float[1,4] y) { y = MatMul(x, w) }", tensors), "a.onnx")
    for other in ("a.pt", "a.onnx"):
        data = document(sift("diff", "a.safetensors", other, "--json", "--exit-code"))
        assert data["equal"], other
        assert [data["before"]["format"], data["after"]["format"]] != ["safetensors", "safetensors"]
    data = document(sift("diff", "a.onnx", "a.onnx", "--json"))
    # All twelve weights but the first, which is 0.
    assert data["after"]["macs"] == {"dense": 12, "sparse": 11}
    assert data["after"]["flops"] == {"dense": 24, "sparse": 22}
    data = document(sift("diff", "a.onnx", "a.onnx", "--json", "--no-flops"))
    assert (data["after"]["macs"], data["after"]["uncounted"]) == (None, "it was not asked for")
    onnx.save(graph("(float[1,n,3] x) => (float[1,n,4] y) { y = MatMul(x, w) }", tensors), "open.onnx")
    data = document(sift("diff", "open.onnx", "open.onnx", "--dim", "n=7", "--json"))
    assert data["after"]["macs"] == {"dense": 7 * 12, "sparse": 7 * 11}


def test_stored_masks(sift: Sift) -> None:
    """A kept weight may be 0, here the second one: what is kept, the bits say and not the values."""
    for name, bits, values in (("a", [0b1111, 0], [1, 0, 1, 1]), ("b", [0b100111, 0], [1, 0, 1, 7])):
        parts = {"w.bitmask": np.array(bits, np.uint8), "w.values": np.array(values, np.float32)}
        model = graph("(float[1,4] x) => (float[1,4] y) { y = Identity(x) }", parts)
        model.graph.node[0].CopyFrom(
            onnx.helper.make_node("SparseLinear", ["x", *parts], ["y"], domain="sift", weight_shape=[4, 4])
        )
        onnx.save(model, f"{name}.onnx")
    data = document(sift("diff", "a.onnx", "b.onnx", "--json", "--no-flops"))
    (tensor,) = data["tensors"]
    assert (tensor["name"], tensor["shape"], tensor["elements"]["differing"]) == ("w", [[4, 4]] * 2, 2)
    assert tensor["masks"] == {
        "shared": 3, "before": 4, "after": 4, "jaccard": 3 / 5, "kept": 3 / 4, "churn": 2 / 8
    }  # fmt: skip


def test_masks_beside_weights(sift: Sift) -> None:
    kept = np.zeros((4, 4), np.float32)
    kept[0] = 1
    ones = np.ones((4, 4), np.float32)
    save_file({"w_orig": ones, "w_mask": kept}, "a.safetensors")
    kept[0, 0] = 0
    save_file({"w_orig": ones, "w_mask": kept}, "b.safetensors")
    data = document(sift("diff", "a.safetensors", "b.safetensors", "--json"))
    tensors = {one["name"]: one for one in data["tensors"]}
    # The weights are the same to the bit, and three of them are kept by both.
    assert tensors["w_orig"]["elements"]["differing"] == 0
    overlap = tensors["w_orig"]["masks"]
    assert (overlap["shared"], overlap["before"], overlap["after"]) == (3, 4, 3)
    assert not data["equal"]


def test_files_of_a_training_that_diverged(sift: Sift) -> None:
    save_file({"b": np.array([1, np.inf, np.nan, 5], np.float32)}, "a.safetensors")
    save_file({"b": np.array([2, np.inf, 1, np.nan], np.float32)}, "b.safetensors")
    done = sift("diff", "a.safetensors", "b.safetensors")
    assert ["b", "changed", "4", "F32", "3", "1*", "–", "–", "–"] in [line.split() for line in done.stdout.splitlines()]
    assert "* and elements that are infinite or NaN" in done.stdout


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "int16", "uint64", "float16", "float64", "complex64", "complex128",
     ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2],
)  # fmt: skip
def test_every_type_to_the_bit(dtype: Any) -> None:
    width = np.dtype(dtype).itemsize
    for place in (0, CHUNK - 1, CHUNK, CHUNK + 2):  # either side of where a part ends
        before = np.zeros(CHUNK + 3, dtype)
        after = before.copy()
        after.view(np.uint8)[place * width + width - 1] = 1  # one bit of the last byte
        found = elements(before, after)
        assert found.differing == 1
        number = complex(after[place])
        assert (found.largest, found.nonfinite) == (abs(number), 0)
        assert elements(before, before.copy()) == elements(after, after.copy())
        assert elements(before, before.copy()).differing == 0


def test_the_largest_difference_is_that_of_all_parts() -> None:
    before = np.zeros(2 * CHUNK + 1, np.int8)
    after = before.copy()
    after[[5, CHUNK, -1]] = 1, -3, 2
    found = elements(before, after)
    assert (found.differing, found.largest) == (3, 3.0)


def test_the_largest_numbers(recwarn: pytest.WarningsRecorder) -> None:
    most = np.finfo(np.float64).max
    assert elements(np.array([most]), np.array([-most])).largest == np.inf
    assert not recwarn.list


def test_memory_is_that_of_two_tensors(tmp_path: Path) -> None:
    """Ten tensors of 32 MB in each file, and no more than three of them at once (two, and parts of them)."""
    size = 32 * 2**20
    for name in "ab":
        save_torch({f"t{i}": torch.full((size // 4,), float(i)) for i in range(10)}, tmp_path / f"{name}.safetensors")
    code = """
import resource, sys
from pathlib import Path
from sift_cli.analysis.difference import compare
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert compare(Path(sys.argv[1]), Path(sys.argv[2])).equal
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    files = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 3 * size
