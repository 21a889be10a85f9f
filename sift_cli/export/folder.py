"""A transformed model of transformers as a folder: what ``from_pretrained`` loads, with sift's masks beside it.

The weights lie in it dense, zeros and all, under the library's own names. ``sift.safetensors`` has the masks, the plan
and the certificate; whoever does not know sift does not look at it.
"""

from __future__ import annotations

import copy
import errno
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from sift_cli.checkpoint import mask_file
from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.folder import MASKS, copy_companions
from sift_cli.core.masks import MaskSet
from sift_cli.core.plan import Architecture, SetConfig, TransformPlan
from sift_cli.errors import ExportError, Malformed
from sift_cli.export.manifest import Manifest
from sift_cli.models import build
from sift_cli.surgery import TransformedModel
from sift_cli.surgery.configured import changed


def save(model: TransformedModel, folder: Path, *, companions: Path | None = None) -> None:
    """Write ``model`` into the empty ``folder``.

    Args:
        model: A model without :func:`refusal`.
        folder: Where to.
        companions: Folder to copy tokenizer and generation configuration from.

    Raises:
        ExportError: The library refuses to write it.
    """
    from sift_cli.models.sources import transformers

    architecture = configured(model.plan)
    module = copy.copy(model.module)  # the same tensors under a configuration that may be written out
    module.config = transformers.settings_of(architecture.kwargs["config"])
    try:
        transformers.save(module, folder)
    except (ValueError, TypeError) as error:
        raise ExportError(f"transformers does not write the model: {str(error).splitlines()[0]}") from error
    except SafetensorError as error:  # all that the library raises, also for what the system refuses
        raise OSError(errno.EIO, "the weights could not all be written; is the disk full?") from error
    about = Manifest(model.plan, model.certificate, model.provenance)
    mask_file.write(folder / MASKS, model.masks, about.dumps())
    if companions is not None:
        copy_companions(companions, folder)


def refusal(plan: TransformPlan) -> str | None:
    """Why a model that ``plan`` made cannot be a folder, or None if it can: its class makes these shapes of its
    configuration."""
    from sift_cli.surgery import apply

    if plan.architecture.source != "transformers":
        return "it is not a model of transformers"
    wanted, _ = apply(build(plan.architecture, device="meta"), plan)
    plain = build(configured(plan), device="meta")
    if _shapes(plain) != _shapes(wanted):
        return f"no configuration of {plan.architecture.name} describes its layers"
    return None


def configured(plan: TransformPlan) -> Architecture:
    """The architecture of the transformed model, where its configuration describes it."""
    config = plan.architecture.kwargs["config"]
    for edit in plan.edits:
        if isinstance(edit, SetConfig):
            config = changed(config, edit.changes)
    return Architecture(plan.architecture.source, plan.architecture.name, {"config": config})


def load(checkpoint: Checkpoint, plan: TransformPlan, masks: MaskSet) -> nn.Module:
    """The module of a folder that :func:`save` wrote, from its own configuration.

    Raises:
        Malformed: It is not of the shapes that the plan gives it, or a weight has a value that its mask does not keep.
    """
    from sift_cli.models.sources import transformers
    from sift_cli.surgery import apply

    path = checkpoint.path
    architecture = transformers.of_folder(path)
    wanted, _ = apply(build(plan.architecture, device="meta"), plan)
    plain = build(architecture, device="meta")
    if type(plain) is not type(wanted) or _shapes(plain) != _shapes(wanted):
        raise Malformed(path / "config.json", "its sizes", "they are not those of its plan")
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    module, _ = transformers.load(architecture.name, tensors, **architecture.kwargs)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if name not in parameters or tuple(parameters[name].shape) != mask.shape:
            raise Malformed(path / MASKS, f"the mask of {name!r}", "the model has no such parameter of its shape")
        if bool(np.any(parameters[name].detach().numpy()[~mask.to_bool()])):
            raise Malformed(
                path / MASKS, f"the mask of {name!r}", "weights that it does not keep have values",
                hint=f"if the model was trained on without its masks, it is dense now: delete {MASKS}",
            )  # fmt: skip
    return module.to(torch.float32)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
