"""A transformed model after its training."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from sift_cli.core.masks import Mask, MaskSet
from sift_cli.errors import ModelError
from sift_cli.surgery import TransformedModel, attach_masks, packed_masks_of
from sift_cli.training.distributed import is_sharded
from sift_cli.training.names import plain_name, unwrapped


def finished(model: TransformedModel, trained: nn.Module) -> TransformedModel:
    """``model`` with the weights and masks that ``trained`` has now. The module of ``model`` is changed.

    Args:
        model: The transformed model that training began with.
        trained: The same model, trained, with or without wrappers; it is only read.

    Raises:
        ModelError: It is another model, is sharded, or its masks keep another number of weights than was planned.
    """
    module = unwrapped(trained)
    if any(is_sharded(parameter) for parameter in module.parameters()):
        raise ModelError(
            "the model is sharded",
            hint="gather its state_dict, and load that and the state of the Sparsifier into a model that is not",
        )
    packed = {plain_name(module, name): mask for name, mask in packed_masks_of(module).items()}
    masks = {name: Mask(mask.shape, mask.bits.cpu().clone().numpy(), "trained") for name, mask in packed.items()}
    planned = model.plan.masked if model.masks or masks else {}  # a densified model keeps the plan that had masks
    kept = {name: mask.nonzero for name, mask in masks.items()}
    for name in sorted(planned.keys() | kept.keys()):
        if planned.get(name) != kept.get(name):
            raise ModelError(
                f"the mask of {name} keeps {kept.get(name, 'all')} weights, and its plan {planned.get(name, 'all')}",
                hint="train it with a rule that keeps the number of weights (static, set, rigl)",
            )
    state = {plain_name(module, name): tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    try:
        model.module.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"this is another model than was trained: {str(error).splitlines()[-1].strip()}") from None
    attach_masks(model.module, MaskSet(masks), model.plan)
    return replace(model, masks=MaskSet(masks))
