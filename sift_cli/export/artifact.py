"""The sift artifact: a transformed model as one safetensors file, written and read back."""

from __future__ import annotations

import copy
import errno
import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sift_cli.checkpoint import artifact, open_checkpoint
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.folder import MASKS, FolderCheckpoint
from sift_cli.core.certificate import Certificate
from sift_cli.core.half import Storage, is_matrix, stored_as, widened
from sift_cli.core.masks import MaskSet
from sift_cli.core.plan import FillTensor, ReplaceLayer, ResizeAxis, SetAttribute, SetConfig, TransformPlan
from sift_cli.core.revival import ZERO, Revival
from sift_cli.errors import ExportError, Malformed, ModelError, PlanError, VerificationFailed
from sift_cli.export import folder, manifest
from sift_cli.export.manifest import Manifest
from sift_cli.models import build
from sift_cli.models.building import chosen_inputs
from sift_cli.models.ties import tie, tied
from sift_cli.surgery import TransformedModel, apply_edits, attach_masks, without_masks


def save(model: TransformedModel, path: Path, *, companions: Path | None = None, dtype: Storage = "fp32") -> None:
    """Write ``model`` to exactly ``path``: masked tensors sparse, the rest dense, plan and certificate in the metadata.

    Args:
        model: The model.
        path: A file; or an empty folder, see :func:`sift_cli.export.folder.save`.
        companions: Folder whose tokenizer and generation configuration go into a folder.
        dtype: What a file stores weights as. :func:`load` gives back float32, with the numbers of :func:`rounded`.

    Raises:
        ExportError: A tensor cannot be stored, or the model cannot be a folder.
    """
    if path.is_dir():
        folder.save(model, path, companions=companions)
        return
    ties = tied(model.module, model.masks)
    tensors = {
        name: tensor.detach().cpu().contiguous().numpy()
        for name, tensor in model.module.state_dict().items()
        if name not in ties
    }
    if dtype != "fp32":
        weights = _weights(model)
        tensors |= {name: stored_as(name, tensors[name], dtype) for name in weights.keys() & tensors.keys()}
    about = Manifest(model.plan, model.certificate, model.provenance)
    artifact.write(path, tensors, model.masks, about.dumps())


def rounded(model: TransformedModel, dtype: Storage) -> TransformedModel:
    """The same model with the numbers that :func:`save` stores as ``dtype``; itself for "fp32".

    Raises:
        ExportError: A weight is beyond the range of ``dtype``.
    """
    if dtype == "fp32":
        return model
    result = replace(model, module=copy.deepcopy(model.module))
    for name, weight in _weights(result).items():
        weight.data = torch.from_numpy(widened(stored_as(name, weight.detach().numpy(), dtype)))
    return result


def _weights(model: TransformedModel) -> dict[str, nn.Parameter]:
    """What half precision is for, by name."""
    parameters = model.module.named_parameters(remove_duplicate=False)
    return {
        name: parameter
        for name, parameter in parameters
        if parameter.dtype == torch.float32 and (name in model.masks or is_matrix(parameter.shape))
    }


def check_folder(plan: TransformPlan) -> None:
    """Refuse to make a folder of a model before any work is done for it.

    Raises:
        ExportError: No configuration describes the model that the plan makes.
    """
    if (why := folder.refusal(plan)) is not None:
        raise ExportError(f"the model cannot be written as a folder: {why}", hint="name a .safetensors file instead")


def add_certificate(path: Path, certificate: Certificate) -> None:
    """Put a certificate into the file it is about. That changes the header; the tensors' bytes are copied as they are.

    Raises:
        VerificationFailed: The file reads differently afterwards.
    """
    file = path / MASKS if path.is_dir() else path
    before = _tensor_bytes(file)
    artifact.add_metadata(file, {manifest.CERTIFICATE: manifest.dump(certificate.to_json())})
    with open_checkpoint(path) as checkpoint:
        kept = checkpoint.metadata[manifest.CERTIFICATE]
    if kept != manifest.dump(certificate.to_json()) or _tensor_bytes(file) != before:
        raise VerificationFailed("the file changed when its certificate was written into it", certificate)


def _tensor_bytes(path: Path) -> str:
    """Digest of all that follows the header."""
    with open(path, "rb") as file:
        file.seek(int.from_bytes(file.read(8), "little"), os.SEEK_CUR)
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(
    path: Path,
    *,
    arch: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    input_arrays: Mapping[str, np.ndarray] | None = None,
) -> TransformedModel:
    """Read an artifact back: the plain architecture, resized by the stored plan, with the stored weights and masks.

    Args:
        path: A file that :func:`save` wrote.
        arch: The architecture, if it is a Python callable of the user's: a file cannot choose code to run by itself.
        input_shape, input_arrays: Example inputs other than those that the plan was made at, see
            :func:`sift_cli.models.load`.

    Raises:
        CheckpointError: The file is damaged or is no artifact.
        ModelError: Its architecture needs a package that is not installed, or a callable that was not named.
    """
    with open_checkpoint(path) as checkpoint:
        if not manifest.is_artifact(checkpoint.metadata):
            raise ModelError(f"{path} was not written by sift transform", hint=f"sift transform {path} --kind wide")
        about = manifest.loads(checkpoint.metadata, path)
        architecture = about.plan.architecture
        if architecture.callable and arch != architecture.callable:
            raise ModelError(
                f"{path} is built by {architecture.name}, which is Python code on this machine",
                hint=f"if that is what you want to run, pass --arch {architecture.name}",
            )
        if isinstance(checkpoint, FolderCheckpoint):
            masks = checkpoint.masks
            module = folder.load(checkpoint, about.plan, masks)
        else:
            masks = MaskSet({name: mask for name in checkpoint.tensors if (mask := checkpoint.mask(name)) is not None})
            module = _module(about.plan, checkpoint)
        if masks and {name: mask.nonzero for name, mask in masks.items()} != about.plan.masked:
            raise Malformed(path, "its masks", "they keep other weights than its plan says")
    attach_masks(module, masks, about.plan)
    inputs, _ = chosen_inputs(module, about.plan.inputs, input_shape, input_arrays)
    return TransformedModel(module.eval(), masks, about.plan, inputs, about.provenance, about.certificate)


def _module(plan: TransformPlan, checkpoint: Checkpoint) -> nn.Module:
    """The resized architecture with the file's tensors.

    On the meta device first, so that a plan which does not fit the file is refused before it can ask for memory.
    """
    resized = _resized(build(plan.architecture, device="meta"), plan, checkpoint.path)
    ties = tied(resized, plan.masked)
    expected = {name: tuple(tensor.shape) for name, tensor in resized.state_dict().items() if name not in ties}
    stored = {name: spec.shape for name, spec in checkpoint.tensors.items()}
    for name in sorted(expected.keys() | stored.keys()):
        if expected.get(name) != stored.get(name):
            raise Malformed(
                checkpoint.path, f"tensor {name!r}",
                f"its plan makes it {expected.get(name, 'absent')}, but it is {stored.get(name, 'absent')}",
            )  # fmt: skip
    if any(name not in expected and name not in ties for name, _ in resized.named_buffers()):
        # Buffers that are not in a state_dict are not in the file: their values come from the constructor and the plan.
        seed = int(plan.options["seed"])
        resized = _resized(build(plan.architecture, seed=seed), plan, checkpoint.path, stored=expected.keys())
    state = resized.state_dict()  # it knows its modules' versions: torchvision's MNASNet refuses a plain dict
    state.update({name: torch.from_numpy(widened(checkpoint.read(name))) for name in expected})
    for name in ties:
        state.pop(name, None)
    resized.load_state_dict(state, assign=True, strict=not ties)
    tie(resized, ties)
    return resized


def _resized(module: nn.Module, plan: TransformPlan, path: Path, stored: Collection[str] | None = None) -> nn.Module:
    """``module`` with the plan's sizes, and the plan's values for what is not among the ``stored`` tensors."""
    edits = [
        edit
        for edit in plan.edits
        if isinstance(edit, ResizeAxis | SetAttribute | SetConfig | ReplaceLayer)
        or (stored is not None and isinstance(edit, FillTensor) and edit.tensor not in stored)
    ]
    try:
        resized, _ = apply_edits(module, edits)
    except PlanError as error:
        raise Malformed(path, "its plan", error.message) from None
    return resized


def densified(
    model: TransformedModel, revival: Revival = ZERO, about: Mapping[str, Any] | None = None
) -> TransformedModel:
    """The same model without masks: zeros stay where they were, and every weight may change from here on (SPDF).

    The provenance keeps how sparse each weight was, and ``about``.

    Args:
        revival: What the weights begin with that the masks do not keep.
    """
    module = without_masks(model.module)
    for name, mask in model.masks.items():
        parameter = module.get_parameter(name)
        values = parameter.detach().numpy().copy()
        revival.fill(name, values, mask.to_bool())
        parameter.data = torch.from_numpy(values)
    was = {name: 1 - mask.density for name, mask in model.masks.items()}
    provenance = {**model.provenance, "densified": {"was_sparse": was, **(about or {})}}
    return replace(model, module=module, masks=MaskSet(), provenance=provenance)


def save_state_dict(model: TransformedModel, path: Path) -> None:
    """Write the plain ``state_dict`` by ``torch.save``, without masks and metadata."""
    try:
        torch.save(model.module.state_dict(), path)
    except RuntimeError as error:  # torch's writer does not pass on what the system said
        raise OSError(errno.EIO, "torch.save could not write all of it; is the disk full?") from error


def load_state_dict(path: Path, plan: TransformPlan) -> nn.Module:
    """Read back what :func:`save_state_dict` wrote, into the plain architecture at the plan's sizes, strictly."""
    module = _resized(build(plan.architecture, seed=int(plan.options["seed"])), plan, path, stored=())
    module.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return module
