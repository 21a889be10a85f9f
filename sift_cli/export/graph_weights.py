"""How a graph of an ONNX model stores its weights: dense, as sparse initializers, or as masks and values that the
function DenseWeight decodes. Whatever reads a weight reads the same number as before.

DenseWeight gives float32. A weight of another type has a Cast behind it, which is exact for the types in
:data:`_DECODED`; where the graph does nothing with it but cast it to float32, both casts go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sift_cli.checkpoint.base import Checkpoint
from sift_cli.checkpoint.readers.onnx import of_graph
from sift_cli.core.half import is_matrix
from sift_cli.core.masks import Mask
from sift_cli.core.operators import DENSE_WEIGHT, DOMAIN
from sift_cli.core.tensors import DTYPES, TensorSpec
from sift_cli.errors import ExportError
from sift_cli.export.values import unused
from sift_cli.sparsity import formats

Form = Literal["sift", "coo", "dense"]

_SIFT = "bitmask"
#: What sift's reader calls the forms.
_STORED: dict[str, Form] = {_SIFT: "sift", "coo": "coo", "dense": "dense"}
#: Types whose numbers float32 holds, all of them.
_DECODED = frozenset({"F32", "F16", "BF16", "I8", "U8"})
#: Types of dense weights that become sparse. Other integers are positions and shapes.
_WEIGHTS: dict[Form, frozenset[str]] = {"sift": _DECODED, "coo": _DECODED | {"F64"}, "dense": frozenset()}
#: Bytes beside the arrays that a dense weight has to save: names and a node; for sift all that the function takes.
_COST: dict[Form, int] = {"sift": 2048, "coo": 128, "dense": 0}
_FLOAT = onnx.TensorProto.FLOAT
_LIFTED = frozenset(helper.np_dtype_to_tensor_dtype(DTYPES[name]) for name in _WEIGHTS["coo"])


def graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The main graph and all of its subgraphs, always in the same order. Functions have no weights of their own."""
    return [model.graph, *subgraphs(model.graph.node)]


def subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of ``nodes``, and those in their nodes."""
    for node in nodes:
        for attribute in node.attribute:
            for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield graph
                yield from subgraphs(graph.node)


def names(model: onnx.ModelProto) -> set[str]:
    """The names of all values of the model."""
    found: set[str] = set()
    for graph in graphs(model):
        found.update(value.name for value in graph.input)
        found.update(tensor.name for tensor in graph.initializer)
        found.update(stored.values.name for stored in graph.sparse_initializer)
        found.update(name for node in graph.node for name in node.output)
    return found


def lift_constants(graph: onnx.GraphProto, *, dense: bool = True) -> None:
    """Make initializers of the Constant nodes with weights, as which all tools know them; without ``dense`` only of
    those that are stored sparse."""
    fixed = {value.name for value in graph.output}
    for at in reversed(range(len(graph.node))):
        node = graph.node[at]
        if (node.domain, node.op_type, len(node.attribute)) != ("", "Constant", 1) or fixed.intersection(node.output):
            continue
        (item,) = node.attribute
        if dense and item.name == "value" and item.t.data_type in _LIFTED and is_matrix(item.t.dims):
            graph.initializer.add().CopyFrom(item.t)
            graph.initializer[-1].name = node.output[0]
        elif item.name == "sparse_value":
            graph.sparse_initializer.add().CopyFrom(item.sparse_tensor)
            graph.sparse_initializer[-1].values.name = node.output[0]
        else:
            continue
        del graph.node[at]


def store(path: Path, graph: onnx.GraphProto, form: Form, taken: Set[str], *, least: float) -> None:
    """Store the weights of ``graph`` in ``form``, in place. What the form cannot hold stays as it is.

    Args:
        path: The model's file, for messages.
        graph: The main graph or a subgraph, its data inside and its constants lifted.
        form: "sift" and "coo" keep all masks that are stored, and give one to a dense weight that takes fewer bytes
            without its zeros; only what has the bits of +0 is a zero.
        taken: The names of all values of the model.
        least: Share of zeros from which on a dense weight gets a mask.

    Raises:
        Malformed: A weight does not decode.
        ExportError: A name that is needed is taken.
    """
    _Graph(path, graph, taken).store(form, least)


def store_masks(path: Path, graph: onnx.GraphProto, masks: Mapping[str, Mask], taken: Set[str]) -> None:
    """Give the dense weights of ``graph`` their masks, in place: as the function DenseWeight, or as sparse initializers
    where that cannot decode them. What one of sift's operators reads, a bias, stays dense.

    Args:
        path, graph, taken: As in :func:`store`.
        masks: By name, also of weights that are not there any more.

    Raises:
        ExportError: A name that is needed is taken.
    """
    _Graph(path, graph, taken).store_masks(masks)


class _Graph:
    """A graph while its weights change their form."""

    def __init__(self, path: Path, graph: onnx.GraphProto, taken: Set[str]) -> None:
        self._graph = graph
        self._file: Checkpoint = of_graph(path, graph)
        self._taken = taken
        inner = list(subgraphs(graph.node))
        ends = (*graph.input, *graph.output, *(value for one in inner for value in one.output))
        self._fixed = {value.name for value in ends}
        self._readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._read_inside = {name for one in inner for node in one.node for name in node.input}
        self._gone: set[str] = set()
        self._dense: list[onnx.TensorProto] = []
        self._sparse: list[onnx.SparseTensorProto] = []
        self._dropped: set[str] = set()
        self._first: list[onnx.NodeProto] = []
        self._instead: dict[str, str] = {}
        self._casts: list[tuple[onnx.NodeProto, str]] = []

    def store(self, form: Form, least: float) -> None:
        for name, spec in self._file.tensors.items():
            stored = _STORED[spec.format]
            mask = self._file.mask(name)
            if mask is None and form != "dense":
                mask = self._mask_of_zeros(spec, form, least)
            wanted: Form = "dense" if mask is None else form
            if wanted == stored != "coo" or not self._can_be(spec, wanted):
                continue
            if stored == "sift" and not self._open(spec):
                continue
            self._put(spec, wanted, mask)
        self._apply()

    def store_masks(self, masks: Mapping[str, Mask]) -> None:
        for name, mask in masks.items():
            spec = self._file.tensors.get(name)
            if spec is None or spec.format != "dense" or any(node.domain == DOMAIN for node in self._readers[name]):
                continue
            self._put(spec, "sift" if self._can_be(spec, "sift") else "coo", mask)
        self._apply()

    def _mask_of_zeros(self, spec: TensorSpec, form: Form, least: float) -> Mask | None:
        """Where a dense weight is not +0, if it is smaller with that as its mask."""
        if spec.dtype not in _WEIGHTS[form] or not is_matrix(spec.shape):
            return None
        if form == "sift" and self._taken_part(spec):
            return None
        array = self._file.read(spec.name)
        kept = array.view(f"u{array.itemsize}") != 0
        nonzero = int(np.count_nonzero(kept))
        index = -(-spec.numel // 8) if form == "sift" else 8 * nonzero
        takes = index + array.itemsize * nonzero + _COST[form]
        return Mask.from_bool(kept) if takes < array.nbytes and 1 - nonzero / spec.numel >= least else None

    def _can_be(self, spec: TensorSpec, form: Form) -> bool:
        if form == "dense" or spec.name in self._fixed:
            return form == "dense"
        if form == "sift" and (part := self._taken_part(spec)):
            raise ExportError(f"{self._file.path} has {spec.name!r} under a mask, and a value named {part!r} besides")
        return form == "coo" or spec.dtype in _DECODED

    def _taken_part(self, spec: TensorSpec) -> str | None:
        return next((part for part in _parts(spec) if part in self._taken), None)

    def _open(self, spec: TensorSpec) -> bool:
        """Give the readers of a weight that a function decodes that weight under its own name; False where something
        else reads its mask or its values, or has that name."""
        parts, dtype = _parts(spec), DTYPES[spec.dtype]
        nodes = {node.output[0]: node for part in parts for node in self._readers[part]}
        if any((node.domain, node.op_type) != (DOMAIN, DENSE_WEIGHT) for node in nodes.values()):
            return False
        if nodes.keys() & self._fixed or self._read_inside.intersection(parts):
            return False
        narrowed = {name: self._only_casts(name, dtype) if spec.dtype in _DECODED - {"F32"} else [] for name in nodes}
        own = {*nodes, *(cast.output[0] for casts in narrowed.values() for cast in casts)}
        if spec.name in self._taken - own:
            return False
        for name, node in nodes.items():
            if spec.dtype == "F32":
                self._drop(node, spec.name)
            elif narrowed[name]:
                self._dropped.add(name)
                for cast in narrowed[name]:
                    self._drop(cast, spec.name)
            else:
                widened = unused(f"{name}.float32", self._taken) if name == spec.name else name
                self._instead |= {name: widened}
                node.CopyFrom(helper.make_node("Cast", [], [widened], node.name, to=_FLOAT))
                self._casts.append((node, spec.name))
        self._gone.update(parts)
        return True

    def _drop(self, node: onnx.NodeProto, name: str) -> None:
        """Let ``name`` be read instead of what ``node`` computes."""
        self._dropped.add(node.output[0])
        self._instead[node.output[0]] = name

    def _put(self, spec: TensorSpec, form: Form, mask: Mask | None) -> None:
        name, array = spec.name, self._file.read(spec.name)
        self._gone.add(name)
        if mask is None or form == "dense":
            self._dense.append(numpy_helper.from_array(array, name))
        elif form == "coo":
            positions = np.flatnonzero(mask.to_bool())
            values = numpy_helper.from_array(array.reshape(-1)[positions], name)
            indices = numpy_helper.from_array(positions.astype(np.int64), f"{name}.indices")
            self._sparse.append(helper.make_sparse_tensor(values, indices, spec.shape))
        else:
            parts = formats.encode(_SIFT, array, mask)
            self._dense += [numpy_helper.from_array(part, f"{name}.{key}") for key, part in parts.items()]
            self._decode(spec)

    def _decode(self, spec: TensorSpec) -> None:
        name, dtype = spec.name, DTYPES[spec.dtype]

        def decoding(out: str, label: str = "") -> onnx.NodeProto:
            return helper.make_node(DENSE_WEIGHT, _parts(spec), [out], label, domain=DOMAIN, weight_shape=spec.shape)

        casts = [] if spec.dtype == "F32" else self._only_casts(name, np.dtype(np.float32))
        for cast in casts:
            cast.CopyFrom(decoding(cast.output[0], cast.name))
        if spec.dtype == "F32":
            self._first.append(decoding(name))
        elif not casts:
            widened = unused(f"{name}.float32", self._taken)
            to = helper.np_dtype_to_tensor_dtype(dtype)
            self._first += [decoding(widened), helper.make_node("Cast", [widened], [name], to=to)]

    def _only_casts(self, name: str, dtype: np.dtype) -> list[onnx.NodeProto]:
        """All readers of a value, if they are nodes of this graph that cast it to ``dtype``; else none."""
        readers, to = self._readers[name], helper.np_dtype_to_tensor_dtype(dtype)
        casts = [
            node
            for node in readers
            if (node.domain, node.op_type) == ("", "Cast")
            and any(item.name == "to" and item.i == to for item in node.attribute)
            and not self._fixed.intersection(node.output)
        ]
        alone = len(casts) == len(readers) and name not in self._read_inside | self._fixed
        return casts if alone else []

    def _apply(self) -> None:
        graph = self._graph
        for at in reversed(range(len(graph.node))):
            if self._dropped.intersection(graph.node[at].output):
                del graph.node[at]
        for inner in (graph, *subgraphs(graph.node)) if self._instead else ():
            for node in inner.node:
                node.input[:] = [self._instead.get(name, name) for name in node.input]
        for node, name in self._casts:
            node.input[:] = [name]
        for node in reversed(self._first):
            graph.node.insert(0, node)
        left = [tensor for tensor in graph.initializer if tensor.name not in self._gone]
        del graph.initializer[:]
        graph.initializer.extend([*left, *self._dense])
        sparse = [stored for stored in graph.sparse_initializer if stored.values.name not in self._gone]
        del graph.sparse_initializer[:]
        graph.sparse_initializer.extend([*sparse, *self._sparse])


def _parts(spec: TensorSpec) -> list[str]:
    """What the mask and the values of a weight are called."""
    return [f"{spec.name}.{part}" for part in (_SIFT, formats.VALUES)]
