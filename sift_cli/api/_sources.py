"""What a command is given: an artifact, any other source of a model, or an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sift_cli.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

    from sift_cli.models import LoadedModel
    from sift_cli.surgery import TransformedModel


def open_source(
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


def artifact_of(model: LoadedModel | TransformedModel, source: str | Path) -> TransformedModel:
    from sift_cli.surgery import TransformedModel

    if not isinstance(model, TransformedModel):
        raise ModelError(f"{source} was not written by sift transform", hint=f"sift transform {source} --kind wide")
    return model


def kept(model: LoadedModel | TransformedModel, path: Path) -> dict[str, int] | None:
    """Kept weights by name: by mask; where a transform's masks were dropped, by value in the weights that had one; for
    any other file None, which counts values everywhere."""
    from sift_cli.surgery import TransformedModel

    if isinstance(model, TransformedModel):
        return model.nonzero or {n: int(model.module.get_parameter(n).count_nonzero()) for n in model.plan.masked}
    # Weights drawn for a name are all weights, though a normal draw can be 0 by chance.
    return None if path.exists() else {}


def is_onnx(source: str | Path) -> bool:
    from sift_cli.checkpoint import sniff

    return Path(source).is_file() and sniff(Path(source)) == "onnx"


def to_run(model: str | Path, command: str) -> Path:
    """The file ``model``, of which ``command`` wants that it is ONNX."""
    path = Path(model)
    if not is_onnx(path) and (path.exists() or ":" in str(model)):  # an architecture
        raise ModelError(
            f"{model} is no ONNX file, and onnxruntime runs no other",
            hint=f"sift export {model} --format onnx -o model.onnx && sift {command} model.onnx",
        )
    return path
