"""Every drop-in layer against arithmetic that shares nothing with it: products of shifted arrays, written out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sift_cli import layers
from sift_cli.errors import PlanError

LINEAR = {"norm": 0, "activation": "identity"}
ARGUMENTS = {"parallel": {"branches": 3}, "factorized": {"rank": 5}, "doped": {"rank": 2}}
every_layer = pytest.mark.parametrize("name", layers.names())


class Conv1D(nn.Module):
    """transformers' linear layer with the weight as (inputs, outputs)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


def conv(dims: int, **geometry: Any) -> nn.Module:
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](4, 6, **{"kernel_size": 3, **geometry})


GEOMETRIES = [
    {},
    {"stride": 2},
    {"dilation": 2, "padding": 2},
    {"padding": "same", "dilation": 2},
    {"padding": 1, "padding_mode": "circular", "stride": 2},
    {"padding": 2, "padding_mode": "reflect"},
    {"padding": 1, "padding_mode": "replicate", "bias": False},
    {"kernel_size": 1, "stride": 3},
]
ORIGINALS = {
    "linear": lambda: nn.Linear(4, 6),
    "linear without bias": lambda: nn.Linear(4, 6, bias=False),
    "Conv1D": lambda: Conv1D(6, 4),
    **{f"conv{d}d {g}": (lambda d=d, g=g: conv(d, **g)) for d, g in itertools.product((1, 2, 3), GEOMETRIES)},
    "conv2d oblong": lambda: conv(2, kernel_size=(3, 2), stride=(1, 2), dilation=(2, 1), padding=(0, 1)),
}


def example(original: nn.Module) -> torch.Tensor:
    shape = (2, 4, *[7] * len(original.kernel_size)) if hasattr(original, "kernel_size") else (2, 5, 4)
    return torch.randn(shape, dtype=torch.float64)


def made(name: str, original: nn.Module, **arguments: Any) -> nn.Module:
    """The layer with random weights and statistics, in double precision."""
    layer = layers.from_dense(name, original, {**ARGUMENTS[name], **LINEAR, **arguments})
    layer = layer.to_empty(device="cpu").double().eval()
    for tensor in layer.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) + 0.5 if tensor.dim() == 1 else torch.randn(tensor.shape))
    return layer


def product(original: nn.Module, matrix: torch.Tensor, x: torch.Tensor) -> np.ndarray:
    """``matrix`` (outputs, inputs · taps) on the patches of ``x`` that ``original`` looks at: one product for each tap
    of the kernel, on an array shifted by it. Channels come out where ``original`` has them."""
    weight, array = matrix.numpy(), x.numpy()
    if not hasattr(original, "kernel_size"):
        return array @ weight.T
    taps, dims = original.kernel_size, len(original.kernel_size)
    reach = [d * (k - 1) for d, k in zip(original.dilation, taps, strict=True)]
    pads = [(r // 2, r - r // 2) for r in reach] if original.padding == "same" else [(p, p) for p in original.padding]
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[original.padding_mode]
    array = np.pad(array, [(0, 0), (0, 0), *pads], mode=mode)
    weight = weight.reshape(len(weight), array.shape[1], *taps)
    total: Any = 0.0
    for tap in itertools.product(*map(range, taps)):
        region = tuple(
            slice(t * d, size - r + t * d, s)
            for t, d, s, r, size in zip(tap, original.dilation, original.stride, reach, array.shape[2:], strict=True)
        )
        total = total + np.einsum("oi,ni...->no...", weight[(..., *tap)], array[(slice(None), slice(None), *region)])
    assert dims + 2 == total.ndim
    return total


def features(array: np.ndarray, original: nn.Module, vector: torch.Tensor | float) -> np.ndarray:
    """A vector over features, shaped to broadcast where ``original`` has its features."""
    if isinstance(vector, float):
        return np.asarray(vector)
    spatial = len(original.kernel_size) if hasattr(original, "kernel_size") else 0
    return vector.numpy().reshape(-1, *[1] * spatial)


def flat(part: nn.Module) -> torch.Tensor:
    return part.weight.detach().flatten(1)


def bias(part: nn.Module) -> torch.Tensor | float:
    return 0.0 if part.bias is None else part.bias.detach()


def sigma(parts: nn.Sequential, original: nn.Module, array: np.ndarray) -> np.ndarray:
    """BatchNorm from its formula, then ReLU, as far as there are any."""
    for part in parts:
        if isinstance(part, nn.ReLU):
            array = np.maximum(array, 0)
        else:
            scale = part.weight.detach() / torch.sqrt(part.running_var + part.eps)
            shift = part.bias.detach() - scale * part.running_mean
            array = array * features(array, original, scale) + features(array, original, shift)
    return array


def expected(name: str, layer: Any, original: nn.Module, x: torch.Tensor) -> np.ndarray:
    def through(part: nn.Module) -> np.ndarray:
        array = product(original, flat(part), x)
        return array + features(array, original, bias(part))

    def position(part: nn.Module, array: np.ndarray) -> np.ndarray:
        axis = 1 if hasattr(original, "kernel_size") else -1
        out = np.moveaxis(np.tensordot(array, flat(part).numpy(), (axis, 1)), -1, axis)
        return out + features(out, original, bias(part))

    if name == "parallel":
        return sum(sigma(s, original, through(b)) for b, s in zip(layer.branches, layer.sigmas, strict=True))
    if name == "factorized":
        return position(layer.v, sigma(layer.sigma, original, through(layer.u)))
    assert name == "doped", f"say what the layer {name} computes"
    return position(layer.v, through(layer.u)) + sigma(layer.sigma, original, through(layer.theta))


@every_layer
@pytest.mark.parametrize("original", ORIGINALS.values(), ids=ORIGINALS.keys())
@pytest.mark.parametrize(
    "after", [LINEAR, {"norm": 0, "activation": "relu"}, {"norm": 1, "activation": "relu"}], ids=str
)
def test_it_computes_what_the_paper_says(name: str, original: Any, after: dict[str, Any]) -> None:
    torch.manual_seed(0)
    dense = original()
    layer, x = made(name, dense, **after), example(dense)
    with torch.no_grad():
        got = layer(x).numpy()
        assert got.shape == tuple(dense.double()(x).shape)
    np.testing.assert_allclose(got, expected(name, layer, dense, x), rtol=1e-12, atol=1e-12)


@every_layer
@pytest.mark.parametrize("original", ORIGINALS.values(), ids=ORIGINALS.keys())
def test_its_matrix_is_what_it_multiplies_with(name: str, original: Any) -> None:
    torch.manual_seed(0)
    dense = original()
    layer, x = made(name, dense), example(dense)
    with torch.no_grad():
        linear = (layer(x) - layer(torch.zeros_like(x))).numpy()
    np.testing.assert_allclose(linear, product(dense, layer.matrix(), x), rtol=1e-12, atol=1e-12)


@every_layer
def test_training_moves_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    layer = made(name, nn.Linear(4, 6), norm=1, activation="gelu").train()
    layer(example(nn.Linear(4, 6))).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_norm_of_features_counts_every_other_axis_as_samples() -> None:
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    (norm, _) = made("parallel", nn.Linear(4, 4), norm=1, activation="relu").train().sigmas[0]
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
    got = norm(x).detach().numpy()
    wanted = (x.numpy() - x.numpy().mean((0, 1))) / np.sqrt(x.numpy().var((0, 1)) + norm.eps)
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def test_biases_are_where_they_can_be_told_apart() -> None:
    def with_bias(name: str, **after: Any) -> set[str]:
        return {n for n, _ in made(name, nn.Linear(4, 6), **after).named_parameters() if n.endswith("bias")}

    relu, norm = {"activation": "relu"}, {"norm": 1, "activation": "relu"}
    assert with_bias("parallel") == {"branches.0.bias"}
    assert with_bias("parallel", **relu) == {f"branches.{j}.bias" for j in range(3)}
    assert with_bias("parallel", **norm) == {f"sigmas.{j}.0.bias" for j in range(3)}
    assert with_bias("factorized") == {"v.bias"}
    assert with_bias("factorized", **relu) == {"u.bias", "v.bias"}
    assert with_bias("doped", **relu) == {"theta.bias", "v.bias"}


@every_layer
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "exec"}, "no activation 'exec'"),
        ({"norm": 2}, "no activation"),
        ({"weight": 1}, "cannot be made"),
        ({"rank": 0, "branches": 0}, "cannot"),
        ({"branches": 10**6, "rank": "x"}, "cannot"),
    ],
    ids=str,
)
def test_arguments_that_a_file_could_have(name: str, arguments: dict[str, Any], message: str) -> None:
    allowed = {**ARGUMENTS[name], **LINEAR}
    given = {**allowed, **{k: v for k, v in arguments.items() if k in allowed or k == "weight"}}
    with pytest.raises(PlanError, match=message):
        layers.from_dense(name, nn.Linear(4, 6), given)


def test_a_layer_that_does_not_exist() -> None:
    with pytest.raises(PlanError, match="no layer 'os'"):
        layers.from_dense("os", nn.Linear(4, 6), {})


class Scaled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def hooked() -> nn.Module:
    layer = nn.Linear(4, 6)
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return layer


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.Conv2d(4, 4, 3, groups=4), "is depthwise"),
        (nn.Conv2d(4, 8, 3, groups=4), "is depthwise"),
        (nn.Conv1d(1, 1, 3), "is depthwise"),
        (nn.Conv2d(4, 4, 3, groups=2), "has groups"),
        (nn.ConvTranspose2d(4, 4, 3), "is a transposed convolution"),
        (Scaled(4, 6), "is a Scaled, which computes its output in its own way"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), "computes its weight or has hooks"),
        (hooked(), "computes its weight or has hooks"),
        (nn.LayerNorm(4), "is a LayerNorm"),
        (nn.Bilinear(2, 2, 2), "is a Bilinear"),
        (nn.Linear(4, 6), None),
        (Conv1D(6, 4), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_can_be_replaced(module: nn.Module, why: str | None) -> None:
    assert layers.refusal(module) == why


@pytest.mark.parametrize(
    ("names", "activation"),
    [
        (["Linear", "GELUActivation", "GELUActivation", "Tanh"], "gelu"),
        (["NewGELUActivation"], "gelu_tanh"),
        (["gelu_pytorch_tanh"], "gelu_tanh"),
        (["SiLUActivation"], "silu"),
        (["ReLU6", "Hardswish", "Hardswish"], "hardswish"),
        (["relu"], "relu"),
        (["QuickGELUActivation", "Softmax", ""], None),
    ],
)
def test_the_models_own_activation(names: list[str], activation: str | None) -> None:
    assert layers.activation_in(names) == activation


def test_it_has_no_weight_of_its_own() -> None:
    """Code that would compute with the dense weight must not find a part of it."""
    assert made("factorized", nn.Linear(4, 6)).weight is None
