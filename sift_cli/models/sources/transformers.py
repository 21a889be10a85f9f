"""Models of the transformers library, each a class and a configuration.

On the command line a name is a model type with its default configuration (``transformers:gpt2``) or a folder with a
``config.json``; a class of one's own choice follows after a slash (``transformers:bert/BertModel``). Weights are never
fetched, and no code of a folder is run.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sift_cli.compat import import_transformers
from sift_cli.core import configs
from sift_cli.core.plan import Architecture, InputSpec
from sift_cli.errors import Malformed, ModelError, SiftError, Unreadable

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

PACKAGE = "transformers"
#: What does not build there transformers does not load. On real tensors a configuration could ask for any memory.
BUILDS_ON_META = True

#: Where to look for the class of a model type, the first that has one. An encoder like BERT also has a causal head,
#: which nobody means.
_HEADS = """
    MASKED_LM CAUSAL_LM ZERO_SHOT_IMAGE_CLASSIFICATION IMAGE_CLASSIFICATION IMAGE_TEXT_TO_TEXT CTC
    AUDIO_CLASSIFICATION VIDEO_CLASSIFICATION OBJECT_DETECTION SEMANTIC_SEGMENTATION UNIVERSAL_SEGMENTATION
    DEPTH_ESTIMATION SEQUENCE_CLASSIFICATION
"""
_WITH_DECODER = "SEQ_TO_SEQ_CAUSAL_LM SPEECH_SEQ_2_SEQ"


def names() -> tuple[str, ...]:
    """None: any class with any configuration is one."""
    return ()


def has(name: str) -> bool:
    """Whether ``name`` is the name of a model class."""
    if not name.isidentifier():
        return False
    transformers = import_transformers(f"transformers:{name}")
    try:
        found = getattr(transformers, name)
    except (AttributeError, ImportError):  # a class whose own requirements are not installed
        return False
    return isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)


def variants(name: str) -> tuple[dict[str, Any], ...]:
    return ({},)


def resolve(text: str) -> Architecture | None:
    """The architecture that a user writes as ``text``, or None where there is no such folder and no such model type.

    Raises:
        CheckpointError: The folder's config.json cannot be read.
        ModelError: It is of a model that transformers does not have, or asks for more than a model.
    """
    import_transformers(f"transformers:{text}")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for where, head in ((text, None), (text.rpartition("/")[0], text.rpartition("/")[2])):
        if head is not None and not has(head):
            continue
        if (Path(where) / "config.json").is_file():
            return of_folder(Path(where), head)
        if where in CONFIG_MAPPING:
            with _alone():
                config = portable(CONFIG_MAPPING[where]())
            return Architecture(PACKAGE, head or _head(config), {"config": config})
    return None


def of_folder(folder: Path, head: str | None = None) -> Architecture:
    """The architecture of a folder with a ``config.json``: the class that the file names, or ``head``.

    Raises:
        Unreadable, Malformed: The file cannot be read, or is no configuration.
        ModelError: See :func:`resolve`.
    """
    path = folder / "config.json"
    config = read_config(path)
    kind = config.get("model_type")
    known = isinstance(kind, str) and kind in _config_types(f"{folder}")
    named = (config.get("architectures") or [None])[0] if isinstance(config.get("architectures"), list) else None
    if config.get("auto_map"):
        if not known:
            raise ModelError(
                f"{path} names Python code of its own for the model, which sift does not run",
                hint="build the model by a function of yours and name it: package.module:factory",
            )
        del config["auto_map"]  # transformers has the model by now
    if not known:
        raise ModelError(f"{path} is of a model_type {kind!r:.60}, which transformers does not have")
    try:
        cleaned = configs.portable(config)
        # A default of the library may change; what it is now belongs to the architecture.
        cleaned = portable(settings_of(cleaned))
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from None
    head = head or (named if isinstance(named, str) and has(named) else _head(cleaned))
    return Architecture(PACKAGE, head, {"config": cleaned})


def read_config(path: Path) -> dict[str, Any]:
    """A ``config.json`` as it stands.

    Raises:
        Unreadable, Malformed: It cannot be read, is no JSON object, or is a link out of its folder.
    """
    from sift_cli.checkpoint._json import loads
    from sift_cli.checkpoint.folder import check_inside

    check_inside(path)
    try:
        config = loads(path.read_bytes())
    except OSError as error:
        raise Unreadable(path, error.strerror or str(error)) from None
    except ValueError as error:
        raise Malformed(path, "its JSON", str(error)) from None
    if not isinstance(config, dict):
        raise Malformed(path, "its JSON", "it is not an object")
    return config


def portable(settings: Any) -> dict[str, Any]:
    """A configuration object as JSON values."""
    return configs.portable(json.loads(settings.to_json_string(use_diff=False)))


def settings_of(config: Mapping[str, Any]) -> Any:
    """The configuration object for JSON values.

    Raises:
        ModelError: The library does not accept it.
    """
    kind = _config_types(f"a {config['model_type']} model")[config["model_type"]]
    try:
        with _alone():
            return kind.from_dict(_decoded(dict(config)))
    except Exception as error:  # each model checks its configuration in its own way
        raise ModelError(
            f"transformers does not accept the {config['model_type']} configuration: {_line(error)}"
        ) from None


def build(name: str, **kwargs: Any) -> nn.Module:
    """The model as it computes one output from one input: no cache, no hidden states beside it."""
    return _build(name, **kwargs)


def empty(name: str, config: Mapping[str, Any]) -> nn.Module:
    """The model with buffers and computed numbers as they should be, and parameters that nobody has written yet."""
    import_transformers(f"transformers:{name}")
    from transformers.initialization import no_init_weights

    with no_init_weights():
        return _build(name, config=config)


def check_size(module: nn.Module, values: int) -> None:
    """Refuse a model on the meta device that is not that of a file with so many values, before memory is taken for it.

    Raises:
        ModelError: It has many more parameters, or large tables beside them.
    """
    needed = sum(parameter.numel() for parameter in module.parameters())
    if needed > 2 * values + _MOST_MISSING:
        raise ModelError(f"{_said(module)} has {needed:,} parameters, the file fewer")
    tables = sum(buffer.nbytes for buffer in module.buffers())
    if tables > 4 * values + _MOST_TABLES:
        raise ModelError(f"{_said(module)} has tables of {tables:,} bytes, many more than the file")


def load(name: str, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> tuple[nn.Module, list[str]]:
    """The model with the weights of a checkpoint, whose names transformers maps to its own: prefixes, tied weights,
    experts stored one by one.

    Returns:
        The model and sentences about what was not used.

    Raises:
        ModelError: Weights are missing or of another shape.
    """
    import torch

    cls, settings = _class(name), _quiet_settings(config)
    state = {key: torch.from_numpy(array) for key, array in tensors.items()}
    try:
        with _alone():
            model, about = cls.from_pretrained(
                None, config=settings, state_dict=state, dtype=torch.float32, output_loading_info=True,
                ignore_mismatched_sizes=True, local_files_only=True,
            )  # fmt: skip
    except Exception as error:  # as in building
        raise ModelError(f"transformers:{name} does not build with this configuration: {_line(error)}") from error
    missing, other = sorted(about["missing_keys"]), sorted(about["mismatched_keys"])
    if missing or other:
        what = f"lacks {_some(missing)}" if missing else f"has another shape of {_some([str(one[0]) for one in other])}"
        raise ModelError(
            f"the checkpoint {what} of transformers:{name}",
            hint="name the class that the weights are of after the folder: --arch transformers:FOLDER/BertModel",
            missing=missing,
        )
    unused = sorted(about["unexpected_keys"])
    return model, [f"the model does not use {_some(unused)} of the checkpoint"] if unused else []


def save(module: Any, folder: Path) -> None:
    """Write a model as ``from_pretrained`` loads it: configuration, generation configuration, weights."""
    with _alone():
        module.save_pretrained(folder)


def inputs(name: str, kwargs: Mapping[str, Any]) -> tuple[InputSpec, ...] | None:
    """What the class's forward needs, from its main input, its signature and the sizes in the configuration; None where
    those are no sizes of an example."""
    from sift_cli.models.sources._transformers_inputs import specs

    try:
        found = specs(_class(name), settings_of(kwargs["config"])) or ()
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError):  # of sizes of any type
        return None
    return found if found and all(map(_is_example, found)) else None


def _is_example(spec: InputSpec) -> bool:
    sizes = (*spec.shape, 1 if spec.high is None else spec.high)
    return all(type(size) is int and 0 < size < 2**31 for size in sizes) and math.prod(spec.shape) <= _MOST_VALUES


def _build(name: str, config: Mapping[str, Any]) -> nn.Module:
    cls, settings = _class(name), _quiet_settings(config)
    try:
        with _alone(), _bounded():
            model: nn.Module = cls(settings)
    except SiftError:
        raise
    except Exception as error:  # of a configuration that is hostile it can be any
        raise ModelError(f"transformers:{name} does not build with this configuration: {_line(error)}") from error
    return model


def _said(module: nn.Module) -> str:
    return f"transformers:{type(module).__name__} with this configuration"


def _class(name: str) -> Any:
    transformers = import_transformers(f"transformers:{name}")
    if not has(name):
        raise ModelError(f"transformers has no model class {name}")
    return getattr(transformers, name)


def _quiet_settings(config: Mapping[str, Any]) -> Any:
    settings = settings_of(config)
    for one in (settings, *(getattr(settings, key, None) for key in type(settings).sub_configs)):
        for key, value in _QUIET.items():
            if getattr(one, key, value) != value:
                setattr(one, key, value)
    return settings


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Refuse a model of more modules than any has: a line of a configuration can ask for a million.

    Raises:
        ModelError: It has more.
    """
    from torch.nn.modules.module import register_module_module_registration_hook

    count = 0

    def one_more(*_: object) -> None:
        nonlocal count
        count += 1
        if count > _MOST_MODULES:
            raise ModelError(f"its configuration asks for more than {_MOST_MODULES:,} modules")

    handle = register_module_module_registration_hook(one_more)
    try:
        yield
    finally:
        handle.remove()


#: Modules of a model: 1,300 layers of a GPT; NLLB-MoE with 1,500 experts has 8,000.
_MOST_MODULES = 2**14
#: Parameters that a checkpoint may lack beside as many as it has, a head, before it is asked which ones.
_MOST_MISSING = 2**16
#: Bytes of masks and positions of a model that has next to no weights; CodeGen's of five layers are 20 MB.
_MOST_TABLES = 2**26
#: Values of an example: V-JEPA 2 takes 64 images of 256×256, 12.6 million.
_MOST_VALUES = 2**24
#: What makes a model return more than its output.
_QUIET = {"use_cache": False, "return_dict": True, "output_hidden_states": False, "output_attentions": False}


def _config_types(needed_for: str) -> Any:
    import_transformers(needed_for)
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING


def _head(config: Mapping[str, Any]) -> str:
    """The class with the head that a user of this model type wants."""
    from transformers.models.auto import modeling_auto

    kind = config["model_type"]
    tasks = f"{_WITH_DECODER} {_HEADS}" if config.get("is_encoder_decoder") else _HEADS
    for task in tasks.split():
        found = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {}).get(kind)
        if found:
            return found if isinstance(found, str) else found[0]
    found = modeling_auto.MODEL_MAPPING_NAMES.get(kind)
    if not found:
        raise ModelError(f"transformers has no model of type {kind} for itself", hint="name a class after a slash")
    return found if isinstance(found, str) else found[0]


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Without the network, and without transformers' own report of what it does."""
    from huggingface_hub import constants
    from transformers.utils import logging

    was_offline, verbosity, bars = constants.HF_HUB_OFFLINE, logging.get_verbosity(), logging.is_progress_bar_enabled()
    constants.HF_HUB_OFFLINE = True
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _decoded(value: Any) -> Any:
    """JSON values with the library's spelling of infinity and NaN read."""
    if isinstance(value, dict):
        if set(value) == {"__float__"} and value["__float__"] in ("Infinity", "-Infinity", "NaN"):
            return float(value["__float__"])
        return {key: _decoded(item) for key, item in value.items()}
    return [_decoded(item) for item in value] if isinstance(value, list) else value


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
