"""Layers put in the place of others, and the values they take over from them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sift_cli import layers
from sift_cli.core.plan import FillTensor, ReplaceLayer
from sift_cli.errors import PlanError
from sift_cli.layers import Replacement, bias_of, refusal, truncated_svd, weight_of


class Replaced:
    """The layers that were replaced in one module.

    Args:
        module: The module; changed in place.
    """

    #: Distributions that are values of a replaced layer.
    DISTRIBUTIONS = ("original", "svd_u", "svd_v")

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._originals: dict[str, nn.Module] = {}
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}

    def replace(self, edit: ReplaceLayer) -> None:
        """Put the new layer in, its tensors 0.

        Raises:
            PlanError: There is no layer to replace at that path, or no such layer to put there.
        """
        path, _, name = edit.module.rpartition(".")
        try:
            parent, original = self._module.get_submodule(path), self._module.get_submodule(edit.module)
        except AttributeError:
            raise PlanError(f"the plan replaces a module {edit.module!r} that the model does not have") from None
        if (why := refusal(original)) is not None:
            raise PlanError(f"the plan replaces {edit.module!r}, which {why}")
        weight = original.get_parameter("weight")
        try:
            new = layers.from_dense(edit.layer, original, edit.arguments).to_empty(device=weight.device)
        except RuntimeError:
            raise PlanError(f"the plan makes {edit.module!r} so large that there is not the memory") from None
        with torch.no_grad():
            for tensor in new.state_dict().values():
                tensor.zero_()
        parent._modules[name] = new.requires_grad_(weight.requires_grad)
        self._originals[edit.module] = original

    def fill(self, tensor: Tensor, edit: FillTensor) -> None:
        """Copy into ``tensor`` what it takes over.

        Raises:
            PlanError: It is not in a layer that was replaced, or what it would take over has another shape.
        """
        path = next((path for path in self._originals if edit.tensor.startswith(f"{path}.")), None)
        if path is None:
            raise PlanError(f"the plan fills {edit.tensor!r} from a layer that it does not replace")
        values: Tensor | None
        if edit.distribution == "original":
            take = bias_of if edit.tensor.endswith(".bias") else weight_of
            values = take(self._originals[path])
        else:
            values = self._svd(path)[edit.distribution == "svd_v"]
        if values is None or values.numel() != tensor.numel() or values.shape[0] != tensor.shape[0]:
            raise PlanError(f"the plan fills {edit.tensor!r} with values that {path!r} does not have in this shape")
        with torch.no_grad():
            tensor.copy_(values.reshape(tensor.shape))

    def _svd(self, path: str) -> tuple[Tensor, Tensor]:
        """The factors for what the rest of the new layer leaves of the old weight; until they are filled they are 0."""
        if path not in self._factors:
            new = self._module.get_submodule(path)
            u = getattr(new, "u", None)
            if not isinstance(new, Replacement) or not isinstance(u, nn.Module):
                raise PlanError(f"the plan factorizes {path!r}, whose new layer has no factors")
            residual = weight_of(self._originals[path]).flatten(1) - new.matrix()
            self._factors[path] = truncated_svd(residual, u.get_parameter("weight").shape[0])
        return self._factors[path]
