"""``--json``: what every command prints is one document, as its schema in ``docs/schemas`` says, field by field."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import programs
import pytest
import typer
from jsonschema import Draft202012Validator, ValidationError
from onnx import TensorProto, helper, numpy_helper
from referencing import Registry, Resource
from typer.testing import Result

from sift_cli import errors
from sift_cli.app import app
from sift_cli.commands import demo
from sift_cli.errors import RuntimeUnavailable
from sift_cli.runtime import library_path

Sift = Callable[..., Result]
ROOT = Path(__file__).parents[2]
SCHEMAS: dict[str, dict[str, Any]] = {
    path.name: json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "schemas").glob("*.json"))
}
REGISTRY: Registry = Registry().with_resources(
    (name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)
ARCH = ("--arch", "nets:tiny_resnet")
INPUT = ("--input", "1x3x8x8")


def validate(document: Any) -> str:
    """The name of a document that is as its schema says."""
    name, version = re.fullmatch(r"sift\.(\w+)/(\d+)", document["schema"]).groups()  # type: ignore[union-attr]
    Draft202012Validator(SCHEMAS[f"{name}-{version}.json"], registry=REGISTRY).validate(document)
    return name


def document_of(done: Result) -> Any:
    """The one document on stdout."""
    return json.loads(done.stdout)


#: What there is to print, a command line for each: the document's name, and its arguments.
CASES: list[tuple[str, tuple[str, ...]]] = [
    ("inspect", ("inspect", "tiny.pt")),
    ("inspect", ("inspect", "w.safetensors")),
    ("inspect", ("inspect", "w.onnx", "--no-nonzeros")),
    ("analysis", ("analyze", "w.safetensors", "w.safetensors")),
    ("flops", ("flops", "w.safetensors", *ARCH)),
    ("flops", ("flops", "w.onnx")),
    ("flops", ("flops", "tiny.pt", *ARCH, *INPUT, "--count", "official")),
    ("training_flops", ("flops", "w.onnx", "--training")),
    ("plan", ("transform", "tiny.pt", *ARCH, *INPUT, "--sparsity", ".5", "--dry-run")),
    ("plan", ("transform", "tiny.pt", *ARCH, *INPUT, "--sparsity", ".5", "--kind", "factorized", "--dry-run")),
    ("plan", ("transform", "tiny.pt", *ARCH, *INPUT, "--sparsity", ".5", "--init", "preserve", "--dry-run")),
    ("transform", ("transform", "tiny.pt", *ARCH, *INPUT, "--sparsity", ".5", "-o", "t.safetensors")),
    ("transform", ("transform", "tiny.pt", *ARCH, *INPUT, "--sparsity", ".5", "--kind", "lowrank")),
    ("recipes", ("train",)),
    ("convert", ("convert", "w.safetensors", "dense.safetensors", "--to", "dense")),
    ("export", ("export", "w.safetensors", *ARCH, "-o", "copy.safetensors")),
    ("densify", ("densify", "w.safetensors", *ARCH, "-o", "d.safetensors")),
    ("run", ("run", "w.onnx", "--no-library")),
    ("check", ("check", "w.onnx", "--max-size", "1B", "--max-macs", "1G", "--min-sparsity", "0.1")),
    ("check", ("check", "w.onnx", "--baseline", "b.json", "--update-baseline")),
    ("check", ("check", "broken.onnx", "--max-size", "1MB", "--max-macs", "1")),
    ("check", ("check", "w.onnx", "--same-output-as", "nan.onnx")),
    ("diff", ("diff", "w.safetensors", "tiny.pt")),
    ("diff", ("diff", "w.safetensors", "w.onnx", "--no-flops")),
    ("error", ("inspect", "broken.onnx")),
]
#: Their own tests below.
ELSEWHERE = {"train": "trained", "bench": "bench", "export": "export", "run": "run", "demo": "demo"}


@pytest.fixture
def damaged(files: Path) -> None:
    (files / "broken.onnx").write_bytes((files / "w.onnx").read_bytes()[:1000])
    model = onnx.load(files / "w.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.raw_data = np.full(len(tensor.raw_data) // 4, np.nan, np.float32).tobytes()
    onnx.save(model, files / "nan.onnx")


@pytest.fixture
def library() -> None:
    try:
        library_path()
    except RuntimeUnavailable as error:
        pytest.skip(f"{error.message}; {error.hint}")


@pytest.mark.usefixtures("damaged")
@pytest.mark.parametrize(
    ("name", "arguments"), CASES, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_the_document_of_a_command(sift: Sift, name: str, arguments: tuple[str, ...]) -> None:
    done = sift(*arguments, "--json")
    assert validate(document_of(done)) == name, done.output
    assert name == "error" or done.stderr == ""


def test_training(sift: Sift, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    pytest.importorskip("mnist1d")
    small = (
        "data.samples=200",
        "batch=16",
        "model={name: builtin:mnist1d_cnn, width: 6}",
        "epochs=2",
        "rule.frequency=3",
    )
    done = sift("train", "mnist1d-cnn", *(word for one in small for word in ("--set", one)), "--json")
    assert validate(document_of(done)) == "trained"
    text = tmp_path / "text.yaml"
    (tmp_path / "text.txt").write_bytes(b"sparse " * 300)
    text.write_text(
        "model: trainnets:TinyLanguageModel\ndata: {name: text, path: text.txt, length: 8}\n"
        "optimizer: {name: adamw, lr: 1e-2}\nbatch: 8\nsteps: 2\n"
    )
    assert validate(document_of(sift("train", text, "--json"))) == "trained"


def pruned_linear() -> onnx.ModelProto:
    """One linear layer, half of whose weights are 0."""
    weight = np.tile(np.array([0, 1], np.float32), (16, 8))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        *([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 16])] for name in "xy"),
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.usefixtures("files", "library")
def test_what_kernels_do(sift: Sift) -> None:
    assert validate(document_of(sift("run", "w.onnx", "--json"))) == "run"
    for more in ((), ("--layers",)):
        assert (
            validate(document_of(sift("bench", "w.onnx", "--vs", "dense", "--seconds", "0", *more, "--json")))
            == "bench"
        )
    onnx.save(pruned_linear(), "pruned.onnx")
    done = sift(
        "export", "pruned.onnx", "-o", "tuned.onnx", "--tune", "--threads", "1", "--min-sparsity", "0", "--json"
    )
    assert validate(document_of(done)) == "export"
    assert document_of(done)["tuned"]


@pytest.mark.usefixtures("library")
def test_the_demo(sift: Sift, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "MODEL", "builtin:mnist1d_cnn")
    done = sift("demo", "--json")
    assert validate(document_of(done)) == "demo"
    assert done.stderr == ""


def test_every_command_and_every_schema_is_tried() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == {arguments[0] for _, arguments in CASES} | set(ELSEWHERE)
    documents = {name for name, _ in CASES} | set(ELSEWHERE.values()) | {"certificate"}
    assert set(SCHEMAS) == {f"{name}-1.json" for name in documents}


@pytest.mark.usefixtures("files")
def test_a_schema_can_fail(sift: Sift) -> None:
    document = document_of(sift("inspect", "tiny.pt", "--json"))
    validate(document)
    for broken in (
        {**document, "undocumented": 1},
        {key: value for key, value in document.items() if key != "prefix"},
        {**document, "tensors": [{**document["tensors"][0], "stored_bytes": "64"}]},
    ):
        with pytest.raises(ValidationError):
            validate(broken)


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """All parts of a schema."""
    if isinstance(schema, dict):
        yield schema
        schema = list(schema.values())
    if isinstance(schema, list):
        for one in schema:
            yield from objects(one)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_closed_and_says_what_each_field_is(name: str) -> None:
    schema = SCHEMAS[name]
    Draft202012Validator.check_schema(schema)
    assert schema["title"] == schema["properties"]["schema"]["const"]
    for part in objects(schema):
        for field in part.get("properties", {}).values():
            assert field["description"], field
        if "properties" in part:
            assert part["additionalProperties"] is False
            assert set(part["required"]) <= set(part["properties"])


def test_the_page_has_the_fields_of_the_schemas() -> None:
    with programs.script(ROOT / "scripts" / "json_page.py") as script:
        assert script.tables() in script.PAGE.read_text()


def classes(cls: type) -> list[str]:
    return [cls.__name__, *(name for sub in cls.__subclasses__() for name in classes(sub))]


def test_the_names_of_errors() -> None:
    assert SCHEMAS["error-1.json"]["properties"]["error"]["enum"] == classes(errors.SiftError)


def test_a_name_that_is_no_utf_8(sift: Sift, files: Path) -> None:
    name = b"caf\xe9 \xf0\x9f\xa6\x86.pt"
    Path(os.fsdecode(name)).write_bytes((files / "tiny.pt").read_bytes())
    for arguments in (("inspect", os.fsdecode(name)), ("inspect", os.fsdecode(b"no" + name))):
        document = document_of(sift(*arguments, "--json"))
        validate(document)
        assert os.fsencode(document.get("path") or document["fields"]["path"]) == os.fsencode(arguments[1])
    assert "caf\\udce9 🦆.pt" in sift("inspect", os.fsdecode(b"no" + name)).stderr
