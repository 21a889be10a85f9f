from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sift_cli import models
from sift_cli.core.plan import InputSpec
from sift_cli.errors import ModelError
from sift_cli.flops import cross_check
from sift_cli.models.building import at_shape, chosen_inputs
from sift_cli.models.calling import call, draw, map_inputs, primary, random_like, specs_of

A, B = torch.zeros(1), torch.ones(2)


@dataclass
class Output:
    nothing: Any
    value: Tensor


@pytest.mark.parametrize(
    ("output", "meant"),
    [
        (A, (A,)),
        ((A, [B, None]), (A, B)),
        (OrderedDict(aux=A, out=B), (B,)),
        (OrderedDict(loss=A, logits=B), (B,)),
        (OrderedDict(nothing=None, first=(A, B), second=B), (A, B)),
        (Output(None, B), (B,)),
        (None, ()),
        ({}, ()),
    ],
)
def test_the_outputs_meant(output: Any, meant: tuple[Tensor, ...]) -> None:
    found = primary(output)
    assert len(found) == len(meant)
    assert all(one is other for one, other in zip(found, meant, strict=True))


SPECS = (
    InputSpec((1, 6), "int64", "ids", 50),
    InputSpec((1, 3, 4), "float32", "image"),
    InputSpec((1, 6), "bool", "mask"),
)


def test_drawing_is_the_seeds_and_in_range() -> None:
    first, again, other = draw(SPECS), draw(SPECS), draw(SPECS, seed=1)
    assert isinstance(first, dict)
    assert list(first) == ["ids", "image", "mask"]
    assert all(torch.equal(first[name], again[name]) for name in first)  # type: ignore[call-overload]
    assert not torch.equal(first["ids"], other["ids"])  # type: ignore[call-overload]
    assert 0 <= int(first["ids"].min()) <= int(first["ids"].max()) < 50
    assert first["mask"].all()
    assert specs_of(draw(SPECS, device="meta")) == tuple(InputSpec(spec.shape, spec.dtype, spec.name) for spec in SPECS)


def test_other_inputs_have_the_integers_of_the_example() -> None:
    example = draw(SPECS)
    other = random_like(example, 3, seed=1, dtype=torch.float64)
    assert {name: tuple(tensor.shape) for name, tensor in other.items()} == {  # type: ignore[union-attr]
        "ids": (3, 6), "image": (3, 3, 4), "mask": (3, 6),
    }  # fmt: skip
    assert other["image"].dtype == torch.float64  # type: ignore[call-overload]
    for row in other["ids"]:  # type: ignore[call-overload]
        assert row.sort().values.equal(example["ids"][0].sort().values)  # type: ignore[call-overload]
    assert not torch.equal(other["ids"][0], other["ids"][1])  # type: ignore[call-overload]


def test_a_shape_is_for_the_inputs_with_as_many_axes() -> None:
    assert [spec.shape for spec in at_shape(SPECS, (1, 9))] == [(1, 9), (1, 3, 4), (1, 9)]
    assert at_shape(SPECS[:1], (1, 9, 2))[0].shape == (1, 9, 2)  # of one input, whatever it is
    with pytest.raises(ModelError, match="no input of the model has 4 axes; they are ids of 1x6, image of 1x3x4"):
        at_shape(SPECS, (1, 3, 4, 4))


class TwoInputs(nn.Module):
    """MACs: 5 positions × 7 × 4 of the embedded, and 4 × 3 of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 7)
        self.left = nn.Linear(7, 4)
        self.right = nn.Linear(3, 4)

    def forward(self, *, ids: Tensor, features: Tensor) -> dict[str, Tensor]:
        return {"aux": features, "logits": self.left(self.embedding(ids)) + self.right(features)[:, None]}


def two_inputs() -> nn.Module:
    return TwoInputs()


ARRAYS = {"ids": np.arange(5, dtype=np.int32)[None], "features": np.ones((1, 3), np.float64)}


def test_arrays_by_name_are_cast_counted_and_exported() -> None:
    from sift_cli.export.onnx import to_onnx
    from sift_cli.flops import count_onnx
    from sift_cli.runtime import session

    module = two_inputs().eval()
    inputs, specs = chosen_inputs(module, None, None, ARRAYS)
    assert specs == (InputSpec((1, 5), "int64", "ids", 5), InputSpec((1, 3), "float32", "features"))
    one, other = cross_check(module, inputs, nonzero={})
    assert one.dense == other.dense == 5 * 7 * 4 + 3 * 4
    proto = to_onnx(module, inputs, {}, {}, any_length=True)
    assert [(value.name, [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim])
            for value in proto.graph.input] == [("ids", ["batch", "length"]), ("features", ["batch", 3])]  # fmt: skip
    assert {tensor.name for tensor in proto.graph.initializer} >= {"embedding.weight", "left.bias", "right.weight"}
    assert count_onnx(proto, dims={"length": 9}).dense == 9 * 7 * 4 + 3 * 4
    longer = {"ids": np.array([[1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1]]), "features": np.ones((2, 3), np.float32)}
    (got,) = session(proto.SerializeToString(), library=False).run(["output"], longer)
    with torch.no_grad():
        wanted = module(**{name: torch.from_numpy(array) for name, array in longer.items()})["logits"]
    torch.testing.assert_close(torch.from_numpy(got), wanted)
    assert "forward" not in module.__dict__


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"idz": ARRAYS["ids"]}, "takes no input 'idz'"),
        ({"ids": np.zeros((2, 5), np.int64)}, "is one sample, and 'ids' has the shape"),
        ({"ids": np.array(["a"])}, "not a batch of numbers"),
        ({}, "no array"),
    ],
)
def test_arrays_that_do_not_fit(arrays: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        chosen_inputs(two_inputs(), None, None, arrays)


def test_arrays_without_names_are_given_by_position() -> None:
    net = models.load("nets:tiny_resnet", input_arrays={"arr_0": np.ones((1, 3, 8, 8), np.float32)})
    assert isinstance(net.inputs, tuple)
    assert net.specs == (InputSpec((1, 3, 8, 8)),)
    with pytest.raises(ModelError, match="both as a shape and as arrays"):
        models.load("nets:tiny_resnet", input_shape=(1, 3, 8, 8), input_arrays={"x": np.ones((1, 3, 8, 8))})


def test_calling_leaves_the_module_and_the_inputs_alone() -> None:
    module, inputs = two_inputs(), chosen_inputs(two_inputs(), None, None, ARRAYS)[0]
    before = copy.deepcopy(inputs)
    call(module, map_inputs(torch.clone, inputs))
    assert all(torch.equal(inputs[name], before[name]) for name in inputs)  # type: ignore[call-overload]


def test_padding_and_packing_are_not_looked_for_in_values() -> None:
    import tinyhf

    from sift_cli.compat import import_transformers

    base, masking = import_transformers().PreTrainedModel, import_transformers().masking_utils
    before = base.warn_if_padding_and_no_attention_mask, masking.find_packed_sequence_indices
    model = tinyhf.make("gpt2").to("meta")
    assert model.config.pad_token_id == 0  # type: ignore[union-attr]
    (logits,) = primary(call(model, {"input_ids": torch.zeros(2, 9, dtype=torch.int64, device="meta")}))
    assert logits.shape == (2, 9, 101)
    assert before == (base.warn_if_padding_and_no_attention_mask, masking.find_packed_sequence_indices)


def test_sequences_packed_into_one_sample_stay_apart() -> None:
    import tinyhf

    model = tinyhf.make("llama", use_cache=False)
    first, second = torch.arange(3, 9)[None], torch.arange(40, 46)[None]
    both = {"input_ids": torch.cat([first, second], 1), "position_ids": torch.arange(6).repeat(2)[None]}
    with torch.no_grad():
        (packed,) = primary(call(model, both))
        (alone,) = primary(call(model, {"input_ids": second}))
    torch.testing.assert_close(packed[:, 6:], alone)
