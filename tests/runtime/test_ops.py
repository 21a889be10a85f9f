"""SparseConv and SparseLinear in onnxruntime, against torch in double precision and the numpy reference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sift_cli.errors import Malformed
from sift_cli.runtime import kernels, library_path, session, sparse_conv, sparse_linear

ROOT = Path(__file__).resolve().parents[2]
Node = Callable[..., bytes]

PLAIN: dict[str, Any] = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1}


def parts(weight: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
    return {"bitmask": np.packbits(kept.reshape(-1), bitorder="little"), "values": weight[kept].astype(np.float32)}


def masked(shape: tuple[int, ...], density: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    kept = rng.random(shape) < density
    return rng.standard_normal(shape).astype(np.float32) * kept, kept


def bound(terms: int, magnitude: np.ndarray) -> np.ndarray:
    """How far a float sum of so many terms, of this sum of magnitudes, may be from the exact one."""
    return (terms + 1) * np.finfo(np.float32).eps * magnitude


# image, filters, kernel, strides, pads (top, left, bottom, right), dilations, group, density
CONVOLUTIONS: dict[str, tuple[Any, ...]] = {
    "as in ResNet": ((2, 20, 14, 14), 24, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, 0.1),
    "strided": ((2, 20, 15, 14), 24, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1, 0.1),
    "shortcut": ((3, 20, 14, 14), 24, (1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1, 0.2),
    "one pixel": ((5, 33, 1, 1), 7, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, 0.5),
    "kernel larger than image": ((1, 4, 3, 2), 6, (5, 5), (1, 1), (2, 2, 2, 2), (1, 1), 1, 0.5),
    "stride larger than kernel": ((1, 4, 17, 18), 6, (2, 2), (5, 5), (0, 0, 0, 0), (1, 1), 1, 0.5),
    "dilated": ((1, 4, 17, 18), 6, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 1, 0.5),
    "dilated and strided": ((1, 4, 17, 18), 6, (3, 3), (2, 3), (2, 3, 2, 3), (3, 2), 1, 0.5),
    "grouped": ((2, 8, 9, 9), 12, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 4, 0.5),
    "depthwise": ((2, 16, 9, 9), 16, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 16, 0.6),
    "lopsided pads": ((2, 3, 6, 7), 4, (3, 2), (1, 1), (2, 0, 1, 3), (1, 1), 1, 0.5),
    "several tiles": ((1, 6, 57, 61), 9, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, 0.3),
    "all kept": ((1, 6, 10, 10), 9, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, 1.0),
    "none kept": ((1, 6, 10, 10), 9, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, 0.0),
}


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_sparse_conv(one_node: Node, case: str, biased: bool) -> None:
    import torch

    image, filters, kernel, strides, pads, dilations, group, density = CONVOLUTIONS[case]
    weight, kept = masked((filters, image[1] // group, *kernel), density)
    rng = np.random.default_rng(1)
    x = rng.standard_normal(image).astype(np.float32)
    bias = rng.standard_normal(filters).astype(np.float32) if biased else np.zeros(filters, np.float32)
    where = {"strides": strides, "pads": pads, "dilations": dilations, "group": group}
    inputs = parts(weight, kept) | ({"bias": bias} if biased else {})
    model = one_node("SparseConv", inputs, weight_shape=weight.shape, **where)

    def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        top, left, bottom, right = pads
        padded = torch.nn.functional.pad(torch.from_numpy(x).double(), (left, right, top, bottom))
        return torch.nn.functional.conv2d(
            padded, torch.from_numpy(weight).double(), torch.from_numpy(bias).double(), strides, 0, dilations, group
        ).numpy()

    want = convolve(x, weight, bias)
    y = session(model, threads=2).run(None, {"X": x})[0]
    assert y.shape == want.shape
    assert y.dtype == np.float32
    terms = int(np.prod(weight.shape[1:])) + 1
    assert (np.abs(y - want) <= bound(terms, convolve(np.abs(x), np.abs(weight), np.abs(bias)))).all()
    np.testing.assert_allclose(sparse_conv(x, weight, kept, bias, **where), want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 5), (17, 5), (2, 3, 40, 5), (0, 5), (2, 0, 5)], ids=str)
def test_sparse_linear(one_node: Node, shape: tuple[int, ...], biased: bool) -> None:
    weight, kept = masked((37, 5), 0.4)
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape).astype(np.float32)
    bias = rng.standard_normal(37).astype(np.float32) if biased else np.zeros(37, np.float32)
    inputs = parts(weight, kept) | ({"bias": bias} if biased else {})
    y = session(one_node("SparseLinear", inputs, weight_shape=weight.shape), threads=2).run(None, {"X": x})[0]
    want = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
    assert y.shape == want.shape
    assert y.dtype == np.float32
    assert (np.abs(y - want) <= bound(6, np.abs(x).astype(np.float64) @ np.abs(weight.T) + np.abs(bias))).all()


def test_no_images_give_no_images(one_node: Node) -> None:
    weight, kept = masked((4, 3, 3, 3), 0.5)
    model = one_node("SparseConv", parts(weight, kept), weight_shape=weight.shape, **PLAIN)
    assert session(model).run(None, {"X": np.zeros((0, 3, 8, 9), np.float32)})[0].shape == (0, 4, 6, 7)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_special_values_reach_what_a_kept_weight_connects(one_node: Node, value: float) -> None:
    weight, kept = masked((24, 12, 3, 3), 0.1)
    x = np.random.default_rng(1).standard_normal((2, 12, 9, 9)).astype(np.float32)
    x[0, 5, 4, 4] = x[1, 3, 0, 8] = value
    where = PLAIN | {"pads": (1, 1, 1, 1)}
    y = session(one_node("SparseConv", parts(weight, kept), weight_shape=weight.shape, **where)).run(None, {"X": x})[0]
    want = sparse_conv(x, weight, kept, **where)
    assert 0 < np.isfinite(want).sum() < want.size
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(want))
    np.testing.assert_array_equal(y[np.isinf(want)], want[np.isinf(want)])
    rows = x[0, :, 4, :].T  # nine rows, one with the value in it
    flat, flat_kept = weight[:, :, 0, 0], kept[:, :, 0, 0]
    y = session(one_node("SparseLinear", parts(flat, flat_kept), weight_shape=flat.shape)).run(None, {"X": rows})[0]
    want = sparse_linear(rows, flat, flat_kept)
    assert 0 < np.isfinite(want).sum() < want.size
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(want))


def big_conv(one_node: Node) -> tuple[bytes, np.ndarray]:
    weight, kept = masked((70, 40, 3, 3), 0.1)
    x = np.random.default_rng(1).standard_normal((3, 40, 30, 31)).astype(np.float32)
    return one_node("SparseConv", parts(weight, kept), weight_shape=weight.shape, **PLAIN), x


def test_results_do_not_depend_on_the_number_of_threads(one_node: Node) -> None:
    weight, kept = masked((300, 130), 0.1)
    linear = one_node("SparseLinear", parts(weight, kept), weight_shape=weight.shape)
    rows = np.random.default_rng(2).standard_normal((333, 130)).astype(np.float32)
    for model, x in (big_conv(one_node), (linear, rows)):
        outputs = [session(model, threads=threads).run(None, {"X": x})[0].tobytes() for threads in (1, 2, 3)]
        assert outputs[0] == outputs[1] == outputs[2]


def test_one_session_serves_many_threads(one_node: Node) -> None:
    model, x = big_conv(one_node)
    shared = session(model, threads=2)
    images = [x[:, :, : 30 - i] for i in range(6)]  # six shapes: more than the op remembers
    want = [session(model, threads=1).run(None, {"X": image})[0].tobytes() for image in images]
    wrong: list[object] = []

    def work(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(0, 6, 20):
            try:
                if shared.run(None, {"X": images[i]})[0].tobytes() != want[i]:
                    wrong.append(i)
            except Exception as error:
                wrong.append(error)

    crowd = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert not wrong
    assert kernels(shared)[0].runs == 120


CONV = PLAIN | {"weight_shape": (2, 1, 2, 2)}
EIGHT = {"bitmask": np.array([0b1010_0001], np.uint8), "values": np.ones(3, np.float32)}  # three of 2 × 1 × 2 × 2
REFUSED: dict[str, tuple[str, dict[str, np.ndarray], dict[str, Any], str]] = {
    "byte missing": (
        "SparseConv",
        EIGHT | {"bitmask": EIGHT["bitmask"][:0]},
        CONV,
        "bitmask has 0 bytes where 8 weights need 1",
    ),
    "byte too many": (
        "SparseConv",
        EIGHT | {"bitmask": np.array([0b1010_0001, 0], np.uint8)},
        CONV,
        "bitmask has 2 bytes where 8 weights need 1",
    ),
    "value missing": (
        "SparseConv",
        EIGHT | {"values": np.ones(2, np.float32)},
        CONV,
        "keeps 3 weights but there are 2 values",
    ),
    "value too many": (
        "SparseConv",
        EIGHT | {"values": np.ones(4, np.float32)},
        CONV,
        "keeps 3 weights but there are 4 values",
    ),
    "values a matrix": (
        "SparseConv",
        EIGHT | {"values": np.ones((3, 1), np.float32)},
        CONV,
        "values must have one dimension",
    ),
    "bitmask a matrix": (
        "SparseConv",
        EIGHT | {"bitmask": EIGHT["bitmask"][None]},
        CONV,
        "bitmask must have one dimension",
    ),
    "trailing bit": ("SparseLinear", EIGHT, {"weight_shape": (1, 7)}, "bitmask has bits set past its last weight"),
    "bias too long": (
        "SparseConv",
        EIGHT | {"bias": np.ones(3, np.float32)},
        CONV,
        r"bias has shape \[3\].* needs \[2\]",
    ),
    "bias a matrix": ("SparseConv", EIGHT | {"bias": np.ones((2, 1), np.float32)}, CONV, r"bias has shape \[2, 1\]"),
    "stride 0": ("SparseConv", EIGHT, CONV | {"strides": (1, 0)}, r"strides \[1, 0\] has an entry outside 1"),
    "stride -1": ("SparseConv", EIGHT, CONV | {"strides": (-1, 1)}, r"strides \[-1, 1\] has an entry outside 1"),
    "dilation 0": ("SparseConv", EIGHT, CONV | {"dilations": (0, 1)}, r"dilations \[0, 1\] has an entry outside 1"),
    "pad -1": ("SparseConv", EIGHT, CONV | {"pads": (0, 0, -1, 0)}, r"pads \[0, 0, -1, 0\] has an entry outside 0"),
    "huge pad": ("SparseConv", EIGHT, CONV | {"pads": (0, 0, 2**40, 0)}, r"pads .* has an entry outside 0"),
    "group 0": ("SparseConv", EIGHT, CONV | {"group": 0}, r"group \[0\] has an entry outside 1"),
    "group does not divide": (
        "SparseConv",
        EIGHT,
        CONV | {"group": 3},
        "group 3 does not divide the 2 output channels",
    ),
    "zero extent": (
        "SparseConv",
        EIGHT,
        CONV | {"weight_shape": (2, 0, 2, 2)},
        "weight_shape .* has an entry outside 1",
    ),
    "product overflows": (
        "SparseConv",
        EIGHT,
        CONV | {"weight_shape": (2**31 - 1,) * 4},
        "weight_shape .* is too large",
    ),
    "product overflows to 0": (
        "SparseConv",
        {"bitmask": np.zeros(0, np.uint8), "values": np.zeros(0, np.float32)},
        CONV | {"weight_shape": (1, 2**20, 2**20, 2**24)},
        "weight_shape .* is too large",
    ),
    "three axes": (
        "SparseConv",
        EIGHT,
        CONV | {"weight_shape": (2, 2, 2)},
        "weight_shape has 3 entries where 4 are needed",
    ),
    "two pads": ("SparseConv", EIGHT, CONV | {"pads": (0, 0)}, "pads has 2 entries where 4 are needed"),
    "no strides": ("SparseConv", EIGHT, {k: v for k, v in CONV.items() if k != "strides"}, "strides is missing or not"),
    "no group": ("SparseConv", EIGHT, {k: v for k, v in CONV.items() if k != "group"}, "group is missing or not"),
    "strides a number": ("SparseConv", EIGHT, CONV | {"strides": 1}, "strides has 0 entries where 2 are needed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_session_is_refused(one_node: Node, case: str) -> None:
    op, inputs, attributes, why = REFUSED[case]
    with pytest.raises(Malformed, match=why) as caught:
        session(one_node(op, inputs, name="block.1/conv", **attributes))
    assert f"{op} node 'block.1/conv': " in caught.value.message
    assert "\n" not in caught.value.message
    assert ".cc" not in caught.value.message


@pytest.mark.parametrize("missing", ["bitmask", "values", "bias"])
def test_weights_that_are_not_constant_are_refused(one_node: Node, missing: str) -> None:
    inputs = EIGHT | {"bias": np.ones(2, np.float32)}
    model = one_node("SparseConv", inputs, constant=[key for key in inputs if key != missing], **CONV)
    with pytest.raises(Malformed, match=f"{missing} must be a constant initializer"):
        session(model)


@pytest.mark.parametrize(
    ("op", "attributes", "shape", "why"),
    [
        ("SparseConv", CONV, (1, 2, 4, 4), r"X has shape \[1, 2, 4, 4\] where \[N, 1, H, W\] is needed"),
        ("SparseConv", CONV, (1, 1, 4), r"X has shape \[1, 1, 4\] where"),
        ("SparseConv", CONV, (1, 1, 1, 4), "smaller than the dilated kernel"),
        ("SparseConv", CONV, (1, 1, 0, 4), "smaller than the dilated kernel"),
        ("SparseConv", CONV, (0, 1, 2**31, 4), "larger than 2147483647 pixels along an axis"),
        ("SparseLinear", {"weight_shape": (2, 4)}, (3, 5), r"X has shape \[3, 5\] where \[..., 4\] is needed"),
        ("SparseLinear", {"weight_shape": (2, 4)}, (), r"X has shape \[\] where"),
    ],
)
def test_a_wrong_input_is_an_error_at_run(
    one_node: Node, op: str, attributes: Any, shape: tuple[int, ...], why: str
) -> None:
    opened = session(one_node(op, EIGHT, **attributes))
    with pytest.raises(Exception, match=why):
        opened.run(None, {"X": np.zeros(shape, np.float32)})


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.bool_])
def test_values_of_another_type_are_refused(one_node: Node, dtype: type) -> None:
    with pytest.raises(Malformed, match="'layer': values must be float32, float16 or bfloat16, not of ONNX's type"):
        session(one_node("SparseConv", EIGHT | {"values": np.ones(3, dtype)}, **CONV))


@pytest.mark.parametrize("name", ["X", "bitmask", "bias"])
def test_another_input_in_half_precision_is_refused(one_node: Node, name: str) -> None:
    inputs = EIGHT | {"bias": np.ones(2, np.float32)} | {name: np.ones(2, np.float16)}
    with pytest.raises(Malformed, match="float16"):
        session(one_node("SparseConv", inputs, **CONV))


def in_process(python: str, code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SIFT_LIBRARY": library_path(), **environment},
        timeout=120,
    )


RUN = """
import json, sys, numpy, onnxruntime
from sift_cli.errors import SiftError
from sift_cli.runtime import kernels, session
try:
    opened = session(sys.argv[1], threads=2)
except SiftError as error:
    sys.exit(f"{type(error).__name__}: {error}")
numpy.save(sys.argv[3], opened.run(None, {"X": numpy.load(sys.argv[2])})[0])
ran = kernels(opened)[0]
print(json.dumps([onnxruntime.__version__, ran.node, ran.op, ran.kernel, ran.isa, ran.runs]))
"""


@pytest.fixture
def conv_files(one_node: Node, tmp_path: Path) -> tuple[Path, Path, Path]:
    model, x = big_conv(one_node)
    files = tmp_path / "model.onnx", tmp_path / "x.npy", tmp_path / "y.npy"
    files[0].write_bytes(model)
    np.save(files[1], x)
    return files


def test_every_available_instruction_set_can_be_forced(conv_files: tuple[Path, Path, Path]) -> None:
    from sift_cli.runtime import available_isas

    want = session(conv_files[0]).run(None, {"X": np.load(conv_files[1])})[0]
    assert available_isas()[-1] == "portable"
    for isa in available_isas():
        done = in_process(sys.executable, RUN, *conv_files, SIFT_FORCE_ISA=isa)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)[1:] == ["layer", "SparseConv", "conv_patches", isa, 1]
        np.testing.assert_allclose(np.load(conv_files[2]), want, rtol=0, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize("wrong", ["avx3", "AVX2", " portable", "neon"])
def test_an_instruction_set_that_is_not_there_is_refused(conv_files: tuple[Path, Path, Path], wrong: str) -> None:
    done = in_process(sys.executable, RUN, *conv_files, SIFT_FORCE_ISA=wrong)
    assert done.returncode == 1
    assert done.stderr.startswith("RuntimeUnavailable: ")
    assert f"SIFT_FORCE_ISA={wrong} is not available here; available: " in done.stderr
    assert done.stderr.rstrip().endswith("portable")


def test_the_same_library_runs_on_the_oldest_onnxruntime(conv_files: tuple[Path, Path, Path]) -> None:
    python = os.environ.get("SIFT_ORT117_PYTHON")
    if not python:
        pytest.skip("SIFT_ORT117_PYTHON does not name a Python with onnxruntime 1.17")
    want = session(conv_files[0]).run(None, {"X": np.load(conv_files[1])})[0]
    done = in_process(python, RUN, *conv_files)
    assert done.returncode == 0, done.stderr
    version, *ran = json.loads(done.stdout)
    assert version.startswith("1.17.")
    assert ran[:3] == ["layer", "SparseConv", "conv_patches"]
    assert ran[4] == 1
    assert np.load(conv_files[2]).tobytes() == want.tobytes()
    done = in_process(python, RUN, *conv_files, SIFT_FORCE_ISA="nothing")
    assert done.returncode == 1
    assert "SIFT_FORCE_ISA=nothing is not available here" in done.stderr
