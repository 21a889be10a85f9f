"""``sift check`` as it is typed. Every file is small enough to count what is in it by hand."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
import torch
from graphs import graph
from safetensors.numpy import save_file
from typer.testing import Result

from sift_cli import api

Sift = Callable[..., Result]

#: (N, 3, 8, 8): a convolution of 4 × 3 × 3 × 3 = 108 weights at 64 positions, 10 of them kept, then 4 × 5 = 20 weights
#: of which 12 are.
NET = """(float[N,3,8,8] x) => (float[N,5] y)
    { c = Conv<pads=[1,1,1,1]>(x, w) p = GlobalAveragePool(c) f = Flatten(p) y = MatMul(f, fc) }"""
SPARSE = 64 * 10 + 12
WEIGHTS, KEPT = 128, 22


def weights() -> dict[str, np.ndarray]:
    w, fc = np.zeros((4, 3, 3, 3), np.float32), np.ones((4, 5), np.float32)
    w.flat[::11] = 1  # 0, 11, …, 99: ten of them
    fc.flat[:8] = 0
    return {"w": w, "fc": fc}


def rows(done: Result) -> dict[tuple[str, str], dict[str, Any]]:
    document = json.loads(done.stdout)
    assert document["schema"] == "sift.check/1"
    assert document["exit_code"] == done.exit_code
    return {(file["path"], row["budget"]): row for file in document["files"] for row in file["budgets"]}


@pytest.fixture(autouse=True)
def net(tmp_path: Path) -> Path:
    onnx.save(graph(NET, weights()), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_every_figure(sift: Sift, net: Path) -> None:
    size = len(net.read_bytes())
    limits = {
        "max-size": (size, "bytes"),
        "max-macs": (SPARSE, "MACs"),
        "max-flops": (2 * SPARSE, "FLOPs"),
        "max-params": (WEIGHTS, "parameters"),
    }
    for less, code, verdict in ((0, 0, "held"), (1, 6, "broken")):
        options = [f"--{name}={number - less}" for name, (number, _) in limits.items()]
        done = sift("check", "net.onnx", *options, "--json")
        assert done.exit_code == code, done.output
        assert rows(done) == {
            ("net.onnx", name): {
                "budget": name, "verdict": verdict, "measured": number, "allowed": number - less, "unit": unit,
                "why": None,
            }
            for name, (number, unit) in limits.items()
        }  # fmt: skip


def test_sparsity_is_compared_exactly(sift: Sift) -> None:
    # 106/128 is .828125. No float is in between: the next one of 7 digits fails.
    assert sift("check", "net.onnx", "--min-sparsity", "106/128").exit_code == 0
    done = sift("check", "net.onnx", "--min-sparsity", "0.8281251", "--json")
    assert done.exit_code == 6
    row = rows(done)["net.onnx", "min-sparsity"]
    assert (row["measured"], row["why"]) == (1 - KEPT / WEIGHTS, "22 of 128 weights are kept")


def test_which_weights_count(sift: Sift) -> None:
    """Matrices and filters, whatever their zeros are stored as; no biases, integers or masks."""
    save_file(
        {"w": weights()["w"], "bias": np.zeros(9, np.float32), "table": np.zeros((9, 9), np.int64)}, "a.safetensors"
    )
    kept = (weights()["w"] != 0).astype(np.float32)
    save_file({"w_orig": np.ones((4, 3, 3, 3), np.float32), "w_mask": kept}, "b.safetensors")
    torch.save({"w": torch.from_numpy(np.where(kept, 1, np.nan).astype(np.float32))}, "c.pt")
    done = sift("check", "a.safetensors", "b.safetensors", "c.pt", "--min-sparsity", "98/108", "--json")
    assert done.exit_code == 0, done.output
    assert {row["why"] for row in rows(done).values()} == {"10 of 108 weights are kept"}
    save_file({"bias": np.zeros(9, np.float32)}, "none.safetensors")
    done = sift("check", "none.safetensors", "--min-sparsity", "0")
    assert done.exit_code == 3
    assert "has no weights" in done.stdout


def test_size_is_exact_and_has_external_data_in_it(sift: Sift) -> None:
    header = json.dumps({"t": {"dtype": "U8", "shape": [1000], "data_offsets": [0, 1000]}}).encode()
    Path("t.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(1000))
    exact = 8 + len(header) + 1000
    assert sift("check", "t.safetensors", "--max-size", f"{exact} B").exit_code == 0
    assert sift("check", "t.safetensors", "--max-size", str(exact - 1)).exit_code == 6
    model = graph(NET, weights())
    onnx.save(model, "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    both = Path("e.onnx").stat().st_size + Path("e.data").stat().st_size
    assert Path("e.data").stat().st_size >= 4 * WEIGHTS
    assert rows(sift("check", "e.onnx", "--max-size", "1 GB", "--json"))["e.onnx", "max-size"]["measured"] == both
    Path("e.data").unlink()
    done = sift("check", "e.onnx", "net.onnx", "--max-size", "1 GB")
    assert done.exit_code == 3
    assert "its data file 'e.data' is missing" in done.stdout
    assert "1 of 2 budgets held" in done.stdout


def test_size_of_data_in_a_subgraph(sift: Sift) -> None:
    model = graph(
        "(bool b) => (float[2] y) { y = If(b) <"
        "then_branch = t () => (float[2] p) { p = Constant<value_floats=[1.,2.]>() },"
        " else_branch = e () => (float[2] q) { q = Constant<value = float[2] {3, 4}>() }> }",
        {},
    )
    inner = model.graph.node[0].attribute[1].g.node[0].attribute[0].t
    del inner.float_data[:]
    inner.data_location = onnx.TensorProto.EXTERNAL
    inner.external_data.add(key="location", value="deep.data")
    onnx.save(model, "s.onnx")
    Path("deep.data").write_bytes(np.float32([3, 4]).tobytes() + bytes(92))
    wanted = Path("s.onnx").stat().st_size + 100
    assert rows(sift("check", "s.onnx", "--max-size", "1 GB", "--json"))["s.onnx", "max-size"]["measured"] == wanted
    inner.external_data[0].value = "../outside.data"
    onnx.save(model, "s.onnx")
    assert "not inside the model's folder" in sift("check", "s.onnx", "--max-size", "1 GB").stdout


def test_all_files_are_checked_when_one_is_bad(sift: Sift) -> None:
    Path("bad.onnx").write_bytes(b"this is no model")
    done = sift("check", "bad.onnx", "missing.onnx", "net.onnx", "--max-macs", "1", "--json")
    assert done.exit_code == 3
    verdicts = {path: row["verdict"] for (path, _), row in rows(done).items()}
    assert verdicts == {"bad.onnx": "error", "missing.onnx": "error", "net.onnx": "broken"}
    errors = {file["path"]: file["error"] for file in json.loads(done.stdout)["files"]}
    assert errors["net.onnx"] is None
    assert errors["missing.onnx"]["error"] == "Unreadable"
    assert "Traceback" not in done.output


def test_a_budget_that_cannot_be_measured_is_not_held(sift: Sift) -> None:
    save_file(weights(), "unknown.safetensors")
    done = sift("check", "unknown.safetensors", "--max-macs", "1G", "--max-size", "1GB", "--json")
    assert done.exit_code == 3
    assert {budget: row["verdict"] for (_, budget), row in rows(done).items()} == {
        "max-macs": "error",
        "max-size": "held",
    }
    assert "no architecture" in rows(done)["unknown.safetensors", "max-macs"]["why"]


def test_iso_flop(sift: Sift) -> None:
    shape, arch = (1, 3, 8, 8), ("--arch", "nets:tiny_resnet", "--input", "1x3x8x8")
    for name, match in (("m", "model"), ("l", "layer")):
        api.transform(
            "nets:tiny_resnet", f"{name}.safetensors", kind="wide", sparsity="0.6", match=match, input_shape=shape
        )
        api.export(f"{name}.safetensors", f"{name}.onnx", arch="nets:tiny_resnet")
    files = ["m.safetensors", "m.onnx", "l.safetensors", "l.onnx"]
    done = sift("check", *files, "--iso-flop-of", "nets:tiny_resnet", *arch, "--json")
    assert done.exit_code == 0, done.output
    found = {path: (row["measured"], row["allowed"]) for (path, _), row in rows(done).items()}
    # Neither is equal to the base: below it by less than a weight, and above it by what the ends cost.
    assert all(measured < allowed for path, (measured, allowed) in found.items() if path[0] == "m")
    assert all(measured > allowed for path, (measured, allowed) in found.items() if path[0] == "l")
    # Of another base they are not, whatever their certificate says; nor are they with another certificate, nor does one
    # that matched as a whole cost more than its base.
    done = sift("check", *files, "--iso-flop-of", "nets:tiny_plain", *arch, "--json")
    assert {row["verdict"] for row in rows(done).values()} == {"broken"}
    _edited("m.onnx", "sift.certificate", '"verdict":"held"', '"verdict":"broken"')
    _edited("l.onnx", "sift.plan", '"match":"layer"', '"match":"model"')
    done = sift("check", "m.onnx", "l.onnx", "--iso-flop-of", "nets:tiny_resnet", *arch, "--json")
    assert {path: row["verdict"] for (path, _), row in rows(done).items()} == {"m.onnx": "broken", "l.onnx": "broken"}


def _edited(path: str, key: str, old: str, new: str) -> None:
    model = onnx.load(path)
    (said,) = [item for item in model.metadata_props if item.key == key]
    assert old in said.value
    said.value = said.value.replace(old, new)
    onnx.save(model, path)


def test_iso_flop_without_a_certificate_is_equality(sift: Sift) -> None:
    assert sift("check", "net.onnx", "--iso-flop-of", "net.onnx").exit_code == 0
    fewer = weights()
    fewer["w"].flat[0] = 0
    onnx.save(graph(NET, fewer), "fewer.onnx")
    done = sift("check", "fewer.onnx", "--iso-flop-of", "net.onnx", "--json")
    assert done.exit_code == 6
    row = rows(done)["fewer.onnx", "iso-flop-of"]
    assert (row["measured"], row["allowed"]) == (SPARSE - 64, SPARSE)


def test_same_output(sift: Sift) -> None:
    assert sift("check", "net.onnx", "--same-output-as", "net.onnx").exit_code == 0
    off = weights()
    off["fc"][3, 4] *= 1.001  # ten times the bound, in one weight of 12
    onnx.save(graph(NET, off), "off.onnx")
    done = sift("check", "off.onnx", "--same-output-as", "net.onnx", "--json")
    assert done.exit_code == 6, done.output
    row = rows(done)["off.onnx", "same-output-as"]
    assert 1e-4 < row["measured"] < 1e-3 + 1e-6
    assert row["allowed"] == 1e-4
    other = graph(NET.replace(" x", " image").replace("(x", "(image"), weights())
    onnx.save(other, "other.onnx")
    done = sift("check", "other.onnx", "--same-output-as", "net.onnx")
    assert done.exit_code == 3
    assert "have inputs of other names: image and x" in done.stdout
    save_file(weights(), "w.safetensors")
    for arguments in (
        ("net.onnx", "--same-output-as", "w.safetensors"),
        ("w.safetensors", "--same-output-as", "net.onnx"),
    ):
        done = sift("check", *arguments, "--json")
        assert done.exit_code == 3
        said = "w.safetensors is no ONNX file (sift export w.safetensors --format onnx -o w.onnx)"
        assert rows(done)[arguments[0], "same-output-as"]["why"] == said


def test_sizes_of_symbolic_dimensions(sift: Sift) -> None:
    open_size = NET.replace("N,3,8,8", "N,3,h,8")
    onnx.save(graph(open_size, weights()), "open.onnx")
    done = sift("check", "open.onnx", "--max-macs", "1G", "--json")
    assert done.exit_code == 3
    assert rows(done)["open.onnx", "max-macs"]["why"].endswith("has no size (give it a size: --dim h=128)")
    done = sift("check", "open.onnx", "--max-macs", "1G", "--dim", "h=16", "--json")
    assert rows(done)["open.onnx", "max-macs"]["measured"] == 2 * 64 * 10 + 12  # as NET, at twice the positions


def test_budgets_in_a_configuration(sift: Sift) -> None:
    Path("sift.toml").write_text(f"""
        [[check]]
        paths = ["*.onnx"]
        max-macs = {SPARSE}
        [[check]]
        paths = ["strict.onnx"]
        max-macs = {SPARSE - 1}
    """)
    Path("strict.onnx").write_bytes(Path("net.onnx").read_bytes())
    done = sift("check", "--json")
    assert done.exit_code == 6
    assert json.loads(done.stdout)["config"] == "sift.toml"
    assert {path: row["verdict"] for (path, _), row in rows(done).items()} == {
        "net.onnx": "held",
        "strict.onnx": "broken",
    }
    assert sift("check", "--max-macs", SPARSE).exit_code == 0
    assert sift("check", "net.onnx").exit_code == 0
    Path("other.toml").write_text('[check]\npaths = "net.onnx"\nmax-macs = 1')
    assert sift("check", "--config", "other.toml").exit_code == 6


def test_usage_errors(sift: Sift) -> None:
    for arguments, says in (
        ((), "there is nothing to check"),
        (("net.onnx",), "there is no budget for net.onnx"),
        (("*.pt", "--max-size", "1"), "nothing matches '*.pt'"),
        ((" ", "--max-size", "1"), "PATH: ' ' is no text that can stand there"),
        (("net.onnx", "--max-size", "1", "--tolerance", "2%"), "there is no baseline that a tolerance is for"),
        (("net.onnx", "--max-macs", "1", "--dim", "n=0"), "'n=0' is not NAME=SIZE"),
        (("net.onnx", "--max-size", "20M"), "--max-size: '20M' has no unit of bytes"),
        (("net.onnx", "--max-flops", "1 GMACs"), "--max-flops: '1 GMACs' does not belong here"),
        (("net.onnx", "--baseline", "no.json"), "cannot read the baseline no.json: No such file"),
        (("net.onnx", "--update-baseline"), "there is no baseline to update"),
        (("net.onnx", "--config", "no.toml"), "cannot read no.toml"),
        (("net.onnx", "--max-size", "1", "--format", "junit", "--json"), "--json does not go with --format junit"),
    ):
        done = sift("check", *arguments)
        assert done.exit_code == 2, done.output
        assert says in " ".join(done.stderr.split()), done.stderr
        assert "Traceback" not in done.output
    document = json.loads(sift("check", "net.onnx", "--max-size", "20M", "--json").stdout)
    assert (document["error"], document["exit_code"]) == ("ConfigError", 2)
    assert document["hint"] == "write MB for 10⁶ bytes, or MiB for 2²⁰"


def test_table(sift: Sift) -> None:
    done = sift("check", "net.onnx", "--max-macs", "600", "--max-params", "200")
    assert done.exit_code == 6
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["net.onnx", "max-macs", "652", "MACs", "600", "MACs", "broken"] in lines
    assert ["net.onnx", "max-params", "128", "parameters", "200", "parameters", "held"] in lines
    assert done.stdout.splitlines()[-1] == "1 of 2 budgets held in 1 file, 1 broken"


def test_baseline(sift: Sift, net: Path) -> None:
    Path("sift.toml").write_text('baseline = "sub/base.json"\n[[check]]\npaths = ["*.onnx"]')
    Path("sub").mkdir()
    done = sift("check", "--update-baseline")
    assert done.exit_code == 0, done.output
    size = net.stat().st_size
    figures = {"size": size, "macs": SPARSE, "params": WEIGHTS, "nonzero": KEPT}
    saved = Path("sub/base.json").read_text()
    assert json.loads(saved) == {"schema": "sift.baseline/1", "files": {"../net.onnx": figures}}
    assert sift("check", "--update-baseline").exit_code == 0
    assert Path("sub/base.json").read_text() == saved
    assert sift("check").exit_code == 0
    # One weight more is 64 MACs, a 652nd more than the tenth that is allowed by 9.9 %.
    more = weights()
    more["w"].flat[1] = 1
    onnx.save(graph(NET, more), net)
    done = sift("check", "--json")
    assert done.exit_code == 6
    verdicts = {budget: row["verdict"] for (_, budget), row in rows(done).items()}
    assert verdicts == {
        "baseline size": "held", "baseline macs": "broken", "baseline params": "held", "baseline nonzero": "broken",
    }  # fmt: skip
    assert sift("check", "--tolerance", "+9.8%").exit_code == 6  # 652 · 1.098 = 715.9
    assert sift("check", "--tolerance", "+9.9%").exit_code == 0  # 652 · 1.099 = 716.5
    Path("sift.toml").write_text(
        'baseline = "sub/base.json"\n[[check]]\npaths = ["*.onnx"]\ntolerance = {macs = "9.9%"}'
    )
    verdicts = {budget: row["verdict"] for (_, budget), row in rows(sift("check", "--json")).items()}
    assert (verdicts["baseline macs"], verdicts["baseline nonzero"]) == ("held", "broken")


def test_what_is_saved_is_shown(sift: Sift, net: Path) -> None:
    save_file(weights(), "unknown.safetensors")
    done = sift("check", "net.onnx", "unknown.safetensors", "--baseline", "base.json", "--update-baseline")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    size = net.stat().st_size
    assert ["file", "size", "macs", "params", "nonzero"] in lines
    assert ["net.onnx", str(size), str(SPARSE), str(WEIGHTS), str(KEPT)] in lines
    size = Path("unknown.safetensors").stat().st_size
    assert ["unknown.safetensors", str(size), "–", str(WEIGHTS), str(KEPT)] in lines
    assert "measured" not in done.stdout  # nothing was compared


def test_a_baseline_alone_in_pyproject(sift: Sift) -> None:
    """It is the configuration, also of a folder below it."""
    Path("pyproject.toml").write_text('[tool.sift]\nbaseline = "base.json"')
    assert sift("check", "net.onnx", "--update-baseline").exit_code == 0
    Path("sub").mkdir()
    with contextlib.chdir("sub"):
        done = sift("check", "../net.onnx", "--json")
    assert done.exit_code == 0, done.output
    assert len(rows(done)) == 4


def test_a_name_that_is_no_utf_8_in_a_baseline(sift: Sift, net: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xc3\xa9.onnx")
    net.rename(name)
    base = ("--baseline", "base.json")
    assert sift("check", name, *base, "--update-baseline").exit_code == 0
    assert list(json.loads(Path("base.json").read_bytes())["files"]) == [name]
    assert "caf\\udce9 é.onnx" in Path("base.json").read_text()
    assert sift("check", name, *base).exit_code == 0


def test_files_that_a_baseline_does_not_have_or_only_it_has(sift: Sift, net: Path) -> None:
    Path("b.onnx").write_bytes(net.read_bytes())
    base = ("--baseline", "base.json")
    assert sift("check", "*.onnx", *base, "--update-baseline").exit_code == 0
    Path("b.onnx").rename("c.onnx")
    done = sift("check", "*.onnx", *base, "--json")
    assert done.exit_code == 6
    found = rows(done)
    assert found["c.onnx", "baseline"]["why"] == "c.onnx is new: base.json does not have it"
    assert found["b.onnx", "baseline"]["why"] == "b.onnx is gone, and base.json has it"
    assert found["net.onnx", "baseline size"]["verdict"] == "held"
    # A file that is there and was not asked for is no one's loss, and stays in the baseline.
    Path("c.onnx").rename("b.onnx")
    assert sift("check", "net.onnx", *base).exit_code == 0
    assert sift("check", "net.onnx", *base, "--update-baseline").exit_code == 0
    assert set(json.loads(Path("base.json").read_text())["files"]) == {"net.onnx", "b.onnx"}
    # Unless it is the configuration that does not ask for it.
    Path("sift.toml").write_text('[[check]]\npaths = ["net.onnx"]')
    done = sift("check", *base)
    assert done.exit_code == 6
    assert "b.onnx is in base.json, and was not checked" in done.stdout
    assert sift("check", *base, "--update-baseline").exit_code == 0
    assert set(json.loads(Path("base.json").read_text())["files"]) == {"net.onnx"}


def test_a_baseline_is_not_written_over_a_file_that_cannot_be_read(sift: Sift) -> None:
    assert sift("check", "net.onnx", "--baseline", "base.json", "--update-baseline").exit_code == 0
    before = Path("base.json").read_bytes()
    Path("net.onnx").write_bytes(b"no model")
    done = sift("check", "net.onnx", "--baseline", "base.json", "--update-baseline")
    assert done.exit_code == 3
    assert Path("base.json").read_bytes() == before
    assert "was not written" in done.stderr


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[" * 100_000, '{"schema": "sift.baseline/2", "files": {}}', '{"schema": "sift.baseline/1"}']
    + [
        f'{{"schema": "sift.baseline/1", "files": {files}}}'
        for files in ('[]', '{"a": 1}', '{"a": {"sise": 1}}', '{"a": {"size": 1.5}}', '{"a": {"size": -1}}',
                      '{"a": {}}', '{"a": {"size": 1}, "a": {"size": 2}}', '{"a": {"size": 1, "size": 2}}',
                      '{"a": {"size": true}}', '{"a": {"size": 99999999999999999999}}', '{"a\\u0000": {}}')
    ],
)  # fmt: skip
def test_no_baseline(sift: Sift, text: str) -> None:
    Path("base.json").write_text(text)
    done = sift("check", "net.onnx", "--baseline", "base.json")
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: base.json is no baseline: ")


def test_a_baseline_of_another_version(sift: Sift) -> None:
    Path("base.json").write_text('{"schema": "sift.baseline/2", "files": {}}')
    done = sift("check", "net.onnx", "--baseline", "base.json")
    assert done.stderr == (
        "error: base.json is no baseline: it is 'sift.baseline/2' and no sift.baseline/1\n"
        "hint: mend it, or delete it and write it anew with --update-baseline\n"
    )


def test_github(sift: Sift, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "50%, a:b|c\n::error::x.onnx"
    Path("sub").mkdir()
    Path("sub", name).write_bytes(Path("net.onnx").read_bytes())
    Path("summary.md").write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    monkeypatch.chdir("sub")
    done = sift("check", "*.onnx", "../net.onnx", "--max-macs", "1", "--max-size", "1GB", "--format", "github")
    assert done.exit_code == 6
    first, second, last = done.stdout.splitlines()
    assert first == (
        "::error file=sub/50%25%2C a%3Ab|c%0A%3A%3Aerror%3A%3Ax.onnx,title=sift check%3A max-macs::"
        "50%25, a:b|c%0A::error::x.onnx: max-macs: 652 MACs, and allowed is 1 MACs"
    )
    assert second.startswith("::error file=net.onnx,title=sift check%3A max-macs::../net.onnx: max-macs: ")
    assert last == "2 of 4 budgets held in 2 files, 2 broken"
    before, heading, *lines = Path("../summary.md").read_text().splitlines()
    assert before == "before"
    assert heading == "### sift check: 2 of 4 budgets held in 2 files, 2 broken"
    assert len(lines) == 1 + 2 + 4  # whatever a file is called, it is one row of five cells
    assert all(line.count("|") == 6 for line in lines[1:])
    assert sum("| 50%, a:b&#124;c&#92;n::error::x.onnx |" in line for line in lines) == 2
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "summary.md"))
    assert sift("check", "../net.onnx", "--max-macs", "1", "--format", "github").exit_code == 9


def test_junit(sift: Sift) -> None:
    name = 'a"<&>\x01\ud800.onnx'.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    Path(name).write_bytes(Path("net.onnx").read_bytes())
    Path("bad.onnx").write_bytes(b"no model")
    done = sift("check", "*.onnx", "--max-macs", "652", "--max-params", "1", "--format", "junit")
    assert done.exit_code == 3
    root = ET.fromstring(done.stdout)
    assert junit_problems(root) == []
    assert root.attrib == {"name": "sift check", "tests": "5", "failures": "2", "errors": "1"}
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {name.replace("\x01", "\\x01"), "bad.onnx", "net.onnx"}
    held, broken = suites["net.onnx"]
    assert (held.attrib, len(held)) == ({"classname": "net.onnx", "name": "max-macs"}, 0)
    assert broken[0].attrib == {"type": "max-params", "message": "128 parameters, and allowed is 1 parameters"}
    assert [case[0].tag for case in suites["bad.onnx"]] == ["error"]
    # The check of the form can fail.
    ET.SubElement(broken, "nothing")
    del suites["net.onnx"].attrib["name"]
    assert len(junit_problems(root)) == 2


#: Of junit-10.xsd of Jenkins' xunit plug-in: element → attributes it may have, those it must have, children.
JUNIT = {
    "testsuites": ({"name", "time", "tests", "failures", "disabled", "errors"}, set(), {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "time", "disabled", "skipped", "timestamp", "hostname", "id"},
        {"name"},
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "testcase": (
        {"name", "classname", "assertions", "time", "status"},
        {"name"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "failure": ({"type", "message"}, set(), set()),
    "error": ({"type", "message"}, set(), set()),
}  # fmt: skip


def junit_problems(element: ET.Element) -> list[str]:
    may, must, children = JUNIT[element.tag]
    found = [f"{element.tag} has {name}" for name in set(element.attrib) - may]
    found += [f"{element.tag} lacks {name}" for name in must - set(element.attrib)]
    for child in element:
        if child.tag not in children:
            found.append(f"{child.tag} in {element.tag}")
        else:
            found += junit_problems(child)
    return found


def test_nothing_heavy_is_imported_for_sizes_of_safetensors(tmp_path: Path) -> None:
    import subprocess
    import sys

    save_file(weights(), tmp_path / "a.safetensors")
    code = (
        f"from sift_cli import api; print(api.check([{str(tmp_path / 'a.safetensors')!r}], "
        "options={'max-size': '1 MB', 'min-sparsity': 0.8}).verdict); import sys; "
        "print([name for name in ('torch', 'onnx', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["held", "[]"], done.stderr
