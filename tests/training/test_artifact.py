"""From an artifact through a training to an artifact: weights and masks as they are then, promises measured again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sift_cli
from sift_cli import api
from sift_cli.errors import ModelError, OutputExists, VerificationFailed
from sift_cli.surgery import packed_masks_of
from sift_cli.training import Sparsifier
from sift_cli.training.schedules import Constant

ARCH = "nets:tiny_resnet"


def make(folder: Path, **options: object) -> Path:
    path = folder / "wide.safetensors"
    sift_cli.transform(ARCH, path, input_shape=(1, 3, 8, 8), kind="wide", sparsity="3/4", **options)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def patterned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers of two patterns."""
    return make(
        tmp_path_factory.mktemp("patterned"), pattern="block4x4", layer_pattern=("layer2.*=2:8T",), match="layer"
    )


def train(model: nn.Module, rule: str, steps: int = 6) -> Sparsifier:
    torch.manual_seed(0)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sift_cli.sparsify(model, optimizer, rule, total_steps=steps, frequency=2, stop=1)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.randint(10, (4,))).backward()
        optimizer.step()
    return sparsifier


def test_a_trained_model_comes_back(plain: Path, tmp_path: Path) -> None:
    model = sift_cli.load(plain, arch=ARCH)
    before = sift_cli.masks(model)
    sparsifier = train(torch.compile(model, backend="eager"), "rigl")
    after = sift_cli.masks(model)
    assert not any(map(torch.equal, before.values(), after.values()))
    assert all(torch.equal(after[name], mask) for name, mask in sparsifier.masks.items())
    written = sift_cli.save(model, tmp_path / "trained.safetensors", like=plain, arch=ARCH)
    assert {"iso_flop", "mask_cardinality"} <= {claim.name for claim in written.certificate.claims if claim.held}
    again = sift_cli.load(written.path, arch=ARCH)
    assert all(torch.equal(sift_cli.masks(again)[name], mask) for name, mask in after.items())
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    exported = api.export(written.path, tmp_path / "trained.onnx", arch=ARCH)
    session = sift_cli.session(exported.path, library=False)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    torch.testing.assert_close(torch.from_numpy(y), model.eval()(torch.from_numpy(x)), rtol=1e-4, atol=1e-4)


def test_patterns_are_kept_without_being_named(patterned: Path, tmp_path: Path) -> None:
    model = sift_cli.load(patterned, arch=ARCH)
    assert {mask.pattern for mask in packed_masks_of(model).values()} >= {"block4x4", "2:8T"}
    before = sift_cli.masks(model)
    train(model, "rigl")
    assert not any(map(torch.equal, before.values(), sift_cli.masks(model).values()))
    written = sift_cli.save(model, tmp_path / "trained.safetensors", like=patterned, arch=ARCH)
    claims = [claim for claim in written.certificate.claims if claim.name == "pattern"]
    assert len(claims) == 2
    assert all(claim.held for claim in claims)


def test_a_pattern_that_was_lost_is_not_saved(patterned: Path, tmp_path: Path) -> None:
    model = sift_cli.load(patterned, arch=ARCH)
    for mask in packed_masks_of(model).values():
        mask.pattern = "unstructured"
    train(model, "rigl")
    with pytest.raises(VerificationFailed):
        sift_cli.save(model, tmp_path / "trained.safetensors", like=patterned, arch=ARCH)
    assert list(tmp_path.iterdir()) == []


def test_refused(plain: Path, tmp_path: Path) -> None:
    model = sift_cli.load(plain, arch=ARCH)
    with pytest.raises(OutputExists):
        sift_cli.save(model, plain, like=plain, arch=ARCH)
    with pytest.raises(ModelError, match="keeps all weights, and its plan"):
        sift_cli.save(nn.Linear(2, 2), tmp_path / "x.safetensors", like=plain, arch=ARCH)
    name = next(iter(sift_cli.masks(model)))
    optimizer = torch.optim.SGD(model.parameters())
    Sparsifier(model, optimizer, "gmp", updates={1}, sparsity={name: Constant(0.99)})
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    with pytest.raises(ModelError, match=rf"the mask of {name} keeps \d+ weights, and its plan \d+"):
        sift_cli.save(model, tmp_path / "x.safetensors", like=plain, arch=ARCH)
    assert list(tmp_path.iterdir()) == []
