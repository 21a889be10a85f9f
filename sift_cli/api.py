"""What the command line does, as functions. Each command is one call of one of these."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sift_cli.core.certificate import Certificate
from sift_cli.core.counts import FlopReport
from sift_cli.core.files import atomic
from sift_cli.core.plan import Architecture, InputSpec, TransformPlan
from sift_cli.core.sparsity import parse_sparsity
from sift_cli.errors import ConfigError, ExportError, Malformed, ModelError, PlanError, Unreadable, VerificationFailed

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from sift_cli.analysis import AnalysisReport
    from sift_cli.analysis.difference import Difference, Side
    from sift_cli.budgets import CheckReport
    from sift_cli.checkpoint.report import InspectReport
    from sift_cli.conversion import Converted
    from sift_cli.conversion import Progress as Converting
    from sift_cli.core.half import Storage
    from sift_cli.export.torch_file import Optimizer
    from sift_cli.flops.training import TrainingReport
    from sift_cli.models import LoadedModel
    from sift_cli.runtime import KernelReport
    from sift_cli.runtime.bench import BenchReport, Peer
    from sift_cli.runtime.peers import OnnxRuntime
    from sift_cli.surgery import TransformedModel
    from sift_cli.surgery.given import GivenMasks
    from sift_cli.training.recipes.data import Data
    from sift_cli.training.recipes.loop import Progress
    from sift_cli.training.recipes.recipe import Recipe
    from sift_cli.verify.tuning import TunedLayer, Tuning

ExportFormat = Literal["onnx", "safetensors", "folder"]
Convention = Literal["macs", "official", "paper-gpt"]


@dataclass(frozen=True)
class Written:
    """A file or folder that was written, verified and read back.

    Attributes:
        path: The file or folder.
        certificate: What was measured on it.
        plan: The plan of the model in it, or None for a model that was not transformed.
        tuned: What was measured of its sparse layers, where that was asked for.
    """

    path: Path
    certificate: Certificate
    plan: TransformPlan | None
    tuned: tuple[TunedLayer, ...] = ()

    @property
    def bytes(self) -> int:
        files = self.path.iterdir() if self.path.is_dir() else (self.path,)
        return sum(file.stat().st_size for file in files)


def load(path: str | Path, *, arch: str | None = None, allow_pickle: bool = False) -> nn.Module:
    """A model from a file: one that sift wrote, with its masks attached, or any checkpoint whose architecture is known.

    Args:
        path: Artifact, state_dict, safetensors, TorchScript, ….
        arch: Architecture of a plain checkpoint; for an artifact, the user's own callable it was made from.
        allow_pickle: Load pickles that run code.

    Raises:
        CheckpointError, ModelError: It cannot be read, or no model can be made of it.
    """
    return _open(path, arch=arch, allow_pickle=allow_pickle).module


def inspect(path: str | Path, *, nonzeros: bool | None = None, allow_pickle: bool = False) -> InspectReport:
    """What is in a file: tensors, shapes, sparsity, masks, architecture, plan and certificate.

    Args:
        path: Any checkpoint or ONNX model.
        nonzeros: Count the zeros of dense tensors, which reads all of them; None counts in files of at most 512 MB.
        allow_pickle: Load pickles that run code.

    Raises:
        CheckpointError: It cannot be read.
    """
    from sift_cli.checkpoint import open_checkpoint, report
    from sift_cli.models import architecture_of
    from sift_cli.models.loading import configured_architecture

    found = report.inspect(Path(path), nonzeros=nonzeros, allow_pickle=allow_pickle)
    if found.architecture is None and found.format != "onnx":
        with open_checkpoint(Path(path), allow_pickle=allow_pickle) as checkpoint:
            found = replace(found, architecture=architecture_of(checkpoint) or configured_architecture(checkpoint.path))
    return found


def analyze(
    paths: Sequence[str | Path], *, inputs_first: Sequence[str] = (), allow_pickle: bool = False
) -> AnalysisReport:
    """Masks as graphs: Ramanujan gaps and weighted spectral gaps, and what changed from one checkpoint to the next.

    Args:
        paths, inputs_first, allow_pickle: See :func:`sift_cli.analysis.analyze`.

    Raises:
        CheckpointError: One of the files cannot be read.
        ModelError: Nothing is sparse in them, or they are not of one model.
    """
    from sift_cli.analysis import analyze as of_series

    return of_series(paths, inputs_first=inputs_first, allow_pickle=allow_pickle)


def diff(
    before: str | Path,
    after: str | Path,
    *,
    count: bool | None = None,
    arch: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    allow_pickle: bool = False,
) -> Difference:
    """What differs between two files, tensor by tensor and to the bit.

    Args:
        before, after: Any two files or folders that sift reads, of two formats too.
        count: Count what both cost, which loads a model; None counts where both have at most 512 MB.
        arch, input_shape: For that, as in :func:`flops`.
        allow_pickle: Load pickles that run code.

    Raises:
        CheckpointError: One of them cannot be read.
    """
    from sift_cli.analysis.difference import compare
    from sift_cli.checkpoint.report import COUNT_LIMIT

    found = compare(Path(before), Path(after), allow_pickle=allow_pickle)
    wanted = count if count is not None else max(found.before.size, found.after.size) <= COUNT_LIMIT

    def counted(side: Side) -> Side:
        if not wanted:
            return replace(side, uncounted="it was not asked for" if count is False else "the files are large")
        try:
            report = flops(side.path, arch=arch, input_shape=input_shape, allow_pickle=allow_pickle)
        except (ModelError, VerificationFailed) as error:
            return replace(side, uncounted=error.message)
        return replace(side, flops=report)

    return replace(found, before=counted(found.before), after=counted(found.after))


def check(
    paths: Sequence[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    baseline: str | Path | None = None,
    update_baseline: bool = False,
    allow_pickle: bool = False,
) -> CheckReport:
    """Hold files to their budgets: size, FLOPs, sparsity, the cost or the outputs of another file, saved figures.

    Args:
        paths: Files and globs; without any, those of the configuration.
        options: Budgets for all of them, by the keys of a configuration ("max-size"), which they win over.
        config: ``sift.toml`` or ``pyproject.toml``; None takes the nearest one from here upwards.
        baseline: File of saved figures; None takes the configuration's.
        update_baseline: Save the figures there instead of comparing with it.
        allow_pickle: Load pickles that run code.

    Raises:
        ConfigError: The configuration, an option or the baseline is wrong, or there is nothing to check.
        OutputError: The baseline cannot be written.
    """
    from sift_cli.budgets import budget
    from sift_cli.budgets import config as configs
    from sift_cli.budgets.run import run as check_all
    from sift_cli.budgets.select import select

    def count(source: str, how: budget.Budget) -> FlopReport:
        arch = how.arch if Path(source).exists() else None
        return flops(source, arch=arch, input_shape=how.input, dims=how.dims or None, allow_pickle=allow_pickle)

    found = configs.find(Path()) if config is None else configs.load(Path(config))
    saved = found.baseline if baseline is None else Path(baseline)
    if update_baseline and saved is None:
        raise ConfigError("there is no baseline to update", hint="name one: --baseline sift-baseline.json")
    selected = select(paths, found, budget.read(options or {}, Path(), ""))
    return check_all(
        selected, count, config=found.path, baseline=saved, update=update_baseline,
        all_selected=not paths, allow_pickle=allow_pickle,
    )  # fmt: skip


def flops(
    source: str | Path,
    *,
    count: Convention = "macs",
    counter: Literal["fvcore", "dispatch"] = "fvcore",
    arch: str | None = None,
    allow_pickle: bool = False,
    input_shape: tuple[int, ...] | None = None,
    input_arrays: Mapping[str, np.ndarray] | None = None,
    dims: Mapping[str, int] | None = None,
) -> FlopReport:
    """MACs of a model for one forward pass of one sample, dense and by nonzeros.

    Args:
        source: ONNX file, artifact, checkpoint, or an architecture such as ``torchvision:resnet18``.
        count: "macs" counts convolutions, linear layers and attention products; "official" follows the profiler of the
            Sparse-IFT authors; "paper-gpt" is the paper's formula for a training step of a GPT on one sequence.
        counter: What counts a torch model. "fvcore" is checked against "dispatch".
        arch, allow_pickle: As in :func:`load`.
        input_shape, input_arrays: Example inputs, see :func:`sift_cli.models.load`.
        dims: Sizes of an ONNX model's symbolic dimensions other than the batch.

    Raises:
        CheckpointError, ModelError: It cannot be read or traced.
        VerificationFailed: The two counters disagree.
    """
    from sift_cli.flops import count_official, count_onnx, count_paper_gpt, cross_check

    if _is_onnx(source):
        if count != "macs":
            raise ModelError(
                f"--count {count} is defined for torch models", hint="give the checkpoint, not the ONNX file"
            )
        return count_onnx(Path(source), dims=dims)
    model = _open(source, arch=arch, allow_pickle=allow_pickle, input_shape=input_shape, input_arrays=input_arrays)
    nonzero = _kept(model, Path(source))
    if count == "official":
        return count_official(model.module, model.inputs, nonzero=nonzero or {})
    by_fvcore, by_dispatch = cross_check(model.module, model.inputs, nonzero=nonzero)
    report = by_fvcore if counter == "fvcore" else by_dispatch
    return count_paper_gpt(model.module, report) if count == "paper-gpt" else report


def training_flops(
    source: str | Path,
    *,
    interval: int = 100,
    window: Fraction = Fraction(3, 4),
    input_shape: tuple[int, ...] | None = None,
    input_arrays: Mapping[str, np.ndarray] | None = None,
    **counting: Any,
) -> TrainingReport:
    """FLOPs of a training step on one sample, for each way to train a sparse model.

    Args:
        source: As in :func:`flops`. A transformed model is compared with the dense one before the transform, any other
            with itself without its zeros.
        interval: Steps between two updates of the masks.
        window: Share of the steps in which there are updates.
        input_shape, input_arrays, counting: The other arguments of :func:`flops`.

    Raises:
        CheckpointError, ModelError, VerificationFailed: As :func:`flops`.
    """
    from sift_cli.checkpoint import open_checkpoint
    from sift_cli.export import manifest
    from sift_cli.flops.training import training_flops as by_method

    original = None
    if Path(source).is_file():
        with open_checkpoint(Path(source), allow_pickle=counting.get("allow_pickle", False)) as checkpoint:
            if manifest.is_artifact(checkpoint.metadata):
                original = 2 * manifest.loads(checkpoint.metadata, Path(source)).plan.macs_before
    if original is not None and (input_shape or input_arrays or counting.get("dims")):
        raise ModelError(
            "the dense model of an artifact is counted at the input of its plan only",
            hint="leave out --input, --input-npz and --dim",
        )
    report = flops(source, input_shape=input_shape, input_arrays=input_arrays, **counting)
    return by_method(2 * report.dense, 2 * report.sparse, original=original, interval=interval, window=window)


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


def export(
    source: str | Path,
    output: str | Path,
    *,
    format: ExportFormat | None = None,
    opset: int | None = None,
    dtype: Storage = "fp32",
    force: bool = False,
    arch: str | None = None,
    allow_pickle: bool = False,
    input_shape: tuple[int, ...] | None = None,
    input_arrays: Mapping[str, np.ndarray] | None = None,
    min_sparsity: str | float | Fraction | None = None,
    tune: bool = False,
    threads: int | None = None,
) -> Written:
    """Write a model as ONNX, with sift's operators for masked layers, or as a safetensors artifact.

    Args:
        source: Artifact; for ONNX any checkpoint, architecture or pruned ONNX model too.
        output: The file to write.
        format: "onnx", "safetensors", or "folder" for what ``from_pretrained`` loads; None takes it from the suffix of
            ``output``, and is a folder where ``source`` is one.
        opset: Version of the standard ONNX operators; None for the newest that all supported onnxruntimes load.
        dtype: What weights are stored as, to be computed with in float32; the certificate has the error of "fp16" or
            "bf16". Biases and norms stay float32.
        force, arch, allow_pickle, input_shape, input_arrays: As in :func:`transform`.
        min_sparsity: Share of zeros from which on a layer gets a sparse operator in ONNX, in [0, 1); None where sift
            decides layer by layer.
        tune: Measure on this machine which layers are faster dense, and which plan is the fastest for each of the
            others, at the size of the input.
        threads: Threads within an operator to tune for; None for one a core.

    Raises:
        ExportError: The model cannot be written in this format, or a weight is beyond the range of ``dtype``.
        RuntimeUnavailable: There is no library to tune for.
        VerificationFailed: The file computes something else than the model; there is no file then.
    """
    from sift_cli.export import publishing
    from sift_cli.export.onnx import OPSET

    output = Path(output)
    format = format or ("folder" if publishing.is_folder(output, source) else _format_of(output))
    if format != "onnx" and opset is not None:
        raise ExportError("--opset is for --format onnx")
    if format != "onnx" and (min_sparsity is not None or tune):
        raise ExportError("--min-sparsity and --tune are for --format onnx")
    if threads is not None and not tune:
        raise ExportError("--threads is for --tune")
    if format == "folder" and dtype != "fp32":
        raise ExportError("--dtype is for a file; a folder is the library's, and float32")
    with publishing.published(output, folder=format == "folder", force=force) as temporary:
        least = None if min_sparsity is None else float(parse_sparsity(min_sparsity))
        tuning = _tuning(threads, least) if tune else None
        if format == "onnx" and _is_onnx(source):
            if opset is not None or arch is not None:
                raise ExportError(f"{source} is an ONNX graph, which keeps its opset and architecture")
            from sift_cli.verify.pruned_onnx import write_pruned

            certificate = write_pruned(
                Path(source), temporary, least=least, tuning=tuning, dtype=dtype, input_shape=input_shape,
                input_arrays=input_arrays,
            )  # fmt: skip
            return Written(output, certificate, None, tuning.layers if tuning else ())
        model = _open(source, arch=arch, allow_pickle=allow_pickle, input_shape=input_shape, input_arrays=input_arrays)
        if format == "onnx":
            from sift_cli.verify.onnx_export import write_onnx

            certificate = write_onnx(model, temporary, opset=opset or OPSET, dtype=dtype, least=least, tuning=tuning)
        else:
            model = _artifact(model, source)
            certificate = _rewrite(model, temporary, publishing.companions_of(source), dtype)
        return Written(output, certificate, getattr(model, "plan", None), tuning.layers if tuning else ())


def _tuning(threads: int | None, least: float | None) -> Tuning:
    from sift_cli.runtime import library_path
    from sift_cli.verify.tuning import Tuning

    library_path()  # without it there is nothing to measure
    return Tuning(threads=threads, least=least)


def densify(
    source: str | Path,
    output: str | Path,
    *,
    revive: str = "zero",
    seed: int = 0,
    optimizer: Optimizer = "reset",
    force: bool = False,
    arch: str | None = None,
    allow_pickle: bool = False,
) -> Written:
    """Drop the masks of a model and keep the zeros: a plain dense model, ready for dense fine-tuning.

    What a mask kept is identical to the bit. A file or folder is rewritten one tensor at a time and needs no
    architecture. Only an artifact that becomes something else, a bare state_dict or of a folder a file, is loaded as a
    model, which has the names for it.

    Args:
        source: Artifact; or a checkpoint or folder of transformers with masks of :mod:`sift_cli.checkpoint.sidebands`.
        output: ``.safetensors``, whose metadata tell what it was; ``.pt``, in the structure of a ``.pt`` that it comes
            from, else a bare state_dict; without a suffix a folder, if ``source`` is one.
        revive: What weights begin with that no mask kept: "zero", "normal" or "normal(STD)".
        seed: Seed of such a draw.
        optimizer: "reset" empties the state of an optimizer in a ``.pt``; "carry" keeps it, 0 at the weights that come
            back.
        force: Replace the output if it exists.
        arch, allow_pickle: As in :func:`load`.

    Raises:
        ModelError: ``source`` has no masks, or its optimizer's state cannot be carried.
        CheckpointError: It cannot be read, or its masks are none.
        VerificationFailed: Something that was kept differs in what was read back; there is no output then.
    """
    from sift_cli.checkpoint import open_checkpoint
    from sift_cli.checkpoint.dense import DenseView
    from sift_cli.checkpoint.folder import digest
    from sift_cli.core.revival import Revival
    from sift_cli.export import artifact, manifest, publishing
    from sift_cli.verify.densified import write_densified
    from sift_cli.verify.rewritten import certify_rewritten

    source, output = Path(source), Path(output)
    revival = Revival.parse(revive, seed)
    folder = publishing.is_folder(output, source)
    by_torch = not folder and output.suffix != ".safetensors"
    if by_torch and output.suffix not in (".pt", ".pth", ".bin"):
        raise ExportError(
            f"{output} is neither .safetensors nor .pt", hint="name the output by the format it is to have"
        )
    if optimizer == "carry" and not by_torch:
        raise ExportError(f"{output} has no place for the state of an optimizer", hint="name a .pt file")
    with publishing.published(output, folder=folder, force=force) as temporary:
        with open_checkpoint(source, allow_pickle=allow_pickle) as checkpoint:
            ours = manifest.is_artifact(checkpoint.metadata)
            if checkpoint.format == "onnx":
                raise ModelError(
                    f"{source} is an ONNX graph, which has no parameters to train",
                    hint=f"give the {'artifact' if ours else 'checkpoint'} that it was exported from",
                )
            plan = manifest.loads(checkpoint.metadata, source).plan if ours else None
            alike = source.is_dir() == folder and not by_torch
            # A folder may call its tensors otherwise than the model does that its masks are for; low rank has none.
            if plan is None or (alike and plan.masked and plan.masked.keys() <= checkpoint.tensors.keys()):
                view = DenseView(checkpoint, revival)
                if plan is not None and plan.masked != {name: one.kept for name, one in view.masked.items()}:
                    raise Malformed(source, "its masks", "they keep other weights than its plan says")
                certificate = write_densified(
                    view, temporary, by_torch=by_torch, optimizer=optimizer, allow_pickle=allow_pickle
                )
                return Written(output, certificate, plan)
        if optimizer == "carry":
            raise ModelError(f"{source} has no state of an optimizer to carry", hint="leave out --optimizer carry")
        model = _artifact(_open(source, arch=arch), source)
        about = {"source": source.name, "sha256": digest(source), **revival.about()}
        dense = artifact.densified(model, revival, about)
        if by_torch:
            artifact.save_state_dict(dense, temporary)
            certificate = certify_rewritten(dense, artifact.load_state_dict(temporary, dense.plan), {})
        else:
            artifact.save(dense, temporary, companions=publishing.companions_of(source))
            read = artifact.load(temporary, arch=dense.plan.architecture.callable)
            certificate = certify_rewritten(dense, read.module, read.masks)
        if revival.std is not None:  # it computes what the model with masks did not
            certificate = Certificate(tuple(claim for claim in certificate.claims if claim.name != "same_function"))
        if not by_torch:
            artifact.add_certificate(temporary, certificate)
        return Written(output, certificate, dense.plan)


def convert(
    source: str | Path,
    output: str | Path,
    *,
    to: str | None = None,
    dtype: Storage | None = None,
    rename: Sequence[tuple[str, str]] = (),
    shard_size: int | str | None = None,
    min_sparsity: str | Fraction | float | None = None,
    pruned_nan: bool = False,
    jobs: int | None = None,
    verify: bool = True,
    force: bool = False,
    allow_pickle: bool = False,
    progress: Converting | None = None,
) -> Converted:
    """Write the tensors and masks of a file or folder as another kind of file; no number changes, unless by ``dtype``.

    Args:
        source: Any checkpoint that sift reads.
        output: ``.safetensors``, ``.pt``, ``.npz``; without a suffix a folder of safetensors files; ``.onnx`` from an
            ONNX model.
        to: How weights with a mask are stored, a plug-in of :mod:`sift_cli.conversion.encodings`; by default what fits
            the output.
        dtype: What floating-point tensors become.
        rename: Regular expressions and their replacements, applied to the name of each tensor in turn.
        shard_size: Bytes that a file of a folder may have, as "5 GB".
        min_sparsity: Share of zeros from which on a matrix without a mask gets one of its zeros. By default it gets one
            where that makes the file smaller.
        pruned_nan: NaN in a matrix stands for a pruned weight, as in Cerebras' checkpoints before release 2.
        jobs: Threads; by default one a core.
        verify: Read everything back, and compare it.
        force: Replace the output if it exists.
        allow_pickle: Load pickles that run code.
        progress: Told how far it is.

    Raises:
        CheckpointError: ``source`` cannot be read.
        ExportError: The output cannot hold it.
        VerificationFailed: What was read back differs; there is no output then.
    """
    from sift_cli import conversion
    from sift_cli.budgets.units import parse_bytes
    from sift_cli.conversion import containers, model
    from sift_cli.conversion.options import SHARD_SIZE

    source, output = Path(source), Path(output)
    least = None if min_sparsity is None else float(parse_sparsity(min_sparsity))
    if output.suffix.lower() == model.SUFFIX:
        if rename or pruned_nan or shard_size is not None:
            raise ExportError(
                f"{output} is a graph, whose tensors keep their names and lie in one file",
                hint="leave out --rename, --shard-size and --pruned-nan",
            )
        return model.convert_model(source, output, to or "sift", dtype=dtype, least=least, verify=verify, force=force)
    container = containers.of(output)
    options = conversion.Options(
        to.replace("-", "_") if to else containers.get(container).ENCODING,
        container,
        dtype=dtype,
        rename=tuple(rename),
        shard_size=SHARD_SIZE if shard_size is None else parse_bytes(shard_size, "--shard-size"),
        min_sparsity=least,
        pruned_nan=pruned_nan,
    )
    return conversion.convert(
        source, output, options, jobs=jobs or os.cpu_count() or 1, verify=verify, force=force,
        allow_pickle=allow_pickle, progress=progress or (lambda *_: None),
    )  # fmt: skip


def save(
    model: nn.Module, output: str | Path, *, like: str | Path, force: bool = False, arch: str | None = None
) -> Written:
    """Write a model after its training as an artifact: its weights and its masks as they are now, measured again.

    Args:
        model: A model from :func:`load`, trained; it may be compiled or in DistributedDataParallel.
        output: The artifact to write, a file or a folder as in :func:`transform`.
        like: The artifact that it was loaded from, which has its architecture and its plan.
        force: Replace a file that exists.
        arch: As in :func:`load`.

    Raises:
        ModelError: ``like`` is no artifact or one of another model, or the masks keep another number of weights now.
        VerificationFailed: A promise of the plan does not hold any more; there is no file then.
        OutputError: The file cannot be written.
    """
    from sift_cli.export import publishing
    from sift_cli.training.finished import finished

    output = Path(output)
    folder = publishing.is_folder(output, like)
    with publishing.published(output, folder=folder, force=force) as temporary:
        trained = finished(_artifact(_open(like, arch=arch), like), model)
        certificate = _rewrite(trained, temporary, publishing.companions_of(like))
    return Written(output, certificate, trained.plan)


@dataclass(frozen=True)
class Trained:
    """A training that is done.

    Attributes:
        folder: Where it is: ``best.safetensors`` and ``last.safetensors``, ``log.csv``, ``recipe.yaml``, ``state.pt``.
        log: The lines of the log, the last of which is about the end.
    """

    folder: Path
    log: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        return {"schema": "sift.trained/1", "folder": str(self.folder), "log": [dict(row) for row in self.log]}


def train(
    recipe: str | Path | Recipe,
    output: str | Path,
    *,
    overrides: Sequence[str] = (),
    dense: bool = False,
    resume: bool = False,
    force: bool = False,
    allow_pickle: bool = False,
    watch: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a model as a recipe says.

    Args:
        recipe: A file, the name of a recipe that comes with sift, or a recipe.
        output: The folder of the run.
        overrides: ``KEY.KEY=VALUE``, in the place of what the recipe says.
        dense: The second phase of SPDF: begin with the weights of the recipe's model, a sparse artifact or the folder
            of a run, without its masks; the recipe's transform and rule do not count.
        resume: Go on with the run in ``output`` where it was stopped, by whatever; begin it if there is none.
        force: Replace the run in ``output``.
        allow_pickle: As in :func:`load`.
        watch: Is told of the progress, about ten times a second.

    Raises:
        CheckpointError: Recipe, model, data or state cannot be read.
        PlanError: The recipe has an unknown key, or one that does not fit the others.
        ModelError: The model does not fit the data, or its loss is not finite any more.
        VerificationFailed: A promise of the model's plan does not hold any more.
        OutputError: The folder is there, or cannot be written.
    """
    from sift_cli.training.recipes import recipe as recipes
    from sift_cli.training.recipes.data import open_data
    from sift_cli.training.recipes.loop import Training, accelerator
    from sift_cli.training.recipes.runs import RunFolder

    asked = recipe if isinstance(recipe, recipes.Recipe) else recipes.load(recipe, overrides)
    if dense:
        asked = replace(asked, transform=None, rule=None, sparsity_config=None)
    folder = RunFolder(Path(output), asked, "dense" if dense else "sparse")
    machine = accelerator(asked.precision)
    folder.check(resume=resume, force=force)
    data = open_data(asked.data)
    start, companions = _start(asked, data, dense=dense, allow_pickle=allow_pickle)

    def publish(module: nn.Module, path: Path) -> None:
        from sift_cli.training.finished import finished
        from sift_cli.training.replanned import replanned

        with atomic(path, force=True) as temporary:
            _rewrite(finished(replanned(start, module), module), temporary, companions)

    training = Training(asked, start, data, folder, machine, publish, watch or (lambda progress: None))
    return Trained(folder.path, tuple(training.run(resume=resume, force=force)))


def _start(recipe: Recipe, data: Data, *, dense: bool, allow_pickle: bool) -> tuple[TransformedModel, Path | None]:
    """The model that a training begins with, and the folder that has what belongs to it."""
    from sift_cli.checkpoint.folder import digest
    from sift_cli.core.revival import ZERO
    from sift_cli.export import artifact, publishing
    from sift_cli.models import load as load_model
    from sift_cli.surgery import TransformedModel
    from sift_cli.training.recipes.keys import mapping
    from sift_cli.training.recipes.models import architecture, example, transformed
    from sift_cli.training.recipes.runs import artifact_in

    path = artifact_in(Path(recipe.model.name))
    if not path.exists() and not dense:
        named = architecture(recipe.model, data)
        loaded = load_model(named, seed=recipe.seed, **example(named, data))
        return transformed(loaded, recipe.transform, recipe.seed), None
    arguments = mapping(dict(recipe.model.arguments), "model", ("arch",))  # all that a file leaves open
    model = _open(path, allow_pickle=allow_pickle, input_shape=(1, *data.shape), **arguments)
    companions = publishing.companions_of(path)
    if dense:
        if not isinstance(model, TransformedModel) or not model.masks:
            raise ModelError(f"{path} has no masks to drop", hint="leave out --dense")
        about = {"source": path.name, "sha256": digest(path), **ZERO.about()}
        return artifact.densified(model, ZERO, about), companions
    if not isinstance(model, TransformedModel):
        return transformed(model, recipe.transform, recipe.seed), companions
    if recipe.transform is not None:
        raise PlanError(f"{path} is transformed already", hint="leave the transform out: --set transform=null")
    return model, companions


@dataclass(frozen=True)
class Run:
    """One run of an ONNX model.

    Attributes:
        outputs: Arrays by name.
        kernels: What each sparse op ran; empty without the library.
        seconds: Wall time of one run, after a first one that is not counted.
        onnxruntime: Its version.
    """

    outputs: dict[str, np.ndarray]
    kernels: tuple[KernelReport, ...]
    seconds: float
    onnxruntime: str

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "sift.run/1",
            "outputs": [
                {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}
                for name, array in self.outputs.items()
            ],
            "kernels": [asdict(kernel) for kernel in self.kernels],
            "seconds": self.seconds,
            "onnxruntime": self.onnxruntime,
        }


def run(
    path: str | Path,
    *,
    inputs: Sequence[str] = (),
    output: Path | None = None,
    batch: int = 1,
    seed: int = 0,
    threads: int | None = None,
    library: bool = True,
    force: bool = False,
) -> Run:
    """Run an ONNX model once.

    Args:
        path: The model.
        inputs: ``FILE.npy``, or ``1x128x768``, the shape of a random one; with several inputs ``NAME=`` before it. What
            is not given is random.
        output: Where to write the outputs: the first one to a ``.npy``, all to a ``.npz``.
        batch, seed: Of random inputs.
        threads: Threads within an op; None for one a core.
        library: False runs the fallback functions in plain onnxruntime.
        force: Replace ``output`` if it exists.

    Raises:
        CheckpointError: The model or an input cannot be read.
        ModelError: The model is no ONNX file, or an input has another name, shape or type than it wants.
        RuntimeUnavailable: The library or onnxruntime is missing.
    """
    import time

    import onnxruntime

    from sift_cli.runtime import kernels, session
    from sift_cli.runtime.arrays import check_suffix, make_inputs, write_outputs
    from sift_cli.runtime.sessions import sentence

    if output is not None:
        check_suffix(output)
    with contextlib.nullcontext() if output is None else atomic(output, force=force) as temporary:
        opened = session(_to_run(path, "run"), threads=threads, library=library)
        feed = make_inputs(inputs, opened, batch=batch, seed=seed)
        names = [node.name for node in opened.get_outputs()]
        try:
            arrays = opened.run(None, feed)
        except Exception as error:  # onnxruntime's own exceptions share no base
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise Malformed(path, "a node of its graph", sentence(error)) from None
        start = time.perf_counter()
        opened.run(None, feed)
        seconds = time.perf_counter() - start
        outputs = dict(zip(names, arrays, strict=True))
        if output is not None and temporary is not None:
            write_outputs(outputs, output.suffix, temporary)
    return Run(outputs, kernels(opened), seconds, onnxruntime.__version__)


def bench(
    model: str | Path,
    *,
    vs: Sequence[str] = (),
    inputs: Sequence[str] = (),
    batch: int = 1,
    threads: Sequence[int | None] = (None,),
    seconds: float = 10.0,
    layers: bool = False,
    seed: int = 0,
    peer_python: str | None = None,
) -> BenchReport:
    """Measure the speed of an ONNX model with sift's kernels, and of others that take turns with it.

    Args:
        model: The ONNX file.
        vs: Peers. "dense" is the same file in plain onnxruntime, "deepsparse" the same model in DeepSparse, anything
            else an ONNX file of its own, which "deepsparse:FILE.onnx" runs in DeepSparse.
        inputs: ``FILE.npy``, or ``1x128x768``, the shape of a random one; with several inputs ``NAME=`` before it. What
            is not given is random. Peers get the same arrays where they fit, and random ones elsewhere.
        batch, seed: Of random inputs.
        threads: Threads within an operator, a comparison for each; None for one a core.
        seconds: Time for the rounds of a comparison, without warming up; there are at least five rounds.
        layers: Say where the model's time goes, node by node.
        peer_python: The interpreter that has DeepSparse; None for the one that ``SIFT_PEER_PYTHON`` names.

    Raises:
        CheckpointError: A model or an input cannot be read.
        ModelError: The model is no ONNX file, or one does not run on its inputs.
        ExportError: The model has no form for DeepSparse.
        RuntimeUnavailable: sift's library, onnxruntime or DeepSparse is missing.
    """
    from sift_cli.runtime import session
    from sift_cli.runtime.arrays import make_inputs
    from sift_cli.runtime.bench import BenchReport, Comparison, compare
    from sift_cli.runtime.layers import profile
    from sift_cli.runtime.machine import this_machine
    from sift_cli.runtime.peers import OnnxRuntime, samples

    path = _to_run(model, "bench")
    opened = session(path)
    feed = make_inputs(inputs, opened, batch=batch, seed=seed)
    if not inputs and samples(feed) != batch:
        raise ModelError(f"{model} takes a batch of {samples(feed)} and no other", hint="leave out --batch")
    del opened
    comparisons = []
    for count in threads:
        with contextlib.ExitStack() as stack:
            first = OnnxRuntime("sift", session(path, threads=count), feed)
            peers = [first, *(_peer(stack, name, path, first, feed, count, seed, peer_python) for name in vs)]
            measured, rounds = compare(peers, seconds=seconds)
        nodes = profile(path, feed, threads=count, seconds=seconds / 4) if layers else None
        comparisons.append(Comparison(count, rounds, measured, nodes))
    return BenchReport(str(model), samples(feed), this_machine(peak=layers), tuple(comparisons))


def _peer(
    stack: contextlib.ExitStack,
    name: str,
    model: Path,
    first: OnnxRuntime,
    feed: Mapping[str, np.ndarray],
    threads: int | None,
    seed: int,
    python: str | None,
) -> Peer:
    """What ``name`` means beside ``model``, of which ``first`` is the peer; ``stack`` cleans up after it."""
    from sift_cli.runtime import session
    from sift_cli.runtime.peers import OnnxRuntime, same_inputs, samples

    if name == "dense":
        return OnnxRuntime(name, session(model, threads=threads, library=False), feed, first.outputs)
    in_deepsparse = name == "deepsparse" or name.startswith("deepsparse:")
    file = name.removeprefix("deepsparse").removeprefix(":") if in_deepsparse else name
    if file or not in_deepsparse:
        if not Path(file).is_file():
            raise Unreadable(
                file, "no such file", hint="--vs takes dense, deepsparse, or a file: [deepsparse:]FILE.onnx"
            )
        opened = session(file, threads=threads)
        feed = same_inputs(feed, opened, seed)
        if samples(feed) != first.samples:
            raise ModelError(f"{file} takes a batch of {samples(feed)}, and {model} one of {first.samples}")
        if not in_deepsparse:
            return OnnxRuntime(name, opened, feed)
    import onnx

    from sift_cli.export.deepsparse import for_deepsparse
    from sift_cli.runtime.remote import DeepSparse

    folder = stack.enter_context(tempfile.TemporaryDirectory())
    rewritten = Path(folder, "model.onnx")
    onnx.save(for_deepsparse(onnx.load(file or model), {key: array.shape for key, array in feed.items()}), rewritten)
    expected = None if file else first.outputs
    peer = DeepSparse(name, rewritten, feed, threads=threads, python=python, expected=expected)
    stack.callback(peer.close)
    return peer


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


def _open(
    source: str | Path,
    *,
    arch: str | None = None,
    allow_pickle: bool = False,
    input_shape: tuple[int, ...] | None = None,
    input_arrays: Mapping[str, np.ndarray] | None = None,
) -> LoadedModel | TransformedModel:
    """An artifact, or any other source of a model."""
    from sift_cli.checkpoint import open_checkpoint
    from sift_cli.export import artifact, manifest
    from sift_cli.models import load as load_model

    path = Path(source)
    if path.exists():
        with open_checkpoint(path, allow_pickle=allow_pickle) as checkpoint:
            if manifest.is_artifact(checkpoint.metadata):
                return artifact.load(path, arch=arch, input_shape=input_shape, input_arrays=input_arrays)
    return load_model(source, arch=arch, allow_pickle=allow_pickle, input_shape=input_shape, input_arrays=input_arrays)


def _artifact(model: LoadedModel | TransformedModel, source: str | Path) -> TransformedModel:
    from sift_cli.surgery import TransformedModel

    if not isinstance(model, TransformedModel):
        raise ModelError(f"{source} was not written by sift transform", hint=f"sift transform {source} --kind wide")
    return model


def _kept(model: LoadedModel | TransformedModel, path: Path) -> dict[str, int] | None:
    """Kept weights by name: by mask; where a transform's masks were dropped, by value in the weights that had one; for
    any other file None, which counts values everywhere."""
    from sift_cli.surgery import TransformedModel

    if isinstance(model, TransformedModel):
        return model.nonzero or {n: int(model.module.get_parameter(n).count_nonzero()) for n in model.plan.masked}
    # Weights drawn for a name are all weights, though a normal draw can be 0 by chance.
    return None if path.exists() else {}


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


def _is_onnx(source: str | Path) -> bool:
    from sift_cli.checkpoint import sniff

    return Path(source).is_file() and sniff(Path(source)) == "onnx"


def _to_run(model: str | Path, command: str) -> Path:
    """The file ``model``, of which ``command`` wants that it is ONNX."""
    path = Path(model)
    if not (_is_onnx(path) if path.exists() else path.suffix == ".onnx"):
        raise ModelError(
            f"{model} is no ONNX file, and onnxruntime runs no other",
            hint=f"sift export {model} --format onnx -o model.onnx && sift {command} model.onnx",
        )
    return path


def _format_of(output: Path) -> ExportFormat:
    match output.suffix:
        case ".onnx":
            return "onnx"
        case ".safetensors":
            return "safetensors"
    raise ExportError(f"the suffix of {output} tells no format", hint="pass --format onnx or --format safetensors")


def _rewrite(model: TransformedModel, temporary: Path, companions: Path | None, dtype: Storage = "fp32") -> Certificate:
    """Write ``model`` again, verify what was read back, and store that.

    Nothing is taken over from an older certificate: that is what a file says of itself.
    """
    from sift_cli.export import artifact
    from sift_cli.models import LoadedModel, build
    from sift_cli.models.calling import draw
    from sift_cli.registry import discover
    from sift_cli.verify import Evidence, macs_claim, require
    from sift_cli.verify.evidence import CHECKS
    from sift_cli.verify.rewritten import certify_half, certify_rewritten

    architecture = model.plan.architecture
    exact, model = model, artifact.rounded(model, dtype)
    artifact.save(model, temporary, companions=companions, dtype=dtype)
    read = artifact.load(temporary, arch=architecture.callable)
    if dtype == "fp32":
        certificate = certify_rewritten(model, read.module, read.masks)
    else:
        certificate = certify_half(exact, model, read.module, read.masks, dtype)
    if model.masks.keys() == model.plan.masked.keys():
        # The original's MACs take its shapes and none of its weights.
        specs = model.plan.inputs
        dense = LoadedModel(build(architecture, device="meta"), draw(specs, device="meta"), architecture, {}, specs)
        evidence = Evidence(dense, model, read)
        patterned = ("pattern",) if "pattern" in model.plan.promises else ()
        for check in (macs_claim(model.plan), "mask_cardinality", *patterned):
            certificate += discover(CHECKS)[check].measure(evidence)
        require(certificate)
    artifact.add_certificate(temporary, certificate)
    return certificate
