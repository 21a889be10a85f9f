"""Masks are found by the tensors of a file alone; what looks like one and is none stays or is refused."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import sparse_states
import torch
from safetensors.torch import save_file
from sparse_states import FORMS, whole

from sift_cli import registry
from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint.dense import DenseView
from sift_cli.checkpoint.sidebands import find
from sift_cli.core.revival import ZERO, Revival
from sift_cli.errors import Malformed, ModelError, PlanError

W = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]])
KEEP = torch.tensor([[1, 0, 1], [0, 0, 1]])


def written(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def view(tmp_path: Path, tensors: dict[str, torch.Tensor], revival: Revival = ZERO) -> dict[str, np.ndarray]:
    with open_checkpoint(written(tmp_path, tensors)) as checkpoint:
        dense = DenseView(checkpoint, revival)
        return {name: dense.read(name) for name in dense.tensors}


def test_every_sideband_has_its_form() -> None:
    """Here those that a plain mapping of tensors can have; test_mask_optimizers.py and test_densify.py the others."""
    assert FORMS.keys() | {"artifact", "mask_optimizer"} == set(registry.names("sift_cli.checkpoint.sidebands"))


@pytest.mark.parametrize("form", FORMS)
def test_found_by_content(form: str, tmp_path: Path) -> None:
    state, kept = whole()
    with open_checkpoint(written(tmp_path, FORMS[form](state, kept))) as checkpoint:
        found = find(checkpoint)
        assert found.keys() == {form}
        assert found[form].keys() == set(sparse_states.MASKED)
        for name, masked in found[form].items():
            values, mask = masked.read()
            assert np.array_equal(mask, kept[name].numpy())
            assert masked.kept == int(kept[name].sum())
            assert np.array_equal(values[mask], state[name].numpy()[mask])
            assert not values[~mask].any()


def test_two_kinds_in_one_file(tmp_path: Path) -> None:
    got = view(tmp_path, {"a.weight": W, "a.weight_mask": KEEP, "b.weight_orig": W, "b.weight_mask": KEEP})
    assert got.keys() == {"a.weight", "b.weight"}
    for array in got.values():
        assert np.array_equal(array, (W * KEEP).numpy())


def test_zeros_have_the_sign_of_the_product(tmp_path: Path) -> None:
    """Outputs are the same bits then as those of a model that multiplies by its mask."""
    for name in ("weight", "weight_orig"):
        got = view(tmp_path, {f"a.{name}": W, "a.weight_mask": KEEP})["a.weight"]
        assert got.tobytes() == (W * KEEP).numpy().tobytes()
        assert np.signbit(got[0, 1])


def test_values_under_a_mask_may_be_anything(tmp_path: Path) -> None:
    wild = torch.tensor([[1.0, torch.nan, 3.0], [torch.inf, -torch.inf, -6.0]])
    got = view(tmp_path, {"a.weight": wild, "a.weight_mask": KEEP})["a.weight"]
    assert np.array_equal(got, (W * KEEP).numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", FORMS)
def test_other_dtypes(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    state, kept = whole()
    state = {name: tensor.to(dtype) if name in kept else tensor for name, tensor in state.items()}
    got = view(tmp_path, FORMS[form](state, kept))
    for name in kept:
        wanted = state[name].double().numpy() * kept[name].numpy()
        assert str(got[name].dtype) == str(dtype).removeprefix("torch.")
        assert np.array_equal(got[name].astype(np.float64), wanted)


def test_what_only_looks_like_a_mask_stays(tmp_path: Path) -> None:
    """A buffer named mask, a masked vector of DINOv3's, spectral normalisation."""
    others = {
        "attention_mask": torch.ones(2, 2),
        "attn.bias": torch.ones(4),
        "attn.bias_mask": torch.tensor([1.0, 0.0, 1.0, 1.0]),
        "sn.weight_orig": W.clone(),
        "sn.weight_u": torch.ones(2),
        "x": torch.ones(2, 2),
        "x_orig": torch.ones(2, 2) * 2,
    }
    got = view(tmp_path, {**others, "a.weight": W, "a.weight_mask": KEEP})
    assert got.keys() == {*others, "a.weight"}
    assert all(np.array_equal(got[name], tensor.numpy()) for name, tensor in others.items())


NAN = torch.full((2, 3), torch.nan)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"a.weight": W, "a.weight_mask": KEEP[:1]}, r"'a.weight_mask': it is \[1, 3\] and 'a.weight' is \[2, 3\]"),
        ({"a.weight": W, "a.weight_mask": KEEP.T}, r"it is \[3, 2\]"),
        ({"a.weight_orig": W, "a.weight_mask": KEEP[0]}, r"it is \[3\]"),
        ({"a.weight": W, "a.weight_mask": 2 * KEEP}, "values other than 0 and 1"),
        ({"a.weight": W, "a.weight_mask": KEEP * 0.5}, "values other than 0 and 1"),
        ({"a.weight_orig": W, "a.weight_mask": NAN}, "values other than 0 and 1"),
        ({"a.weight_orig": W}, "'a.weight_orig': it is a pruned weight, and there is no 'a.weight_mask'"),
        ({"b.weight": W, "a.weight_mask": KEEP}, "'a.weight_mask': it is a mask, and there is no 'a.weight'"),
        ({"a.weight": W, "a.weight_orig": W, "a.weight_mask": KEEP}, "'a.weight' is there too"),
        ({"a.weight": W, "b.weight": NAN}, "'b.weight': it has no other value, .* the training diverged"),
        ({"b.bias": torch.tensor([torch.nan, 1.0])}, "'b.bias': it is no matrix, .* the training diverged"),
        ({"a.weight": torch.tensor([[torch.nan, torch.inf, 1.0]])}, "it has infinities"),
    ],
)
def test_what_is_no_mask_is_refused(tensors: dict[str, torch.Tensor], says: str, tmp_path: Path) -> None:
    with pytest.raises(Malformed, match=says):
        view(tmp_path, tensors)


def test_a_dense_file_is_refused_infinities_and_all(tmp_path: Path) -> None:
    causal = torch.full((3, 3), -torch.inf).triu(1)
    with pytest.raises(ModelError, match="is dense: it has no masks"):
        view(tmp_path, {"a.weight": W, "causal": causal})
    # An infinity in a tensor of its own is nobody's business.
    got = view(tmp_path, {"a.weight": W.masked_fill(KEEP == 0, torch.nan), "causal": causal})
    assert np.array_equal(got["causal"], causal.numpy())


def test_revived_weights_are_normal_and_of_their_seed(tmp_path: Path) -> None:
    values, keep = torch.ones(400, 500), (torch.arange(200_000).reshape(400, 500) % 4 == 0).int()
    tensors = {"a.weight": values, "a.weight_mask": keep, "b.weight": values * 2, "b.weight_mask": keep}
    got = view(tmp_path, tensors, Revival.parse("normal(0.5)", 7))
    drawn = got["a.weight"][keep.numpy() == 0]
    assert (got["a.weight"][keep.numpy() == 1] == 1).all()
    # Of 150,000 draws the mean has a standard deviation of .0013, and their own has one of .0009.
    assert abs(drawn.mean()) < 0.006
    assert abs(drawn.std() - 0.5) < 0.004
    assert len(np.unique(drawn)) > 140_000
    assert not np.array_equal(drawn, got["b.weight"][keep.numpy() == 0])
    again = view(tmp_path, tensors, Revival.parse("normal(0.5)", 7))
    other = view(tmp_path, tensors, Revival.parse("normal(0.5)", 8))
    assert np.array_equal(again["a.weight"], got["a.weight"])
    assert not np.array_equal(other["a.weight"], got["a.weight"])


def test_revived_in_the_dtype_of_the_weight() -> None:
    kept = np.array([True, False, False])
    values = np.array([1, 0, 0], ml_dtypes.bfloat16)
    Revival.parse("normal", 0).fill("x", values, kept)
    assert values.dtype == ml_dtypes.bfloat16
    assert values[0] == 1
    assert (abs(values[1:]) > 0).all()
    assert (abs(values[1:]) < 0.02 * 6).all()
    with pytest.raises(PlanError, match="cannot hold"):
        Revival(1e6).fill("x", np.zeros(3, np.float16), kept)
    with pytest.raises(PlanError, match="cannot hold"):
        Revival(1.0).fill("x", np.zeros(3, np.int32), kept)


@pytest.mark.parametrize("text", ["", "normal()", "normal(0)", "normal(-1)", "normal(nan)", "normal(inf)", "uniform"])
def test_how_to_revive_is_read_strictly(text: str) -> None:
    with pytest.raises(PlanError, match="cannot be revived"):
        Revival.parse(text)


def test_how_to_revive_is_written_as_it_is_read() -> None:
    for text in ("zero", "normal(0.02)", "normal(0.1234567)"):
        assert str(Revival.parse(text)) == text
    assert str(Revival.parse("normal")) == "normal(0.02)"
