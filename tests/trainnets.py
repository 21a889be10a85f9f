"""Small nets to train, named as a user names a model of their own: ``trainnets:TinyLanguageModel``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TinyLanguageModel(nn.Module):
    """(N, length) bytes → (N, length, 256) logits of the byte after each, from that one alone; with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, 12)
        self.first = nn.Linear(12, 24)
        self.hidden = nn.Linear(24, 20)
        self.norm = nn.LayerNorm(20)
        self.last = nn.Linear(20, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.relu(self.first(self.embedding(tokens)))
        x = F.dropout(x, 0.5, self.training)
        logits: Tensor = self.last(F.relu(self.norm(self.hidden(x))))
        return logits


class TinySignals(nn.Module):
    """(N, 1, length) signals → (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(1, 6, 5, stride=2, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.conv2 = nn.Conv1d(6, 8, 3, stride=2)
        self.conv3 = nn.Conv1d(8, 8, 3, stride=2)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.norm(self.conv1(x)))))
        logits: Tensor = self.fc(torch.mean(F.relu(self.conv3(x)), 2))
        return logits
