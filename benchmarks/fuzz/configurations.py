"""Configurations of the transformers library that make sift break ``docs/security.md``.

    python benchmarks/fuzz/configurations.py                                   # every model type that is quick to build
    python benchmarks/fuzz/configurations.py --only gpt2 --only vit --cases 200
    python benchmarks/fuzz/configurations.py --only gpt2 --first 17 --cases 1  # one of them again, with its traceback

Each model type is made as small as the names of its configuration's keys allow and saved with its weights. Then values
of its ``config.json`` are changed, and the folder is looked at by ``inspect``, ``transform --dry-run`` and ``flops`` in
a process of its own, which is watched as ``tests/attacks/promise.py`` does. A model type and a number are all that a
case is made of. The exit code is 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
sys.dont_write_bytecode = True

#: Weights of a small model: one that is not small by its keys' names is left out.
MOST_PARAMETERS = 2**21
#: Seconds of the processor that an unchanged model may take.
QUICK = 4
#: What makes a model small: the first of the patterns that its key has. Lists keep their length.
SMALL: dict[str, int] = {
    r"num_hidden_groups|inner_group_num": 1,
    r"layer_types|id$|_ids$|stride|kernel|dilation": 0,
    r"vocab": 99,
    r"num_(hidden_)?layers|n_layers?$|layers$|depths?$|blocks$": 2,
    r"heads?$|num_groups": 2,
    r"head_dim|d_kv": 16,
    r"experts$": 4,
    r"position": 64,
    r"image_size|img_size": 32,
    r"patch_size": 8,
    r"intermediate|ffn|d_ff|mlp_dim|n_inner": 64,
    r"hidden_size$|d_model|n_embd|embed_dim|^dim$|hidden_dim|projection_dim|embedding_size|width$": 32,
}

INTEGERS = (0, -1, 1, 2, 3, 7, 255, 4096, 2**15, 2**20, 2**24, 2**31 - 1, -(2**31), 2**31, 2**63, 10**30)
FLOATS = (0.5, -0.5, 1.5, 1e-300, 1e308, -1e308, {"__float__": "NaN"}, {"__float__": "Infinity"})
STRINGS = (
    *("", "gelu", "relu", "eager", "sdpa", "flash_attention_2", "float16", "None", "auto", "yarn", "local-dir:/secret"),
    *("/secret", "../secret", "secret.pt", "file:///secret", "http://127.0.0.1:9/x", "hf-hub:a/b", "a/b", "a" * 10_000),
)
OTHERS: tuple[Any, ...] = (None, True, False, [], [0], [1, 2], [[]], ["/secret"], {}, {"": 0}, {"a": {"b": [1]}})
#: Keys that any configuration may have.
KEYS: dict[str, tuple[Any, ...]] = {
    "_name_or_path": ("/secret", "http://127.0.0.1:9/x"),
    "add_cross_attention": (True,),
    "attn_implementation": ("flash_attention_2", "/secret", "kernels-community/x", {"": "eager"}),
    "auto_map": ({"AutoModel": "code.Model"},),
    "backbone": ("resnet18", "/secret", "facebook/x"),
    "backbone_config": ({"model_type": "resnet"}, {"model_type": "timm_backbone", "backbone": "resnet18"}),
    "chunk_size_feed_forward": (1, -1, 2**31 - 1),
    "dtype": ("float16", "/secret", 5),
    "id2label": ({"0": "/secret"}, {str(i): "x" for i in range(5000)}, {"x": 0}, ["a"]),
    "is_decoder": (True,),
    "is_encoder_decoder": (True,),
    "image_size": (1, 9999, [1, 9999], {"height": 9999}),
    "layer_types": (["full_attention"], ["sliding_attention"] * 4096, ["x"] * 2, []),
    "max_length": (10**9, -1),
    "num_channels": (1, 10**6),
    "num_frames": (10**6,),
    "num_labels": (0, -1, 10**6),
    "output_attentions": (True,),
    "per_layer_config": ({"0": {"hidden_size": 1}},),
    "problem_type": ("/secret",),
    "pruned_heads": ({"0": [0]}, {"0": list(range(5000))}, {"x": 1}),
    "quantization_config": (
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
    ),
    "rope_scaling": (
        *({"type": kind, "rope_type": kind, "factor": 2.0} for kind in ("linear", "dynamic", "yarn", "longrope", "x")),
        {"rope_type": "longrope", "short_factor": [1] * 9, "long_factor": [1] * 9},
    ),
    "rope_parameters": ({"rope_type": "default", "rope_theta": 0}, {"full_attention": {"rope_type": "yarn"}}),
    "sliding_window": (0, -1, 2**31 - 1),
    "tie_word_embeddings": (True, False),
    "torch_dtype": ("float16", "x"),
    "tokenizer_class": ("/secret", "code.Tokenizer"),
    "transformers_version": ("0", "99.0", 5),
    "transformers_weights": ("/secret", "../secret"),
    "torchscript": (True,),
    "use_timm_backbone": (True,),
    "use_pretrained_backbone": (True,),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a model type; by default all")
    parser.add_argument("--first", type=int, default=1, help="number of the first case")
    parser.add_argument("--cases", type=int, default=20, help="how many of each model type")
    parser.add_argument("--seconds", type=float, default=1800, help="begin no model type after so many")
    parser.add_argument("--folders", type=Path, help="keep the small models there, and what breaks a promise")
    args = parser.parse_args()
    warm()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    began, counts = time.monotonic(), collections.Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        folders = args.folders or Path(scratch)
        kinds = list(args.only or CONFIG_MAPPING)
        random.Random(args.first).shuffle(kinds)
        for kind in kinds:
            if time.monotonic() > began + args.seconds:
                break
            here = folders / kind
            here.mkdir(parents=True, exist_ok=True)
            for line in in_a_process(lambda kind=kind, here=here: attack(kind, here, args.first, args.cases)):  # type: ignore[misc]
                counts[line["ending"]] += 1
                if "text" in line:
                    print(f"{kind} {line['case']}: {line['text']}", flush=True)
    cases = counts["refused"] + counts["accepted"] + counts["finding"]
    print(
        f"{counts['model type']} model types, {counts['left out']} left out; {cases:,} configurations in "
        f"{time.monotonic() - began:.0f} s: {counts['accepted']:,} accepted, {counts['refused']:,} refused, "
        f"{counts['finding']} findings"
    )
    sys.exit(bool(counts["finding"]))


def warm() -> None:
    """Import what every case needs."""
    sys.path[:] = filter(os.path.exists, sys.path)  # Python looks for its sources in an archive that is not there
    from sift_cli.compat import import_transformers

    import_transformers()
    import transformers.modeling_utils  # noqa: F401

    from sift_cli import api, surgery, transforms  # noqa: F401
    from sift_cli.flops import dispatch_counter, fvcore_counter  # noqa: F401


def attack(kind: str, folder: Path, first: int, cases: int) -> Iterator[dict[str, Any]]:
    """Make the small model, and look at it changed."""
    try:
        config = small(kind, folder)
        spent = time.process_time()
        before = memory()
        for look in LOOKS:  # imports what this kind needs
            attempt(look, folder)
        taken = memory() - before
        if time.process_time() - spent > QUICK:
            raise ValueError("it is slow")
    except Exception:  # of a library with hundreds of model types it can be any
        yield {"ending": "left out"}
        return
    yield {"ending": "model type"}
    for case in range(first, first + cases):
        changed = mutated(config, random.Random(f"{kind}/{case}"))
        (folder / "config.json").write_text(json.dumps(changed))
        found = list(in_a_process(lambda: one(folder, max(taken, 0))))
        last = found[-1]
        if last["ending"] not in ("refused", "accepted"):
            differ = {key: changed.get(key) for key in {**config, **changed} if config.get(key) != changed.get(key)}
            (folder / f"{case}.json").write_text(json.dumps(changed))
            last = {"ending": "finding", "text": f"{last['ending']} {differ!s:.400}\n{last.get('trace', '')}"}
        yield {**last, "case": case}


def one(folder: Path, taken: int) -> Iterator[dict[str, Any]]:
    """Look at one folder, with ``taken`` more bytes than the promise has."""
    from attacks import promise

    size = sum(file.stat().st_size for file in folder.iterdir())
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 3 * promise.SECONDS + 5
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    ending = {"ending": "accepted"}
    try:
        for look in LOOKS:
            with promise.limited(taken + 2 * size + promise.SLACK), promise.watched(folder):
                refused = attempt(look, folder)
            if refused:
                ending = {"ending": "refused"}
    except BaseException as error:
        ending = {
            "ending": f"{look.__name__}: {type(error).__name__} {error!s:.300}",
            "trace": traceback.format_exc()[-900:],
        }
    yield ending


def attempt(look: Callable[[Path], object], folder: Path) -> bool:
    """Whether sift refuses the folder.

    Raises:
        MemoryError: It does because there is no memory.
    """
    from sift_cli.errors import SiftError

    try:
        look(folder)
    except SiftError as error:
        causes: list[BaseException] = [error]
        while (more := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(more)
        if any(isinstance(cause, MemoryError) or "allocate memory" in str(cause) for cause in causes):
            raise MemoryError(str(error)) from error
        return True
    return False


def inspect(folder: Path) -> None:
    from sift_cli import api

    api.inspect(folder)


def transform(folder: Path) -> None:
    from sift_cli import api
    from sift_cli.errors import PlanError

    with contextlib.suppress(PlanError):
        api.plan(folder, sparsity="0.5")


def flops(folder: Path) -> None:
    from sift_cli import api
    from sift_cli.errors import UnsupportedOp, VerificationFailed

    with contextlib.suppress(UnsupportedOp, VerificationFailed):
        api.flops(folder)


LOOKS = (inspect, transform, flops)


def small(kind: str, folder: Path) -> dict[str, Any]:
    """Save a small model of a type in ``folder``; its configuration."""
    import torch
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from sift_cli.models.building import build
    from sift_cli.models.sources import transformers as source

    config = shrunk(json.loads(CONFIG_MAPPING[kind]().to_json_string(use_diff=False)))
    (folder / "config.json").write_text(json.dumps(config))
    architecture = source.of_folder(folder)
    parameters = sum(one.numel() for one in build(architecture, device="meta").parameters())
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"it has {parameters:,} parameters")
    with torch.no_grad():
        source.save(build(architecture, seed=0), folder)
    return json.loads((folder / "config.json").read_text())  # type: ignore[no-any-return]


def shrunk(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: shrunk(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [shrunk(item, key) for item in value]
    if type(value) is not int:
        return value
    size = next((size for pattern, size in SMALL.items() if re.search(pattern, key)), 0)
    if re.search(r"_id$", key):
        return min(value, 1)
    return min(value, size) if size else value


def mutated(config: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """``config`` with one to three changes."""
    config = copy.deepcopy(config)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(CHANGES)(config, rng)
    return config


def _any(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(rng.choice((INTEGERS, INTEGERS, FLOATS, STRINGS, OTHERS))))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def _value(config: dict[str, Any], rng: random.Random) -> None:
    where, key = rng.choice(list(_places(config)))
    where[key] = _any(rng)


def _scaled(config: dict[str, Any], rng: random.Random) -> None:
    numbers = [(where, key) for where, key in _places(config) if type(where[key]) in (int, float)]
    where, key = rng.choice(numbers)
    where[key] = type(where[key])(where[key] * rng.choice((0, -1, 2, 3, 100, 10**4, 10**6)) + rng.choice((0, 0, 1, -1)))


def _string(config: dict[str, Any], rng: random.Random) -> None:
    strings = [(where, key) for where, key in _places(config) if isinstance(where[key], str)]
    where, key = rng.choice(strings)
    where[key] = rng.choice(STRINGS)


def _removed(config: dict[str, Any], rng: random.Random) -> None:
    where, key = rng.choice(list(_places(config)))
    del where[key]


def _list(config: dict[str, Any], rng: random.Random) -> None:
    lists = [(where, key) for where, key in _places(config) if isinstance(where[key], list)]
    if lists:
        where, key = rng.choice(lists)
        where[key] = where[key] * rng.choice((0, 2, 100, 2000)) + [_any(rng)]


def _known(config: dict[str, Any], rng: random.Random) -> None:
    key = rng.choice(list(KEYS))
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    rng.choice(parts)[key] = copy.deepcopy(rng.choice(KEYS[key]))


def _other(config: dict[str, Any], rng: random.Random) -> None:
    """A key, a part, or the type of another model."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = rng.choice(list(CONFIG_MAPPING))
    with contextlib.suppress(Exception):
        other = shrunk(json.loads(CONFIG_MAPPING[kind]().to_json_string(use_diff=False)))
        parts = [key for key, part in config.items() if isinstance(part, dict) and "model_type" in part]
        match rng.randrange(4):
            case 0 if parts:
                config[rng.choice(parts)] = other
            case 1:
                config["model_type"] = kind
            case _:
                key = rng.choice(list(other))
                config[key] = other[key]


def _class(config: dict[str, Any], rng: random.Random) -> None:
    from transformers.models.auto import modeling_auto

    names = [getattr(modeling_auto, name) for name in dir(modeling_auto) if name.endswith("_MAPPING_NAMES")]
    name = rng.choice([*rng.choice([found for found in names if found]).values()])
    config["architectures"] = [name if isinstance(name, str) else name[0]]


CHANGES: tuple[Callable[[dict[str, Any], random.Random], None], ...] = (
    *(_value, _value, _value, _scaled, _scaled, _scaled, _string, _removed, _list, _known, _known, _other, _class),
)


def memory() -> int:
    """Bytes of addresses that the process has had at most."""
    return int(re.search(r"VmPeak:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]


def in_a_process(work: Callable[[], Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """What ``work`` yields, in a child of this process; last the child's end, if that is a bad one."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.close(reads)
        with open(writes, "w") as pipe:
            for line in work():
                print(json.dumps(line), file=pipe, flush=True)
        os._exit(0)
    os.close(writes)
    with open(reads) as pipe:
        yield from map(json.loads, pipe)
    _, status = os.waitpid(child, 0)
    if status:
        ended = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit code {status >> 8}"
        yield {"ending": f"the process ended with {ended}", "case": 0}


if __name__ == "__main__":
    main()
