"""A training, written down: what is trained on what, and how. Every number of a run is in here."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from sift_cli.errors import PlanError, Unreadable
from sift_cli.training.config.reading import read as read_yaml
from sift_cli.training.recipes.keys import Named, numbers, plain, read

_SHIPPED = "sift_cli.recipes"


@dataclass(frozen=True)
class Recipe:
    """The keys of a recipe.

    What is chosen by name has the arguments of that thing beside the name; ``docs/train.md`` lists them.

    Attributes:
        model: A file that sift reads, or an architecture and its arguments.
        data: A plug-in of :mod:`sift_cli.training.recipes.data` and its options.
        optimizer: A class of ``torch.optim``, in lower case, and its arguments.
        batch: Samples of one step of the optimizer, over all processes and accumulated parts.
        epochs, steps: Length of the training, in one of them. ``evaluate``, ``checkpoint`` and what a schedule counts
            are in the same unit.
        transform: A kind of ``sift transform`` and its options.
        rule: A rule of :func:`sift_cli.sparsify` and its arguments.
        sparsity_config: A file of Cerebras' ``sparsity:`` settings in the place of ``rule``.
        schedule: Of the learning rate, see :mod:`sift_cli.training.recipes.rates`.
        decay_norms_and_biases: Let weight decay act on parameters with one axis too.
        label_smoothing: Share of a target that goes to all classes alike.
        clip: Largest norm of the gradient.
        ema: Decay of a moving average of the weights, which is then what is evaluated and written.
        precision: What forward passes compute in.
        compile: Have ``torch.compile`` make the model faster.
        accumulate: Parts in which a process does its share of a batch.
        evaluate: How often the validation data are gone through, a line of the log is written, and the best artifact.
        checkpoint: How often the state of the run is written.
        seed: Seed of weights, masks, the order of the data, augmentation, and dropout.
        workers: Processes that prepare data; what they prepare does not depend on their number.
        tensorboard: Write its logs too.
    """

    model: Named
    data: Named
    optimizer: Named
    batch: int
    epochs: float | None = None
    steps: int | None = None
    transform: Named | None = None
    rule: Named | None = None
    sparsity_config: str | None = None
    schedule: Named = Named("constant")  # noqa: RUF009, it is frozen
    decay_norms_and_biases: bool = False
    label_smoothing: float = 0.0
    clip: float | None = None
    ema: float | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    accumulate: int = 1
    evaluate: float | None = None
    checkpoint: float | None = None
    seed: int = 0
    workers: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise PlanError("a recipe says either 'epochs' or 'steps'")
        if self.rule is not None and self.sparsity_config is not None:
            raise PlanError("a recipe says either 'rule' or 'sparsity_config'")
        for name in ("batch", "epochs", "steps", "accumulate", "evaluate", "checkpoint", "clip"):
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf"):
                raise PlanError(f"{name} is {value}, and has to be more than 0")
        for name, low, high in (("label_smoothing", 0, 1), ("ema", 0, 1), ("workers", 0, 256), ("seed", 0, 2**63)):
            if (value := getattr(self, name)) is not None and not low <= value < high:
                raise PlanError(f"{name} is {value}, and has to be from {low} to below {high}")

    def to_json(self) -> dict[str, Any]:
        """The recipe as it would be written; what is at its default is left out."""
        written: dict[str, Any] = plain(self)
        return written


def shipped() -> tuple[str, ...]:
    """Names of the recipes that come with sift."""
    folder = resources.files(_SHIPPED)
    return tuple(sorted(one.name.removesuffix(".yaml") for one in folder.iterdir() if one.name.endswith(".yaml")))


def about(name: str) -> str:
    """The first sentence of a shipped recipe's comment."""
    first = resources.files(_SHIPPED).joinpath(f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("# ").partition(". ")[0]


def load(source: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe from a file, or one that comes with sift by its name.

    Args:
        source: The file or the name.
        overrides: ``KEY.KEY=VALUE`` in YAML, put in the place of what the recipe says.

    Raises:
        Unreadable: There is no such file.
        PlanError: It is no YAML, a key is unknown, or a value is none that it can have.
    """
    path = Path(source)
    if not path.exists() and str(source) in shipped():
        path = Path(str(resources.files(_SHIPPED).joinpath(f"{source}.yaml")))
    if not path.is_file():
        near = difflib.get_close_matches(str(source), shipped(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"recipes that come with sift: {', '.join(shipped())}"
        raise Unreadable(source, "there is no such recipe", hint=hint)
    document = read_yaml(path)
    for text in overrides:
        document = _overridden(document, text)
    return read(Recipe, numbers(document), "")


def _overridden(document: Any, text: str) -> Any:
    """``document`` with one value put in its place."""
    keys, equals, value = text.partition("=")
    path = keys.strip().split(".")
    if not equals or not all(path):
        raise PlanError(f"{text!r} is not KEY=VALUE", hint="write it as optimizer.lr=0.1")
    document = copy.deepcopy(document)
    if not isinstance(document, dict):
        return document  # what is wrong with it is said where it is read
    inner = document
    for key in path[:-1]:
        if not isinstance(inner.get(key), dict):
            name = inner.get(key)
            inner[key] = {"name": name} if isinstance(name, str) else {}
        inner = inner[key]
    try:
        inner[path[-1]] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        inner[path[-1]] = value  # a glob, *.py, would be an alias
    return document


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """The path of a key in which two recipes differ, as :meth:`Recipe.to_json` has them; None where they are one."""
    for key in sorted(first.keys() | second.keys()):
        one, other = first.get(key), second.get(key)
        if one == other:
            continue
        inner = differing(one, other) if isinstance(one, dict) and isinstance(other, dict) else None
        return f"{key}.{inner}" if inner else key
    return None
