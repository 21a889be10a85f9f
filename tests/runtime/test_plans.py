"""The attribute ``plan``: it says which kernel runs where it is for this processor and size, and changes no result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sift_cli.errors import Malformed
from sift_cli.runtime import available_isas, kernels, library_path, session, sparse_conv, sparse_linear
from sift_cli.runtime.library import cpu, plans

ROOT = Path(__file__).resolve().parents[2]
Node = Callable[..., bytes]
RNG = np.random.default_rng(0)

POINTS = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1}
IMAGE = RNG.standard_normal((1, 24, 6, 7)).astype(np.float32)
ROWS = RNG.standard_normal((3, 24)).astype(np.float32)
KEPT = RNG.random((18, 24)) < 0.3
WEIGHT = (RNG.standard_normal(KEPT.shape) * KEPT).astype(np.float32)
PARTS = {"bitmask": np.packbits(KEPT.reshape(-1), bitorder="little"), "values": WEIGHT[KEPT]}
SHAPES = {
    "Conv": [24, 6, 7, 18, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1],
    "Linear": [24, 18, 3],
}


def model(one_node: Node, layer: str, plan: str | None = None) -> bytes:
    attributes: dict[str, Any] = {} if plan is None else {"plan": plan}
    if layer == "Conv":
        return one_node("SparseConv", PARTS, weight_shape=(*WEIGHT.shape, 1, 1), **POINTS, **attributes)
    return one_node("SparseLinear", PARTS, weight_shape=WEIGHT.shape, **attributes)


def ran(one_node: Node, layer: str, plan: str | None, x: np.ndarray | None = None) -> tuple[str | None, np.ndarray]:
    """The kernel, and what it computed."""
    opened = session(model(one_node, layer, plan))
    x = (IMAGE if layer == "Conv" else ROWS) if x is None else x
    y = opened.run(None, {"X": x})[0]
    (report,) = kernels(opened)
    return report.kernel, y


def meaning(layer: str) -> np.ndarray:
    if layer == "Conv":
        return sparse_conv(IMAGE, WEIGHT[:, :, None, None], KEPT[:, :, None, None])
    return sparse_linear(ROWS, WEIGHT, KEPT)


@pytest.mark.parametrize("layer", SHAPES)
def test_every_plan_that_is_offered_runs_and_is_right(one_node: Node, layer: str) -> None:
    offered = plans(SHAPES[layer], int(KEPT.sum()))
    assert len(set(offered)) == len(offered) > 1
    usual, _ = ran(one_node, layer, None)
    assert offered[0].split()[2] == usual
    assert len({plan.split()[2] for plan in offered}) == 2  # both have two kernels to choose from
    want = meaning(layer)
    for plan in offered:
        kernel, y = ran(one_node, layer, plan)
        assert kernel == plan.split()[2]
        assert np.abs(y - want).max() <= 1e-5 * np.abs(want).max()


def another(one_node: Node, layer: str) -> tuple[str | None, str]:
    """The usual kernel of a layer, and a plan with another one."""
    usual, _ = ran(one_node, layer, None)
    plan = next(plan for plan in plans(SHAPES[layer], int(KEPT.sum())) if plan.split()[2] != usual)
    return usual, plan


@pytest.mark.parametrize("layer", SHAPES)
def test_a_plan_for_anything_else_is_ignored(one_node: Node, layer: str) -> None:
    usual, plan = another(one_node, layer)
    _, y = ran(one_node, layer, None)
    processor, sizes, kernel, *numbers = plan.split()
    for strange in (
        [processor + "0", sizes, kernel, *numbers],
        [processor.rpartition("/")[0] + "/sse", sizes, kernel, *numbers],
        [processor, sizes + "1", kernel, *numbers],
        [processor, sizes + "x1", kernel, *numbers],
        [processor, sizes, kernel + "_2", *numbers],
        [processor, sizes, kernel, *numbers, "1"],
        [processor, sizes, kernel, *numbers[:-1], "999999999"] if numbers else [processor, sizes, kernel, "7"],
    ):
        assert ran(one_node, layer, " ".join(strange))[0] == usual
        assert ran(one_node, layer, " ".join(strange))[1].tobytes() == y.tobytes()


def test_a_plan_counts_for_its_own_size_alone(one_node: Node) -> None:
    usual, plan = another(one_node, "Conv")
    opened = session(model(one_node, "Conv", plan))
    for image, kernel in ((IMAGE, plan.split()[2]), (IMAGE[:, :, 1:], usual), (IMAGE, plan.split()[2])):
        y = opened.run(None, {"X": image})[0]
        assert kernels(opened)[0].kernel == kernel
        want = sparse_conv(image, WEIGHT[:, :, None, None], KEPT[:, :, None, None])
        assert np.abs(y - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("wrong", ["", "fast", "a 1x6x7", "a 1,6,7 conv_points", "a 1x6x7 conv_points 1.5", "a 1 k 1 "])
def test_a_malformed_plan_is_refused(one_node: Node, wrong: str) -> None:
    with pytest.raises(Malformed, match=r"SparseConv node 'layer'.*attribute plan") as caught:
        session(model(one_node, "Conv", wrong))
    assert f"'{wrong}' is not a processor, sizes, a kernel and numbers" in str(caught.value)


RUN = """
import json, sys, numpy as np, onnxruntime
sys.path.insert(0, sys.argv[1])
from sift_cli.runtime import kernels, session
opened = session("plan.onnx")
y = opened.run(None, {"X": np.load("x.npy")})[0]
np.save("y.npy", y)
print(json.dumps([onnxruntime.__version__, kernels(opened)[0].kernel]))
"""


def in_process(python: str, folder: Path, **environment: str) -> list[str]:
    here = os.environ | {"SIFT_LIBRARY": library_path()} | environment
    done = subprocess.run(
        [python, "-c", RUN, str(ROOT)], cwd=folder, env=here, text=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


@pytest.fixture
def planned(one_node: Node, tmp_path: Path) -> tuple[Path, str | None, str]:
    """A folder with a model, the usual kernel, and the one in its plan."""
    usual, plan = another(one_node, "Conv")
    (tmp_path / "plan.onnx").write_bytes(model(one_node, "Conv", plan))
    np.save(tmp_path / "x.npy", IMAGE)
    return tmp_path, usual, plan.split()[2]


def test_a_plan_for_another_instruction_set_is_ignored(planned: tuple[Path, str | None, str]) -> None:
    folder, usual, kernel = planned
    assert cpu().endswith("/" + available_isas()[0])
    for isa in available_isas():
        _, found = in_process(sys.executable, folder, SIFT_FORCE_ISA=isa)
        assert found == (kernel if isa == available_isas()[0] else usual)
        want = meaning("Conv")
        assert np.abs(np.load(folder / "y.npy") - want).max() <= 1e-5 * np.abs(want).max()


def test_the_oldest_onnxruntime(planned: tuple[Path, str | None, str], oldest_onnxruntime: str) -> None:
    folder, _, kernel = planned
    version, found = in_process(oldest_onnxruntime, folder)
    assert version.startswith("1.17.")
    assert found == kernel
