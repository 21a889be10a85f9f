"""Drop the masks of a transformed model and keep its zeros: a plain dense model for dense fine-tuning.

Examples:

    sift densify r18w90.safetensors -o r18w90-dense.safetensors

    sift densify r18w90.safetensors -o r18w90-dense.pt
"""

from __future__ import annotations

from sift_cli import api
from sift_cli.commands import _output
from sift_cli.commands._options import Arch, Artifact, Force, Json, Output


def command(model: Artifact, output: Output, arch: Arch = None, force: Force = False, json: Json = False) -> None:
    with _output.working(f"densifying {model}"):
        written = api.densify(model, output, force=force, arch=arch)
    _output.written(written, output)
    if output.suffix != ".safetensors":
        _output.note("note: a state_dict has no room for the plan; only a .safetensors can be loaded by sift again")
