"""Make a model larger and sparse at the MACs it has, verify the file, and print the certificate.

Examples:

    sift transform resnet18.pt --kind wide --sparsity 0.9 -o r18w90.safetensors

    sift transform torchvision:resnet18 --sparsity 0.75 --dry-run

    sift transform resnet18.pt --sparsity 0.5 --init preserve --match layer
"""

from __future__ import annotations

from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from sift_cli import api, registry
from sift_cli.commands import _output
from sift_cli.commands._ask import choosing
from sift_cli.commands._options import AllowPickle, Arch, Force, InputArrays, InputShape, Seed, Source, Sparsity
from sift_cli.core.plan import PlannedLayer, TransformPlan

#: The choices are the files of the folder.
Kind: Any = StrEnum("Kind", [(n, n) for n in registry.names("sift_cli.transforms")])  # type: ignore[misc]
WIDE = Kind("wide")
_DISTRIBUTIONS = registry.names("sift_cli.sparsity.distributions")
Distribution: Any = StrEnum("Distribution", [(n, n) for n in _DISTRIBUTIONS])  # type: ignore[misc]


class Match(StrEnum):
    model = "model"
    layer = "layer"


class Init(StrEnum):
    scratch = "scratch"
    preserve = "preserve"


class Nonlinearity(StrEnum):
    none = "none"
    act = "act"
    norm = "norm"
    norm_act = "norm-act"


class Compat(StrEnum):
    released = "released"


def _factor(text: str | Fraction) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is no number; write it as 2, 1.5 or 3/2") from None


def command(
    model: Source,
    sparsity: Sparsity = None,
    kind: Annotated[Kind, typer.Option(help="The member of the family.")] = WIDE,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write, for a folder a folder; by default MODEL-KIND-SPARSITY."),
    ] = None,
    match: Annotated[
        Match | None,
        typer.Option(help="Keep the MACs of the whole model, or of each sparse layer (default for models of tokens)."),
    ] = None,
    init: Annotated[
        Init, typer.Option(help="Draw new weights, or keep the function of the given ones.")
    ] = Init.scratch,
    multiple: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Round widths to a multiple, for hardware.")
    ] = None,
    layer_width: Annotated[
        list[str] | None, typer.Option(metavar="GLOB=WIDTH", help="A given output width for some layers.")
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Leave widths as they are that the model's code has as a number.")
    ] = False,
    allow_approximate: Annotated[
        bool,
        typer.Option("--allow-approximate", help="Let --init preserve be inexact (LayerNorm), and say by how much."),
    ] = False,
    nonlinearity: Annotated[
        Nonlinearity | None,
        typer.Option(
            help="What follows each branch of a replaced layer; by default norm-act in convolutions, else act."
        ),
    ] = None,
    width: Annotated[
        Fraction | None,
        typer.Option(parser=_factor, metavar="K", help="Width factor of lowrank, by default that of wide."),
    ] = None,
    snap: Annotated[
        bool, typer.Option("--snap", help="Take the nearest sparsity that has a whole number of parallel branches.")
    ] = False,
    compat: Annotated[
        Compat | None, typer.Option(help="Count as the official code does, which is not quite iso-FLOP.")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="Where kept weights may lie: unstructured (default), 2:4, 1:8, 2:8T (both ways), block4x4."),
    ] = None,
    layer_pattern: Annotated[
        list[str] | None, typer.Option(metavar="GLOB=PATTERN", help="Another pattern for some layers.")
    ] = None,
    distribution: Annotated[
        Distribution | None, typer.Option(help="How dense layers are relative to each other; by default all the same.")
    ] = None,
    layer_sparsity: Annotated[
        list[str] | None, typer.Option(metavar="GLOB=S", help="A given sparsity for some layers; others take it up.")
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="random|topk|FILE", help="Keep random weights (default), the largest, or those of a file's masks."
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only these layers become sparse, or are replaced.")
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="These layers stay dense.")] = None,
    seed: Seed = 0,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Carry out this plan, as --dry-run --json prints it.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Decide and print the plan; read and write no weight.")
    ] = False,
    sparsity_config: Annotated[Path | None, typer.Option(hidden=True)] = None,
    arch: Arch = None,
    input_shape: InputShape = None,
    input_npz: InputArrays = None,
    allow_pickle: AllowPickle = False,
    force: Force = False,
) -> None:
    if sparsity_config is not None:
        raise typer.BadParameter(
            "these settings are of a training: sift train RECIPE --sparsity-config FILE, or sift_cli.SparsityConfig",
            param_hint="--sparsity-config",
        )
    if (sparsity is None) == (plan is None):
        raise typer.BadParameter("give either --sparsity or --plan", param_hint="--sparsity")
    asked = {
        "match": match, "init": init if init is not Init.scratch else None, "multiple": multiple,
        "layer_width": tuple(layer_width or ()) or None, "allow_partial": allow_partial or None,
        "allow_approximate": allow_approximate or None,
        "nonlinearity": nonlinearity, "width": width, "snap": snap or None, "compat": compat,
        "pattern": pattern, "layer_pattern": tuple(layer_pattern or ()) or None, "distribution": distribution,
        "layer_sparsity": tuple(layer_sparsity or ()) or None,
        "only": tuple(only or ()) or None, "keep": tuple(keep or ()) or None,
    }  # fmt: skip
    options: dict[str, Any] = {
        name: value.value if isinstance(value, StrEnum) else value for name, value in asked.items() if value is not None
    }
    # A plan names no file, so one that takes masks from a file is given that file again.
    if plan is not None and (options or seed or mask in ("random", "topk")):
        raise typer.BadParameter("a plan is complete; options cannot be added to it", param_hint="--plan")
    decided = api.read_plan(plan) if plan is not None else None
    options |= {"kind": kind.value, "sparsity": sparsity}
    masks = {"mask": mask} if mask else {}
    loading = {
        "arch": arch, "allow_pickle": allow_pickle, "input_shape": input_shape, "input_arrays": input_npz, "seed": seed,
    }  # fmt: skip
    if dry_run:
        if decided is not None:
            api.try_plan(decided, model, **loading)
        else:
            decided = choosing(f"planning {model}", api.plan, model, **loading, **options, **masks)
        _output.data(decided.to_json()) if _output.wants_json() else _print_plan(decided)
        return
    if output is None:
        named, share = (decided.kind, decided.sparsity) if decided is not None else (kind.value, sparsity)
        suffix = "" if Path(model).is_dir() else ".safetensors"
        output = Path(f"{_stem(model)}-{named}-{float(Fraction(share or 0)):g}{suffix}")
    written = choosing(
        f"transforming {model}",
        api.transform, model, output=output, decided=decided, force=force, **loading, **masks,
        **({} if decided is not None else options),
    )  # fmt: skip
    carried_out = written.plan
    assert carried_out is not None
    if not _output.wants_json():
        _summary(carried_out)
    _output.written(
        "transform", written, solved_sparsity=carried_out.solved_sparsity, notes=list(carried_out.notes),
        macs={"before": carried_out.macs_before, "after": carried_out.macs_after},
    )  # fmt: skip


def _print_plan(plan: TransformPlan) -> None:
    _output.table(
        f"{plan.kind} {plan.architecture} at sparsity {plan.sparsity}",
        ["layer", "role", "weights", "after", "kept", "density", "MACs", "after"],
        (
            (x.name, x.role, x.numel_before, x.numel_after, x.nonzero_after, _density(x), x.macs_before, x.macs_after)
            for x in plan.layers
        ),
        left=2,
    )
    _summary(plan)


def _density(layer: PlannedLayer) -> str:
    return f"{layer.density:.4f}"


def _summary(plan: TransformPlan) -> None:
    solved = plan.solved_sparsity
    _output.text(
        f"{plan.architecture}: {plan.macs_before:,} MACs ({2 * plan.macs_before:,} FLOPs) before, "
        f"{plan.macs_after:,} MACs ({2 * plan.macs_after:,} FLOPs) after"
        + (f"; nominal sparsity {plan.sparsity}, solved {solved:.5f}" if solved is not None else "")
    )
    for note in plan.notes:
        _output.note(f"note: {note}")
    if plan.architecture.callable:
        _output.note(
            f"note: commands that build the model from the file need --arch {plan.architecture.callable} again"
        )


def _stem(model: str) -> str:
    path = Path(model)
    if path.exists():
        return path.stem if path.is_file() else path.resolve().name
    return model.rpartition(":")[2].strip("/").replace("/", "-")
