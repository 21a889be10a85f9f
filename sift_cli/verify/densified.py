"""A file of masked weights that was rewritten without masks: nothing that was kept may have changed, not by one bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.dense import DenseView
from sift_cli.checkpoint.folder import digest
from sift_cli.core.certificate import Certificate, claim
from sift_cli.export import artifact, manifest, streaming, torch_file
from sift_cli.export.manifest import Manifest
from sift_cli.export.torch_file import Optimizer
from sift_cli.verify.evidence import require

_PIECE = 2**20


def write_densified(
    view: DenseView, path: Path, *, by_torch: bool, optimizer: Optimizer = "reset", allow_pickle: bool = False
) -> Certificate:
    """Write ``view`` to exactly ``path``, verify what was read back, and store that with what the file was before.

    Args:
        view: The checkpoint without its masks.
        path: A file; or an empty folder, where ``view`` is of one.
        by_torch: Write by ``torch.save`` and not as safetensors; a bare state_dict has no room for what it was.
        optimizer, allow_pickle: See :func:`sift_cli.export.torch_file.write`.

    Raises:
        VerificationFailed: What was read back is something else.
    """
    about = {"source": view.path.name, "sha256": digest(view.path), **view.about()}
    if by_torch:
        torch_file.write(path, view, about, optimizer=optimizer, allow_pickle=allow_pickle)
        return certify_densified(view, path, allow_pickle=allow_pickle)
    if manifest.is_artifact(view.metadata):  # it stays one, of the same plan
        before = manifest.loads(view.metadata, view.path)
        metadata = Manifest(before.plan, provenance={**before.provenance, "densified": about}).dumps()
    else:
        metadata = {manifest.PROVENANCE: manifest.dump({"densified": about})}
    if path.is_dir():
        streaming.write_folder(path, view, view.path, metadata)
    else:
        theirs = {key: text for key, text in view.metadata.items() if not key.startswith("sift.")}
        streaming.write_file(path, view, {**theirs, **metadata})
    certificate = certify_densified(view, path)
    artifact.add_certificate(path, certificate)
    return certificate


def certify_densified(view: DenseView, path: Path, *, allow_pickle: bool = False) -> Certificate:
    """Measure that the file or folder at ``path``, as read back, has the tensors of ``view`` and no other.

    Both are read one tensor at a time.

    Raises:
        VerificationFailed: Something is missing or differs.
    """
    with open_checkpoint(path, allow_pickle=allow_pickle) as written:
        names = written.tensors.keys()
        same = sum(_bits_equal(view.read(name), written.read(name)) for name in view.tensors.keys() & names)
        revived = sum(_revived(view, written, name) for name in view.masked.keys() & names)
    whole = len(view.tensors)
    pruned = sum(view.tensors[name].numel - weight.kept for name, weight in view.masked.items())
    first = "0" if view.revival.std is None else f"finite, from {view.revival}"
    return require(
        Certificate(
            (
                claim(
                    "roundtrip",
                    same == whole == len(names),
                    before=whole,
                    after=same,
                    bound=f"all {whole} tensors identical bit for bit, and no other",
                    counter="bytes",
                ),
                claim(
                    "revived",
                    revived == pruned,
                    before=pruned,
                    after=revived,
                    bound=f"all {pruned:,} weights that no mask kept are {first}",
                    counter="masks",
                ),
            )
        )
    )


def _revived(view: DenseView, written: Checkpoint, name: str) -> int:
    """Weights that no mask kept and that are what they are to begin with."""
    pruned = ~view.masked[name].read()[1]
    stored = written.read(name)
    begins = stored == 0 if view.revival.std is None else np.isfinite(stored)
    return int(np.count_nonzero(begins & pruned)) if begins.shape == pruned.shape else 0


def _bits_equal(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    left, right = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (a, b))
    # In pieces: a comparison makes a bool of every byte.
    return all(np.array_equal(left[i : i + _PIECE], right[i : i + _PIECE]) for i in range(0, left.size, _PIECE))
