"""Small nets that carry their own answers: each knows its MACs in closed form, worked out by hand from its definition.

They are reached as ``nets:tiny_resnet`` and so on, the way a user names a model of their own.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class TinyResNet(nn.Module):
    """(N, 3, 8, 8) → (N, 10). Stem to 16 channels at 8×8, one block there, one block to 32 channels at 4×4, linear
    head."""

    #: Weights × output positions, layer by layer, in order.
    MACS: ClassVar[dict[str, int]] = {
        "conv1": 3 * 16 * 9 * 64,
        "layer1.conv1": 16 * 16 * 9 * 64,
        "layer1.conv2": 16 * 16 * 9 * 64,
        "layer2.conv1": 16 * 32 * 9 * 16,
        "layer2.conv2": 32 * 32 * 9 * 16,
        "layer2.shortcut.0": 16 * 32 * 16,
        "fc": 32 * 10,
    }

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = Block(16, 16, 1)
        self.layer2 = Block(16, 32, 2)
        self.fc = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


class TinyMobileNet(nn.Module):
    """(N, 3, 8, 8) → (N, 10). Stem, then depthwise 3×3 and pointwise 1×1 at 16 and 32 channels, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False)
        self.bn_depthwise = nn.BatchNorm2d(16)
        self.pointwise = nn.Conv2d(16, 32, 1, bias=False)
        self.bn_pointwise = nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(self.bn_depthwise(self.depthwise(x)))
        x = F.relu(self.bn_pointwise(self.pointwise(x)))
        return self.fc(x.mean((2, 3)))


class TinyPlain(nn.Module):
    """(N, 3, 8, 8) → (N, 10). No norms, biases everywhere, two hidden linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 2, 1)
        self.hidden = nn.Conv2d(16, 16, 3, 1, 2, dilation=2)
        self.fc1 = nn.Linear(16, 32)
        self.fc2 = nn.Linear(32, 32)
        self.fc3 = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.hidden(F.relu(self.conv(x)))).mean((2, 3))
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class TinyConcat(nn.Module):
    """(N, 3, 8, 8) → (N, 10). Two branches concatenated, so one width is the sum of two others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.left = nn.Conv2d(16, 16, 3, 1, 1)
        self.right = nn.Conv2d(16, 32, 1)
        self.join = nn.Conv2d(48, 32, 1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.join(torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)))
        return self.fc(x.mean((2, 3)))


class TinyBlur(nn.Module):
    """(N, 3, 8, 8) → (N, 10). A blur whose filter is a buffer outside the state_dict, and a kernel over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.register_buffer("blur", torch.full((16, 1, 3, 3), 1 / 9), persistent=False)
        self.hidden = nn.Conv2d(16, 16, 3, 1, 1)
        self.over_channels = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.hidden(F.conv2d(x, self.blur, stride=2, padding=1, groups=x.shape[1])))
        gate = self.over_channels(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
        return self.fc(x.mean((2, 3)) * gate)


class TinyStrided(nn.Module):
    """(N, 3, 9, 9) → (N, 10). A strided depthwise layer has fewer positions than any layer whose weights are free."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.mix = nn.Conv2d(16, 32, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 32, 3, 4, 1, groups=32, bias=False)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.depthwise(F.relu(self.norm(self.mix(F.relu(self.stem(x)))))).mean((2, 3)))


class Odd(nn.Module):
    """A TinyResNet with one oddity: a "frozen" half, output in a "dict", a "zero" head, a "random" buffer, or
    one that is a "cache"."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.net = TinyResNet()
        if what == "frozen":
            self.net.conv1.requires_grad_(False)
            self.net.layer1.requires_grad_(False)
        if what == "zero":
            nn.init.zeros_(self.net.fc.weight)
            nn.init.zeros_(self.net.fc.bias)
        if what == "random":
            self.register_buffer("noise", torch.randn(3, 1, 1), persistent=False)
        if what == "cache":
            self.register_buffer("noise", torch.zeros(1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        if self.what == "cache" and self.noise.shape != x.shape[2:]:
            self.noise = torch.arange(x.shape[3], dtype=x.dtype).repeat(x.shape[2], 1)
        y = self.net(x + self.noise if self.what in ("random", "cache") else x)
        return {"logits": y} if self.what == "dict" else y


class TinyAttention(nn.Module):
    """(N, 5, 16) → (N, 5, 10). Attention that reads its output projection's weight, and two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.up, self.act, self.down = nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)
        self.tied, self.again = nn.Linear(16, 16), nn.Linear(16, 16)
        self.again.weight = self.tied.weight
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.down(self.act(self.up(x)))
        return self.head(self.again(self.tied(x)))


class TinyGaussian(nn.Module):
    """(N, 16) → (N, 10). A hidden layer that is drawn as GPT-2 draws its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.hidden, self.head = nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(32, 10)
        nn.init.normal_(self.hidden.weight, 0.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(F.relu(self.stem(x)))))


class TinyEinsum(nn.Module):
    """(N, 8) → (N, 10). A weight that an einsum reads, as XLNet has them, which stays dense in ONNX; one value is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 10)
        self.inner = nn.Module()
        self.inner.weight = nn.Parameter(torch.randn(16, 16) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.einsum("ni,io->no", self.first(x).relu(), self.inner.weight))


class TinyLiteral(nn.Module):
    """A width that the code has as a number, so it cannot be widened."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 2, 1)
        self.fc = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).view(-1, 256))


def _random_norms(module: nn.Module) -> nn.Module:
    """Norms as after training: scales, shifts and statistics that are neither 0 nor 1, so that nothing hides behind
    them."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            nn.init.uniform_(child.weight, 0.5, 1.5)
            nn.init.normal_(child.bias, 0.0, 0.3)
            child.running_mean.normal_(0.0, 0.3)  # type: ignore[union-attr]
            child.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return module


def tiny_resnet(**kwargs: int) -> nn.Module:
    return _random_norms(TinyResNet(**kwargs))


def silent_resnet() -> nn.Module:
    """A TinyResNet that starts each block as its shortcut."""
    net = TinyResNet()
    for block in (net.layer1, net.layer2):
        nn.init.zeros_(block.bn2.weight)
    return net


def tiny_mobilenet() -> nn.Module:
    return _random_norms(TinyMobileNet())


def tiny_plain() -> nn.Module:
    return TinyPlain()


def tiny_concat() -> nn.Module:
    return TinyConcat()


def tiny_blur() -> nn.Module:
    return TinyBlur()


def tiny_strided() -> nn.Module:
    return TinyStrided()


def frozen() -> nn.Module:
    return Odd("frozen")


def in_a_dict() -> nn.Module:
    return Odd("dict")


class Versioned(TinyResNet):
    """Reads a state_dict of no version but its own, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, metadata: dict[str, int], *rest: object):
        if metadata.get("version") != self._version:
            raise ValueError(f"version {metadata.get('version')}")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def versioned() -> nn.Module:
    return _random_norms(Versioned())


def zero_head() -> nn.Module:
    return Odd("zero")


def random_buffer() -> nn.Module:
    return Odd("random")


def cached_buffer() -> nn.Module:
    return Odd("cache")


def tiny_attention() -> nn.Module:
    return TinyAttention()


def tiny_gaussian() -> nn.Module:
    return TinyGaussian()


def tiny_einsum() -> nn.Module:
    return TinyEinsum()


def tiny_literal() -> nn.Module:
    return TinyLiteral()
