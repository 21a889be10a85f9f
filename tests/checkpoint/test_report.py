"""The inspect report: what it counts, what it leaves uncounted, and its JSON."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch

from sift_cli.checkpoint import report
from sift_cli.checkpoint.artifact import write
from sift_cli.checkpoint.report import inspect
from sift_cli.core.masks import Mask
from sift_cli.errors import Malformed

KEPT = np.arange(20).reshape(4, 5) % 5 == 0


@pytest.fixture
def path(tmp_path):
    """16 kept-or-not … spelled out: 4 of 20 kept (one of them 0), 3 zeros of 6 dense floats, 4 integers, 2 bfloat16."""
    sparse = np.where(KEPT, 1, 0).astype(np.float32)
    sparse[1, 0] = 0
    tensors = {
        "module.w": sparse,
        "module.dense": np.array([0, -0.0, 0, 1, np.nan, 2], np.float32),
        "module.ids": np.zeros(4, np.int64),
        "module.half": np.array([0, 3], ml_dtypes.bfloat16),
    }
    write(tmp_path / "x", tensors, {"module.w": Mask.from_bool(KEPT)}, {"sift.plan": '{"kind": "wide"}'})
    return tmp_path / "x"


def test_everything_in_json(path):
    data = json.loads(json.dumps(inspect(path).to_json()))
    tensors = {tensor.pop("name"): tensor for tensor in data.pop("tensors")}
    assert data == {
        "schema": "sift.inspect/1",
        "path": str(path),
        "format": "safetensors",
        "architecture": None,
        "candidates": [],
        "wrapper": None,
        "prefix": "module.",
        "ignored": [],
        "totals": {
            "tensors": 4,
            "parameters": 32,
            "stored_bytes": (3 + 16) + 24 + 32 + 4,
            "dense_bytes": 80 + 24 + 32 + 4,
            "sparsity": 1 - (4 + 3 + 1) / (20 + 6 + 2),
        },
        "masks": {"count": 1, "parameters": 20, "kept": 4},
        "plan": {"kind": "wide"},
        "certificate": None,
        "model": None,
    }
    assert tensors["module.w"] == {
        "shape": [4, 5],
        "dtype": "F32",
        "format": "bitmask",
        "parameters": 20,
        "stored_bytes": 19,
        "nonzero": 4,
        "sparsity": 0.8,
    }
    assert (tensors["module.dense"]["nonzero"], tensors["module.dense"]["sparsity"]) == (3, 0.5)
    assert (tensors["module.ids"]["nonzero"], tensors["module.ids"]["sparsity"]) == (None, None)
    assert (tensors["module.half"]["nonzero"], tensors["module.half"]["dtype"]) == (1, "BF16")


def test_what_is_not_counted_is_null_and_not_zero(path, monkeypatch):
    for asked, limit in ((False, 2**40), (None, 27)):  # 24 + 4 bytes of dense floats
        monkeypatch.setattr(report, "COUNT_LIMIT", limit)
        data = inspect(path, nonzeros=asked).to_json()
        by_name = {tensor["name"]: tensor["nonzero"] for tensor in data["tensors"]}
        assert by_name == {"module.w": 4, "module.dense": None, "module.half": None, "module.ids": None}
        assert data["totals"]["sparsity"] is None
    monkeypatch.setattr(report, "COUNT_LIMIT", 28)
    assert inspect(path).to_json()["totals"]["sparsity"] is not None
    monkeypatch.setattr(report, "COUNT_LIMIT", 0)
    assert inspect(path, nonzeros=True).to_json()["totals"]["sparsity"] is not None


def test_no_floats_no_sparsity(tmp_path):
    write(tmp_path / "x", {"n": np.zeros(3, np.int64), "e": np.zeros((0,), np.float32)}, {}, {})
    assert inspect(tmp_path / "x").sparsity is None


def test_wrapper_and_ignored(tmp_path):
    torch.save({"state_dict": {"module.a.w": torch.ones(1), "module.b.w": torch.ones(1)}, "epoch": 1}, tmp_path / "x")
    found = inspect(tmp_path / "x")
    assert (found.wrapper, found.prefix, found.ignored, found.format) == (
        "state_dict",
        "module.",
        ("epoch",),
        "torch_zip",
    )


@pytest.mark.parametrize("key", ["sift.plan", "sift.certificate", "sift.model"])
@pytest.mark.parametrize("text", ["{", "", "NaN", '{"a":1,"a":2}', "[" * 100_000])
def test_documents_that_are_no_json(key, text, tmp_path):
    write(tmp_path / "x", {}, {}, {key: text})
    with pytest.raises(Malformed, match=key):
        inspect(tmp_path / "x")
