"""A small convolutional net for MNIST-1D, signals of 40 numbers in ten classes (Greydanus and Kobak, "Scaling Down Deep
Learning with MNIST-1D", 2024). It trains in a minute on one core, and has what sparse wide layers are about: a stem,
hidden layers with BatchNorm, and a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Mnist1dCnn(nn.Module):
    """(N, 1, length) signals → (N, num_classes) logits, at any length from 8 on.

    A stem, and three convolutions of stride 2, each with a BatchNorm and a ReLU; then the mean over positions and a
    linear layer. At a length of 40: widths w, w, 2w, 2w at 40, 20, 10 and 5 positions.
    """

    def __init__(self, num_classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(1, width, 5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm1d(width)
        self.conv3 = nn.Conv1d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn3 = nn.BatchNorm1d(2 * width)
        self.conv4 = nn.Conv1d(2 * width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn4 = nn.BatchNorm1d(2 * width)
        self.fc = nn.Linear(2 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        x = F.relu(self.bn4(self.conv4(x)))
        logits: Tensor = self.fc(torch.mean(x, 2))
        return logits
