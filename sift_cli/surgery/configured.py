"""Models that their configuration describes (transformers'): other sizes by way of the configuration.

Sizes in place are enough to compute with, but a model whose configuration still tells the old ones cannot be loaded by
its own library. Which numbers of a configuration stand for which widths is not written down anywhere; it is proposed
from their values and names, and proved by building the model on the meta device and comparing every shape.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from sift_cli.core.plan import SetAttribute, SetConfig
from sift_cli.errors import ModelError, PlanError

#: Numbers that are no widths, whatever their value.
_NO_WIDTH = re.compile(
    r"vocab|position|token|label|image_size|img_size|patch|kernel|stride|pad|window|bucket|distance|length|frames"
    r"|num_|n_head$|n_layer$|n_ctx$|heads(\.|$)|layers$|depth|stage|experts|rank|steps|dilation|groups|block|chunk"
    r"|_ids?(\.|$)|(?<!hidden_)(?<!conv_)channels$"
)
#: Widths that follow from others while nobody gives them.
_OPTIONAL = ("n_inner", "head_dim", "intermediate_size", "ffn_dim", "d_kv", "ffn_hidden_size", "mlp_dim")
#: Path of a number in a configuration → the number before, None where nothing was said, and after.
Changes = Mapping[str, tuple[int | float | None, int | float]]
#: Configurations to try. A model of 36 layers builds on meta in 60 ms.
_TRIALS = 64


def is_configured(module: nn.Module) -> bool:
    """Whether ``module`` is a model of transformers, which its configuration describes."""
    kind = type(module)
    return kind.__module__.startswith("transformers.models.") and hasattr(module, "config")


def rebuilt(module: nn.Module, edit: SetConfig) -> nn.Module:
    """A model of the changed configuration with the tensors of ``module``, which have the sizes it tells.

    Raises:
        PlanError: The module has no configuration, other numbers in it than the edit says, or other sizes.
    """
    if not is_configured(module):
        raise PlanError(f"the plan changes the configuration of a {type(module).__name__}, which has none")
    new = _built(module, changed(_config_of(module), edit.changes), real=not _on_meta(module))
    old = module.state_dict(keep_vars=True)
    if _shapes(new) != _shapes(module):
        raise PlanError("the plan's sizes are not those of the configuration that it makes")
    for path, child in new.named_modules(remove_duplicate=False):
        for holder in (child._parameters, child._buffers):
            for key in holder:
                name = f"{path}.{key}" if path else key
                if name in old:
                    holder[key] = old[name]
    return new.train(module.training)


def changed(config: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    """``config`` with the changes in it.

    Raises:
        PlanError: It has no such number, or another one.
    """
    result: dict[str, Any] = copy.deepcopy(dict(config))
    for path, (old, new) in changes.items():
        *parents, key = path.split(".")
        holder: Any = result
        for parent in parents:
            holder = _item(holder, parent)
        if _item(holder, key) != old:
            raise PlanError(f"the plan changes {path} from {old} to {new}, but the configuration has another number")
        holder[int(key) if isinstance(holder, list) else key] = new
    return result


def prove_config(
    original: nn.Module, resized: nn.Module, sizes: Mapping[int, Collection[int]]
) -> dict[str, tuple[int | None, int]] | None:
    """The changes to the configuration of ``original`` that make it a model of the shapes of ``resized``.

    Args:
        original: The model, on any device.
        resized: The same model with larger tensors.
        sizes: Width before → widths it became.

    Returns:
        Changes for :class:`~sift_cli.core.plan.SetConfig`, or None where no configuration of this class was found that
        has these shapes.
    """
    if not is_configured(original):
        return None
    config, wanted = _config_of(original), _shapes(resized)
    for changes in itertools.islice(_proposals(config, sizes), _TRIALS):
        try:
            new = _built(original, changed(config, changes), real=False)
        except ModelError:
            continue
        if _shapes(new) == wanted:
            return changes
    return None


def prove_attributes(original: nn.Module, changes: Changes, wanted: Iterable[SetAttribute]) -> Changes | None:
    """``changes`` with those after which the constructor sets the attributes that are ``wanted``, or None where no
    configuration of this class was found that does.

    Args:
        original: The model, on any device.
        changes: As :func:`prove_config` found them.
        wanted: Attributes, floats, as they have to be.
    """
    config = _config_of(original)
    places = {(edit.module, edit.attribute): edit for edit in wanted}
    became = {edit.old: edit.new for edit in places.values()}
    more = {path: (value, became[value]) for path, value in _items(config) if type(value) is float and value in became}
    plain = _floats(_built(original, changed(config, changes), real=False))
    told = _floats(_built(original, changed(config, {**changes, **more}), real=False))
    expected = {place: places[place].new if place in places else value for place, value in plain.items()}
    return {**changes, **more} if told == expected else None


def _floats(module: nn.Module) -> dict[tuple[str, str], float]:
    """Attributes of the modules that are floats."""
    return {
        (path, name): value
        for path, child in module.named_modules()
        for name, value in child.__dict__.items()
        if type(value) is float
    }


def _proposals(
    config: Mapping[str, Any], sizes: Mapping[int, Collection[int]]
) -> Iterator[dict[str, tuple[int | None, int]]]:
    """Changes to try: all numbers that can be widths take the new size, then fewer of them, then others of the sizes
    where one width became several, then with widths given that followed from others."""
    options: dict[str, list[tuple[int | None, int]]] = {}
    for path, value in _numbers(config):
        if value in sizes:
            options[path] = [(value, new) for new in sorted(sizes[value])]
    optional = [
        (path, new) for path in _absent(config) for new in sorted({new for news in sizes.values() for new in news})
    ]
    for extra in (None, *optional):
        given: dict[str, tuple[int | None, int]] = {} if extra is None else {extra[0]: (None, extra[1])}
        for left_out in itertools.chain.from_iterable(itertools.combinations(options, n) for n in range(3)):
            chosen = {path: pairs for path, pairs in options.items() if path not in left_out}
            for pairs in itertools.product(*chosen.values()):
                if changes := dict(zip(chosen, pairs, strict=True)) | given:
                    yield changes


def _numbers(value: Any) -> Iterator[tuple[str, int]]:
    """Integers of a configuration that can be widths, by path."""
    for where, item in _items(value):
        if type(item) is int and item > 1 and not _NO_WIDTH.search(where):
            yield where, item


def _items(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a configuration that is no object and no list, by path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
    for key, item in items or ():
        yield from _items(item, f"{path}.{key}" if path else str(key))


def _absent(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            where = f"{path}.{key}" if path else key
            if item is None and key in _OPTIONAL:
                yield where
            else:
                yield from _absent(item, where)


def _item(holder: Any, key: str) -> Any:
    if isinstance(holder, dict) and key in holder:
        return holder[key]
    if isinstance(holder, list) and key.isdecimal() and int(key) < len(holder):
        return holder[int(key)]
    raise PlanError(f"the plan changes {key!r} in a configuration that does not have it")


def _config_of(module: nn.Module) -> dict[str, Any]:
    from sift_cli.models.sources.transformers import portable

    return portable(module.config)


def _built(module: nn.Module, config: dict[str, Any], *, real: bool) -> nn.Module:
    """A model of the class of ``module``; its parameters are yet to be written where it is real."""
    from sift_cli.core import configs
    from sift_cli.core.plan import Architecture
    from sift_cli.models import build
    from sift_cli.models.sources import transformers

    name = type(module).__name__
    try:
        configs.check(config)
    except ValueError as error:
        raise PlanError(f"the plan makes a configuration that cannot be: {error}") from None
    if real:
        return transformers.empty(name, config)
    return build(Architecture("transformers", name, {"config": config}), device="meta")


def _on_meta(module: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in module.parameters())


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
