"""A file, or the name of an architecture → a model that runs."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from sift_cli.checkpoint import open_checkpoint
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.folder import digest
from sift_cli.core.plan import METADATA_KEY, Architecture, InputSpec
from sift_cli.errors import ModelError
from sift_cli.models import fingerprints
from sift_cli.models.building import build, chosen_inputs
from sift_cli.models.identify import candidates, identify, shapes_of, views
from sift_cli.models.naming import parse_architecture, source_of
from sift_cli.models.sources.transformers import read_config

if TYPE_CHECKING:
    from torch import nn

    from sift_cli.models.calling import Inputs


@dataclass(frozen=True)
class LoadedModel:
    """A model with weights, and where they came from. Nothing in sift changes it in place.

    Attributes:
        module: The model in eval mode, on the CPU, in float32.
        inputs: Example inputs, a batch of one, by position or by keyword.
        architecture: How to build the module again.
        provenance: JSON values: ``source``, the name of the file or of the architecture; ``sha256`` of the file, or the
            ``seed`` of random weights; ``versions`` of the libraries; ``notes`` on what was changed on the way.
        specs: What the inputs are, on any device the same.
    """

    module: nn.Module
    inputs: Inputs
    architecture: Architecture
    provenance: Mapping[str, Any]
    specs: tuple[InputSpec, ...]


def load(
    source: str | Path | Architecture,
    *,
    arch: str | Architecture | None = None,
    allow_pickle: bool = False,
    seed: int = 0,
    input_shape: tuple[int, ...] | None = None,
    input_arrays: Mapping[str, np.ndarray] | None = None,
    weights: bool = True,
) -> LoadedModel:
    """Load a model from a file, or build one from its name.

    Args:
        source: A file with weights; or an architecture, or where there is no such file the name of one such as
            ``torchvision:resnet18``, which is built with random weights.
        arch: Architecture of a file, instead of recognising it. A string leaves the number of classes to the file; an
            :class:`Architecture` is taken as it is.
        allow_pickle: Load pickles that run code.
        seed: Seed of random weights.
        input_shape: Shape of the example input, batch included, instead of the architecture's own. Of several inputs,
            those with as many axes get it.
        input_arrays: Example inputs by the names of ``forward``'s arguments, instead of random ones.
        weights: False leaves the model on the meta device: shapes without values, and not a weight is read.

    Raises:
        CheckpointError: The file cannot be read.
        UnknownArchitecture, AmbiguousArchitecture: No architecture, or several, fit the file.
        MissingExtra: The architecture's package is not installed.
        ModelError: The weights do not fit the architecture, or the file was written by ``sift transform``.
    """
    device = "cpu" if weights else "meta"
    if isinstance(source, Architecture):
        return _random(source, seed, input_shape, input_arrays, device)
    path = Path(source)
    if not path.exists() and _names_architecture(str(source)):
        if arch is not None:
            raise ModelError(f"{source} is an architecture already", hint="leave out --arch, or name a file")
        return _random(parse_architecture(str(source)), seed, input_shape, input_arrays, device)
    with open_checkpoint(path, allow_pickle=allow_pickle) as checkpoint:
        if checkpoint.format == "onnx":
            raise ModelError(
                f"{path} is an ONNX graph, from which no torch model can be made",
                hint="give the checkpoint that it was exported from",
            )
        if METADATA_KEY in checkpoint.metadata:
            raise ModelError(f"{path} is a model that sift transformed", hint="start from the file it was made from")
        architecture, notes = _architecture(checkpoint, arch)
        if hasattr(plugin := source_of(architecture), "load"):
            module = build(architecture, device="meta").float()
            plugin.check_size(module, sum(spec.numel for spec in checkpoint.tensors.values()))
            module, more = _load(plugin, checkpoint, architecture) if weights else (module, [])
        else:
            module = build(architecture, device=device, seed=seed).float()
            more = _fill(module, checkpoint, architecture) if weights else []
    facts = {
        "source": path.name,
        "sha256": digest(path),
        "versions": _versions(architecture),
        "notes": [*notes, *more],
    }
    return _loaded(module, architecture, facts, input_shape, input_arrays, device)


def configured_architecture(path: Path) -> str | None:
    """The class and model type that a folder's ``config.json`` names, without importing transformers; None without."""
    if not (path / "config.json").is_file():
        return None
    config = read_config(path / "config.json")
    names = config.get("architectures")
    named = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
    return f"transformers:{named or config.get('model_type')}"


def _load(plugin: ModuleType, checkpoint: Checkpoint, architecture: Architecture) -> tuple[nn.Module, list[str]]:
    """The model as its source loads it from a checkpoint, in float32."""
    cast = {spec.dtype for spec in checkpoint.tensors.values() if spec.is_floating_point} - {"F32"}
    tensors = {}
    for name, spec in checkpoint.tensors.items():
        array = checkpoint.read(name)
        tensors[name] = array.astype(np.float32) if spec.is_floating_point else array
    module, notes = plugin.load(architecture.name, tensors, **architecture.kwargs)
    return module.float().eval(), [*_cast_notes(cast), *notes]


def _loaded(
    module: nn.Module,
    architecture: Architecture,
    facts: dict[str, Any],
    input_shape: tuple[int, ...] | None,
    input_arrays: Mapping[str, np.ndarray] | None,
    device: str,
) -> LoadedModel:
    declared = source_of(architecture).inputs(architecture.name, architecture.kwargs)
    inputs, specs = chosen_inputs(module, declared, input_shape, input_arrays, device=device, name=str(architecture))
    return LoadedModel(module, inputs, architecture, facts, specs)


def _random(
    architecture: Architecture,
    seed: int,
    input_shape: tuple[int, ...] | None,
    input_arrays: Mapping[str, np.ndarray] | None,
    device: str,
) -> LoadedModel:
    module = build(architecture, device=device, seed=seed).float()
    facts = {
        "source": str(architecture),
        "seed": seed,
        "versions": _versions(architecture),
        "notes": [f"the weights are {architecture}'s random initialisation with seed {seed}"],
    }
    return _loaded(module, architecture, facts, input_shape, input_arrays, device)


def _names_architecture(text: str) -> bool:
    """Whether a text that is no file is meant as an architecture and not as a file that is missing."""
    return ":" in text or any(name.endswith(f":{text}") for name in fingerprints.table().names)


def _architecture(checkpoint: Checkpoint, arch: str | Architecture | None) -> tuple[Architecture, list[str]]:
    if arch is None and (checkpoint.path / "config.json").is_file():
        return parse_architecture(f"transformers:{checkpoint.path}"), []
    if arch is None:
        found = identify(checkpoint)
        note = f"taken for {found.architecture}; the same tensors fit {', '.join(map(str, found.others))}"
        return found.architecture, [note] if found.others else []
    if isinstance(arch, Architecture):
        return arch, []
    wanted = parse_architecture(arch)
    for one in candidates(checkpoint):
        for architecture in (one.architecture, *one.same):
            if str(architecture) == str(wanted):
                return architecture, []
    return _with_classes(wanted, checkpoint), []


def _with_classes(architecture: Architecture, checkpoint: Checkpoint) -> Architecture:
    """The architecture with ``num_classes`` of the file, where the number of classes is all that they differ in."""
    expected = {name: tuple(tensor.shape) for name, tensor in build(architecture, device="meta").state_dict().items()}
    shapes = shapes_of(_closest_view(checkpoint, expected))
    sizes = {
        sizes
        for name in expected.keys() & shapes.keys()
        for sizes in zip(expected[name], shapes[name], strict=False)
        if sizes[0] != sizes[1]
    }
    if len(sizes) != 1:
        return architecture
    ((_, classes),) = sizes
    resized = Architecture(architecture.source, architecture.name, {**architecture.kwargs, "num_classes": classes})
    try:
        build(resized, device="meta")
    except ModelError:
        return architecture  # it takes no number of classes; the report of the shapes says what is wrong
    return resized


def _closest_view(checkpoint: Checkpoint, names: Collection[str]) -> Checkpoint:
    return max(views(checkpoint), key=lambda view: len(view.tensors.keys() & set(names)))


def _fill(module: nn.Module, checkpoint: Checkpoint, architecture: Architecture) -> list[str]:
    """Copy every tensor of the file into the model; returns notes on what was cast.

    Raises:
        ModelError: Names or shapes differ; nothing has been copied then.
    """
    state = module.state_dict()
    view = _closest_view(checkpoint, state)
    _check(view, {name: tuple(tensor.shape) for name, tensor in state.items()}, architecture)
    cast = set()
    for name, tensor in state.items():
        if name not in view.tensors or tensor.is_meta:
            continue
        if tensor.is_floating_point() and view.tensors[name].dtype != "F32":
            cast.add(view.tensors[name].dtype)
        np.copyto(tensor.numpy(), view.read(name), casting="unsafe")
    return _cast_notes(cast)


def _cast_notes(dtypes: Iterable[str]) -> list[str]:
    return [f"weights stored as {dtype} were cast to float32" for dtype in sorted(dtypes)]


def _check(view: Checkpoint, expected: fingerprints.Shapes, architecture: Architecture) -> None:
    shapes = shapes_of(view)
    missing = [name for name in expected if name not in shapes and fingerprints.counts(name)]
    unexpected = [name for name in shapes if name not in expected and fingerprints.counts(name)]
    misshapen = [
        f"{name} is {_by(shapes[name])} instead of {_by(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    problems = []
    if missing:
        problems.append(f"it lacks {_some([_with_nearest(name, unexpected) for name in missing[:3]], len(missing))}")
    if unexpected:
        problems.append(f"it has {_some(unexpected[:3], len(unexpected))}, which the model has not")
    if misshapen:
        problems.append(_some(misshapen[:3], len(misshapen)))
    if problems:
        raise ModelError(
            f"{view.path} does not fit {architecture}: {'; '.join(problems)}",
            hint="pass another --arch",
            missing=missing,
            unexpected=unexpected,
        )


def _with_nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"{name} (nearest: {near[0]})" if near else name


def _some(shown: list[str], total: int) -> str:
    return ", ".join(shown) + (f" and {total - len(shown)} more" if total > len(shown) else "")


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a scalar"


def _versions(architecture: Architecture) -> dict[str, str]:
    """Versions of torch and of the package behind the architecture's source, if there is one."""
    return {package: version(package) for package in ("torch", source_of(architecture).PACKAGE) if package}
