"""The figures of one file, each measured when a budget first asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from sift_cli.analysis.kept import count_kept
from sift_cli.budgets.budget import Budget
from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint.disk import bytes_on_disk
from sift_cli.core.counts import FlopReport
from sift_cli.export import manifest
from sift_cli.export.manifest import Manifest

#: MACs of a file or an architecture, at the input that a budget names.
Count = Callable[[str, Budget], FlopReport]


class Figures:
    """What is measured of a file.

    Args:
        path: The file, or the folder of a model.
        budget: How its MACs are counted.
        count: What counts them.
        allow_pickle: Load pickles that run code.

    Attributes:
        params: Elements of all its tensors, buffers too.
        metadata: Its own key-value strings.

    Raises:
        CheckpointError: It cannot be read.
    """

    def __init__(self, path: Path, budget: Budget, count: Count, *, allow_pickle: bool = False) -> None:
        self.path, self._budget, self._count, self._allow_pickle = path, budget, count, allow_pickle
        with open_checkpoint(path, allow_pickle=allow_pickle) as checkpoint:
            self.params = sum(spec.numel for spec in checkpoint.tensors.values())
            self.metadata = dict(checkpoint.metadata)

    @cached_property
    def size(self) -> int:
        """Bytes on disk, external data too."""
        return bytes_on_disk(self.path)

    @cached_property
    def weights(self) -> tuple[int, int]:
        """Weights and kept weights, see :func:`~sift_cli.analysis.kept.count_kept`."""
        with open_checkpoint(self.path, allow_pickle=self._allow_pickle) as checkpoint:
            return count_kept(checkpoint)

    @property
    def nonzero(self) -> int:
        """Kept weights."""
        return self.weights[1]

    @cached_property
    def flops(self) -> FlopReport:
        return self._count(str(self.path), self._budget)

    @property
    def macs(self) -> int:
        """MACs of one sample, kept weights only."""
        return self.flops.sparse

    @cached_property
    def manifest(self) -> Manifest | None:
        """What sift wrote into the file; None where it did not."""
        return manifest.loads(self.metadata, self.path) if manifest.is_artifact(self.metadata) else None
