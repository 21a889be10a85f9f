"""Drop the masks of a model and keep its zeros: a plain dense model for dense fine-tuning.

MODEL is an artifact of sift; or a checkpoint, or a folder of transformers, in which weights have masks: NaN in the
place of pruned weights, WEIGHT_mask beside WEIGHT, or masks in optimizer.sparsity (Cerebras), WEIGHT_orig and
WEIGHT_mask (torch.nn.utils.prune), masks in mask_optimizer (Sparse-IFT).

Examples:

    sift densify r18w90.safetensors -o r18w90-dense.safetensors

    sift densify sparse-gpt/ -o dense-gpt

    sift densify checkpoint_10000.pt --optimizer carry -o dense.pt

    sift densify pruned.pt --revive 'normal(0.01)' --seed 1 -o dense.safetensors
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sift_cli import api
from sift_cli.commands import _output
from sift_cli.commands._options import AllowPickle, Arch, Force, Output, Seed
from sift_cli.errors import PlanError


class Optimizer(StrEnum):
    reset = "reset"
    carry = "carry"


def _revive(text: str) -> str:
    from sift_cli.core.revival import Revival

    try:
        return str(Revival.parse(text))
    except PlanError as error:
        raise typer.BadParameter(f"{error.message}; {error.hint}") from None


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A file or folder with masks.")],
    output: Output,
    revive: Annotated[
        str,
        typer.Option(parser=_revive, metavar="HOW", help="What pruned weights begin with: zero, normal, normal(STD)."),
    ] = "zero",
    seed: Seed = 0,
    optimizer: Annotated[
        Optimizer, typer.Option(help="Empty the optimizer's state in a .pt, or keep it, 0 at pruned weights.")
    ] = Optimizer.reset,
    arch: Arch = None,
    allow_pickle: AllowPickle = False,
    force: Force = False,
) -> None:
    with _output.working(f"densifying {model}"):
        written = api.densify(
            model, output, revive=revive, seed=seed, optimizer=optimizer.value, force=force, arch=arch,
            allow_pickle=allow_pickle,
        )  # fmt: skip
    _output.written("densify", written)
    if written.plan is not None and output.suffix in (".pt", ".pth", ".bin"):
        _output.note("note: a state_dict has no room for the plan; only a .safetensors can be loaded by sift again")
