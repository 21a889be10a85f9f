"""The tables of docs/architectures.md: the models of the Sparse-IFT paper, every transform, at 50, 75 and 90 %.

    python benchmarks/architectures.py                       # print all tables
    python benchmarks/architectures.py --write               # and put them into the page, between their marks
    python benchmarks/architectures.py --write --only 'gpt*'

Nothing is downloaded and no weight is drawn: plans are made on the meta device. All of it takes about ten minutes on
one core, and a wide plan of GPT-3 1.3B half a minute and half a gigabyte.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import functools
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sift_cli
from sift_cli import models, registry
from sift_cli.core.plan import AttachMask, FillTensor, ReplaceLayer, ResizeAxis, SetConfig, TransformPlan
from sift_cli.flops.paper_gpt import PASSES, GptCount, block_weights, count_gpt, overhead
from sift_cli.models import LoadedModel
from sift_cli.surgery import apply_edits

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architectures.md"
SPARSITIES = (".5", ".75", ".9")
#: The paper's, in its order, and what else there is.
KINDS = tuple(dict.fromkeys(["wide", "parallel", "factorized", "doped", *registry.names("sift_cli.transforms")]))


@dataclass(frozen=True)
class Model:
    """A model of the paper.

    Attributes:
        title: Heading of its table.
        source: As it is written on the command line, in the root of the repository.
        shape: Shape of its example input; None for its own.
    """

    title: str
    source: str
    shape: tuple[int, ...] | None = None

    @property
    def tokens(self) -> bool:
        return self.source.startswith("transformers:")


GPT = (1, 1024)
MODELS = {
    "resnet18": Model("ResNet-18", "torchvision:resnet18"),
    "resnet34": Model("ResNet-34", "torchvision:resnet34"),
    "cifar_resnet18": Model("ResNet-18 for CIFAR-100", "builtin:cifar_resnet18"),
    "cifar_resnet34": Model("ResNet-34 for CIFAR-100", "builtin:cifar_resnet34"),
    "mobilenet_v2": Model("MobileNetV2", "torchvision:mobilenet_v2"),
    "mobilevit_s": Model("MobileViT-S", "timm:mobilevit_s"),
    "botnet26t": Model("BoTNet", "timm:botnet26t_256"),
    "gpt3-small": Model("GPT-3 Small", "transformers:examples/configs/gpt3-small", GPT),
    "gpt3-medium": Model("GPT-3 Medium", "transformers:examples/configs/gpt3-medium", GPT),
    "gpt3-1.3b": Model("GPT-3 1.3B", "transformers:examples/configs/gpt3-1.3b", GPT),
    "bert-small": Model("BERT Small", "transformers:examples/configs/bert-small", (1, 128)),
}


@functools.cache
def loaded(name: str) -> LoadedModel:
    with contextlib.chdir(ROOT):
        return models.load(MODELS[name].source, weights=False, input_shape=MODELS[name].shape)


@functools.cache
def planned(name: str, kind: str, sparsity: str, **options: Any) -> TransformPlan:
    print(name, kind, sparsity, *options.values(), file=sys.stderr, flush=True)
    return sift_cli.plan(loaded(name), kind=kind, sparsity=sparsity, **options)


def parameters(name: str, plan: TransformPlan) -> tuple[int, int]:
    """Parameters of the new model, a tied one once; and how many of them masks keep or do not touch."""
    shaping = [edit for edit in plan.edits if not isinstance(edit, FillTensor | AttachMask)]
    module, _ = apply_edits(loaded(name).module, shaping)
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    total = sum(sizes.values())
    return total, total - sum(sizes[name] - kept for name, kept in plan.masked.items())


def sizes(plan: TransformPlan) -> str:
    """Widths, numbers of branches and ranks."""
    widths: dict[int, set[int]] = defaultdict(set)
    arguments: dict[str, set[int]] = defaultdict(set)
    configured = []
    for edit in plan.edits:
        match edit:
            case ResizeAxis():
                widths[edit.old].add(edit.new)
            case SetConfig():
                configured = [f"{key} {new}" for key, (_, new) in edit.changes.items()]
            case ReplaceLayer():
                for key in edit.arguments.keys() & {"branches", "rank"}:
                    arguments[key].add(int(edit.arguments[key]))
    found = configured
    if widths and not configured:
        new = sorted(size for sizes in widths.values() for size in sizes)
        listed = ", ".join(map(str, new))
        found = [listed if len(new) <= 4 else f"{min(widths)} … {max(widths)} → {new[0]} … {new[-1]}"]
    if branches := arguments["branches"]:
        found.append(f"{', '.join(map(str, branches))} branches")
    if ranks := sorted(arguments["rank"]):
        found.append(f"rank {ranks[0]}" + (f" … {ranks[-1]}" if len(ranks) > 1 else ""))
    return ", ".join(found)


def digits(value: float | None) -> str:
    """A sparsity to five digits, as the paper writes it; nothing where there is none."""
    return "" if value is None else f"{value:.5f}".removeprefix("0")


def percent(after: int, before: int) -> str:
    """How much more it is; nothing where that is nothing to the last digit shown."""
    text = f"{after / before - 1:+.2%}"
    return "" if text in ("+0.00%", "-0.00%") else text.replace("-", "−").replace("%", " %")


def row(*cells: object) -> str:
    return f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in cells)} |"


def line(name: str, kind: str, sparsity: str, **options: str) -> str:
    """One plan as a line of a model's table."""
    label = kind + "".join(f" `--{key} {value}`" for key, value in options.items())
    try:
        plan = planned(name, kind, sparsity, **options)
    except sift_cli.SiftError as error:
        return row(label, sparsity, f"refused: {error.message}".replace("|", r"\|"), *[""] * 5)
    solved = digits(plan.solved_sparsity)
    more = percent(plan.macs_after, plan.macs_before)
    return row(label, sparsity, sizes(plan), solved, *parameters(name, plan), plan.macs_after, more)


def model_table(name: str) -> Iterator[str]:
    model, plan = MODELS[name], planned(name, "wide", "0")
    shape = "×".join(map(str, plan.inputs[0].shape))
    given = f" `--input {shape}`" if model.shape else f", input {shape}"
    yield f"## {model.title}\n"
    yield f"`{model.source}`{given}: {parameters(name, plan)[0]:,} parameters, {plan.macs_before:,} MACs.\n"
    yield row("kind", "s", "widths, branches, ranks", "solved s", "parameters", "kept", "MACs", "more")
    yield "|---|---|---|---|---:|---:|---:|---:|"
    for kind in KINDS:
        for sparsity in SPARSITIES:
            yield line(name, kind, sparsity)
        if kind == "wide" and model.tokens:
            for sparsity in SPARSITIES:
                yield line(name, kind, sparsity, match="model")


#: torchvision's MobileNetV2: where a layer expands, and the width that it expands by 6.
EXPANDS = {
    "features.2.conv.0.0": 16, "features.[34].conv.0.0": 24, "features.[567].conv.0.0": 32,
    "features.[89].conv.0.0": 64, "features.1[01].conv.0.0": 64, "features.1[234].conv.0.0": 96,
    "features.1[567].conv.0.0": 160,
}  # fmt: skip
DEPTHWISE = ("features.1.conv.0.0", "features.*.conv.1.0")


def expansions(sparsity: str) -> tuple[str, ...]:
    """``--layer-width`` that makes the expansions what ``width_mult`` makes them, 6 times a rounded width; otherwise
    each is rounded by itself."""
    factor = 1 / math.sqrt(1 - float(sparsity))
    return tuple(f"{glob}={6 * 8 * round(width * factor / 8)}" for glob, width in EXPANDS.items())


def mobilenet_options(policy: str, sparsity: str) -> Mapping[str, Any]:
    """Options for one way to treat depthwise layers: they stay "dense", they have their "own" sparsity 1 − 1/k, or the
    "same" as all others, which is the one that uses the budget up."""
    options: dict[str, Any] = {"multiple": 8, "layer_width": expansions(sparsity)}
    if policy == "dense":
        return options | {"keep": DEPTHWISE}
    share = 1 - math.sqrt(1 - float(sparsity))
    if policy == "same":
        layers = planned("mobilenet_v2", "wide", sparsity, **options).layers
        sparse = [layer for layer in layers if layer.role in ("sparse", "depthwise")]
        left = sum(x.macs_before for x in layers) - sum(x.macs_after for x in layers if x not in sparse)
        share = 1 - left / sum(x.positions * x.numel_after for x in sparse)
    text = f"{share:.6f}".removeprefix("0")
    return options | {"layer_sparsity": tuple(f"{glob}={text}" for glob in DEPTHWISE)}


def sparsity_of_macs(plan: TransformPlan) -> float:
    """Masked share of the MACs of the uniformly sparse layers. That is the share of the weights but for rounding to
    whole ones, of which one costs 256 times another in MobileNetV2."""
    sparse = [layer for layer in plan.layers if layer.role == "sparse"]
    return 1 - sum(layer.macs_after for layer in sparse) / sum(layer.positions * layer.numel_after for layer in sparse)


POLICIES = {"dense": "dense", "own": "1 − 1/k, their own", "same": "that of all others"}


def mobilenet_table() -> Iterator[str]:
    yield row("depthwise layers", *(f"s = {sparsity}" for sparsity in SPARSITIES))
    yield "|---|---|---|---|"
    for policy, words in POLICIES.items():
        plans = [planned("mobilenet_v2", "wide", s, **mobilenet_options(policy, s)) for s in SPARSITIES]
        yield row(words, *(digits(sparsity_of_macs(plan)) for plan in plans))


def released_table() -> Iterator[str]:
    yield row("kind", *(f"s = {sparsity}" for sparsity in SPARSITIES))
    yield "|---|---|---|---|"
    for kind in ("parallel", "factorized", "doped"):
        plans = [planned("cifar_resnet18", kind, s, compat="released") for s in SPARSITIES]
        yield row(kind, *(f"{plan.macs_after / plan.macs_before:.3f}".removeprefix("0") for plan in plans))


def gpt_counts(plan: TransformPlan) -> tuple[GptCount, GptCount]:
    """The paper's count for a step of training on one sequence, before and after, from the MACs of a plan."""
    config, length = plan.architecture.kwargs["config"], plan.inputs[0].shape[-1]
    softmax = PASSES * 3 * config["n_layer"] * config["n_head"] * length**2
    head = next(layer for layer in plan.layers if layer.role == "last")
    linear = [layer for layer in plan.layers if layer is not head]
    before, after = plan.other_macs
    return (
        GptCount(
            PASSES * 2 * sum(layer.macs_before for layer in linear),
            PASSES * 2 * before + softmax,
            PASSES * 2 * head.macs_before,
        ),
        GptCount(
            PASSES * 2 * sum(layer.macs_after for layer in linear),
            PASSES * 2 * after + softmax,
            PASSES * 2 * head.macs_after,
        ),
    )


#: The inner width of GPT-3 Small at 50 % in the paper's Table 14.
PAPERS_INNER = 4344


def gpt_table() -> Iterator[str]:
    """Table 15 of the paper, for more models."""
    yield row("model", "kind", "s", "d, ff", "solved s", "FLOPs", "more", "vocabulary", "attention", "linear")
    yield "|---|---|---|---|---|---:|---:|---:|---:|---:|"
    for name in ("gpt3-small", "gpt3-medium", "gpt3-1.3b"):
        title, plans = MODELS[name].title, {s: planned(name, "wide", s) for s in SPARSITIES}
        before = gpt_counts(plans[".5"])[0]
        yield row(title, "dense", "", _d_ff(plans[".5"], 0), "", before.total, "", "", "", "")
        if name == "gpt3-small":
            paper = count_gpt(
                12 * block_weights(1092, PAPERS_INNER) // 2,
                layers=12, width=1092, heads=12, vocabulary=50257, length=1024,
            )  # fmt: skip
            yield _gpt_row(title, "the paper's", ".5", f"1092, {PAPERS_INNER}", ".50000", before, paper)
            given = planned(name, "wide", ".5", layer_width=(f"transformer.h.*.mlp.c_fc={PAPERS_INNER}",))
            plans = {".5 ": given, **plans}
        for sparsity, plan in plans.items():
            kind = "wide, at the paper's ff" if sparsity == ".5 " else "wide"
            solved, after = digits(plan.solved_sparsity), gpt_counts(plan)[1]
            yield _gpt_row(title, kind, sparsity.strip(), _d_ff(plan, 1), solved, before, after)


def _d_ff(plan: TransformPlan, which: int) -> str:
    changes = next(edit.changes for edit in plan.edits if isinstance(edit, SetConfig))
    return f"{changes['n_embd'][which]}, {changes['n_inner'][which]}"


def _gpt_row(title: str, kind: str, s: str, widths: str, solved: str, before: GptCount, after: GptCount) -> str:
    split = (f"{float(share):.1%}".replace("%", " %") for share in overhead(before, after).values())
    return row(title, kind, s, widths, solved, after.total, percent(after.total, before.total), *split)


TABLES: Mapping[str, Callable[[], Iterator[str]]] = {
    **{name: functools.partial(model_table, name) for name in MODELS},
    "mobilenet_v2-depthwise": mobilenet_table,
    "released": released_table,
    "gpt-flops": gpt_table,
}


END = "<!-- end -->"


def opening(name: str) -> str:
    """The mark that a table of the page follows; :data:`END` follows the table."""
    return f"<!-- table {name} -->\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--only", default="*", metavar="GLOB", help=f"of {', '.join(TABLES)}")
    asked = parser.parse_args()
    for name in fnmatch.filter(TABLES, asked.only):
        table = "\n".join(TABLES[name]())
        print(f"{table}\n", flush=True)
        if asked.write:
            before, _, rest = PAGE.read_text().partition(opening(name))
            _, end, after = rest.partition(END)
            if not end:
                parser.error(f"{PAGE} has no place for the table {name}")
            PAGE.write_text(f"{before}{opening(name)}{table}\n{END}{after}")


if __name__ == "__main__":
    main()
