"""Files as other kinds of files, without a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from sift_cli.core.sparsity import parse_sparsity
from sift_cli.errors import ExportError

if TYPE_CHECKING:
    from sift_cli.conversion import Converted
    from sift_cli.conversion import Progress as Converting
    from sift_cli.core.half import Storage


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
