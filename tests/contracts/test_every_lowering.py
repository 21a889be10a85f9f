"""Every lowering: torch = numpy reference = onnxruntime without the library = with it, on the edges of its pattern."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from masks import random_mask
from torch import nn

from sift_cli import registry, runtime
from sift_cli.core.masks import Mask
from sift_cli.errors import ExportError
from sift_cli.export.layer_plans import Decide, by_estimate
from sift_cli.export.onnx import to_onnx

LOWERINGS = registry.names("sift_cli.export.lowering")
#: Every masked layer becomes sparse; none does.
SPARSE, DENSE = by_estimate(0, {}), by_estimate(2, {})


class Normed(nn.Module):
    """A convolution with a BatchNorm behind it, scales of both signs and one of 0."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(5)
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.5, -0.5, 0.0, 2.0, -1.0]))
            self.norm.bias.normal_()
            self.norm.running_mean.normal_()  # type: ignore[union-attr]
            self.norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(x))


class Alone(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class InputsFirst(nn.Module):
    """A linear layer whose weight is (inputs, outputs), as transformers' Conv1D has it, by ``addmm`` or by ``@``."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.layer = nn.Module()
        self.layer.weight = nn.Parameter(torch.randn(17, 9))
        self.layer.bias = nn.Parameter(torch.randn(9)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.layer.bias is None:
            return x @ self.layer.weight
        return torch.addmm(self.layer.bias, x.view(-1, 17), self.layer.weight).view(-1, *x.shape[1:-1], 9)


Case = tuple[Callable[[], nn.Module], tuple[int, ...]]
CASES: dict[str, list[Case]] = {
    "conv": [
        (lambda: Alone(nn.Conv2d(6, 5, 3)), (6, 7, 9)),
        (lambda: Alone(nn.Conv2d(6, 5, 1, bias=False)), (6, 1, 1)),
        (lambda: Alone(nn.Conv2d(6, 8, (5, 3), stride=(2, 3), padding=(2, 0))), (6, 11, 7)),
        (lambda: Alone(nn.Conv2d(6, 8, 3, padding=2, dilation=2, groups=2)), (6, 8, 8)),
        (lambda: Alone(nn.Conv2d(6, 6, 3, padding=1, groups=6)), (6, 5, 5)),
        (lambda: Alone(nn.Conv2d(6, 4, 3, padding="same")), (6, 6, 5)),
        (Normed, (6, 6, 6)),
    ],
    "linear": [
        (lambda: Alone(nn.Linear(17, 9)), (17,)),
        (lambda: InputsFirst(bias=True), (17,)),
        (lambda: InputsFirst(bias=True), (4, 17)),
        (lambda: InputsFirst(bias=False), (4, 17)),
        (lambda: Alone(nn.Linear(17, 9, bias=False)), (17,)),
        (lambda: Alone(nn.Linear(17, 9)), (3, 17)),
        (lambda: Alone(nn.Linear(17, 9, bias=False)), (2, 3, 17)),
    ],
}
DENSITIES = {"all zero": 0.0, "one": None, "tenth": 0.1, "full": 1.0}


def masked(module: nn.Module, density: float | None) -> tuple[nn.Module, Mask]:
    weight = module.get_parameter("layer.weight")
    nonzero = 1 if density is None else round(density * weight.numel())
    mask = random_mask(tuple(weight.shape), nonzero, seed=0, name="layer.weight")
    with torch.no_grad():
        weight.masked_fill_(torch.from_numpy(~mask.to_bool()), 0.0)
    return module.eval(), mask


def attribute(node: onnx.NodeProto, name: str) -> list[int]:
    return list(next(a for a in node.attribute if a.name == name).ints)


def by_reference(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """The sift operator of the graph by its numpy meaning, then whatever standard Add is behind it."""
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    (node,) = (n for n in model.graph.node if n.domain == "sift")
    shape = tuple(attribute(node, "weight_shape"))
    weight, kept = runtime.decode_bitmask(arrays[node.input[1]], arrays[node.input[2]], shape)
    bias = arrays[node.input[3]]
    if node.op_type == "SparseLinear":
        y = runtime.sparse_linear(x, weight, kept, bias)
    else:
        group = next(a for a in node.attribute if a.name == "group").i
        strides, pads, dilations = (attribute(node, name) for name in ("strides", "pads", "dilations"))
        y = runtime.sparse_conv(x, weight, kept, bias, strides=strides, pads=pads, dilations=dilations, group=group)
    for other in model.graph.node:
        if other.op_type == "Add":
            y = y + next(arrays[name] for name in other.input if name in arrays)
    return np.asarray(y)


@pytest.mark.parametrize("name", LOWERINGS)
def test_it_has_cases(name: str) -> None:
    assert CASES.get(name), f"add cases for the lowering {name}"


@pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES)
@pytest.mark.parametrize(("name", "case"), [(n, i) for n in LOWERINGS for i in range(len(CASES.get(n, [])))])
def test_four_ways_to_the_same_numbers(name: str, case: int, density: float | None) -> None:
    torch.manual_seed(case)
    build, shape = CASES[name][case]
    module, mask = masked(build(), density)
    x = torch.randn(3, *shape)
    model = to_onnx(module, (x[:1],), {"layer.weight": mask}, {}, decide=SPARSE)
    onnx.checker.check_model(model, full_check=True)
    assert sum(node.domain == "sift" for node in model.graph.node) == 1
    assert not any(item.name == "layer.weight" for item in model.graph.initializer)  # no dense copy is left
    with torch.no_grad():
        wanted = module.double()(x.double()).numpy()
    # float32 sums of at most 90 terms: 1e-5 is some 80 units in the last place of the largest output.
    bound = 1e-5 * max(1.0, float(np.abs(wanted).max()))
    stock = runtime.session(model.SerializeToString(), library=False).run(None, {"input": x.numpy()})[0]
    assert np.abs(stock - wanted).max() <= bound
    assert np.abs(by_reference(model, x.numpy()) - wanted).max() <= bound
    opened = runtime.session(model.SerializeToString())
    assert np.abs(opened.run(None, {"input": x.numpy()})[0] - wanted).max() <= bound
    assert [kernel.runs for kernel in runtime.kernels(opened)] == [1]


@pytest.mark.parametrize(("name", "case"), [(n, i) for n in LOWERINGS for i in range(len(CASES.get(n, [])))])
def test_a_layer_that_stays_dense(name: str, case: int) -> None:
    """The same numbers by a standard operator, in every way, and the mask is in the file all the same."""
    torch.manual_seed(case)
    build, shape = CASES[name][case]
    module, mask = masked(build(), 0.3)
    x = torch.randn(3, *shape)
    model = to_onnx(module, (x[:1],), {"layer.weight": mask}, {}, decide=DENSE)
    onnx.checker.check_model(model, full_check=True)
    (decoding,) = (node for node in model.graph.node if node.domain == "sift")
    assert decoding.op_type == "DenseWeight"
    assert len([node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]) == 1
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    assert "layer.weight" not in arrays
    bits = arrays["layer.weight.bitmask"], arrays["layer.weight.values"]
    assert len(bits[1]) == mask.nonzero
    shape_of_weight = tuple(attribute(decoding, "weight_shape"))
    _, kept = runtime.decode_bitmask(*bits, shape_of_weight)
    assert np.array_equal(kept if shape_of_weight == mask.shape else kept.T, mask.to_bool())
    with torch.no_grad():
        wanted = module.double()(x.double()).numpy()
    bound = 1e-5 * max(1.0, float(np.abs(wanted).max()))
    for library in (False, True):
        for level in onnxruntime.GraphOptimizationLevel.__members__.values():
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = level
            opened = runtime.session(model.SerializeToString(), library=library, options=options)
            assert np.abs(opened.run(None, {"input": x.numpy()})[0] - wanted).max() <= bound
            assert not runtime.kernels(opened)


def test_a_mask_keeps_zeros_that_folding_makes() -> None:
    """A BatchNorm scale of 0, as zero-init residual has it, makes a whole row 0. The kept weights stay kept."""
    module, mask = masked(Normed(), 0.5)
    model = to_onnx(module, (torch.randn(1, 6, 6, 6),), {"layer.weight": mask}, {}, decide=SPARSE)
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    assert np.array_equal(arrays["layer.weight.bitmask"], mask.bits)
    assert (arrays["layer.weight.values"] == 0).any()


def test_a_weight_that_two_nodes_share() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.relu(self.layer(x)))

    torch.manual_seed(0)
    module, mask = masked(Twice(), 0.3)
    x = torch.randn(3, 8)
    model = to_onnx(module, (x[:1],), {"layer.weight": mask}, {}, decide=SPARSE)
    assert sum(node.domain == "sift" for node in model.graph.node) == 2
    assert sum(item.name.endswith(".values") for item in model.graph.initializer) == 1
    with torch.no_grad():
        wanted = module(x).numpy()
    dense = to_onnx(module, (x[:1],), {"layer.weight": mask}, {}, decide=DENSE)
    assert [node.op_type for node in dense.graph.node if node.domain == "sift"] == ["DenseWeight"]
    for proto in (model, dense):
        for library in (False, True):
            got = runtime.session(proto.SerializeToString(), library=library).run(None, {"input": x.numpy()})[0]
            assert np.abs(got - wanted).max() <= 1e-6


@pytest.mark.parametrize("layer", [nn.Linear(8, 8, bias=False), nn.Conv2d(8, 8, 1, bias=False)], ids=LOWERINGS[::-1])
def test_two_layers_that_start_the_same_are_two(layer: nn.Module) -> None:
    """The exporter's optimizer would merge them, and the masks of the one would be those of the other."""
    module = nn.Sequential(layer, nn.ReLU(), copy.deepcopy(layer), nn.ReLU(), copy.deepcopy(layer))
    shape = layer.weight.shape
    masks = {f"{n}.weight": random_mask(tuple(shape), 16, seed=n // 4, name="w") for n in (0, 2, 4)}
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    model = to_onnx(module, (torch.randn(1, 8, *shape[2:]),), masks, {}, decide=SPARSE)
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    assert {name: arrays[f"{name}.bitmask"].tolist() for name in masks} == {
        n: m.bits.tolist() for n, m in masks.items()
    }
    assert {f"{name}.values" for name in masks} <= arrays.keys()


@pytest.mark.parametrize("name", ["0.weight", "2.weight"])
@pytest.mark.parametrize("layer", [nn.Linear(8, 8), nn.Conv2d(8, 8, 1)], ids=LOWERINGS[::-1])
def test_a_layer_with_two_names(layer: nn.Module, name: str) -> None:
    shape = layer.weight.shape
    mask = random_mask(tuple(shape), 16, seed=0, name="w")
    with torch.no_grad():
        layer.weight.masked_fill_(torch.from_numpy(~mask.to_bool()), 0.0)
    model = to_onnx(
        nn.Sequential(layer, nn.ReLU(), layer), (torch.randn(1, 8, *shape[2:]),), {name: mask}, {}, decide=SPARSE
    )
    assert sum(node.domain == "sift" for node in model.graph.node) == 2
    assert [i.name for i in model.graph.initializer if i.name.endswith(".bitmask")] == [f"{name}.bitmask"]


@pytest.mark.parametrize("mask", [None, torch.tensor([True, False, True, True])], ids=["no mask", "mask"])
def test_attention_in_windows(mask: torch.Tensor | None) -> None:
    """Two batch axes, as in timm's Twins: torch's exporter knows of one."""

    class Windows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x * 0.5, x + 1, attn_mask=mask)

    x = torch.randn(3, 5, 2, 4, 6)
    (got,) = runtime.session(to_onnx(Windows(), (x[:1],), {}, {}).SerializeToString()).run(None, {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), Windows()(x))


def test_what_the_exporter_cannot_do_is_said() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match=r"does not support this model: (?!Failed)[^\x1b]{20,}$"):
        to_onnx(Odd(), (torch.ones(1, 8),), {}, {})


@pytest.mark.parametrize("decide", [SPARSE, DENSE], ids=["sparse", "dense"])
def test_the_oldest_onnxruntime(decide: Decide, oldest_onnxruntime: str, tmp_path: object) -> None:
    import subprocess
    from pathlib import Path

    folder = Path(str(tmp_path))
    torch.manual_seed(0)
    module, mask = masked(Normed(), 0.3)
    x = torch.randn(5, 6, 6, 6)
    model = to_onnx(module, (x[:1],), {"layer.weight": mask}, {}, decide=decide)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    np.save(folder / "x.npy", x.numpy())
    code = (
        "import sys, numpy as np, onnxruntime as ort\n"
        "assert ort.__version__.startswith('1.17.'), ort.__version__\n"
        "for name, library in (('stock', None), ('sift', sys.argv[1])):\n"
        "    options = ort.SessionOptions()\n"
        "    if library: options.register_custom_ops_library(library)\n"
        "    session = ort.InferenceSession('m.onnx', options)\n"
        "    np.save(name + '.npy', session.run(None, {'input': np.load('x.npy')})[0])\n"
    )
    subprocess.run([oldest_onnxruntime, "-c", code, runtime.library_path()], cwd=folder, check=True)
    with torch.no_grad():
        wanted = module.double()(x.double()).numpy()
    for name in ("stock", "sift"):
        assert np.abs(np.load(folder / f"{name}.npy") - wanted).max() <= 1e-5 * np.abs(wanted).max()
