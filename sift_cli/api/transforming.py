"""Plans, and what they make of a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sift_cli.api._written import Written
from sift_cli.core.plan import Architecture, InputSpec, TransformPlan
from sift_cli.core.sparsity import parse_sparsity
from sift_cli.errors import PlanError

if TYPE_CHECKING:
    import numpy as np

    from sift_cli.models import LoadedModel
    from sift_cli.surgery.given import GivenMasks


def plan(
    source: str | Path | LoadedModel,
    *,
    kind: str = "wide",
    sparsity: str | float | Fraction,
    mask: str | Path = "random",
    seed: int = 0,
    arch: str | None = None,
    allow_pickle: bool = False,
    input_shape: tuple[int, ...] | None = None,
    input_arrays: Mapping[str, np.ndarray] | None = None,
    **options: Any,
) -> TransformPlan:
    """Decide a transform without reading a weight: the dry run.

    Args:
        source: Checkpoint file, architecture such as ``torchvision:resnet18``, or a loaded model.
        kind: The transform.
        sparsity: Nominal sparsity in [0, 1); a string is read exactly.
        mask: "random", "topk" (the largest weights after initialisation), or a file to take masks from: an artifact, or
            a checkpoint in which they are tensors of bools or zeros of the weights.
        seed: Seed of masks and weights.
        arch, allow_pickle, input_shape, input_arrays: See :func:`sift_cli.models.load`.
        options: The other attributes of :class:`sift_cli.transforms.TransformOptions`.

    Raises:
        PlanError: The transform does not exist on this model.
    """
    from sift_cli.surgery.given import bind
    from sift_cli.transforms import TransformOptions, decide

    given = _given(mask)
    options |= {"mask": "file" if given is not None else mask}
    asked = TransformOptions(parse_sparsity(sparsity), seed=seed, **options)
    if isinstance(source, str | Path):
        from sift_cli.models import load as load_model

        source = load_model(
            source, arch=arch, allow_pickle=allow_pickle, seed=seed, weights=False,
            input_shape=input_shape, input_arrays=input_arrays,
        )  # fmt: skip
    decided = decide(kind, source, asked)
    return decided if given is None else bind(decided, given)


def try_plan(decided: TransformPlan, source: str | Path, **loading: Any) -> TransformPlan:
    """Carry out a plan on meta tensors: the dry run of a plan that was decided before.

    Raises:
        PlanError: It is for another model.
    """
    from sift_cli import surgery
    from sift_cli.models import load as load_model

    model = load_model(source, weights=False, **loading)
    _check_plan(decided, model)
    surgery.apply(model.module, decided)
    return decided


def read_plan(path: str | Path) -> TransformPlan:
    """A plan from a JSON file.

    Raises:
        PlanError: The file is missing or is no plan.
    """
    try:
        return TransformPlan.from_json(json.loads(Path(path).read_text()))
    except OSError as error:
        raise PlanError(f"cannot read the plan {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path} is not a plan: {error}", hint="make one with --dry-run --json") from None


def transform(
    source: str | Path,
    output: str | Path,
    *,
    decided: TransformPlan | None = None,
    force: bool = False,
    arch: str | None = None,
    allow_pickle: bool = False,
    input_shape: tuple[int, ...] | None = None,
    input_arrays: Mapping[str, np.ndarray] | None = None,
    mask: str | Path = "random",
    seed: int = 0,
    **options: Any,
) -> Written:
    """Transform a model, write it, read it back and measure everything that was promised.

    Args:
        source: Checkpoint file or folder, or an architecture to start from with seeded weights.
        output: The artifact to write, one safetensors file; a name without its suffix is a folder for
            ``from_pretrained`` where ``source`` is a folder or a model of transformers.
        decided: Carry out this plan instead of deciding one.
        force: Replace a file that exists.
        arch, allow_pickle, input_shape, input_arrays: See :func:`sift_cli.models.load`.
        mask: As in :func:`plan`; beside ``decided``, the file that plan takes its masks from.
        seed: Seed of weights and masks.
        options: The other arguments of :func:`plan`.

    Raises:
        PlanError: The transform does not exist on this model, or ``decided`` is for another model.
        VerificationFailed: A promise does not hold on the file; there is no file then.
        OutputError: The file cannot be written.
    """
    from sift_cli import models, surgery
    from sift_cli.export import artifact, publishing
    from sift_cli.verify import Evidence, certify

    output = Path(output)
    folder = publishing.is_folder(output, source)
    with publishing.published(output, folder=folder, force=force) as temporary:
        if decided is not None:
            seed = int(decided.options["seed"])
        model = models.load(
            source, arch=arch, allow_pickle=allow_pickle, seed=seed, input_shape=input_shape, input_arrays=input_arrays
        )
        if decided is None:
            decided = plan(model, mask=mask, seed=seed, **options)
        elif options or mask == "topk":
            added = ", ".join(options or ("mask",))
            raise PlanError(f"a plan is complete, {added} cannot be added to it", hint="decide a new plan")
        else:
            _check_plan(decided, model)
        if folder:
            artifact.check_folder(decided)
        written = surgery.transform(model, decided, _given(mask))
        artifact.save(written, temporary, companions=publishing.companions_of(source))
        read = artifact.load(temporary, arch=decided.architecture.callable)
        certificate = certify(Evidence(model, written, read))
        artifact.add_certificate(temporary, certificate)
    return Written(output, certificate, decided)


def _given(mask: str | Path) -> GivenMasks | None:
    """The masks of a file; None for a rule."""
    from sift_cli.surgery.given import GivenMasks

    return None if mask in ("random", "topk") else GivenMasks(mask)


def _check_plan(decided: TransformPlan, model: LoadedModel) -> None:
    from sift_cli.transforms import kinds

    if decided.kind not in kinds():
        raise PlanError(f"the plan is of a transform {decided.kind!r}", hint=f"choose one of: {', '.join(kinds())}")
    planned = _described(decided.architecture, decided.inputs)
    given = _described(model.architecture, model.specs)
    if planned != given:
        raise PlanError(f"the plan is for {planned}, and the model is {given}", hint="decide a plan for this model")


def _described(architecture: Architecture, inputs: tuple[InputSpec, ...]) -> str:
    arguments = ", ".join(f"{key}={_short(value)}" for key, value in sorted(architecture.kwargs.items()))
    shapes = (f"{spec.name or ''} {'x'.join(map(str, spec.shape))}".strip() for spec in inputs)
    return f"{architecture}({arguments}) at {' and '.join(shapes)}"


def _short(value: object) -> str:
    """A configuration by its digest: two that differ have to differ in a message too."""
    if not isinstance(value, Mapping):
        return str(value)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
