"""The functions in the file, run by an onnxruntime without sift, against the operators' definition."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from epilogues import ACTIVATIONS, NAMES, Layer

from sift_cli import runtime
from sift_cli.core.half import HALVES


@pytest.mark.parametrize("opset", [12, 17, 18, 20, 23])
@pytest.mark.parametrize("name", NAMES)
def test_a_function_is_its_operator(name: str, opset: int) -> None:
    layer = Layer(name)
    layer.check(runtime.session(layer.model(opset), library=False).run(None, layer.inputs)[0])


@pytest.mark.parametrize(("dtype", "opset"), [("fp16", 12), ("fp16", 20), ("bf16", 13), ("bf16", 23)])
@pytest.mark.parametrize("name", NAMES)
def test_a_function_of_values_in_half_precision(name: str, dtype: str, opset: int) -> None:
    layer = Layer(name, dtype=HALVES[dtype])
    layer.check(runtime.session(layer.model(opset), library=False).run(None, layer.inputs)[0])


@pytest.mark.parametrize("opset", [12, 20])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_is_right_in_its_last_digits(activation: str, opset: int) -> None:
    layer = Layer.of_nothing(activation, np.linspace(-9, 9, 6000, dtype=np.float32).reshape(1000, 6))
    layer.check(runtime.session(layer.model(opset), library=False).run(None, layer.inputs)[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_stays_one(name: str) -> None:
    """Of all else that is not a number functions say nothing: they have dense weights, and 0 · ∞ is NaN in these."""
    layer = Layer(name)
    layer.inputs["X"][0] = np.nan
    got = runtime.session(layer.model(), library=False).run(None, layer.inputs)[0]
    assert np.isnan(got[0]).all()
    assert np.isfinite(got[1]).all()


@pytest.mark.parametrize("name", [name for name in NAMES if "Conv" in name])
def test_a_convolution_without_a_bias(name: str) -> None:
    layer = Layer(name)
    layer.check(runtime.session(layer.model(bias=False), library=False).run(None, layer.inputs)[0], bias=False)


def test_the_oldest_onnxruntime(oldest_onnxruntime: str, tmp_path: Path) -> None:
    layers = {f"{name}.{opset}": (Layer(name), opset) for name in NAMES for opset in (12, 18, 20)}
    layers |= {f"{name}.{half}": (Layer(name, dtype=HALVES[half]), 13) for name in NAMES for half in HALVES}
    for file, (layer, opset) in layers.items():
        (tmp_path / f"{file}.onnx").write_bytes(layer.model(opset))
        np.savez(tmp_path / f"{file}.npz", **layer.inputs)
    code = (
        "import glob, numpy, onnxruntime\n"
        "assert onnxruntime.__version__.startswith('1.17.'), onnxruntime.__version__\n"
        "for model in glob.glob('*.onnx'):\n"
        "    session = onnxruntime.InferenceSession(model)\n"
        "    numpy.save(model + '.npy', session.run(None, dict(numpy.load(model[:-4] + 'npz')))[0])\n"
    )
    subprocess.run([oldest_onnxruntime, "-c", code], cwd=tmp_path, check=True, timeout=120)
    for file, (layer, _) in layers.items():
        layer.check(np.load(tmp_path / f"{file}.onnx.npy"))
