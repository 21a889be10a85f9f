"""Which architectures sift widens: every one is planned, and either passes all of it or is refused in one sentence.

    python benchmarks/coverage.py torchvision            # plan: widths, shapes and MACs on fake tensors
    python benchmarks/coverage.py timm --full            # and transform, train a step, reload, export and run
    python benchmarks/coverage.py transformers --only 'gpt*' --json coverage.json

Each model runs in a process of its own, with a time limit. What a run says of a model is one of: ``ok``; ``planned``,
which is ok for a model that ``--full`` finds too large to transform here; ``refused``, an error of sift's with a
sentence and a hint; ``FAILED``, anything else, which is a bug. Models of transformers have the widths of their default
configuration, and 2 layers.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SPARSITY = "3/4"


def torchvision_names() -> Iterator[str]:
    from sift_cli.compat import import_torchvision

    import_torchvision("the sweep")
    from torchvision import models

    yield from (f"torchvision:{name}" for name in models.list_models(module=models))


def timm_names() -> Iterator[str]:
    """The smallest model of each of timm's modules, by the weights of its smallest published configuration."""
    from sift_cli.compat import import_timm

    timm = import_timm("the sweep")
    for module in timm.list_modules():
        names = [name for name in timm.list_models(module=module) if "test" not in name]
        if names:
            yield f"timm:{min(names, key=_size_in_name)}"


def _size_in_name(name: str) -> tuple[int, int]:
    sizes = ["atto", "femto", "pico", "nano", "xxs", "xs", "tiny", "_t", "small", "_s", "mini", "18", "26", "50", "b0"]
    return next((rank for rank, word in enumerate(sizes) if word in name), len(sizes)), len(name)


#: Model types with a text or an image input, and enough of their configuration to make them small.
TRANSFORMERS = """
    albert bart bert big_bird bloom camembert codegen convbert convnext convnextv2 data2vec-text deberta deberta-v2 deit
    dinov2 distilbert electra ernie falcon funnel gemma gpt2 gpt_bigcode gpt_neo gpt_neox gptj ibert layoutlm llama
    longformer m2m_100 marian mbart megatron-bert mistral mobilebert mobilenet_v2 mobilevit mpnet mpt mt5 nezha opt
    pegasus persimmon phi phi3 plbart qwen2 regnet rembert resnet roberta roformer segformer squeezebert stablelm
    starcoder2 swin switch_transformers t5 umt5 vit xglm xlm xlm-roberta xlnet
""".split()  # noqa: SIM905


def transformers_names() -> Iterator[str]:
    from sift_cli.compat import import_transformers

    known = import_transformers("the sweep").CONFIG_MAPPING
    yield from (f"transformers:{name}" for name in TRANSFORMERS if name in known)


#: What a configuration calls its number of layers, and how many it gets here. Widths stay.
LAYERS = re.compile(r"(num_.*layers|.*_layers|n_layers?|num_blocks)$")
FEW = 2


def shortened(model_type: str, folder: Path) -> Path:
    """A folder with the configuration of ``model_type``, of fewer layers and with at most 2,000 tokens."""
    from sift_cli.compat import import_transformers

    config = import_transformers(f"transformers:{model_type}").CONFIG_MAPPING[model_type]()
    values = config.to_dict()
    for key, value in values.items():
        if type(value) is int and value > FEW and LAYERS.fullmatch(key):
            values[key] = FEW
        elif key in ("layer_types", "attention_layers") and isinstance(value, list):
            values[key] = value[:FEW]
        elif key == "attention_types":  # GPT-Neo's: kinds of attention, and how often they repeat
            values[key] = [[kinds, FEW // len(kinds)] for kinds, _ in value]
        elif key in (
            "out_features",
            "out_indices",
        ):  # of a backbone: of stages that are gone
            values[key] = None
        elif key == "vocab_size" and type(value) is int:
            values[key] = min(value, 2000)
        elif key.endswith("token_id") and type(value) is int and value >= 2000:
            values[key] = 1999
    folder.mkdir()
    type(config).from_dict(values).save_pretrained(folder)
    return folder


SOURCES = {"torchvision": torchvision_names, "timm": timm_names, "transformers": transformers_names}


def examine(name: str, full: bool, largest: float) -> dict[str, Any]:
    """Everything about one model, in this process; of one with more than ``largest`` weights the plan only."""
    from sift_cli import api
    from sift_cli.errors import SiftError

    start = time.perf_counter()
    stage, facts = "plan", dict[str, Any]()
    folder = tempfile.TemporaryDirectory()
    try:
        source: str | Path = name
        if name.startswith("transformers:"):
            source = f"transformers:{shortened(name.partition(':')[2], Path(folder.name, 'model'))}"
        plan = api.plan(source, sparsity=SPARSITY)
        facts = {
            "layers": len(plan.sparse_layers), "macs": plan.macs_before, "after": plan.macs_after,
            "weights": sum(layer.numel_before for layer in plan.layers), "solved": plan.solved_sparsity,
            "match": plan.options["match"],
        }  # fmt: skip
        if full and facts["weights"] > largest:
            return {"model": name, "result": "planned", **facts, "seconds": time.perf_counter() - start}
        if full:
            stage = "transform"
            written = Path(folder.name, "wide.safetensors")
            api.transform(source, written, sparsity=SPARSITY)
            stage = "train"
            train(written)
            stage = "export"
            api.export(written, Path(folder.name, "wide.onnx"))
        return {"model": name, "result": "ok", **facts, "seconds": time.perf_counter() - start}
    except SiftError as error:
        why = f"{error.message} ({error.hint})"
        return {"model": name, "result": "refused", "stage": stage, "why": why, **facts}
    except Exception as error:
        why = f"{type(error).__name__}: {error}"[:300]
        return {"model": name, "result": "FAILED", "stage": stage, "why": why, **facts}
    finally:
        folder.cleanup()


def train(path: Path) -> None:
    """One step of SGD in train mode: every weight that is kept can move, and none that is masked does."""
    import torch

    from sift_cli.export import artifact
    from sift_cli.models.calling import call, primary, random_like
    from sift_cli.surgery import apply_masks, masks_of

    model = artifact.load(path)
    module = model.module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    outputs = primary(call(module, random_like(model.inputs, 2, seed=0)))
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    optimizer.step()
    apply_masks(module)
    parameters = dict(module.named_parameters())
    assert all(not parameters[name].masked_fill(mask, 0).any() for name, mask in masks_of(module).items())


def run(name: str, full: bool, limit: float, largest: float = math.inf) -> dict[str, Any]:
    """:func:`examine` in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--largest", str(largest), *(["--full"] if full else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"model": name, "result": "FAILED", "why": f"more than {limit:.0f} s"}
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {"model": name, "result": "FAILED", "why": f"exit code {done.returncode}: {last[:200]}"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="*", help=", ".join(SOURCES))
    parser.add_argument("--full", action="store_true", help="transform, train, reload and export, too")
    parser.add_argument("--only", default="*", metavar="GLOB", help="only architectures whose name matches")
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="for one model")
    parser.add_argument(
        "--largest", type=float, default=6e7, metavar="WEIGHTS",
        help="with --full, only plan models that have more (widened by two: 4 times the weights, twice)",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=2, help="models at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(examine(given.one, given.full, given.largest)))
        return 0
    names = [name for source in given.source or SOURCES for name in SOURCES[source]()]
    names = [name for name in names if fnmatch.fnmatch(name.partition(":")[2], given.only)]
    results = []
    with ThreadPoolExecutor(given.jobs) as pool:
        for found in pool.map(lambda name: run(name, given.full, given.limit, given.largest), names):
            results.append(found)
            print(f"{found['result']:8} {found['model']:45} {found.get('why', '')}", flush=True)
            if given.json:
                given.json.write_text(json.dumps(results, indent=1))
    for source in given.source or SOURCES:
        own = [found["result"] for found in results if found["model"].startswith(f"{source}:")]
        print(f"{source}: {own.count('ok')} of {len(own)} pass, {own.count('planned')} are planned, "
              f"{own.count('refused')} are refused, {own.count('FAILED')} fail")  # fmt: skip
    return int(any(found["result"] == "FAILED" for found in results))


if __name__ == "__main__":
    sys.exit(main())
