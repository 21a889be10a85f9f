"""What was read back is what was to be written, bit for bit: every tensor and every mask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sift_cli.core.certificate import Claim, claim
from sift_cli.surgery import TransformedModel
from sift_cli.verify.evidence import Evidence


def measure(evidence: Evidence) -> Iterator[Claim]:
    written, read = _bytes(evidence.written), _bytes(evidence.artifact)
    same = len([name for name in written if name in read and np.array_equal(written[name], read[name])])
    yield claim(
        "roundtrip",
        same == len(written) == len(read),
        before=len(written),
        after=same,
        bound=f"all {len(written)} tensors and masks identical bit for bit",
        counter="bytes",
    )


def _bytes(model: TransformedModel) -> dict[str, np.ndarray]:
    # Buffers outside the state_dict are not in the file; the module that comes back has them all the same.
    everything = {**model.module.state_dict(), **dict(model.module.named_buffers())}
    tensors = {
        name: np.ascontiguousarray(tensor.detach().numpy()).reshape(-1).view(np.uint8)
        for name, tensor in everything.items()
    }
    return tensors | {f"mask of {name}": mask.bits for name, mask in model.masks.items()}
