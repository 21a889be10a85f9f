"""Train a model as a recipe says: a YAML file, or the name of a recipe that comes with sift. Without one, list these.

Examples:

    sift train mnist1d-cnn

    sift train mnist1d-cnn --set transform.sparsity=0.75 --set seed=1 -o runs/w75

    sift train cifar100-resnet18 --set data.path=cifar-100-binary --resume

    sift train gpt-bytes --set data.path=books/ --set model=runs/pretrained --dense -o runs/tuned
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sift_cli import api
from sift_cli.commands import _output
from sift_cli.commands._options import AllowPickle

if TYPE_CHECKING:
    from sift_cli.training.recipes.loop import Progress


def command(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A YAML file, or a recipe's name.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run; by default named as the recipe.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key: optimizer.lr=0.05, transform=null."),
    ] = None,
    dense: Annotated[
        bool,
        typer.Option("--dense", help="Begin with the sparse model of a run or a file, without its masks (SPDF)."),
    ] = False,
    sparsity_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Cerebras' sparsity settings, in the place of the recipe's rule."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one.")
    ] = False,
    allow_pickle: AllowPickle = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in the folder.")] = False,
) -> None:
    if recipe is None:
        _list()
        return
    if resume and force:
        raise typer.BadParameter("either go on with a run or replace it", param_hint="--resume")
    given = list(overrides or ())
    if sparsity_config is not None:
        given += ["rule=null", f"sparsity_config={str(sparsity_config)!r}"]
    with _bar() as watch:
        done = api.train(
            recipe, output or Path(Path(recipe).stem), overrides=given, dense=dense, resume=resume, force=force,
            allow_pickle=allow_pickle, watch=watch,
        )  # fmt: skip
    if not _speaks():
        return
    if _output.wants_json():
        _output.data(done.to_json())
        return
    shown = [key for key in done.log[-1] if key not in _HIDDEN and done.log[-1][key] is not None]
    _output.table(
        "", [key.replace("_", " ") for key in shown], ([_number(row[key]) for key in shown] for row in done.log)
    )
    _output.text(f"wrote {done.folder / 'best.safetensors'} and {done.folder / 'last.safetensors'}")


_HIDDEN = {"density", "flops_sparse", "flops_dense_gradients", "flops_of_dense_training"}


def _speaks() -> bool:
    """Whether this process is the first of those that train together."""
    return os.environ.get("RANK", "0") == "0"


def _list() -> None:
    from sift_cli.training.recipes.recipe import about, shipped

    recipes = {name: about(name) for name in shipped()}
    if _output.wants_json():
        _output.data({"schema": "sift.recipes/1", "recipes": recipes})
    else:
        _output.table("", ["recipe", "what it is"], recipes.items(), left=2)


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None] | None]:
    """A bar on stderr while the block runs; none where stderr is no terminal."""
    console = _output.terminal()
    if console is None or not _speaks():
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[said]}")]
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None, said="preparing")
        yield lambda now: bar.update(task, total=now.steps, completed=now.step, said=_said(now))


def _said(now: Progress) -> str:
    parts = []
    for name, measured in (("", now.train), ("validation ", now.validation)):
        if measured is not None:
            what, value = measured.reported
            parts.append(f"{name}loss {measured.loss:.3f} {what} {value:.4g}")
    if now.churn is not None:
        parts.append(f"churn {now.churn:.3f}")
    return "  ".join(parts)


def _number(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
