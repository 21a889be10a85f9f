"""Claim under test: sparse pre-training and dense fine-tuning beat dense training (Sparse-IFT, table 19, after SPDF).

    python benchmarks/evidence/language.py --runs /tmp/language            # train; goes on where it was stopped
    python benchmarks/evidence/language.py --runs /tmp/language --search   # learning rates of the dense model
    python benchmarks/evidence/language.py --table                         # what is in docs/evidence.md
    python benchmarks/evidence/language.py --plot docs/images/language.svg

A small GPT reads the bytes of Python's own library, and then of its tests. All trainings are ``sift train gpt-bytes``
with smaller numbers, and ``sift densify`` makes what is fine-tuned densely. Learning rates are those with which the
dense model does best, by another seed on files that are used for nothing else; every model gets them. What is reported
was measured after the last step, on files that no training and no choice has seen. Models of one seed see the same
batches in the same order. Results are appended, one JSON line a training, seed by seed, so that what is there is
balanced at any time.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import statistics
import sysconfig
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

import sift_cli
from sift_cli import api
from sift_cli.core.files import atomic
from sift_cli.training.recipes.data.text import Pieces

RESULTS = Path(__file__).parent / "results" / "language.jsonl"
LENGTH, BATCH = 128, 8
SMALLER = ("model.n_layer=3", "model.n_embd=48", f"model.n_positions={LENGTH}")
RECIPE = (f"data.length={LENGTH}", f"batch={BATCH}", "evaluate=null", "transform=null", "rule=null")
DENSE, WIDER = "dense", "dense, twice as wide"
#: The models of the paper's table, and what each has otherwise.
PAPER = {
    DENSE: (),
    "wide 50 %": ("rule=static", "transform={name: wide, sparsity: 0.5}"),
    "wide 75 %": ("rule=static", "transform={name: wide, sparsity: 0.75}"),
}
#: With the dense model's FLOPs in attention and logits too, and a wide one without masks. They are not fine-tuned.
MORE = {
    "wide 50 %, all FLOPs": ("rule=static", "transform={name: wide, sparsity: 0.5, match: model}"),
    "wide 75 %, all FLOPs": ("rule=static", "transform={name: wide, sparsity: 0.75, match: model}"),
    WIDER: ("model.n_embd=96",),
}
MODELS: dict[str, tuple[str, ...]] = {**PAPER, **MORE}


@dataclass(frozen=True)
class Setting:
    """Attributes:
    text: What is read.
    steps, warmup: In steps of the optimizer.
    rate: The learning rate, the best of ``rates``.
    """

    text: Literal["library", "tests"]
    steps: int
    warmup: int
    rate: float
    rates: tuple[float, ...]


PRETRAINING = Setting("library", 1500, 150, 1.6e-2, (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2))
TUNING = Setting("tests", 600, 60, 8e-3, (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2))
#: Of the search for learning rates, and of nothing that is reported.
SEARCH_SEED = 1000

# -- text ------------------------------------------------------------------------------------------------------------

#: Tests, which packages of the library have too, and tables and grammars of which there are several alike.
_LEFT_OUT = {"site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "lib2to3"}
#: Bytes of a file at most that is measured on, so that many files count.
_PIECE = 16384


def prepare(folder: Path) -> dict[str, dict[str, int]]:
    """Write what there is to read: ``library.train``, ``.search`` and ``.held``, and the same of ``tests``.

    Which part a file of the running interpreter is in depends on its path alone; one with the contents of another is
    left out, so no text is in two parts.

    Returns:
        Files and bytes of each.
    """
    root, seen = Path(sysconfig.get_path("stdlib")), {b""}
    names = (f"{text}.{part}" for text in ("library", "tests") for part in ("train", "search", "held"))
    parts: dict[str, list[bytes]] = {name: [] for name in names}
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        raw = path.read_bytes()
        tests = inside.parts[0] == "test"
        if raw in seen or (not tests and _LEFT_OUT.intersection(inside.parts[:-1])):
            continue
        seen.add(raw)
        place = int.from_bytes(hashlib.sha256(inside.as_posix().encode()).digest()[:4], "big") / 2**32
        part = "held" if place < 0.05 else "search" if place < 0.08 else "train"
        parts[f"{'tests' if tests else 'library'}.{part}"].append(raw if part == "train" else raw[:_PIECE])
    folder.mkdir(parents=True, exist_ok=True)
    for name, files in parts.items():
        with atomic(folder / name, force=True) as temporary:  # others may be reading
            temporary.write_bytes(b"".join(files))
    return {name: {"files": len(files), "bytes": sum(map(len, files))} for name, files in parts.items()}


# -- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """One training of one model.

    Attributes:
        model: Of ``MODELS``.
        method: None for pre-training, else how it is fine-tuned: with its masks or without.
        seed: Of weights, masks and the order of the data.
        rate: Learning rate.
    """

    model: str
    method: Literal["sparse", "dense"] | None
    seed: int
    rate: float

    @property
    def setting(self) -> Setting:
        return PRETRAINING if self.method is None else TUNING

    @property
    def before(self) -> Training:
        """The pre-training of what is fine-tuned."""
        return Training(self.model, None, self.seed, PRETRAINING.rate)


def planned(seeds: range) -> Iterator[Training]:
    """All that is reported, what the paper has too first."""
    for models in (PAPER, MORE):
        for seed in seeds:
            for model in models:
                yield Training(model, None, seed, PRETRAINING.rate)
                if model in PAPER and model != DENSE:
                    yield Training(model, "sparse", seed, TUNING.rate)
                if model in PAPER:
                    yield Training(model, "dense", seed, TUNING.rate)


def searched() -> Iterator[Training]:
    """The trainings by which learning rates are chosen."""
    yield from (Training(DENSE, None, SEARCH_SEED, rate) for rate in PRETRAINING.rates)
    yield from (Training(DENSE, "dense", SEARCH_SEED, rate) for rate in TUNING.rates)


def run(training: Training, folder: Path) -> dict[str, Any]:
    """Train and measure."""
    began = time.process_time()
    setting, output = training.setting, folder / _name(training)
    if training.method is None:
        overrides = [*SMALLER, *RECIPE, *MODELS[training.model]]
    else:
        start = folder / _name(training.before) / "last.safetensors"
        if training.method == "dense":
            start = _densified(start, folder)
        overrides = [*RECIPE, f"model={start}"]
    overrides += [
        f"data.path={folder / setting.text}.train", f"data.validation={folder / setting.text}.search",
        f"steps={setting.steps}", f"schedule.warmup={setting.warmup}", f"optimizer.lr={training.rate}",
        f"seed={training.seed}",
    ]  # fmt: skip
    row = api.train("gpt-bytes", output, overrides=overrides, resume=True).log[-1]
    samples = setting.steps * BATCH
    result = {
        "train_loss": round(row["train_loss"], 5),
        "search_loss": round(row["validation_loss"], 5),
        "training_flops": row["flops_sparse"] + row["flops_dense_gradients"],
        "flops_a_byte": row["flops_sparse"] // (3 * samples * LENGTH),
    }
    if training.seed != SEARCH_SEED:
        for text in {setting.text, "tests"}:
            result[f"{text}_loss"] = round(measure(output / "last.safetensors", folder / f"{text}.held"), 5)
    return {**result, "seconds": round(time.process_time() - began, 1)}


def _name(training: Training) -> str:
    words = training.model, training.method or "pre-training", f"rate {training.rate:g}", f"seed {training.seed}"
    return ", ".join(words).replace(" %", "")


def _densified(sparse: Path, folder: Path) -> Path:
    """The model without its masks, which computes the same to the bit; itself if it has none.

    Raises:
        AssertionError: It computes something else.
    """
    if not sift_cli.masks(sift_cli.load(sparse)):
        return sparse
    dense = sparse.with_name("densified.safetensors")
    api.densify(sparse, dense, force=True)
    inputs, _ = read(folder / "tests.held").batch(np.arange(16), None)
    with torch.no_grad():
        before, after = (sift_cli.load(path).eval()(inputs).logits for path in (sparse, dense))
    assert torch.equal(before, after), f"{dense} computes something else than {sparse}"
    return dense


def read(text: Path) -> Pieces:
    return Pieces(np.fromfile(text, np.uint8), LENGTH)


@torch.no_grad()
def measure(model: Path, text: Path) -> float:
    """Mean cross-entropy of a byte, in nats."""
    module, pieces, total = sift_cli.load(model).eval(), read(text), 0.0
    for indices in np.array_split(np.arange(len(pieces)), -(-len(pieces) // 32)):
        inputs, targets = pieces.batch(indices, None)
        losses = F.cross_entropy(module(inputs).logits.flatten(0, 1), targets.flatten(), reduction="none")
        total += float(losses.double().sum())
    return total / (len(pieces) * LENGTH)


def fill(trainings: Iterator[Training], folder: Path, results: Path) -> None:
    """Append what is not there yet."""
    for text, size in prepare(folder).items():
        print(json.dumps({"text": text, **size}))
    there = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for training in trainings:
        if any(asdict(training).items() <= one.items() for one in there):
            continue
        line = json.dumps({**asdict(training), **run(training, folder)})
        with results.open("a") as file:
            file.write(f"{line}\n")
        print(line, flush=True)


# -- what came out ---------------------------------------------------------------------------------------------------

_BIT = math.log(2)


class Found:
    """What came out, by model and method.

    Attributes:
        searched: The lines of the search for learning rates.
    """

    def __init__(self, results: Path) -> None:
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        self.searched = [one for one in lines if one["seed"] == SEARCH_SEED]
        self._lines = {(one["model"], one["method"], one["seed"]): one for one in lines if one["seed"] != SEARCH_SEED}

    def get(self, model: str, method: str | None, key: str) -> dict[int, float]:
        """What was measured, by seed."""
        return {
            seed: line[key]
            for (one, other, seed), line in sorted(self._lines.items(), key=lambda item: item[0][2])
            if (one, other) == (model, method)
        }

    def bits(self, model: str, method: str | None) -> dict[int, float]:
        """Bits a byte on the text that was trained on last, by seed."""
        losses = self.get(model, method, "library_loss" if method is None else "tests_loss")
        return {seed: loss / _BIT for seed, loss in losses.items()}

    def difference(self, of: tuple[str, str | None], to: tuple[str, str | None]) -> str:
        """Bits a byte of one less those of another, paired by seed: mean ± standard error; or nothing."""
        one, other = self.bits(*of), self.bits(*to)
        paired = [one[seed] - other[seed] for seed in one.keys() & other.keys()]
        return spread(paired, "+.3f", len(paired) ** 0.5) if paired and of != to else ""

    def row(self, model: str, method: str | None) -> str:
        """FLOPs of inference; perplexity and bits; and what these are less those of the dense model."""
        bits, (flops, *_) = self.bits(model, method), self.get(model, method, "flops_a_byte").values()
        perplexity = spread([2**one for one in bits.values()], ".2f")
        other = self.difference((model, method), (DENSE, method and "dense"))
        return f"{flops:,} | {perplexity} | {spread(bits.values(), '.3f')} | {other}"

    def relative(self, model: str, *methods: str | None) -> str:
        """FLOPs of one or both phases of training, as a multiple of the dense model's."""
        spent, dense = (
            sum(next(iter(self.get(*one, "training_flops").values())) for one in phases)
            for phases in ([(model, method) for method in methods], [(DENSE, method and "dense") for method in methods])
        )
        return f"{spent / dense:.2f}"


def spread(values: Collection[float], form: str, root: float = 1.0) -> str:
    """Mean ± sample standard deviation over ``root``."""
    mean = f"{statistics.mean(values):{form}}".replace("-", "−")
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values) / root:{form.removeprefix('+')}}"


def pretrained(found: Found) -> Iterator[str]:
    yield "| pre-trained | FLOPs of training | of inference, a byte | perplexity | bits a byte | − dense |"
    yield "|---|---|---|---|---|---|"
    for model in MODELS:
        if found.bits(model, None):
            yield f"| {model} | {found.relative(model, None)} | {found.row(model, None)} |"


def tuned(found: Found) -> Iterator[str]:
    yield (
        "| pre-trained | fine-tuned | FLOPs of fine-tuning | of both phases | of inference, a byte | perplexity "
        "| bits a byte | − dense | dense − sparse |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for model, method in itertools.product(MODELS, ("sparse", "dense")):
        if found.bits(model, method):
            flops = f"{found.relative(model, method)} | {found.relative(model, None, method)}"
            other = found.difference((model, method), (model, "sparse"))
            yield f"| {model} | {method} | {flops} | {found.row(model, method)} | {other} |"


def rates(found: Found) -> Iterator[str]:
    tried = sorted({line["rate"] for line in found.searched})
    yield f"| learning rate | {' | '.join(f'{rate:g}' for rate in tried)} |"
    yield "|---" * (len(tried) + 1) + "|"
    for method, name in ((None, "pre-training"), ("dense", "fine-tuning")):
        bits = {line["rate"]: line["search_loss"] / _BIT for line in found.searched if line["method"] == method}
        yield f"| {name} | {' | '.join(f'{bits[rate]:.3f}' if rate in bits else '' for rate in tried)} |"


TABLES: dict[str, Callable[[Found], Iterator[str]]] = {"rates": rates, "pretrained": pretrained, "tuned": tuned}


def show(results: Path) -> None:
    """Print the tables of docs/evidence.md."""
    found = Found(results)
    for name, lines in TABLES.items():
        print(f"<!-- table language {name} -->", *lines(found), "<!-- end -->", sep="\n")


def plot(results: Path, file: Path) -> None:
    """Draw every seed and the means."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "sift", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    found, names = Found(results), list(MODELS)
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 2.8), sharey=True, layout="constrained")
    panels: tuple[tuple[str, dict[str | None, str]], ...] = (
        ("pre-trained, on the library", {None: "C7"}),
        ("fine-tuned, on the tests", {"sparse": "C0", "dense": "C1"}),
    )
    for axis, (title, methods) in zip(axes, panels, strict=True):
        for place, model in enumerate(names):
            for shift, (method, color) in enumerate(methods.items()):
                if bits := list(found.bits(model, method).values()):
                    height = place + 0.3 * (shift - (len(methods) - 1) / 2)
                    axis.plot(bits, [height] * len(bits), "|", color=color, markersize=7)
                    axis.plot(statistics.mean(bits), height, "o", color=color, markersize=5)
        axis.axvline(statistics.mean(found.bits(DENSE, list(methods)[-1]).values()), color="0.8", zorder=0)
        axis.set(title=title, xlabel="bits a byte, less is better", yticks=range(len(names)), yticklabels=names)
    axes[0].invert_yaxis()
    for method, color in panels[1][1].items():
        axes[1].plot([], [], "o", color=color, label=f"{method} fine-tuning")
    axes[1].legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="of texts, logs and models")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.runs is not None:
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        fill(searched() if arguments.search else planned(seeds), arguments.runs, arguments.results)
    if arguments.table:
        show(arguments.results)
    if arguments.plot is not None:
        plot(arguments.results, arguments.plot)


if __name__ == "__main__":
    main()
