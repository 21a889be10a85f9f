"""csr: compressed rows for ``scipy.sparse``, in a ``.npz`` with any number of tensors.

::

    NAME.data         dtype[nonzero]      the kept weights in row-major order
    NAME.indices      int32[nonzero]      the column of each
    NAME.indptr       int32[rows + 1]     how many of them are before each row, and how many there are
    NAME.shape        int64[2]            of the matrix
    NAME.dense_shape  int64[axes]         of the tensor, where it has not two axes

Rows are the first axis and columns all the others; a vector is one row. The integers are int64 where a matrix has
columns or weights beyond int32. What ``scipy.sparse.save_npz`` writes has the same arrays without a name before them,
and room for one matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sift_cli.conversion.encodings import About, Array, Encoded
from sift_cli.conversion.encodings._pieces import kept, rows
from sift_cli.core.masks import Mask
from sift_cli.core.tensors import DTYPES, TensorSpec
from sift_cli.errors import ExportError

CONTAINERS = ("npz",)
OF_ZEROS = True
IN_NAN = False


def parts(spec: TensorSpec, mask: Mask) -> Encoded | None:
    if not spec.shape or not spec.numel:
        return None
    if spec.dtype == "F16":
        raise ExportError(
            f"{spec.name!r} is float16, which scipy has no sparse matrices of", hint="convert it: --dtype fp32"
        )
    count, columns = _matrix(spec.shape)
    index = "I32" if max(columns, mask.nonzero) < 2**31 else "I64"
    found = {
        "data": Array(spec.dtype, (mask.nonzero,)),
        "indices": Array(index, (mask.nonzero,)),
        "indptr": Array(index, (count + 1,)),
        "shape": Array("I64", (2,)),
    }
    if len(spec.shape) != 2:
        found["dense_shape"] = Array("I64", (len(spec.shape),))
    named = {f"{spec.name}.{part}": array for part, array in found.items()}
    return Encoded(spec, named, mask.nonzero, mask.rule, mask.seed)


def encode(encoded: Encoded, values: np.ndarray, mask: Mask) -> Iterator[tuple[str, np.ndarray]]:
    data, indices, indptr, shape, *dense_shape = encoded.parts
    matrix, index = _matrix(mask.shape), DTYPES[encoded.parts[indices].dtype]
    yield shape, np.array(matrix, np.int64)
    for name in dense_shape:
        yield name, np.array(mask.shape, np.int64)
    yield indptr, np.zeros(1, index)
    done = 0
    for some in rows(mask, matrix[1]):
        yield indices, np.nonzero(some)[1].astype(index)
        ends = done + np.cumsum(np.count_nonzero(some, axis=1))
        yield indptr, ends.astype(index)
        done = ends[-1]
    for piece in kept(values, mask):
        yield data, piece


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, shape[0])


def about(encoded: Mapping[str, Encoded]) -> About:
    return About()


def config(config: dict[str, Any], encoded: Mapping[str, Encoded]) -> dict[str, Any]:
    return config
