"""Write ``sift_cli/models/fingerprints.json``, the table that recognises architectures from their tensors.

    python scripts/make_fingerprints.py [--only GLOB] [--output FILE]

Every architecture of every source is built on the meta device with two numbers of classes, and once without a
classifier where its source can. Architectures that share a layout are then compared in pairs: one gets the other's
weights, every one of them active (no zero-initialised branch, no identity norm), and both run the same image in
float64, where the graph is all that can differ: an epsilon of 1e-5 in place of 1e-6 shows at about 1e-6.

Needs torchvision and timm; takes about half an hour on one core and at most 8 GB. The output depends on their versions
alone, which are recorded in it.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import json
import math
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from torch.utils import _pytree

from sift_cli import registry
from sift_cli.core.files import atomic
from sift_cli.core.plan import Architecture
from sift_cli.errors import ModelError
from sift_cli.models import building
from sift_cli.models.fingerprints import SCHEMA, Axis, Layout, hash_names, hash_shapes

OUTPUT = Path(building.__file__).with_name("fingerprints.json")
#: Order of preference between models that compute the same function.
SOURCES = ("builtin", "torchvision", "timm")
#: Two numbers of classes that no layer has as its width.
CLASSES = (7, 11)
#: A pair of larger models would need more than 8 GB in float64; they stay a tie.
LARGEST = 450_000_000

Shapes = dict[str, tuple[int, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="*", metavar="GLOB", help="architectures to include, as source:name")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)

    members: dict[tuple[str, str, tuple[Axis, ...], bool], list[Architecture]] = {}
    for architecture in architectures(arguments.only):
        for key, member in layouts_of(architecture):
            members.setdefault(key, []).append(member)
    layouts = []
    for (names, shapes, classes, headless), found in sorted(members.items()):
        if headless and (names, shapes, (), False) in members:
            continue  # timm builds this one without its classifier, so there is a model for it
        found.sort(key=preference)
        layouts.append(Layout(names, shapes, classes, group(found, bool(classes)), headless))
    layouts.sort(key=lambda layout: (preference(layout.groups[0][0]), layout.shapes))
    write(layouts, arguments.output)


def architectures(only: str) -> Iterator[Architecture]:
    plugins = registry.discover("sift_cli.models.sources")
    for source in SOURCES:
        for name in sorted(plugins[source].names()):
            if fnmatch.fnmatch(f"{source}:{name}", only):
                for kwargs in plugins[source].variants(name):
                    yield Architecture(source, name, kwargs)


def layouts_of(architecture: Architecture) -> Iterator[tuple[tuple[str, str, tuple[Axis, ...], bool], Architecture]]:
    """The architecture's layout with a classifier, and without."""
    say(f"build {architecture}")
    first, second = (shapes_of(architecture, classes) for classes in CLASSES)
    classes = class_axes(first, second) if first and second else None
    if first is None or classes is None:
        say(f"left out: {architecture}")
        return
    yield (hash_names(first), hash_shapes(first, classes), classes, False), architecture
    if not classes:
        return
    head = {name for name, _ in classes}
    bare = shapes_of(architecture, 0) if architecture.source == "timm" else None
    if bare and not head & bare.keys():
        member = Architecture(architecture.source, architecture.name, {**architecture.kwargs, "num_classes": 0})
        yield (hash_names(bare), hash_shapes(bare), (), False), member
    else:
        bare = {name: shape for name, shape in first.items() if name not in head}
        yield (hash_names(bare), hash_shapes(bare), (), True), architecture


def shapes_of(architecture: Architecture, num_classes: int) -> Shapes | None:
    """Names and shapes of the model with that number of classes, or None where it does not build."""
    kwargs = {**architecture.kwargs, "num_classes": num_classes}
    try:
        model = building.build(Architecture(architecture.source, architecture.name, kwargs), device="meta")
    except ModelError as error:
        say(str(error))
        return None
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def class_axes(first: Shapes, second: Shapes) -> tuple[Axis, ...] | None:
    """Axes whose size is the number of classes: the ones in which models of 7 and of 11 classes differ.

    None where the layout depends on the number of classes in another way.
    """
    if first.keys() != second.keys():
        return None
    axes = []
    for name, shape in first.items():
        for axis, sizes in enumerate(zip(shape, second[name], strict=True)):
            if sizes == CLASSES:
                axes.append((name, axis))
            elif sizes[0] != sizes[1]:
                return None
    return tuple(axes)


def preference(architecture: Architecture) -> tuple[int, int, str, str]:
    """Sorts the plainest name of the preferred source first."""
    kwargs = json.dumps(dict(architecture.kwargs), sort_keys=True)
    return SOURCES.index(architecture.source), len(architecture.name), architecture.name, kwargs


def group(members: list[Architecture], has_classes: bool) -> tuple[tuple[Architecture, ...], ...]:
    """Split architectures of one layout into groups that compute the same function."""
    groups: list[list[Architecture]] = []
    for member in members:
        for others in groups:
            if same_function(others[0], member, has_classes):
                others.append(member)
                break
        else:
            groups.append([member])
    return tuple(tuple(members) for members in groups)


def same_function(a: Architecture, b: Architecture, has_classes: bool) -> bool:
    """Whether both give the same output, to 1e-9 of its scale in float64, for the same weights and image."""
    specs = building.input_specs(a)
    if specs != building.input_specs(b):
        return False
    if has_classes:
        a, b = (Architecture(m.source, m.name, {**m.kwargs, "num_classes": CLASSES[0]}) for m in (a, b))
    if sum(p.numel() for p in building.build(a, device="meta").parameters()) > LARGEST:
        say(f"too large to compare: {a}, {b}")
        return False
    (image,) = building.example_inputs(a)
    ours = building.build(a, seed=0).double()
    activate(ours)
    expected = run(ours, image.double())
    state = ours.state_dict()
    del ours
    theirs = building.build(b, seed=1).double()
    theirs.load_state_dict(state)
    del state
    got = run(theirs, image.double())
    del theirs
    gc.collect()
    error = max(relative(x, y) for x, y in zip(expected, got, strict=True)) if len(expected) == len(got) else math.inf
    say(f"{a} vs {b}: {error:.1e}")
    return error <= 1e-9


def activate(model: nn.Module) -> None:
    """Give every weight a part in the output, at a scale that neither explodes nor vanishes with depth."""
    generator = torch.Generator().manual_seed(0)
    buffers = {name for name, _ in model.named_buffers()}
    for name, tensor in model.state_dict().items():
        kind = name.rpartition(".")[2]
        if name in buffers and kind not in ("running_mean", "running_var"):
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim >= 2:
            tensor.copy_(noise / math.sqrt(tensor[0].numel()))
        elif kind in ("bias", "running_mean"):
            tensor.copy_(0.1 * noise)
        else:
            tensor.copy_(1 + 0.1 * noise.clamp(-3, 3))


def run(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(model(image)) if isinstance(leaf, torch.Tensor)]


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    if x.shape != y.shape or not x.isfinite().all() or not x.abs().max() > 0:
        return math.inf
    return float((x - y).abs().max() / x.abs().max())


def write(layouts: list[Layout], path: Path) -> None:
    """One layout a line, so that a diff shows what an upgrade of timm changed."""
    versions = {package: version(package).partition("+")[0] for package in ("timm", "torch", "torchvision")}
    head = json.dumps({"schema": SCHEMA, "versions": versions})
    lines = ",\n".join(json.dumps(layout.to_json(), separators=(",", ":")) for layout in layouts)
    with atomic(path, force=True) as temporary:
        temporary.write_text(f'{head[:-1]}, "layouts": [\n{lines}\n]}}\n')


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
