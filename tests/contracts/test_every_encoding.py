"""Every encoding in every container that holds it: values and masks come back, and every other reader's view agrees."""

from pathlib import Path

import numpy as np
import pytest

from sift_cli import api
from sift_cli.checkpoint import artifact, open_checkpoint
from sift_cli.conversion import containers, encodings
from sift_cli.conversion.source import Source
from sift_cli.core.masks import Mask
from sift_cli.registry import names

ENCODINGS, CONTAINERS = names("sift_cli.conversion.encodings"), names("sift_cli.conversion.containers")
PAIRS = [(one, container) for one in ENCODINGS for container in encodings.get(one).CONTAINERS]
#: Two of four are kept, which every encoding can say.
KEPT = np.tile(np.array([[True, False, True, False], [False, True, True, False]]), (4, 5))


def weights() -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(0).standard_normal(KEPT.shape).astype(np.float32)
    numbers[KEPT.nonzero()[0][:2], KEPT.nonzero()[1][:2]] = [0.0, -0.0]  # kept all the same
    return {
        "first.weight": np.where(KEPT, numbers, np.float32(0)),
        "norm.weight": np.array([0, 1, np.inf], np.float32),
        "norm.steps": np.array(3),
        "last.weight": np.ones((2, 3)),
    }


def test_every_container_holds_something_and_is_known() -> None:
    assert {container for _, container in PAIRS} == set(CONTAINERS)
    for name in CONTAINERS:
        kind = containers.get(name)
        assert name in encodings.get(kind.ENCODING).CONTAINERS
        assert all(containers.of(Path(f"x{suffix}")) == name for suffix in kind.SUFFIXES)


@pytest.mark.parametrize(("encoding", "container"), PAIRS)
def test_values_and_masks_come_back(encoding: str, container: str, tmp_path: Path) -> None:
    mask = Mask.from_bool(KEPT)
    artifact.write(tmp_path / "a.safetensors", weights(), {"first.weight": mask}, {})
    output = tmp_path / f"out{containers.get(container).SUFFIXES[0]}"
    done = api.convert(tmp_path / "a.safetensors", output, to=encoding)
    keeps = encoding != "dense"
    assert (done.masked, done.dropped, done.verified) == (keeps, not keeps, True)
    with open_checkpoint(output) as checkpoint:
        read = Source(checkpoint, pruned_nan=encodings.get(encoding).IN_NAN)
        assert read.masked == ({"first.weight"} if keeps else set())
        assert read.tensors.keys() == weights().keys()
        for name, array in weights().items():
            values, found = read.read(name, masked=False)
            assert (values.dtype, values.shape, values.tobytes()) == (array.dtype, array.shape, array.tobytes()), name
            assert (found is not None) == (keeps and name == "first.weight")
            assert found is None or np.array_equal(found.to_bool(), KEPT)


@pytest.mark.parametrize(("encoding", "container"), PAIRS)
def test_the_same_bytes_every_time(encoding: str, container: str, tmp_path: Path) -> None:
    artifact.write(tmp_path / "a.safetensors", weights(), {"first.weight": Mask.from_bool(KEPT)}, {})
    made = []
    for number, jobs in enumerate((1, 4)):
        output = tmp_path / f"{number}{containers.get(container).SUFFIXES[0]}"
        api.convert(tmp_path / "a.safetensors", output, to=encoding, jobs=jobs)
        files = sorted(output.iterdir()) if output.is_dir() else [output]
        made.append([file.read_bytes() for file in files])
    assert made[0] == made[1]
