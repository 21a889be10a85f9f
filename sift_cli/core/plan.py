"""The transform plan: everything that will be done to a model, decided before anything is.

A plan is made of a closed vocabulary of edits and holds no tensor, so it can be printed, stored, compared, and
applied to meta tensors (``--dry-run``) and to real ones alike. Only :mod:`sift_cli.surgery` carries it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from sift_cli.core import configs
from sift_cli.core.sparsity import parse_sparsity
from sift_cli.errors import PlanError

SCHEMA = "sift.plan/1"
#: Key under which a file that sift wrote keeps its plan, in safetensors metadata and in ONNX properties.
METADATA_KEY = "sift.plan"


#: Arguments that an architecture in a file may have, integers and bools. Constructors take others, which open files
#: (timm's ``checkpoint_path``); a file cannot ask for those.
ARGUMENTS = frozenset(
    {"num_classes", "in_chans", "img_size", "image_size", "aux_logits", "width", "zero_init_residual"}
)


@dataclass(frozen=True)
class Architecture:
    """How to build a model again: a source plug-in, a name that it knows, and the arguments it was built with.

    ``Architecture("torchvision", "resnet18", {"num_classes": 10})`` is written ``torchvision:resnet18`` on the command
    line. The one argument of a class of transformers is ``config``, the whole configuration as JSON values.
    """

    source: str
    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.source}:{self.name}"

    @property
    def callable(self) -> str | None:
        """``package.module:name`` of the user's code that builds it, which no file may choose to run; else None."""
        return self.name if self.source == "factory" else None

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "name": self.name, "kwargs": dict(self.kwargs)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        source, name, kwargs = data["source"], data["name"], data.get("kwargs", {})
        if not (isinstance(source, str) and isinstance(name, str) and isinstance(kwargs, dict)):
            raise ValueError("an architecture is {source, name, kwargs}")
        if source == "transformers":
            if not name.isidentifier() or set(kwargs) != {"config"}:
                raise ValueError("an architecture of transformers is the name of a class and its config")
            configs.check(kwargs["config"])
            return cls(source, name, kwargs)
        for key, value in kwargs.items():
            if key not in ARGUMENTS or type(value) not in (int, bool):
                raise ValueError(f"an architecture has no argument {key!r:.40} with a value of {type(value).__name__}")
        return cls(source, name, kwargs)


@dataclass(frozen=True)
class InputSpec:
    """One example input of a model.

    Attributes:
        shape: Its shape, a batch of one.
        dtype: "float32", "int64" or "bool".
        name: The keyword it is passed by; None where it is passed by position.
        high: Integers are drawn from [0, high); None for other types, and where only 0 is known to be valid.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    name: str | None = None
    high: int | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> InputSpec:
        spec: InputSpec = _record(cls, {**data, "shape": tuple(_typed(size, int) for size in data["shape"])})
        _require(0 < len(spec.shape) <= 8 and all(1 <= size <= _MAX_SIZE for size in spec.shape), spec)
        _require(spec.dtype in ("float32", "int64", "bool"), spec)
        _require(spec.name is None or (spec.name.isidentifier() and len(spec.name) < 100), spec)
        _require(spec.high is None or (spec.dtype == "int64" and 1 <= spec.high <= _MAX_SIZE), spec)
        return spec


@dataclass(frozen=True)
class ResizeAxis:
    """Grow one axis of a tensor. Old values stay in the leading part, what is new is 0 until something fills it.

    Attributes:
        tensor: Name of the tensor.
        axis: Which axis.
        old, new: Its size before and after.
        parts: Equal parts that grow on their own, as the heads in an axis of (heads, size of a head).
    """

    tensor: str
    axis: int
    old: int
    new: int
    parts: int = 1


@dataclass(frozen=True)
class SetAttribute:
    """Set a number that a module keeps beside its tensors: a size (``in_channels``, ``groups``, …), or one that was
    computed from a size (``scale`` = 1/√head_dim).

    Attributes:
        module: Path of the module, "" for the model.
        attribute: Its name; "config.hidden_size" for an attribute of the module's configuration.
        old, new: The number before and after.
        element: Which number of a tuple or list; None for an attribute that is a number itself.
    """

    module: str
    attribute: str
    old: int | float
    new: int | float
    element: int | None = None


@dataclass(frozen=True)
class SetConfig:
    """Build the module anew from its configuration with other sizes in it, and put the resized tensors there. Whatever
    the constructor computes from sizes is right then, and the model is one that its configuration describes.

    Attributes:
        changes: Path of a number in the configuration ("hidden_size", "text_config.hidden_size", "hidden_sizes.0") →
            the number before, or None where nothing was said, and after.
    """

    changes: Mapping[str, tuple[int | float | None, int | float]]

    def __post_init__(self) -> None:
        pairs = {path: (old, new) for path, (old, new) in self.changes.items()}
        object.__setattr__(self, "changes", pairs)


@dataclass(frozen=True)
class ReplaceLayer:
    """Put a layer of :mod:`sift_cli.layers` in the place of another one, with the same shapes of input and output. Its
    tensors are 0 until something fills them.

    Attributes:
        module: Path of the layer that goes.
        layer: Plug-in that makes the new one ("parallel").
        arguments: What that takes beside the old layer: integers and short words.
    """

    module: str
    layer: str
    arguments: Mapping[str, int | str]


@dataclass(frozen=True)
class FillTensor:
    """Fill a tensor from a distribution, in whole or where it grew.

    Attributes:
        tensor: Name of the tensor.
        distribution: "normal" (a = mean, b = standard deviation), "trunc_normal" (the same, and draws more than two
            standard deviations off are drawn again), "uniform" (from a to b), "constant" (a), "repeat" (what grew
            along ``grown_axis`` repeats the old slices, which all have to be equal: a blur filter's), "scale" (a times
            what is there), or "center" (the old values minus their mean along ``axis``). In a layer that was put in
            the place of another also "original" (that one's tensor of the same name), "svd_u" and "svd_v" (the two
            factors of the best approximation to that one's weight that the rest of the new layer leaves to them).
        a, b: Parameters of the distribution.
        grown_axis: None fills the whole tensor; an axis fills only the entries that the plan adds along it.
        seed: Seed of the draw; 0 for "constant".
        start, stop: Fill these rows only, as the row of an embedding that stands for padding; all of them where
            ``stop`` is None.
        axis: Which axis counts rows, and which one has the mean.
    """

    tensor: str
    distribution: Literal[
        "normal", "trunc_normal", "uniform", "constant", "repeat", "scale", "center", "original", "svd_u", "svd_v"
    ]
    a: float = 0.0
    b: float = 0.0
    grown_axis: int | None = None
    seed: int = 0
    start: int = 0
    stop: int | None = None
    axis: int = 0


@dataclass(frozen=True)
class AttachMask:
    """Give a tensor a mask with an exact number of kept weights; weights that are not kept become 0.

    Attributes:
        tensor: Name of the tensor.
        nonzero: Number of kept weights, exact.
        rule: "random" draws them uniformly without replacement; "block" keeps the leading block, the weights that the
            tensor had before it grew; "topk" the largest magnitudes; "partition" the places from ``offset`` on in an
            order that the seed alone gives, so that masks of one seed whose places do not overlap are disjoint; "file"
            is a mask from elsewhere, which whoever carries out the plan has to bring along. A plan names no file.
        seed: Seed of the draw; 0 where there is none.
        offset: First place of "partition".
        pattern: Where kept weights may lie: :mod:`sift_cli.sparsity.patterns`.
        output_axis: Axis of the tensor that counts outputs, for the pattern.
        digest: :attr:`~sift_cli.core.masks.Mask.digest` of the mask that "file" stands for; "" for other rules.
    """

    tensor: str
    nonzero: int
    rule: Literal["random", "block", "topk", "partition", "file"]
    seed: int = 0
    offset: int = 0
    pattern: str = "unstructured"
    output_axis: int = 0
    digest: str = ""


Edit = ResizeAxis | SetAttribute | SetConfig | ReplaceLayer | FillTensor | AttachMask
_EDITS: dict[str, type] = {
    "resize_axis": ResizeAxis,
    "set_attribute": SetAttribute,
    "set_config": SetConfig,
    "replace_layer": ReplaceLayer,
    "fill_tensor": FillTensor,
    "attach_mask": AttachMask,
}
_NAMES = {cls: name for name, cls in _EDITS.items()}
_DISTRIBUTIONS = frozenset(
    "normal trunc_normal uniform constant repeat scale center original svd_u svd_v".split()  # noqa: SIM905
)
#: No axis is longer.
_MAX_SIZE = 2**31 - 1


@dataclass(frozen=True)
class PlannedLayer:
    """What the plan predicts for one layer with a weight. MACs are for one forward pass of one sample.

    Attributes:
        name: Module path.
        op: "conv" or "linear".
        weight: Name of the weight tensor.
        role: "sparse", "fixed" (sparse by a given number), "depthwise" (sparse by its own rule), "first", "last",
            "shortcut" (dense by default), "kept"; "replaced" for a layer that another was put in the place of, whose
            parts follow it, and "factor" for a dense part.
        positions: Times each weight is used in a forward pass: output positions of a convolution, rows of a linear
            layer.
        numel_before, numel_after: Weights of the dense tensor, before and after; 0 where there is none.
        nonzero_after: Weights kept.
    """

    name: str
    op: str
    weight: str
    role: str
    positions: int
    numel_before: int
    numel_after: int
    nonzero_after: int

    @property
    def macs_before(self) -> int:
        return self.positions * self.numel_before

    @property
    def macs_after(self) -> int:
        return self.positions * self.nonzero_after

    @property
    def density(self) -> float:
        return self.nonzero_after / self.numel_after if self.numel_after else 0.0


@dataclass(frozen=True)
class TransformPlan:
    """A decided transform.

    Attributes:
        kind: Transform plug-in that decided it ("wide").
        sparsity: Nominal sparsity as the user wrote it, an exact fraction ("9/10").
        options: What else was asked for (match, init, seed, multiple, only, keep), JSON values.
        architecture: The model it is for.
        inputs: The example inputs, batch of one, all by position or all by keyword; MACs are counted at these.
        edits: What surgery does, in order.
        layers: Every layer that has MACs, with its predicted numbers.
        promises: Names of the claims that verification has to measure.
        notes: Sentences for the user (overheads, roundings).
        other_macs: MACs in no layer's weight (attention products), before and after.
    """

    kind: str
    sparsity: str
    options: Mapping[str, Any]
    architecture: Architecture
    inputs: tuple[InputSpec, ...]
    edits: tuple[Edit, ...]
    layers: tuple[PlannedLayer, ...]
    promises: tuple[str, ...]
    notes: tuple[str, ...] = ()
    other_macs: tuple[int, int] = (0, 0)

    @property
    def macs_before(self) -> int:
        return sum(layer.macs_before for layer in self.layers) + self.other_macs[0]

    @property
    def macs_after(self) -> int:
        return sum(layer.macs_after for layer in self.layers) + self.other_macs[1]

    @property
    def masked(self) -> dict[str, int]:
        """Name of each tensor that gets a mask → weights it keeps."""
        return {edit.tensor: edit.nonzero for edit in self.edits if isinstance(edit, AttachMask)}

    @property
    def replaced(self) -> dict[str, ReplaceLayer]:
        """The layers that others are put in the place of, by their path."""
        return {edit.module: edit for edit in self.edits if isinstance(edit, ReplaceLayer)}

    def place_of(self, tensor: str) -> str | None:
        """Path of the layer in whose place there is one with this tensor; None where it is of the model itself."""
        return next((path for path in self.replaced if tensor.startswith(f"{path}.")), None)

    @property
    def sparse_layers(self) -> tuple[PlannedLayer, ...]:
        masked = self.masked
        return tuple(layer for layer in self.layers if layer.weight in masked)

    @property
    def solved_sparsity(self) -> float | None:
        """Share of weights masked over the uniformly sparse layers, or None where there are none."""
        layers = [layer for layer in self.sparse_layers if layer.role == "sparse"]
        total = sum(layer.numel_after for layer in layers)
        return 1 - sum(layer.nonzero_after for layer in layers) / total if total else None

    def _validate(self) -> None:
        """Refuse numbers that no transform would have written. A plan comes in files, and files are hostile."""
        options = self.options
        _require(options["match"] in ("model", "layer") and options["init"] in ("scratch", "preserve"), options)
        _require(type(options["seed"]) is int and 0 <= options["seed"] < 2**63, options)
        parse_sparsity(self.sparsity)
        keywords = {spec.name for spec in self.inputs}
        _require(0 < len(self.inputs) <= 16 and (keywords == {None} or None not in keywords), self.inputs)
        _require(keywords == {None} or len(keywords) == len(self.inputs), self.inputs)
        for edit in self.edits:
            match edit:
                case ResizeAxis():
                    _require(0 <= edit.axis < 8 and 1 <= edit.old <= edit.new <= _MAX_SIZE, edit)
                    _require(edit.parts >= 1 and edit.old % edit.parts == edit.new % edit.parts == 0, edit)
                case SetAttribute():
                    names = edit.attribute.split(".")
                    _require(len(names) <= 2 and not any(name.startswith("_") for name in names), edit)
                    _require(math.isfinite(edit.new) and 0 <= edit.new <= _MAX_SIZE, edit)
                    _require(edit.element is None or 0 <= edit.element < 8, edit)
                case SetConfig():
                    _require(0 < len(edit.changes) <= 256, edit)
                    for path, (old, new) in edit.changes.items():
                        _require(all(part and not part.startswith("_") for part in path.split(".")), edit)
                        _require(type(new) in (int, float) and (old is None or type(old) is type(new)), edit)
                        _require(0 < new <= _MAX_SIZE, edit)
                case ReplaceLayer():
                    _require(bool(edit.module) and edit.layer.isidentifier() and len(edit.arguments) <= 8, edit)
                    for key, value in edit.arguments.items():
                        _require(key.isidentifier() and type(value) in (int, str), edit)
                        _require(len(value) <= 32 if isinstance(value, str) else 0 <= value <= _MAX_SIZE, edit)
                case FillTensor():
                    _require(edit.distribution in _DISTRIBUTIONS, edit)
                    _require(math.isfinite(edit.a) and math.isfinite(edit.b) and edit.b >= min(edit.a, 0.0), edit)
                    _require(edit.grown_axis is None or 0 <= edit.grown_axis < 8, edit)
                    _require(0 <= edit.seed < 2**63 and 0 <= edit.axis < 8, edit)
                    _require(0 <= edit.start <= _MAX_SIZE and edit.start < (edit.stop or _MAX_SIZE + 1), edit)
                    _require((edit.start, edit.stop, edit.axis) == (0, None, 0) or edit.grown_axis is None, edit)
                case AttachMask():
                    _require(edit.rule in ("random", "block", "topk", "partition", "file"), edit)
                    _require(edit.pattern == "unstructured" or edit.rule in ("random", "topk", "file"), edit)
                    _require(len(edit.pattern) <= 32 and 0 <= edit.output_axis < 8, edit)
                    _require(len(edit.digest) == (64 if edit.rule == "file" else 0), edit)
                    _require(min(edit.nonzero, edit.seed, edit.offset) >= 0 and edit.seed < 2**63, edit)
        masked = self.masked
        for layer in self.layers:
            _require(masked.get(layer.weight, layer.numel_after) == layer.nonzero_after, layer)
            _require(0 <= layer.nonzero_after <= layer.numel_after, layer)
            _require(layer.positions >= 1 and min(layer.numel_before, layer.numel_after) >= 0, layer)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "sparsity": self.sparsity,
            "options": dict(self.options),
            "architecture": self.architecture.to_json(),
            "inputs": [{**asdict(spec), "shape": list(spec.shape)} for spec in self.inputs],
            "edits": [{"edit": _NAMES[type(edit)], **asdict(edit)} for edit in self.edits],
            "layers": [asdict(layer) for layer in self.layers],
            "promises": list(self.promises),
            "notes": list(self.notes),
            "other_macs": list(self.other_macs),
            "predicted": {
                "macs": {"before": self.macs_before, "after": self.macs_after},
                "solved_sparsity": self.solved_sparsity,
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TransformPlan:
        """Inverse of :meth:`to_json`; ``predicted`` is derived and ignored.

        Raises:
            ValueError: Another schema, an unknown edit, or fields that are missing, unknown or of the wrong type.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            raise ValueError(f"not a {SCHEMA} document")
        if unknown := data.keys() - {"schema", "predicted"} - {spec.name for spec in fields(cls)}:
            raise ValueError(f"a {SCHEMA} document has no {sorted(unknown)[0]!r:.40}")
        try:
            plan = cls(
                kind=_typed(data["kind"], str),
                sparsity=_typed(data["sparsity"], str),
                options=dict(data["options"]),
                architecture=Architecture.from_json(data["architecture"]),
                inputs=tuple(InputSpec.from_json(item) for item in data["inputs"]),
                edits=tuple(_edit(item) for item in data["edits"]),
                layers=tuple(_record(PlannedLayer, item) for item in data["layers"]),
                promises=tuple(_typed(name, str) for name in data["promises"]),
                notes=tuple(_typed(note, str) for note in data["notes"]),
                other_macs=(_typed(data["other_macs"][0], int), _typed(data["other_macs"][1], int)),
            )
            plan._validate()
            return plan
        except (KeyError, TypeError, IndexError, AttributeError, OverflowError, PlanError) as error:
            raise ValueError(f"not a {SCHEMA} document: {type(error).__name__} {error}") from None


def _require(condition: bool, what: object) -> None:
    if not condition:
        raise ValueError(f"{what!r:.200} cannot be in a plan")


def _edit(item: Mapping[str, Any]) -> Edit:
    values = dict(item)
    name = values.pop("edit", None)
    if name not in _EDITS:
        raise ValueError(f"unknown edit {name!r} in the plan")
    edit: Edit = _record(_EDITS[name], values)
    return edit


_JSON_TYPES = {
    "str": str,
    "int": int,
    "float": (int, float),
    "int | float": (int, float),
    "int | None": (int, type(None)),
    "Mapping[str, int | str]": dict,
    "Mapping[str, tuple[int | float | None, int | float]]": dict,
    "str | None": (str, type(None)),
    "tuple[int, ...]": tuple,
}


def _record(cls: type, values: Mapping[str, Any]) -> Any:
    """``cls(**values)``, with each value's type checked against its annotation."""
    for spec in fields(cls):
        if spec.name in values:
            _typed(values[spec.name], _JSON_TYPES.get(str(spec.type), str))
    return cls(**values)


def _typed(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{value!r} in the plan is not of type {kind}")
    return value
