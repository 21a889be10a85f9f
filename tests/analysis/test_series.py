"""Which tensors of a checkpoint are sparse layers, how they become graphs, and series of checkpoints."""

from __future__ import annotations

import tracemalloc
from math import sqrt
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from graphs import graph
from incidence import affine_plane, projective_plane, symplectic_quadrangle, union
from masks import random_mask
from safetensors.numpy import save_file
from torch import nn
from torch.nn.utils import prune

from sift_cli.analysis import AnalysisReport, LayerAnalysis, analyze
from sift_cli.checkpoint import artifact
from sift_cli.core.masks import Mask
from sift_cli.errors import CheckpointError, Malformed, ModelError
from sift_cli.sparsity import formats

PLANE = projective_plane(2).astype(np.float32)


def saved(path: Path, **tensors: np.ndarray) -> Path:
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)
    return path


def only(report: AnalysisReport) -> LayerAnalysis:
    ((layer,),) = (checkpoint.layers for checkpoint in report.checkpoints)
    return layer


def is_heawood(layer: LayerAnalysis, scale: float = 1) -> bool:
    assert layer.graph.ramanujan_gap == pytest.approx(sqrt(2), rel=1e-13)
    assert layer.graph.weighted_gap == pytest.approx(scale * (3 - sqrt(2)), rel=1e-13)
    return True


def test_zeros_are_a_mask(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "m.safetensors",
        sparse=2 * PLANE,
        dense=np.ones((8, 8), np.float32),
        bias=np.zeros(8, np.float32),
        steps=np.zeros((3, 3), np.int64),
        nothing=np.zeros((0, 4), np.float32),
    )
    layer = only(analyze([path]))
    assert (layer.name, layer.shape, layer.sparsity) == ("sparse", (7, 7), pytest.approx(1 - 21 / 49))
    assert is_heawood(layer, 2)


def test_a_zero_by_chance_makes_no_layer_sparse(tmp_path: Path) -> None:
    almost = np.ones((20, 50), np.float32)
    almost[3, :9] = 0
    with pytest.raises(ModelError, match=r"nothing is sparse in .*m\.safetensors: there is no mask, and no weight"):
        analyze([saved(tmp_path / "m.safetensors", w=almost)])
    almost[3, 9] = 0
    assert only(analyze([saved(tmp_path / "m.safetensors", w=almost)])).graph.edges == 990


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_every_dtype(tmp_path: Path, dtype: type) -> None:
    values = (PLANE * 0.5).astype(dtype)
    artifact.write(tmp_path / "m.safetensors", {"w": values}, {}, {})
    assert is_heawood(only(analyze([tmp_path / "m.safetensors"])), 0.5)


def test_a_stored_mask_keeps_zeros_too(tmp_path: Path) -> None:
    values = PLANE.copy()
    values[tuple(np.argwhere(PLANE)[4])] = 0
    mask = Mask.from_bool(PLANE != 0)
    artifact.write(tmp_path / "m.safetensors", {"w": values, "dense": np.ones((9, 9))}, {"w": mask}, {})
    layer = only(analyze([tmp_path / "m.safetensors"]))
    assert layer.graph.edges == 21
    assert layer.graph.ramanujan_gap == pytest.approx(sqrt(2), rel=1e-13)
    assert layer.graph.weighted[0] < 3


def test_a_mask_beside_its_weight(tmp_path: Path) -> None:
    weight = np.where(PLANE != 0, 3, 0).astype(np.float32)
    path = saved(tmp_path / "m.safetensors", w=weight, w_mask=PLANE != 0, other=np.ones((9, 9)))
    assert only(analyze([path])).name == "w"
    assert is_heawood(only(analyze([path])), 3)


def test_a_mask_may_be_in_the_values_of_one_layer_and_not_of_another(tmp_path: Path) -> None:
    mask = Mask.from_bool(PLANE != 0)
    artifact.write(tmp_path / "m.safetensors", {"a": PLANE, "b": 7 * PLANE}, {"a": mask}, {})
    first, second = analyze([tmp_path / "m.safetensors"]).checkpoints[0].layers
    assert is_heawood(first)
    assert is_heawood(second, 7)


def test_pruned_by_torch(tmp_path: Path) -> None:
    layer = nn.Linear(7, 7)
    nn.init.constant_(layer.weight, -0.25)
    prune.custom_from_mask(layer, "weight", torch.from_numpy(PLANE))
    torch.save(layer.state_dict(), tmp_path / "m.pt")
    found = only(analyze([tmp_path / "m.pt"]))
    assert found.name == "weight"
    assert is_heawood(found, 0.25)


def test_onnx(tmp_path: Path) -> None:
    """One of sift's nodes, which keeps a weight that is 0, and a matrix with zeros for a node of ONNX."""
    weight = PLANE.copy()
    weight[tuple(np.argwhere(PLANE)[4])] = 0
    model = graph(
        "(float[N, 7] x) => (float[N, 7] y) { y = MatMul(x, dense) }", {"dense": 2 * PLANE, "other": np.ones((4, 4))}
    )
    parts = formats.encode("bitmask", weight, Mask.from_bool(PLANE != 0))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(part, f"w.{name}") for name, part in parts.items())
    node = onnx.helper.make_node(
        "SparseLinear", ["y", "w.bitmask", "w.values"], ["z"], domain="sift", weight_shape=[7, 7]
    )
    model.graph.node.append(node)
    onnx.save(model, tmp_path / "m.onnx")
    layers = {layer.name: layer for layer in analyze([tmp_path / "m.onnx"]).checkpoints[0].layers}
    assert layers.keys() == {"dense", "w"}
    assert is_heawood(layers["dense"], 2)
    assert layers["w"].graph.edges == 21
    assert layers["w"].graph.ramanujan_gap == pytest.approx(sqrt(2), rel=1e-13)
    assert layers["w"].graph.weighted == pytest.approx(
        tuple(np.linalg.svd(weight.astype(float), compute_uv=False)[:2]), rel=1e-13
    )


def test_not_a_number_is_not_kept(tmp_path: Path) -> None:
    """And a zero is, where NaN is the mask."""
    weight = np.where(PLANE != 0, PLANE, np.nan)
    weight[tuple(np.argwhere(PLANE)[4])] = 0
    layer = only(analyze([saved(tmp_path / "m.safetensors", w=weight)]))
    assert layer.graph.edges == 21
    assert layer.graph.ramanujan_gap == pytest.approx(sqrt(2), rel=1e-13)


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinite_weights_are_refused(tmp_path: Path, bad: float) -> None:
    weight = PLANE.copy()
    weight[tuple(np.argwhere(PLANE)[0])] = bad
    with pytest.raises(ModelError, match=r"'w' in .*m\.safetensors has weights that are infinite or NaN"):
        analyze([saved(tmp_path / "m.safetensors", w=weight)])


def test_a_kept_weight_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    weight = np.where(np.arange(49).reshape(7, 7) == np.flatnonzero(PLANE)[0], np.nan, PLANE)
    with pytest.raises(ModelError, match="infinite or NaN"):
        analyze([saved(tmp_path / "m.safetensors", w=weight, w_mask=PLANE != 0)])


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.safetensors", w=PLANE, w_mask=np.ones((7, 1), bool))
    with pytest.raises(Malformed, match="'w_mask'"):
        analyze([path])


def test_a_convolution_is_outputs_by_inputs_times_kernel(tmp_path: Path) -> None:
    """W(3, 2) as 15 outputs of 5 channels under 3 × 1, AG(2, 3) as 12 outputs of 1 channel under 3 × 3."""
    path = saved(
        tmp_path / "m.safetensors",
        a=symplectic_quadrangle(2).reshape(15, 5, 3, 1),
        b=affine_plane(3).reshape(12, 1, 3, 3),
    )
    first, second = analyze([path]).checkpoints[0].layers
    assert first.graph.ramanujan_gap == pytest.approx(2 * sqrt(2) - 2, rel=1e-13)
    assert (second.graph.left_degree, second.graph.right_degree) == (4, 3)
    assert second.graph.ramanujan_gap == pytest.approx(sqrt(3) + sqrt(2) - sqrt(3), rel=1e-13)


def test_inputs_first(tmp_path: Path) -> None:
    """The same layer as a matrix with inputs first, and as a transposed convolution."""
    layer = np.zeros((9, 6, 2))
    layer[:, :4] = union(np.ones((3, 4)), np.ones((6, 4))).reshape(9, 4, 2)
    layer[0, 4:] = 1
    path = saved(
        tmp_path / "m.safetensors",
        plain=layer,
        matrix=layer.reshape(9, 12).T,
        transposed=np.moveaxis(layer, 0, 1),
    )
    told = {layer.name: layer for layer in analyze([path], inputs_first=["mat*", "trans?osed"]).checkpoints[0].layers}
    plain = told["plain"]
    assert plain.imdb == pytest.approx((sqrt(2) + sqrt(3) + sqrt(5) + sqrt(3)) / 2, rel=1e-13)
    for name in ("matrix", "transposed"):
        assert (told[name].graph, told[name].subgraphs) == (plain.graph, plain.subgraphs)
    untold = {layer.name: layer for layer in analyze([path]).checkpoints[0].layers}["matrix"]
    assert untold.graph.ramanujan_gap == pytest.approx(plain.graph.ramanujan_gap, rel=1e-12)
    assert untold.imdb != plain.imdb
    with pytest.raises(ModelError, match=r"no sparse layer of .* is called 'h\.\*'"):
        analyze([path], inputs_first=["h.*"])


def test_the_model_is_the_mean_over_layers_that_have_it(tmp_path: Path) -> None:
    (model,) = analyze(
        [saved(tmp_path / "m.safetensors", a=PLANE, b=4 * projective_plane(3), c=np.diag([2.0, 7.0, 6.0]))]
    ).checkpoints
    assert model.metrics == {
        "ramanujan_gap": pytest.approx((sqrt(2) + sqrt(3)) / 2, rel=1e-13),
        "relative_ramanujan_gap": pytest.approx(1 / 2, rel=1e-13),
        "weighted_gap": pytest.approx((3 - sqrt(2) + 4 * (4 - sqrt(3)) + 1) / 3, rel=1e-13),
        "imdb": pytest.approx((sqrt(2) + sqrt(3)) / 2, rel=1e-13),
        "relative_imdb": pytest.approx(1 / 2, rel=1e-13),
        "imsg": pytest.approx((3 - sqrt(2) + 4 * (4 - sqrt(3))) / 2, rel=1e-13),
    }
    assert model.to_json()["layers_with"] == {
        "ramanujan_gap": 2, "relative_ramanujan_gap": 2, "weighted_gap": 3, "imdb": 2, "relative_imdb": 2, "imsg": 2,
    }  # fmt: skip
    assert model.sparsity == pytest.approx(1 - (21 + 52 + 3) / (49 + 169 + 9))


def test_a_series(tmp_path: Path) -> None:
    """Of w nothing is replaced, then 3 of 21 (and one more added); v does not change."""
    second = PLANE.copy()
    for at in np.argwhere(PLANE)[:3]:
        second[tuple(at)] = 0
    for at in np.argwhere(PLANE == 0)[:4]:
        second[tuple(at)] = 1
    files = [
        saved(tmp_path / f"{index}.safetensors", w=w, v=np.diag([1.0, 2.0]))
        for index, w in enumerate([PLANE, 5 * PLANE, second, PLANE])
    ]
    report = analyze(files)
    assert [checkpoint.path for checkpoint in report.checkpoints] == files
    layers = {name: [next(x for x in c.layers if x.name == name) for c in report.checkpoints] for name in "wv"}
    assert [layer.previous and layer.previous.churn for layer in layers["w"]] == [None, 0, 7 / 43, 7 / 43]
    assert [layer.previous and layer.previous.kept for layer in layers["w"]] == [None, 1, 18 / 21, 18 / 22]
    assert [layer.first and layer.first.jaccard for layer in layers["w"]] == [None, 1, 18 / 25, 1]
    assert [layer.previous and layer.previous.churn for layer in layers["v"]] == [None, 0, 0, 0]
    assert [c.previous and c.previous.churn for c in report.checkpoints] == [None, 0, 7 / 47, 7 / 47]
    assert [c.first and c.first.churn for c in report.checkpoints] == [None, 0, 7 / 47, 0]
    assert layers["w"][0].graph.singular == layers["w"][1].graph.singular == layers["w"][3].graph.singular


def test_a_series_that_begins_dense(tmp_path: Path) -> None:
    dense = saved(tmp_path / "0.safetensors", w=np.ones((7, 7), np.float32))
    sparse = saved(tmp_path / "1.safetensors", w=PLANE)
    first, second = (checkpoint.layers[0] for checkpoint in analyze([dense, sparse]).checkpoints)
    assert first.graph.ramanujan_gap == pytest.approx(2 * sqrt(6), rel=1e-13)
    assert second.previous is not None
    assert (second.previous.kept, second.previous.jaccard) == (21 / 49, 21 / 49)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"v": PLANE}, r"'w' is 7×7 in the first and missing in the second"),
        ({"w": np.eye(9, dtype=np.float32)}, r"'w' is 7×7 in the first and 9×9 in the second"),
        ({"w": PLANE, "v": PLANE}, r"'v' is missing in the first and 7×7 in the second"),
    ],
)
def test_checkpoints_of_two_models(tmp_path: Path, other: dict[str, np.ndarray], says: str) -> None:
    files = [saved(tmp_path / "a.safetensors", w=PLANE), saved(tmp_path / "b.safetensors", **other)]
    with pytest.raises(ModelError, match=rf"a\.safetensors and .*b\.safetensors are not of one model: {says}"):
        analyze(files)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        analyze([saved(tmp_path / "a.safetensors", w=PLANE), tmp_path / "nowhere.safetensors"])


def test_one_layer_at_a_time(tmp_path: Path) -> None:
    """Of 48 layers of 512 kB in float64, 24 MB together, never more than eight layers' worth is in memory."""
    shape = (128, 512)
    masks = {f"{index:02}": random_mask(shape, 6554, seed=1, name=f"{index}") for index in range(48)}
    tensors = {name: mask.to_bool().astype(np.float32) for name, mask in masks.items()}
    artifact.write(tmp_path / "m.safetensors", tensors, masks, {})
    del tensors
    tracemalloc.start()
    analyze([tmp_path / "m.safetensors"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 8 * shape[0] * shape[1]
