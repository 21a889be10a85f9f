"""Published and hand-derived totals of well-known models, and three counters that have to agree on the same model."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from sift_cli.compat import import_torchvision
from sift_cli.errors import UnsupportedOp
from sift_cli.flops import count_module, count_official, count_onnx, cross_check
from sift_cli.models.cifar_resnet import DEPTHS, CifarResNet

models = import_torchvision().models


def meta(build, *args, **kwargs) -> nn.Module:
    with torch.device("meta"):
        return build(*args, **kwargs)


def image(size: int, batch: int = 1) -> tuple[Tensor, ...]:
    return (torch.empty(batch, 3, size, size, device="meta"),)


def cifar() -> nn.Module:
    return CifarResNet(DEPTHS["cifar_resnet18"], num_classes=100)


def vit_b_16_macs() -> int:
    """14² patches of 16² × 3 and a class token; 12 blocks of 768 with a hidden width of 3072; 1000 classes."""
    width, tokens = 768, 14 * 14 + 1
    projections = tokens * width * (3 * width + width)
    products = 2 * tokens * tokens * width
    perceptron = 2 * tokens * width * 3072
    return 14 * 14 * (16 * 16 * 3) * width + 12 * (projections + products + perceptron) + width * 1000


ORACLES = [
    pytest.param(models.resnet18, 224, 1_814_073_344, id="resnet18"),
    pytest.param(models.resnet34, 224, 3_663_761_408, id="resnet34"),
    pytest.param(models.mobilenet_v2, 224, 300_774_272, id="mobilenet_v2"),
    pytest.param(models.vit_b_16, 224, vit_b_16_macs(), id="vit_b_16"),
    pytest.param(cifar, 32, 555_468_800, id="cifar_resnet18"),
]


@pytest.mark.parametrize("counter", ["fvcore", "dispatch"])
@pytest.mark.parametrize(("build", "size", "macs"), ORACLES)
def test_macs(build, size: int, macs: int, counter: str) -> None:
    report = count_module(meta(build), image(size), counter=counter)
    assert (report.dense, report.sparse) == (macs, macs)
    assert all(layer.weight is not None for layer in report.layers if layer.op in ("conv", "linear"))


OFFICIAL = [
    pytest.param(models.resnet18, 224, 3_647_128_359, id="resnet18"),
    pytest.param(models.resnet34, 224, 7_355_270_501, id="resnet34"),
    pytest.param(cifar, 32, 1_115_226_800, id="cifar_resnet18"),
]


@pytest.mark.parametrize(("build", "size", "total"), OFFICIAL)
def test_official_budgets(build, size: int, total: int) -> None:
    report = count_official(meta(build), image(size))
    assert (report.total, report.convention, report.counter) == (total, "official", "official")


def test_official_layers_are_the_macs() -> None:
    module = meta(models.resnet18)
    official, counted = count_official(module, image(224)), count_module(module, image(224), counter="dispatch")
    assert official.layers == counted.layers


def test_official_unit_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d((1, 2)),
        nn.BatchNorm2d(3, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5),
    )  # fmt: skip
    with torch.no_grad():
        net[0].weight[0] = 0.0  # keeps 36 of 54
    x = (torch.zeros(2, 2, 4, 4),)
    after = {
        "norm": (3 + 2 + 2) * 96 - 2 * 3 + 3,  # 7 operations an element, two sums of one addition less, 3 roots
        "max": 24 * 3,
        "average": 12 * 2,
        "plain norm": 5 * 12 - 2 * 3 + 3,
        "adaptive": 6 * 2,
        "linear": 2 * (15 + 10 + 5),
    }
    rest = sum(after.values())
    assert count_official(net, x, nonzero={}).total == 32 * (54 + 53) + 96 + rest
    report = count_official(net, x)
    assert report.total == 32 * 36 + 32 * 53 * 36 // 54 + 96 + rest
    assert [(entry.op, entry.times) for entry in report.uncounted] == [("ReLU", 1)]


def test_official_on_a_computed_weight_and_on_wrong_inputs() -> None:
    layer = nn.Linear(4, 4, bias=False)
    prune.random_unstructured(layer, "weight", amount=6)
    assert count_official(layer, (torch.zeros(2, 4),)).total == 2 * (16 + 12)
    with pytest.raises(UnsupportedOp, match="Linear"):
        count_official(layer, (torch.zeros(2, 5),))


class Mixed(nn.Module):
    """Grouped and transposed convolutions, packed attention on two lengths, a recurrent layer, einsum with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, groups=2, stride=2, padding=1)
        self.transposed = nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.lstm = nn.LSTM(6, 7, 2, batch_first=True, bidirectional=True)
        self.weight = nn.Parameter(torch.randn(3, 6, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.transposed(torch.relu(self.conv(x))).flatten(2).transpose(1, 2)
        y = self.attention(x[:, :7], x, x, need_weights=False)[0]
        return self.lstm(y)[0], torch.einsum("btc,hcd->bhtd", y, self.weight)


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return transformers.BertModel(transformers.BertConfig(vocab_size=50, max_position_embeddings=64, **sizes))


def vit() -> nn.Module:
    return models.VisionTransformer(32, 8, num_layers=2, num_heads=3, hidden_dim=24, mlp_dim=48, num_classes=10)


def exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module.eval(), inputs, dynamo=True, verbose=False)
    return program.model_proto


THREE = [
    pytest.param(models.resnet18, lambda: torch.randn(1, 3, 64, 64), id="resnet18"),
    pytest.param(models.mobilenet_v2, lambda: torch.randn(1, 3, 64, 64), id="mobilenet_v2"),
    pytest.param(vit, lambda: torch.randn(1, 3, 32, 32), id="vit"),
    pytest.param(bert, lambda: torch.randint(0, 50, (1, 9)), id="bert"),
    pytest.param(Mixed, lambda: torch.randn(1, 4, 9, 9), id="mixed"),
]


@pytest.mark.parametrize(("build", "example"), THREE)
def test_fvcore_dispatcher_and_onnx_agree_to_the_integer(build, example) -> None:
    torch.manual_seed(0)
    module, inputs = build(), (example(),)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) > 0.8)
    if build is Mixed:
        # Of a packed weight used in two parts only the ONNX graph, which has two weights, knows where the zeros are.
        module.attention.in_proj_weight.data.fill_(1.0)
    traced, dispatched = cross_check(module, inputs)
    graph = count_onnx(exported(module, inputs))
    assert traced.dense == dispatched.dense == graph.dense
    assert traced.sparse == dispatched.sparse == graph.sparse < graph.dense
