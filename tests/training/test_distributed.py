"""Two processes on gloo do what one does with the whole batch: DDP with copies, FSDP2 with shards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch

WORLD = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left the results of all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen([sys.executable, ranks.__file__, str(rank), str(WORLD), str(folder)], env=environment,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(WORLD)
    ]  # fmt: skip
    try:
        output = "".join(process.communicate(timeout=180)[0] for process in started)
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * WORLD, output
    return folder


def results(folder: Path, case: str) -> list[Any]:
    return [torch.load(folder / f"{case}.{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("case", ranks.CASES)
def test_as_one_process_with_the_whole_batch(folder: Path, case: str) -> None:
    _, options, parts = ranks.CASES[case]
    alone = ranks.train("alone", options, parts, 0, 1, resumed=False)
    for found in results(folder, case):
        assert found["masks"].keys() == {"2.weight", "4.weight"}
        for name, mask in alone["masks"].items():
            assert torch.equal(found["masks"][name], mask)
            assert torch.equal(found["shown"][name], mask)
            assert not found["weights"][name][~mask].any()
            assert not found["moments"][name][~mask].any()
        for what in ("weights", "moments"):
            for name, value in alone[what].items():
                torch.testing.assert_close(found[what][name], value, rtol=0, atol=2e-5)
        assert found["grown"][: len(alone["grown"])] == alone["grown"]
    first, second = results(folder, case)
    assert all(torch.equal(second["weights"][name], value) for name, value in first["weights"].items())
    assert first["flops"] == alone["flops"]
    assert first["flops"]["steps"] == ranks.STEPS
    assert first["refused"] == ("a sharded model cannot be counted" if case.startswith("fsdp") else "")
    assert (sum(alone["grown"]) > 0) == (options["rule"] in ("rigl", "set"))


def test_masks_are_sharded_with_their_weights(folder: Path) -> None:
    """One bit a weight, over all processes: 384 and 480 weights are 108 bytes."""
    assert [found["local"] for found in results(folder, "ddp-rigl")] == [108, 108]
    assert [found["local"] for found in results(folder, "fsdp-rigl")] == [54, 54]


def test_ranks_that_have_come_apart_are_told(folder: Path) -> None:
    for found in results(folder, "errors"):
        assert found["differ"] == "after step 1 the masks of rank 1 are not those of rank 0"


def test_what_is_not_finite_on_one_rank_moves_no_mask_on_any(folder: Path) -> None:
    assert [found["diverge"] for found in results(folder, "errors")] == [[{}], [{}]]
