"""PyTorch's sparse tensors: what sift reads without torch is what torch.load and to_dense make of them."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint._bytes import ByteFile
from sift_cli.checkpoint.torch_arrays import from_numpy
from sift_cli.core.tensors import DTYPES
from sift_cli.errors import CheckpointError, Malformed

pytestmark = pytest.mark.filterwarnings("ignore")
BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def grid(*shape: int) -> torch.Tensor:
    """About a third of the elements kept, whole blocks of 2 × 3 left out."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.5)
    dense[..., :2, :3] = 0
    return dense


def explicit_zeros() -> torch.Tensor:
    """Kept are a 0, a -0 and a NaN, out of order, and the tensor does not say that nothing is there twice."""
    return torch.sparse_coo_tensor([[2, 0, 1], [3, 0, 1]], [0.0, -0.0, float("nan")], (3, 4))


TENSORS = {
    "coo": lambda: grid(6, 9).to_sparse(),
    "coo of one axis": lambda: grid(6, 9)[3].to_sparse(),
    "coo of four axes": lambda: grid(4, 3, 2, 9).to_sparse(),
    "coo with dense axes": lambda: grid(4, 3, 2, 9).to_sparse(2),
    "coo without axes": lambda: torch.sparse_coo_tensor(torch.zeros(0, 1), torch.tensor([3.0]), ()),
    "coo out of order": explicit_zeros,
    "csr": lambda: grid(6, 9).to_sparse_csr(),
    "csc": lambda: grid(6, 9).to_sparse_csc(),
    "bsr": lambda: grid(6, 9).to_sparse_bsr((2, 3)),
    "bsc": lambda: grid(6, 9).to_sparse_bsc((2, 3)),
    "csr of 32-bit indices": lambda: torch.sparse_csr_tensor(
        torch.tensor([0, 1, 1, 3], dtype=torch.int32), torch.tensor([3, 0, 2], dtype=torch.int32), torch.ones(3), (3, 4)
    ),
    "nothing kept": lambda: torch.zeros(3, 4).to_sparse(),
    "csr with nothing kept": lambda: torch.zeros(3, 4).to_sparse_csr(),
    "all kept": lambda: torch.ones(3, 4).to_sparse_csc(),
    "empty": lambda: torch.zeros(0, 4).to_sparse(),
    "csr without columns": lambda: torch.zeros(3, 0).to_sparse_csr(),
    "a parameter": lambda: nn.Parameter(grid(6, 9).to_sparse()),
}


def stored_positions(tensor: torch.Tensor) -> np.ndarray:
    """Which elements a sparse tensor has, by way of torch alone."""
    if tensor.layout == torch.sparse_coo:
        ones = torch.sparse_coo_tensor(tensor._indices(), torch.ones_like(tensor._values()), tensor.shape)
    else:
        index = (
            (tensor.crow_indices(), tensor.col_indices())
            if tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
            else (tensor.ccol_indices(), tensor.row_indices())
        )
        ones = torch.sparse_compressed_tensor(
            *index, torch.ones_like(tensor.values()), tensor.shape, layout=tensor.layout
        )
    return ones.to_dense().numpy() != 0


@BOTH
@pytest.mark.parametrize("case", TENSORS)
def test_every_layout(case, zipped, tmp_path):
    torch.save({"bias": torch.ones(2), "w": TENSORS[case]()}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    expected = torch.load(tmp_path / "x", weights_only=True)["w"].detach()
    kept = stored_positions(expected)
    with open_checkpoint(tmp_path / "x") as checkpoint:
        spec = checkpoint.tensors["w"]
        assert spec.format == str(expected.layout).removeprefix("torch.sparse_")
        assert (spec.shape, spec.nonzero) == (tuple(expected.shape), int(kept.sum()))
        assert np.array_equal(checkpoint.mask("w").to_bool(), kept)
        # to_dense adds to 0, which makes 0 of -0; the bits are those of the values.
        assert np.array_equal(checkpoint.read("w"), expected.to_dense().numpy(), equal_nan=True)
        assert (checkpoint.mask("bias"), checkpoint.tensors["bias"].format) == (None, "dense")


def test_kept_zeros_come_back_bit_for_bit(tmp_path):
    torch.save({"w": explicit_zeros()}, tmp_path / "x")
    with open_checkpoint(tmp_path / "x") as checkpoint:
        expected = np.zeros((3, 4), np.float32)
        expected[2, 3], expected[0, 0], expected[1, 1] = 0, -0.0, np.nan
        assert checkpoint.read("w").tobytes() == expected.tobytes()
        assert checkpoint.mask("w").nonzero == 3


@pytest.mark.parametrize("name", [name for name in DTYPES if name not in ("U16", "U32", "U64")])
def test_every_dtype(name, tmp_path):
    values = np.array([1, 0, 1], np.float32).astype(DTYPES[name])
    tensor = torch.sparse_csr_tensor(torch.tensor([0, 1, 3]), torch.tensor([2, 0, 1]), from_numpy(values), (2, 3))
    torch.save({"w": tensor}, tmp_path / "x")
    with open_checkpoint(tmp_path / "x") as checkpoint:
        expected = np.zeros((2, 3), DTYPES[name])
        expected[0, 2], expected[1, 0], expected[1, 1] = values
        assert checkpoint.tensors["w"].dtype == name
        assert checkpoint.read("w").tobytes() == expected.tobytes()


def test_a_mask_is_read_without_the_values(tmp_path, monkeypatch):
    torch.save({"w": torch.eye(40).to_sparse_csr()}, tmp_path / "x")
    with open_checkpoint(tmp_path / "x") as checkpoint:
        real, read = ByteFile.read, []
        monkeypatch.setattr(ByteFile, "read", lambda file, *place: read.append(place[1]) or real(file, *place))
        assert checkpoint.mask("w").nonzero == 40
        assert read == [41 * 8, 40 * 8]


class Call:
    """Pickles as a call of ``function(*args)``."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Storage:
    """Pickles as a reference to a storage."""

    def __init__(self, id):
        self.id = id


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.id if isinstance(obj, Storage) else None


def sparse_file(path, layout, parts, size, *more) -> None:
    """A zip file of torch.save whose sparse tensor is made of any parts, the checks of torch left out."""

    arrays = [np.asarray(part) for part in parts]
    storages = {np.dtype(np.float32): torch.FloatStorage, np.dtype(np.int64): torch.LongStorage}
    tensors = []
    for key, array in enumerate(arrays):
        steps = tuple(step // array.itemsize for step in np.empty(array.shape, array.dtype).strides)
        storage = Storage(("storage", storages[array.dtype], str(key), "cpu", array.size))
        tensors.append(Call(torch._utils._rebuild_tensor_v2, storage, 0, array.shape, steps, False, {}))
    record = Call(
        torch._utils._rebuild_sparse_tensor,
        Call(torch.serialization._get_layout, layout),
        (*tensors, torch.Size(size), *more),
    )
    stream = io.BytesIO()
    Pickler(stream, 2).dump({"w": record})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", stream.getvalue())
        archive.writestr("x/version", "3")
        for key, array in enumerate(arrays):
            archive.writestr(f"x/data/{key}", array.tobytes())


F = np.float32
COO = ("torch.sparse_coo", [np.array([[0, 1, 2], [3, 0, 1]]), F([1, 2, 3])], (3, 4))
CSR = ("torch.sparse_csr", [np.array([0, 1, 1, 3]), np.array([3, 0, 2]), F([1, 2, 3])], (3, 4))
BSR = ("torch.sparse_bsr", [np.array([0, 1, 2]), np.array([1, 0]), np.arange(8, dtype=F).reshape(2, 2, 2)], (4, 4))


@pytest.mark.parametrize("more", [(), (True,), (None,)])
def test_the_files_that_the_lies_are_made_from_are_right(more, tmp_path):
    for layout, parts, size in (COO, CSR, BSR):
        sparse_file(tmp_path / "x", layout, parts, size, *(more if layout == COO[0] else ()))
        expected = torch.load(tmp_path / "x", weights_only=True)["w"].to_dense().numpy()
        with open_checkpoint(tmp_path / "x") as checkpoint:
            assert np.array_equal(checkpoint.read("w"), expected)


REFUSED_AT_OPENING = {
    "another layout": (("torch.sparse_dia", *CSR[1:]), "its layout 'dia' is none"),
    "coo with the parts of csr": (("torch.sparse_coo", *CSR[1:]), "it has 2 indices"),
    "csr with the parts of coo": (("torch.sparse_csr", *COO[1:]), "it has 1 indices"),
    "coo of more axes than it has": ((COO[0], COO[1], (12,)), "none of coo [12]"),
    "coo of fewer values": ((COO[0], [COO[1][0], F([1, 2])], (3, 4)), "none of coo [3, 4]"),
    "coo whose index is a vector": ((COO[0], [np.array([0, 1, 2]), COO[1][1]], (3, 4)), "none of coo"),
    "float indices": ((COO[0], [F([[0], [1]]), F([1])], (3, 4)), "not 32-bit or 64-bit integers"),
    "more elements than its shape": ((COO[0], COO[1], (1, 2)), "none of coo [1, 2]"),
    "a shape of 2^80": ((COO[0], COO[1], (2**40, 2**40)), "2^63"),
    "a negative shape": ((COO[0], COO[1], (-3, 4)), "not a shape"),
    "csr of three axes": ((CSR[0], CSR[1], (1, 3, 4)), "csr of 3 axes"),
    "csr of too few rows": ((CSR[0], CSR[1], (4, 4)), "none of csr [4, 4]"),
    "csr of more values": ((CSR[0], [*CSR[1][:2], F([1, 2, 3, 4])], (3, 4)), "none of csr [3, 4]"),
    "csr with blocks": ((CSR[0], [*CSR[1][:2], np.ones((3, 1, 1), F)], (3, 4)), "none of csr [3, 4]"),
    "bsr without blocks": (("torch.sparse_bsr", *CSR[1:]), "none of bsr [3, 4]"),
    "bsr with empty blocks": ((BSR[0], [*BSR[1][:2], np.ones((2, 0, 2), F)], (4, 4)), "none of bsr [4, 4]"),
    "bsr that its blocks do not fill": ((BSR[0], BSR[1], (4, 5)), "none of bsr [4, 5]"),
}


@pytest.mark.parametrize("case", REFUSED_AT_OPENING)
def test_parts_that_do_not_fit_are_refused_at_opening(case, tmp_path):
    lie, why = REFUSED_AT_OPENING[case]
    sparse_file(tmp_path / "x", *lie)
    with pytest.raises(Malformed) as raised:
        open_checkpoint(tmp_path / "x")
    assert "damaged at tensor 'w'" in str(raised.value)
    assert why in str(raised.value)


REFUSED_AT_READING = {
    "coo outside": ((COO[0], COO[1], (2, 8)), "elements from 0 to 2 of axis 0, which has 2"),
    "coo before": ((COO[0], [np.array([[0], [-1]]), F([1])], (3, 4)), "elements from -1 to -1 of axis 1"),
    "coo of an element twice": ((COO[0], [np.array([[1, 1], [2, 2]]), F([1, 2])], (3, 4)), "an element twice"),
    "coo of a large shape": ((COO[0], COO[1], (2**20, 2**20)), "it would take 4,398,046,511,104 bytes"),
    "csr that begins late": ((CSR[0], [np.array([1, 1, 1, 3]), *CSR[1][1:]], (3, 4)), "do not begin one after"),
    "csr that ends early": ((CSR[0], [np.array([0, 1, 1, 2]), *CSR[1][1:]], (3, 4)), "do not begin one after"),
    "csr that goes back": ((CSR[0], [np.array([0, 3, 1, 3]), *CSR[1][1:]], (3, 4)), "do not begin one after"),
    "csr whose differences overflow": (
        (CSR[0], [np.array([0, 2**63 - 1, -2, 3]), *CSR[1][1:]], (3, 4)), "do not begin one after",
    ),
    "csr outside": ((CSR[0], [CSR[1][0], np.array([4, 0, 2]), CSR[1][2]], (3, 4)), "from 0 to 4 of axis 1"),
    "csc outside": (("torch.sparse_csc", CSR[1], (3, 3)), "from 0 to 3 of axis 0"),
    "csr of an element twice": ((CSR[0], [CSR[1][0], np.array([3, 2, 2]), CSR[1][2]], (3, 4)), "an element twice"),
    "bsr outside": ((BSR[0], [BSR[1][0], np.array([2, 0]), BSR[1][2]], (4, 4)), "from 0 to 2 of axis 1, which has 2"),
    "bsr whose product overflows": (
        (BSR[0], [BSR[1][0], np.array([2**63 - 2**61, 0]), BSR[1][2]], (4, 4)), "of axis 1, which has 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_AT_READING)
def test_indices_that_lie_are_refused_when_they_are_read(case, tmp_path):
    lie, why = REFUSED_AT_READING[case]
    sparse_file(tmp_path / "x", *lie)
    with open_checkpoint(tmp_path / "x") as checkpoint:
        for ask in (checkpoint.read, checkpoint.mask):
            with pytest.raises(CheckpointError) as raised:
                ask("w")
            assert why in str(raised.value)


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_elements_that_are_there_twice_are_no_damage(zipped, count, tmp_path):
    """PyTorch adds them up, in an order that it leaves open; what it makes of them can be saved."""
    tensor = torch.sparse_coo_tensor([[1] * count, [2] * count], torch.arange(1.0, count + 1), (2, 3))
    torch.save({"w": tensor}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="tensor 'w' has an element twice, whose values PyTorch adds") as raised:
        open_checkpoint(tmp_path / "x").read("w")
    assert not isinstance(raised.value, Malformed)
    assert raised.value.hint == "save tensor.coalesce()"
    torch.save({"w": tensor.coalesce()}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    with open_checkpoint(tmp_path / "x") as checkpoint:
        assert checkpoint.read("w").tolist() == tensor.to_dense().tolist()


def test_a_record_of_other_parts(tmp_path):
    sparse_file(tmp_path / "x", *COO, True, True)
    with pytest.raises(Malformed, match="not one that PyTorch writes"):
        open_checkpoint(tmp_path / "x")
