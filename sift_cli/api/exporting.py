"""Models as files of other kinds, and without their masks."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sift_cli.api._sources import artifact_of, is_onnx, open_source
from sift_cli.api._written import Written, rewrite
from sift_cli.core.certificate import Certificate
from sift_cli.core.sparsity import parse_sparsity
from sift_cli.errors import ExportError, Malformed, ModelError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from sift_cli.core.half import Storage
    from sift_cli.export.torch_file import Optimizer
    from sift_cli.verify.tuning import Tuning


ExportFormat = Literal["onnx", "safetensors", "folder"]


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
        if format == "onnx" and is_onnx(source):
            if opset is not None or arch is not None:
                raise ExportError(f"{source} is an ONNX graph, which keeps its opset and architecture")
            from sift_cli.verify.pruned_onnx import write_pruned

            certificate = write_pruned(
                Path(source), temporary, least=least, tuning=tuning, dtype=dtype, input_shape=input_shape,
                input_arrays=input_arrays,
            )  # fmt: skip
            return Written(output, certificate, None, tuning.layers if tuning else ())
        model = open_source(
            source, arch=arch, allow_pickle=allow_pickle, input_shape=input_shape, input_arrays=input_arrays
        )
        if format == "onnx":
            from sift_cli.verify.onnx_export import write_onnx

            certificate = write_onnx(model, temporary, opset=opset or OPSET, dtype=dtype, least=least, tuning=tuning)
        else:
            model = artifact_of(model, source)
            certificate = rewrite(model, temporary, publishing.companions_of(source), dtype)
        return Written(output, certificate, getattr(model, "plan", None), tuning.layers if tuning else ())


def _tuning(threads: int | None, least: float | None) -> Tuning:
    from sift_cli.runtime import library_path
    from sift_cli.verify.tuning import Tuning

    library_path()  # without it there is nothing to measure
    return Tuning(threads=threads, least=least)


def _format_of(output: Path) -> ExportFormat:
    match output.suffix:
        case ".onnx":
            return "onnx"
        case ".safetensors":
            return "safetensors"
    raise ExportError(f"the suffix of {output} tells no format", hint="pass --format onnx or --format safetensors")


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
        model = artifact_of(open_source(source, arch=arch), source)
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
        trained = finished(artifact_of(open_source(like, arch=arch), like), model)
        certificate = rewrite(trained, temporary, publishing.companions_of(like))
    return Written(output, certificate, trained.plan)
