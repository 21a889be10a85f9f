"""From the values of a configuration to its groups.

Three ways to write the same have been in use:

    ========= ============================ ================================ =================
    release   method                       weights                          first mask, if
                                                                            nothing is said
    ========= ============================ ================================ =================
    1.7–1.9   ``type: sideband``           ``param_name_patterns``, regular topk
                                           expressions found in names
    2.0–2.1   ``type: static``, gmp, set,  the same                         random
              rigl
    2.2–      ``algorithm: static``, …     ``param_filter``, globs of whole random
                                           names
    ========= ============================ ================================ =================

Source: ``modelzoo/common/pytorch/sparsity/appliance.py`` of Cerebras' modelzoo 1.7.1 to 1.9.1, and
``cerebras/pytorch/sparse/{configure,group,base,dynamic,rigl,set,gmp,init,utils}.py`` of cerebras-pytorch 2.0 to 2.10.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from sift_cli.errors import PlanError
from sift_cli.training.config.fields import below, choice, integer, mapping, number, texts, told, wrong
from sift_cli.training.config.groups import Group, Names
from sift_cli.training.config.schedule_values import schedule_of, updates_of
from sift_cli.training.config.schedules import Updates
from sift_cli.training.schedules import Constant, Schedule

_NAMING = ("type", "algorithm", "param_name_patterns", "param_filter")
_ALL = ("sparsity", "init_method", "seed")
_MOVING = (*_ALL, "schedule", "update")
#: Method → its settings, beside which method it is and of which weights.
_SETTINGS: dict[str, tuple[str, ...]] = {
    "sideband": (*_ALL, "in_groups", "out_groups", "dump_masks"),
    "static": (*_ALL, "schedule"),
    "gmp": _MOVING,
    "set": (*_MOVING, "drop_fraction"),
    "rigl": (*_MOVING, "drop_fraction", "balance_in_groups", "balance_out_groups"),
}
_ANY = sorted({key for keys in _SETTINGS.values() for key in keys})
_STARTS = ("random", "topk", "from_zeros", "checkerboard")
#: Sections of a file that has all of a run in it.
_SECTIONS = ("model", "optimizer", "runconfig", "train_input", "eval_input")


def find(document: Any) -> tuple[Any, str]:
    """(the part of a file that is about sparsity, its path of keys): under ``sparsity`` or ``trainer.init.sparsity``,
    or all of it.

    Raises:
        PlanError: It is a run's file, and says nothing about sparsity.
    """
    if not isinstance(document, dict):
        return document, ""
    if "trainer" in document:
        found = document
        for key in (path := ("trainer", "init", "sparsity")):
            if not isinstance(found, dict) or key not in found:
                raise PlanError("there is no trainer.init.sparsity")
            found = found[key]
        return found, ".".join(path)
    if any(section in document for section in _SECTIONS) and "sparsity" not in document:
        raise PlanError("there is no section 'sparsity'")
    if set(document) == {"sparsity"} or any(section in document for section in _SECTIONS):
        return document["sparsity"], "sparsity"
    return document, ""


def groups(value: Any, at: str) -> Iterator[Group]:
    """The groups of a configuration, the first of which counts where several have a weight.

    Args:
        value: A sparsity, a mapping, or a list of mappings.
        at: Its path of keys, for errors.

    Raises:
        PlanError: It is none, or contradicts itself.
    """
    if isinstance(value, dict) and set(value) == {"groups"}:
        value, at = value["groups"], below(at, "groups")
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _block(one, f"{at}[{index}]")
    elif value is not None:
        yield from _block(value, at)


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Settings by name, and the path of keys of each, as some may come from further out."""

    values: Mapping[str, Any]
    paths: Mapping[str, str]

    @classmethod
    def of(cls, values: Mapping[str, Any], at: str) -> _Settings:
        """Settings as they are written; ``schedule`` is another name of ``sparsity``.

        Raises:
            PlanError: Both are there.
        """
        if "schedule" in values:
            if "sparsity" in values:
                raise PlanError(f"{told(at)} has both sparsity and schedule, which are one setting")
            values = {"sparsity" if key == "schedule" else key: value for key, value in values.items()}
            return cls(values, {key: below(at, "schedule" if key == "sparsity" else key) for key in values})
        return cls(values, {key: below(at, key) for key in values})

    def over(self, other: _Settings) -> _Settings:
        """These, and those of ``other`` for what these do not have."""
        return _Settings({**other.values, **self.values}, {**other.paths, **self.paths})

    def get(self, key: str, default: Any = None) -> tuple[Any, str]:
        """(value, its path)."""
        return self.values.get(key, default), self.paths.get(key, key)


def _block(value: Any, at: str) -> Iterator[Group]:
    if isinstance(value, int | float):
        yield _group("static", _Settings({"sparsity": value}, {"sparsity": told(at)}), at, Names())
        return
    if not isinstance(value, dict):
        raise wrong(value, at, "a number or a mapping")
    mapping(value, at, (*_NAMING, *_ANY))
    method = _method(value, at)
    _check_known(method, value, at)
    settings = _Settings.of({key: one for key, one in value.items() if key not in _NAMING}, at)
    patterns, where = value.get("param_name_patterns"), below(at, "param_name_patterns")
    globs = value.get("param_filter")
    if isinstance(patterns, dict):
        if not patterns:
            raise wrong(patterns, where, "a text, a list of texts, or groups")
        for pattern, own in patterns.items():
            if not isinstance(pattern, str):
                raise PlanError(f"{where} has a key that is no text")
            path = below(where, pattern)
            own = mapping({} if own is None else own, path, _ANY)
            _check_known(method, own, path)
            inner = _Settings.of(own, path)
            yield _group(method, inner.over(settings), path, Names((_regex(pattern, path),)))
    elif patterns is not None:
        yield _group(method, settings, at, Names(tuple(_regex(text, path) for text, path in texts(patterns, where))))
    elif globs is not None:
        yield _group(method, settings, at, Names.globs(text for text, _ in texts(globs, below(at, "param_filter"))))
    else:
        yield _group(method, settings, at, Names())


def _method(value: Mapping[str, Any], at: str) -> str:
    if "type" in value and "algorithm" in value:
        raise PlanError(f"{told(at)} has both type and algorithm, which are one setting")
    if "param_name_patterns" in value and "param_filter" in value:
        raise PlanError(f"{told(at)} has both param_name_patterns and param_filter: which one counts?")
    old = [key for key in ("type", "param_name_patterns") if key in value]
    new = [key for key in ("algorithm", "param_filter") if key in value]
    if old and new:
        warnings.warn(
            f"{told(at)} has {old[0]}, which releases up to 2.1 know, beside {new[0]} of later ones; "
            "each is read as it was meant",
            stacklevel=5,
        )
    key = "type" if "type" in value else "algorithm"
    known = [method for method in _SETTINGS if method != "sideband" or key == "type"]
    return choice(value.get(key, "static"), below(at, key), known)


def _check_known(method: str, value: Mapping[str, Any], at: str) -> None:
    """Refuse what only other methods have."""
    for key in value:
        if key not in (*_NAMING, *_SETTINGS[method]):
            others = [other for other, settings in _SETTINGS.items() if key in settings]
            raise PlanError(
                f"{told(at)} has {key}, which {method} does not have", hint=f"{' and '.join(others)} have it"
            )


def _group(method: str, settings: _Settings, at: str, names: Names) -> Group:
    given = settings.values
    start = "topk" if method == "sideband" else "random"
    if "init_method" in given:
        known = (*_STARTS, "balanced-topk") if method == "sideband" else _STARTS
        start = choice(*settings.get("init_method"), known)
    updates = updates_of(*settings.get("update"))
    if "sparsity" not in given and (start != "from_zeros" or method == "gmp"):
        raise PlanError(f"{told(at)} has no 'sparsity'", hint="such as sparsity: 0.75")
    return Group(
        at=told(at),
        names=names,
        rule="static" if method == "sideband" else method,
        sparsity=_sparsity(method, *settings.get("sparsity"), updates),
        start=start,
        balance=_balance(settings, start),
        updates=updates,
        drop_fraction=schedule_of(*settings.get("drop_fraction", 0.3), updates, first=1),
        seed=integer(*settings.get("seed"), least=0) if given.get("seed") is not None else None,
    )


def _sparsity(method: str, value: Any, at: str, updates: Updates) -> Schedule | None:
    if value is None:
        return None
    if method in ("sideband", "static"):
        return Constant(number(value, at, least=0, most=1, open=True))
    if isinstance(value, int | float):
        number(value, at, least=0, most=1, open=True)
    schedule = schedule_of(value, at, updates, first=0)
    if method == "gmp" and isinstance(schedule, Constant):
        raise PlanError(
            f"{at} is constant, and gmp prunes more and more",
            hint="give it a schedule, such as {type: exp, init: 0, gamma: -0.001}, or take static",
        )
    return schedule


def _balance(settings: _Settings, start: str) -> tuple[str, int] | None:
    """(side, groups of it that keep as many weights each).

    Raises:
        PlanError: An update of the masks, or the way the first ones are made, would not keep to it.
    """
    asked = {}
    for key in ("in_groups", "out_groups", "balance_in_groups", "balance_out_groups"):
        value, at = settings.get(key)
        if value is not None and integer(value, at, least=1) > 1:
            asked[key] = value, at
    for _, at in list(asked.values())[1:]:
        raise PlanError(f"{at} is one grouping too many: groups are of inputs or of outputs")
    for key, (groups, at) in asked.items():
        if key.startswith("balance_"):
            raise PlanError(
                f"{at} would have to hold in each update, and sift has no pattern for that",
                hint="leave it out: rigl then moves weights between groups, too",
            )
        if start not in ("random", "topk"):
            raise PlanError(f"{at} means nothing for init_method {start}", hint="it is for random and topk")
        return key.removesuffix("_groups"), groups
    return None


def _regex(text: str, at: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise PlanError(f"{at} is no regular expression: {error}") from None
