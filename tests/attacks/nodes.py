"""ONNX models of sift's operators, made at random and then damaged: attributes, constants, inputs, wiring, arrangement.

A model is a few nodes over arrays by name, so that what it means can still be said (see ``node_meaning.py``) when it
was changed. The same seed makes the same model.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from sift_cli.core.operators import ACTIVATIONS, DOMAIN, MAX_POOL, OPERATORS, Operator

#: Entries of attributes and shapes.
NUMBERS = (
    *(-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 2**15, 2**16, 2**20),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**53, 2**61, 2**62, 2**63 - 1),
)
SPECIAL = (np.nan, np.inf, -np.inf, -0.0, 1e-40, 65504.0)
PARAMETERS = (np.nan, np.inf, -np.inf, 0.0, -0.0, -0.5, 0.1, 6.0, 65504.0)
DTYPES = (np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.uint8, np.int64, np.bool_, np.complex64, np.str_)


class Window(NamedTuple):
    """What a convolution, or a pool, reads.

    Attributes:
        kernel, strides: Down, across.
        halo: The pixels around an image that it needs: top, left, bottom, right. Of a convolution its pads.
    """

    kernel: list[int]
    strides: list[int]
    halo: list[int]
    pools: bool = False


WINDOWS = [
    Window([kernel] * 2, [stride] * 2, halo)
    for kernel, stride, halo in (
        *((1, 1, [0] * 4), (3, 1, [1] * 4), (3, 1, [1] * 4), (5, 1, [2] * 4), (2, 1, [1, 1, 0, 0])),
        *((2, 1, [0, 0, 1, 1]), (3, 2, [1] * 4), (3, 2, [0, 0, 1, 1]), (1, 2, [0] * 4)),
    )
]


@dataclass
class Node:
    op_type: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any]
    between: str = ""  # an operator of ONNX through which X comes

    @property
    def operator(self) -> Operator | None:
        """None of a pool."""
        return OPERATORS.get(self.op_type)

    @property
    def layer(self) -> str:
        """Of what kind its arranged tensors are."""
        return self.operator.layer if self.operator else "Conv"


@dataclass
class Model:
    """Attributes:
    nodes: In order; the last one's output is the model's.
    constants: Initializers.
    feeds: Of several runs, the same names in each.
    open: Constants that are inputs of the graph, too, so that a run may replace them.
    steps: What was done to it.
    """

    nodes: list[Node]
    constants: dict[str, np.ndarray]
    feeds: list[dict[str, np.ndarray]]
    open: set[str] = field(default_factory=set)
    steps: list[str] = field(default_factory=list)

    def to_onnx(self) -> bytes:
        nodes = []
        for index, node in enumerate(self.nodes):
            inputs = list(node.inputs)
            if node.between and inputs:
                nodes.append(helper.make_node(node.between, inputs[:1], [f"between{index}"], name=f"between{index}"))
                inputs[0] = f"between{index}"
            given = {key: value for key, value in node.attributes.items() if value is not None}
            nodes.append(
                helper.make_node(node.op_type, inputs, [node.output], domain=DOMAIN, name=name(index), **given)
            )
        fed = [_info(key, array) for key, array in self.feeds[0].items()]
        graph = helper.make_graph(
            nodes,
            "attack",
            fed + [_info(key, self.constants[key]) for key in sorted(self.open)],
            [helper.make_tensor_value_info(self.nodes[-1].output, TensorProto.FLOAT, None)],
            [_tensor(array, key) for key, array in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def name(index: int) -> str:
    return f"block.{index}/layer"


def _info(key: str, array: np.ndarray) -> Any:
    return helper.make_tensor_value_info(key, _kind(array), None)


def _kind(array: np.ndarray) -> int:
    return int(TensorProto.STRING if array.dtype.kind == "U" else helper.np_dtype_to_tensor_dtype(array.dtype))


def _tensor(array: np.ndarray, key: str) -> TensorProto:
    if array.dtype.kind == "U":
        return helper.make_tensor(key, TensorProto.STRING, array.shape, [text.encode() for text in array.flat])
    return numpy_helper.from_array(array, key)


def attack(seed: int) -> Model:
    """A model that was damaged up to three times; one in eight was not."""
    rng = random.Random(seed)
    model = chain(rng) if rng.random() < 0.35 else single(rng)
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 2, 3))):
        rng.choice(MUTATIONS)(model, rng)
    return model


def _normal(rng: random.Random, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(rng.getrandbits(32)).standard_normal(shape).astype(np.float32).astype(dtype)


def _weights(rng: random.Random, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    kept = np.random.default_rng(rng.getrandbits(32)).random(shape) < rng.choice((0.0, 0.1, 0.3, 0.5, 1.0))
    dtype = rng.choice((np.float32, np.float32, np.float16, ml_dtypes.bfloat16))
    return {"bitmask": np.packbits(kept.reshape(-1), bitorder="little"), "values": _normal(rng, (kept.sum(),), dtype)}


def _node(rng: random.Random, model: Model, operator: Operator, x: str, where: dict[str, Any], residual: str) -> None:
    """Append a node with constants of its own."""
    index = len(model.nodes)
    constants = _weights(rng, where["weight_shape"])
    if rng.random() < 0.6:
        constants["bias"] = _normal(rng, where["weight_shape"][:1])
    model.constants |= {f"{key}{index}": array for key, array in constants.items()}
    inputs = [x, f"bitmask{index}", f"values{index}"]
    if operator.adds or "bias" in constants:
        inputs.append(f"bias{index}" if "bias" in constants else "")
    if operator.adds:
        inputs.append(residual)
    parameters = {"": {}, "Clip": {"min": -0.5, "max": 1.0}, "LeakyRelu": {"alpha": 0.1}}.get(operator.activation, {})
    model.nodes.append(Node(operator.name, inputs, f"Y{index}", {**where, **parameters}))


def _pooling(rng: random.Random) -> Window:
    kernel, strides = ([rng.choice((1, 2, 2, 3)) for _ in "hw"] for _ in "ks")
    past = (max(size - step, 0) for size, step in zip(kernel, strides, strict=True))
    return Window(kernel, strides, [0, 0, *past], pools=True)


def _pool(model: Model, x: str, window: Window, arrangement: dict[str, Any]) -> None:
    """Append a pool."""
    where = {"kernel_shape": window.kernel, "strides": window.strides, **arrangement}
    model.nodes.append(Node(MAX_POOL, [x], f"Y{len(model.nodes)}", where))


def forged(seed: int) -> tuple[Model, Model, Callable[[np.ndarray], np.ndarray]]:
    """A layer whose output is arranged, one that reads it from the caller, and what is done to it in between."""
    rng = random.Random(seed)
    whole = chain(rng)
    while len(whole.nodes) < 2:
        whole = chain(rng)
    first, second = whole.nodes[:2]
    second.inputs = [("X" if key == "R" and rng.random() < 0.5 else key) for key in second.inputs]
    model = Model([second], whole.constants, [dict(whole.feeds[0])])
    model.feeds[0]["R"] = whole.feeds[0].get("R", whole.feeds[0]["X"])

    def forge(array: np.ndarray) -> np.ndarray:
        array = array.reshape(-1).copy()
        header = array[: 64 if array.size >= 64 else 0].view(np.int64)[:17]
        for _ in range(rng.choice((0, 1, 1, 2, 3)) if header.size else 0):
            at = rng.randrange(len(header))
            header[at] = rng.choice(
                (*NUMBERS, header[at] + 1, header[at] - 1, 2 * header[at], header[rng.randrange(len(header))])
            )
        match rng.randrange(6):
            case 0:
                array = array[: rng.choice((0, 1, 63, 64, 65, array.size - 1, array.size // 2))]
            case 1:
                array = np.concatenate([array, array[: rng.choice((1, 16, 64, array.size))]])
            case 2 if array.size > 64:
                array[64:][np.random.default_rng(seed).integers(0, array.size - 64, 9)] = rng.choice(SPECIAL)
            case 3 if header.size:  # no images, of any size
                header[3:7] = [0, *(rng.choice((0, 1, 2**14, 2**15)) for _ in "chw")]
                array = array[:64]
        return array

    return Model([first], whole.constants, whole.feeds), model, forge


def single(rng: random.Random) -> Model:
    model = Model([], {}, [])
    if rng.random() < 0.1:
        window = _pooling(rng)
        x = (rng.choice((1, 1, 2, 5)), rng.randint(1, 6), *(size + rng.randint(0, 16) for size in window.kernel))
        _pool(model, "X", window, {})
        model.feeds = [{"X": _normal(rng, x)} for _ in range(rng.choice((1, 1, 2)))]
        return model
    operator = rng.choice(list(OPERATORS.values()))
    if operator.layer == "Linear":
        rows, inputs, outputs = (
            rng.choice(((), (1,), (3,), (2, 9), (17,), (40,))),
            rng.randint(1, 40),
            rng.randint(1, 40),
        )
        x, y, where = (*rows, inputs), (*rows, outputs), {"weight_shape": (outputs, inputs)}
    else:
        x, y, where = convolution(rng)
    _node(rng, model, operator, "X", where, "R")
    for _ in range(rng.choice((1, 1, 2))):
        model.feeds.append({"X": _normal(rng, x)} | ({"R": _normal(rng, y)} if operator.adds else {}))
    return model


def convolution(rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """The shapes of X and Y, and attributes."""
    while True:
        group = rng.choice((1, 1, 1, 2, 3))
        channels, filters = group * rng.randint(1, 5), group * rng.randint(1, 6)
        kernel, strides, dilations = (
            [rng.choice((1, 1, 2, 3, 3)) for _ in "hw"],
            *([rng.choice((1, 1, 2, 3)) for _ in "hw"] for _ in "sd"),
        )
        pads = [rng.choice((0, 0, 1, 2)) for _ in range(4)]
        x = (rng.choice((1, 1, 2, 5)), channels, rng.randint(1, 14), rng.randint(1, 19))
        out = [
            (x[2 + a] + pads[a] + pads[2 + a] - (kernel[a] - 1) * dilations[a] - 1) // strides[a] + 1 for a in (0, 1)
        ]
        if min(out) > 0:
            shape = (filters, channels // group, *kernel)
            where = {"weight_shape": shape, "strides": strides, "pads": pads, "dilations": dilations, "group": group}
            return x, (x[0], filters, *out), where


def chain(rng: random.Random) -> Model:
    """Layers that hand arranged tensors on."""
    model = Model([], {}, [])
    layer, length = rng.choice(("Conv", "Conv", "Linear")), rng.choice((2, 3, 3))
    of_layer = [one for one in OPERATORS.values() if one.layer == layer]
    if layer == "Linear":
        widths = [rng.randint(1, 30) for _ in range(length + 1)]
        rows = rng.choice(((3,), (16,), (2, 19), (40,)))
        for index in range(length):
            operator = rng.choice([one for one in of_layer if index == length - 1 or not one.adds])
            where: dict[str, Any] = {
                "weight_shape": (widths[index + 1], widths[index]),
                "arranged": [int(index > 0), int(index < length - 1)],
            }
            _node(rng, model, operator, f"Y{index - 1}" if index else "X", where, "R")
        x, y = (*rows, widths[0]), (*rows, widths[-1])
    else:
        x = y = (rng.choice((1, 1, 2, 5)), rng.randint(1, 6), rng.randint(1, 14), rng.randint(1, 19))
        windows = [rng.choice(WINDOWS) for _ in range(length)]
        if rng.random() < 0.6:
            windows = [windows[0]] * length
        windows = [_pooling(rng) if rng.random() < (0.4 if at else 0.1) else windows[at] for at in range(length)]
        for index, window in enumerate(windows):
            last = index == length - 1
            reader = windows[index if last else index + 1]
            arrangement = {"arranged": [int(index > 0), int(not last), *([0] * 4 if last else reader.halo)]}
            if reader.strides != [1, 1]:
                arrangement["arranged_strides"] = reader.strides
            pads = [0] * 4 if window.pools else window.halo
            size = [(y[2 + a] + pads[a] + pads[2 + a] - window.kernel[a]) // window.strides[a] + 1 for a in (0, 1)]
            if min(size) < 1:
                break
            before, y = y, (y[0], y[1] if window.pools else rng.randint(1, 6), *size)
            previous = f"Y{index - 1}" if index else "X"
            if window.pools:
                _pool(model, previous, window, arrangement)
                continue
            where = {
                "weight_shape": (y[1], before[1], *window.kernel), "strides": window.strides, "pads": pads,
                "dilations": [1, 1], "group": 1, **arrangement,
            }  # fmt: skip
            operator = rng.choice([one for one in of_layer if last or y == before or not one.adds])
            _node(rng, model, operator, previous, where, "R" if last else previous)
    if not model.nodes:
        return single(rng)
    used = {key for node in model.nodes for key in node.inputs}
    model.feeds = [{"X": _normal(rng, x)} | ({"R": _normal(rng, y)} if "R" in used else {})]
    return model


# Damage. Each function changes the model in place and says what it did.

Mutation = Callable[[Model, random.Random], None]


def _step(model: Model, text: str) -> None:
    model.steps.append(text)


def _attribute(model: Model, rng: random.Random) -> None:
    node = rng.choice(model.nodes)
    key = rng.choice(list(node.attributes))
    old = node.attributes[key]
    new: Any
    if isinstance(old, float):
        new = rng.choice((*PARAMETERS, 1, None, [0.5], "1.0"))
    elif rng.random() < 0.1:
        new = rng.choice((None, "text", 1.5, [0.5, 1.5], 3, [], [1] * 40, b"\xff"))
    elif isinstance(old, int):
        new = rng.choice(NUMBERS)
    else:
        new = list(old or (1,)) if isinstance(old, (list, tuple)) else [1]
        match rng.randrange(4):
            case 0 | 1:
                new[rng.randrange(len(new))] = rng.choice(NUMBERS)
            case 2:
                new = [rng.choice(NUMBERS) for _ in new]
            case _:
                new = new[1:] if rng.random() < 0.5 else [*new, rng.choice(NUMBERS)]
    node.attributes[key] = new = None if new == [] else new
    _step(model, f"{node.output}.{key} = {new}")


def _constant(model: Model, rng: random.Random) -> None:
    if not model.constants:
        return
    key = rng.choice(list(model.constants))
    array = model.constants[key]
    match rng.randrange(7):
        case 0:
            array = array[: rng.choice((0, 1, max(len(array) - 1, 0)))] if array.ndim else array
        case 1:
            array = np.concatenate(
                [array.reshape(-1), array.reshape(-1)[:1] if rng.random() < 0.8 else array.reshape(-1)]
            )
        case 2:
            array = array.reshape(rng.choice(((-1, 1), (1, -1), (1, 1, -1))))
        case 3 if array.dtype.kind not in "cUV":
            array = array.astype(rng.choice(DTYPES))
        case 4 | 5 if array.size:
            array = array.copy().reshape(-1)
            at = rng.choice((0, array.size - 1, rng.randrange(array.size)))
            if array.dtype == np.uint8:
                array[at] ^= 1 << rng.randrange(8)
            elif array.dtype.kind in "fV":
                array[at] = rng.choice(SPECIAL)
        case _:
            array = array.reshape(-1)[:1].reshape(()) if array.size else array
    model.constants[key] = array
    _step(model, f"{key}: {array.dtype} {array.shape}")


def _fed(model: Model, rng: random.Random) -> None:
    feed = rng.choice(model.feeds)
    if not feed:
        return
    key = rng.choice(list(feed))
    array = feed[key]
    match rng.randrange(6):
        case 0 if array.ndim:
            shape = list(array.shape)
            shape[rng.randrange(len(shape))] = rng.choice((0, 0, 1, 2, 3, 16, 33))
            array = _normal(rng, tuple(shape))
        case 1:
            array = _normal(rng, rng.choice(((), array.shape[1:], (1, *array.shape), (array.size,), (0,), (1,) * 9)))
        case 2 if array.size and array.dtype.kind == "f":
            array = array.copy()
            for _ in range(rng.randint(1, 3)):
                array.reshape(-1)[rng.randrange(array.size)] = rng.choice(SPECIAL)
        case 3:
            dtype = rng.choice((np.float64, np.float16, np.int8, np.uint8, np.int64, np.bool_))
            for one in model.feeds:  # a graph's input has one type
                one[key] = one[key].astype(dtype)
            return _step(model, f"{key}: {dtype}")
        case 4:  # aligned to a float, and no more
            room = np.empty(array.size + 1, array.dtype)
            room[1:] = array.reshape(-1)
            array = room[1:].reshape(array.shape)
        case _ if array.ndim > 2:
            array = _normal(rng, tuple(rng.choice(((0, *array.shape[1:]), (*array.shape[:2], *array.shape[:1:-1])))))
        case _:
            array = np.zeros_like(array)
    feed[key] = array.astype(feed[key].dtype)
    return _step(model, f"fed {key}: {array.dtype} {array.shape}")


def _wire(model: Model, rng: random.Random) -> None:
    node = rng.choice(model.nodes)
    before = [one.output for one in model.nodes[: model.nodes.index(node)]]
    names = ["", *model.constants, *model.feeds[0], *before]
    match rng.randrange(4):
        case 0 if node.inputs:
            node.inputs.pop()
        case 1:
            node.inputs.append(rng.choice(names))
        case 2:
            node.between = rng.choice(("Identity", "Neg", "Flatten"))
        case _ if node.inputs:
            node.inputs[rng.randrange(len(node.inputs))] = rng.choice(names)
    _step(model, f"{node.output} reads {node.inputs} {node.between}")


def _not_constant(model: Model, rng: random.Random) -> None:
    if not model.constants:
        return
    key = rng.choice(list(model.constants))
    if rng.random() < 0.5 or model.constants[key].dtype == ml_dtypes.bfloat16:  # which Python cannot feed
        model.open.add(key)
    else:
        array = model.constants.pop(key)
        model.open.discard(key)
        if array.dtype.kind == "U":
            array = array.astype(object)
        for feed in model.feeds:
            feed[key] = array
    _step(model, f"{key} is an input of the graph")


def _made_constant(model: Model, rng: random.Random) -> None:
    fed = [key for key, array in model.feeds[0].items() if array.dtype.kind != "O"]
    if not fed:
        return
    key = rng.choice(fed)
    model.constants[key] = model.feeds[0][key]
    for feed in model.feeds:
        del feed[key]
    _step(model, f"{key} is constant")


def _operator(model: Model, rng: random.Random) -> None:
    node = rng.choice(model.nodes)
    if node.operator and rng.random() < 0.7:
        node.op_type = replace(node.operator, activation=rng.choice(list(ACTIVATIONS))).name
    else:
        node.op_type = rng.choice([*OPERATORS, MAX_POOL])
    if node.operator and rng.random() < 0.8:
        node.attributes |= {key: rng.choice(PARAMETERS) for key in ACTIVATIONS[node.operator.activation].attributes}
    _step(model, f"{node.output} is {node.op_type} {node.attributes}")


def _arranged(model: Model, rng: random.Random) -> None:
    node = rng.choice(model.nodes)
    count = 6 if (node.layer == "Conv") != (rng.random() < 0.05) else 2
    flags = [rng.choice((0, 1, 1, 1, 2, -1)) for _ in "xy"]
    node.attributes["arranged"] = flags + [rng.choice((0, 0, 1, 1, 2, 3, 30)) for _ in range(count - 2)]
    _step(model, f"{node.output}.arranged = {node.attributes['arranged']}")


def _plan(model: Model, rng: random.Random) -> None:
    """Texts of the right form with numbers from elsewhere, and others."""
    from sift_cli.runtime.library import cpu, plans

    node = rng.choice(model.nodes)
    x = next((feed["X"].shape for feed in model.feeds if "X" in feed), ())
    convolves = node.layer == "Conv"
    shape = (8, 9, 9, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1) if convolves else (30, 20, rng.choice((1, 40)))
    processor, _, kernel, *numbers = rng.choice(plans(shape, 50)).split()
    size = f"{x[0]}x{x[2]}x{x[3]}" if len(x) == 4 else str(int(np.prod(x[:-1])))
    if rng.random() < 0.3:
        kernel = rng.choice(("conv_patches", "conv_points", "linear_panels", "linear_columns", "dense", kernel[:4]))
    for _ in range(rng.choice((0, 1, 2))):
        numbers = [*numbers, str(rng.choice((0, 1, 7, 16, 999_999_999)))]
        rng.shuffle(numbers)
        numbers.pop() if rng.random() < 0.7 else None
    words = [processor if rng.random() < 0.9 else cpu()[::-1], size, kernel, *numbers]
    if rng.random() < 0.4:
        wrong = (
            "",
            " ",
            "-1",
            "1.5",
            "99999999999",
            "x",
            "0x1",
            "\0",
            "ä",
            "\n",
            "".join(rng.choices(string.printable, k=20)),
        )
        words[rng.randrange(len(words))] = rng.choice(wrong)
    text = " ".join(words) if rng.random() < 0.95 else rng.choice((" ".join(words) * 5000, "a" * 100_000, " " * 10_000))
    node.attributes["plan"] = text
    _step(model, f"{node.output}.plan = {text[:80]!r}")


MUTATIONS: tuple[Mutation, ...] = (
    *(_attribute, _attribute, _attribute, _constant, _constant, _fed, _fed, _fed, _wire, _not_constant, _made_constant),
    *(_operator, _operator, _arranged, _arranged, _plan, _plan),
)
