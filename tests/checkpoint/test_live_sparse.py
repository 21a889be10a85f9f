"""Sparse tensors in modules that the user has allowed to be unpickled."""

import numpy as np
import pytest
import torch
from torch import nn

from sift_cli.checkpoint import open_checkpoint
from sift_cli.errors import CheckpointError

DENSE = torch.zeros(4, 8)
DENSE[0, 1], DENSE[3, 7] = 1, -2
BLOCKS = torch.kron(torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1]]), torch.ones(2, 2)).bool().numpy()


def opened(path, tensor):
    module = nn.Module()
    module.register_buffer("w", tensor)
    torch.save(module, path)
    return open_checkpoint(path, allow_pickle=True)


@pytest.mark.parametrize(
    ("tensor", "layout", "kept"),
    [
        (DENSE.to_sparse(), "coo", (DENSE != 0).numpy()),
        (DENSE.to_sparse_csr(), "csr", (DENSE != 0).numpy()),
        (DENSE.to_sparse_csc(), "csc", (DENSE != 0).numpy()),
        (DENSE.to_sparse_bsr((2, 2)), "bsr", BLOCKS),
        (DENSE.to_sparse_bsc((2, 2)), "bsc", BLOCKS),
        (DENSE.bfloat16().to_sparse_csr(), "csr", (DENSE != 0).numpy()),
        (DENSE.to_sparse(1), "coo", (DENSE != 0).any(1, keepdim=True).expand(4, 8).numpy()),
    ],
    ids=["coo", "csr", "csc", "bsr", "bsc", "bfloat16", "coo of rows"],
)
def test_layouts(tensor, layout, kept, tmp_path):
    with opened(tmp_path / "x", tensor) as checkpoint:
        spec = checkpoint.tensors["w"]
        assert (spec.shape, spec.format, spec.nonzero) == ((4, 8), layout, kept.sum())
        assert np.array_equal(checkpoint.read("w").astype(np.float32), DENSE.numpy())
        assert np.array_equal(checkpoint.mask("w").to_bool(), kept)
        assert checkpoint.module is not None


def test_a_kept_zero_and_a_minus_zero(tmp_path):
    tensor = torch.sparse_coo_tensor([[0, 1, 2]], [0.0, -0.0, 3.0], (4,))
    with opened(tmp_path / "x", tensor) as checkpoint:
        assert checkpoint.read("w").tobytes() == np.float32([0, -0.0, 3, 0]).tobytes()
        assert checkpoint.mask("w").to_bool().tolist() == [True, True, True, False]


def test_elements_that_are_there_twice_are_added(tmp_path):
    tensor = torch.sparse_coo_tensor([[1, 1]], [2.0, 3.0], (3,))
    with opened(tmp_path / "x", tensor) as checkpoint:
        assert checkpoint.read("w").tolist() == [0, 5, 0]
        assert checkpoint.tensors["w"].nonzero == 1


def test_batches_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"tensor 'w': it is csr of 3 axes"):
        opened(tmp_path / "x", torch.ones(2, 3, 4).to_sparse_csr())
