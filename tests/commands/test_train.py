"""``sift train``: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import csv
import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

import sift_cli
from sift_cli import api
from sift_cli.app import app

pytest.importorskip("accelerate")

ARCH = "trainnets:TinyLanguageModel"
TEXT = f"""
model: {ARCH}
data: {{name: text, path: DATA, length: 8}}
optimizer: {{name: adamw, lr: 1e-2}}
batch: 8
steps: 6
"""


def sift(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_bytes(np.random.default_rng(0).integers(97, 123, 2000, dtype=np.uint8).tobytes())
    path = tmp_path / "text.yaml"
    path.write_text(TEXT.replace("DATA", str(tmp_path / "text.txt")))
    return path


@pytest.fixture(scope="module")
def signals() -> list[str]:
    pytest.importorskip("mnist1d")
    return ["--set", "data.samples=200", "--set", "batch=16", "--set", "model={name: builtin:mnist1d_cnn, width: 6}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, signals: list[str]) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("train") / "run"
    return folder, sift("mnist1d-cnn", *signals, "--set", "epochs=2", "--set", "rule.frequency=3", "-o", folder)


def test_a_shipped_recipe(run: tuple[Path, Result]) -> None:
    folder, result = run
    assert result.exit_code == 0, result.output
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "best.safetensors", "last.safetensors", "log.csv", "recipe.yaml", "state.pt",
    }  # fmt: skip
    assert "best.safetensors" in result.stdout
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [10, 20]
    # As many MACs as the dense model, to less than one weight; and RigL's dense gradients on top.
    sparse, dense = (int(rows[-1][key]) for key in ("flops_sparse", "flops_of_dense_training"))
    assert 0.99 * dense < sparse <= dense
    assert float(rows[-1]["relative_flops"]) == pytest.approx(
        (sparse + int(rows[-1]["flops_dense_gradients"])) / dense, rel=1e-5
    )
    state = torch.load(folder / "state.pt", weights_only=True)
    stored = load_file(folder / "last.safetensors")
    assert np.array_equal(stored["fc.weight"], state["model"]["fc.weight"].numpy())
    model = sift_cli.load(folder / "last.safetensors")
    for name, mask in sift_cli.masks(model).items():
        bits = np.packbits(mask.numpy().reshape(-1), bitorder="little")
        assert np.array_equal(bits, state["sparsifier"]["masks"][name].numpy())
        assert torch.equal(model.get_parameter(name), state["model"][name])
    certificate = api.inspect(folder / "best.safetensors").to_json()["certificate"]
    claims = {claim["name"]: claim["verdict"] for claim in certificate["claims"]}
    assert set(claims.values()) == {"held"}
    assert {"iso_flop", "mask_cardinality", "roundtrip"} <= claims.keys()


def test_masks_moved_from_where_they_began(run: tuple[Path, Result]) -> None:
    folder, _ = run
    state = torch.load(folder / "state.pt", weights_only=True)
    assert [update[0] for update in state["sparsifier"]["history"]] == [3, 6, 9, 12]
    assert all(grown for _, grown in state["sparsifier"]["history"][0][1].values())


def test_an_existing_run(run: tuple[Path, Result], signals: list[str], tmp_path: Path) -> None:
    folder, _ = run
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = ["mnist1d-cnn", *signals, "--set", "epochs=2", "--set", "rule.frequency=3", "-o", folder]
    refused = sift(*again)
    assert refused.exit_code == 9
    assert "--resume to go on" in refused.stderr
    resumed = sift(*again, "--resume")
    assert resumed.exit_code == 0
    other = sift(*again, "--resume", "--set", "seed=1")
    assert other.exit_code == 5
    assert "seed differs" in other.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_dense_fine_tuning(run: tuple[Path, Result], signals: list[str], tmp_path: Path) -> None:
    """SPDF: it begins with exactly the sparse model's weights, zeros among them, and all of them learn."""
    folder, _ = run
    asked = ["mnist1d-cnn", *signals, "--set", f"model={folder}", "--set", "epochs=1", "--dense"]
    start = load_file(folder / "best.safetensors")
    still = sift(*asked, "--set", "optimizer={name: sgd, lr: 0}", "-o", tmp_path / "still")
    assert still.exit_code == 0, still.stderr
    masks = sift_cli.masks(sift_cli.load(folder / "best.safetensors"))
    sparse = sift_cli.load(folder / "best.safetensors").state_dict()
    kept = load_file(tmp_path / "still" / "last.safetensors")
    for name in masks:
        assert np.array_equal(kept[name], sparse[name].numpy())
    assert start["fc.weight"].tobytes() == kept["fc.weight"].tobytes()
    moved = sift(*asked, "-o", tmp_path / "moved")
    assert moved.exit_code == 0, moved.stderr
    tuned = load_file(tmp_path / "moved" / "last.safetensors")
    for name, mask in masks.items():
        assert np.count_nonzero(tuned[name][~mask.numpy()]) > 0.9 * np.count_nonzero(~mask.numpy())
    assert not sift_cli.masks(sift_cli.load(tmp_path / "moved" / "last.safetensors"))
    assert "phase: dense" in (tmp_path / "moved" / "recipe.yaml").read_text()
    twice = sift(*asked, "--set", f"model={tmp_path / 'moved'}", "-o", tmp_path / "twice")
    assert twice.exit_code == 4
    assert "no masks to drop" in twice.stderr
    again = sift("mnist1d-cnn", *signals, "--set", f"model={folder}", "-o", tmp_path / "again")
    assert again.exit_code == 5
    assert "transformed already" in again.stderr


def test_masks_that_training_makes(text: Path, tmp_path: Path) -> None:
    """A model without a transform gets its masks from the rule, and an artifact whose plan says so."""
    rule = "rule={name: gmp, sparsity: 0.5, frequency: 1, only: [first, hidden]}"
    result = sift(text, "--set", rule, "--json", "-o", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["schema"] == "sift.trained/1"
    assert document["log"][-1]["density"] == 0.5
    last = tmp_path / "run" / "last.safetensors"
    model = sift_cli.load(last, arch=ARCH)
    assert {name: int(mask.sum()) for name, mask in sift_cli.masks(model).items()} == {
        "first.weight": 12 * 24 // 2, "hidden.weight": 24 * 20 // 2,
    }  # fmt: skip
    claims = api.inspect(last).to_json()["certificate"]["claims"]
    macs = 8 * (12 * 24 // 2 + 24 * 20 // 2 + 20 * 256)
    assert {claim["after"] for claim in claims if claim["name"] == "planned_macs"} == {macs}
    assert all(claim["verdict"] == "held" for claim in claims)


def test_two_processes_train_what_one_does(text: Path, tmp_path: Path) -> None:
    """As ``accelerate launch`` and ``torchrun`` start them; one process accumulates the parts that two have each."""
    rule = "rule={name: rigl, sparsity: 0.5, frequency: 1, only: [first, hidden]}"
    asked = ["train", str(text), "--set", rule, "--set", "clip=0.5"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, "-c", "from sift_cli.app import app; app()", *asked, "-o", str(tmp_path / "two")],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    one = sift(*asked[1:], "--set", "accumulate=2", "-o", tmp_path / "one")
    assert one.exit_code == 0, one.stderr
    try:
        said = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], said
    assert "last.safetensors" in said[0][0]
    assert said[1][0] == ""
    alone, both = (sift_cli.load(tmp_path / run / "last.safetensors", arch=ARCH) for run in ("one", "two"))
    masks = sift_cli.masks(alone)
    assert masks.keys() == {"first.weight", "hidden.weight"}
    assert all(torch.equal(mask, sift_cli.masks(both)[name]) for name, mask in masks.items())
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(both.state_dict()[name], tensor, rtol=0, atol=2e-6)
    rows = [list(csv.DictReader((tmp_path / run / "log.csv").open(newline="")))[-1] for run in ("one", "two")]
    assert rows[0].keys() == rows[1].keys()
    for key in rows[0].keys() - {"seconds"}:
        assert float(rows[1][key]) == pytest.approx(float(rows[0][key]), rel=1e-5)


def test_it_lists_its_recipes() -> None:
    result = sift()
    assert result.exit_code == 0
    assert "cifar100-resnet18" in result.stdout
    document = json.loads(sift("--json").stdout)
    assert document["recipes"]["gpt-bytes"].startswith("A small GPT")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["mnist1d-cn"], 3, "did you mean mnist1d-cnn?"),
        (["TEXT", "--set", "optimizr=1"], 5, "did you mean 'optimizer'?"),
        (["TEXT", "--set", "data.lenth=1"], 5, "did you mean 'length'?"),
        (["TEXT", "--set", "model=builtin:mnist1d_cn"], 4, "did you mean builtin:mnist1d_cnn"),
        (["TEXT", "--set", "model={name: builtin:mnist1d_cnn, widht: 2}"], 5, "did you mean 'width'?"),
        (["TEXT", "--set", "transform={name: wider, sparsity: 0.5}"], 5, "choose one of"),
        (["TEXT", "--set", "transform={name: wide, sparsty: 0.5}"], 5, "did you mean 'sparsity'?"),
        (["TEXT", "--set", "transform={name: wide, sparsity: 0.5, multiple: x}"], 5, "transform.multiple is 'x'"),
        (["TEXT", "--set", "data.path=/nowhere"], 3, "cannot read /nowhere"),
        (["TEXT", "--set", "sparsity_config=/nowhere.yaml"], 3, "/nowhere.yaml"),
        (["TEXT", "--dense", "--set", "model=/nowhere"], 3, "/nowhere"),
        (["TEXT", "--set", "precision=fp16"], 5, "precision fp16 does not work here"),
        (["TEXT", "--resume", "--force"], 2, "either go on"),
    ],
)
def test_refusals_leave_nothing_behind(text: Path, tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    folder = tmp_path / "run"
    result = sift(*[text if one == "TEXT" else one for one in arguments], "-o", folder)
    assert result.exit_code == code, result.stderr
    assert said in result.stderr
    assert not folder.exists()


def test_a_folder_of_somebody_else(text: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    for more in ((), ("--force",), ("--resume",)):
        result = sift(text, "-o", tmp_path / "mine", *more)
        assert result.exit_code == 9
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    assert sift(text, "-o", tmp_path / "no" / "such").exit_code == 9


def test_without_an_extra(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module, more in (("tensorboard", ["--set", "tensorboard=true"]), ("accelerate", [])):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        result = sift(text, *more, "-o", tmp_path / "run")
        assert result.exit_code == 4
        assert f"needs the package {module}" in result.stderr
        assert not (tmp_path / "run" / "state.pt").exists()
