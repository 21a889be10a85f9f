"""Recipes, carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sift_cli.api._sources import open_source
from sift_cli.api._written import rewrite
from sift_cli.core.files import atomic
from sift_cli.errors import ModelError, PlanError

if TYPE_CHECKING:
    from torch import nn

    from sift_cli.surgery import TransformedModel
    from sift_cli.training.recipes.data import Data
    from sift_cli.training.recipes.loop import Progress
    from sift_cli.training.recipes.recipe import Recipe


@dataclass(frozen=True)
class Trained:
    """A training that is done.

    Attributes:
        folder: Where it is: ``best.safetensors`` and ``last.safetensors``, ``log.csv``, ``recipe.yaml``, ``state.pt``.
        log: The lines of the log, the last of which is about the end.
    """

    folder: Path
    log: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        return {"schema": "sift.trained/1", "folder": str(self.folder), "log": [dict(row) for row in self.log]}


def train(
    recipe: str | Path | Recipe,
    output: str | Path,
    *,
    overrides: Sequence[str] = (),
    dense: bool = False,
    resume: bool = False,
    force: bool = False,
    allow_pickle: bool = False,
    watch: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a model as a recipe says.

    Args:
        recipe: A file, the name of a recipe that comes with sift, or a recipe.
        output: The folder of the run.
        overrides: ``KEY.KEY=VALUE``, in the place of what the recipe says.
        dense: The second phase of SPDF: begin with the weights of the recipe's model, a sparse artifact or the folder
            of a run, without its masks; the recipe's transform and rule do not count.
        resume: Go on with the run in ``output`` where it was stopped, by whatever; begin it if there is none.
        force: Replace the run in ``output``.
        allow_pickle: As in :func:`load`.
        watch: Is told of the progress, about ten times a second.

    Raises:
        CheckpointError: Recipe, model, data or state cannot be read.
        PlanError: The recipe has an unknown key, or one that does not fit the others.
        ModelError: The model does not fit the data, or its loss is not finite any more.
        VerificationFailed: A promise of the model's plan does not hold any more.
        OutputError: The folder is there, or cannot be written.
    """
    from sift_cli.training.recipes import recipe as recipes
    from sift_cli.training.recipes.data import open_data
    from sift_cli.training.recipes.loop import Training, accelerator
    from sift_cli.training.recipes.runs import RunFolder

    asked = recipe if isinstance(recipe, recipes.Recipe) else recipes.load(recipe, overrides)
    if dense:
        asked = replace(asked, transform=None, rule=None, sparsity_config=None)
    folder = RunFolder(Path(output), asked, "dense" if dense else "sparse")
    machine = accelerator(asked.precision)
    folder.check(resume=resume, force=force)
    data = open_data(asked.data)
    start, companions = _start(asked, data, dense=dense, allow_pickle=allow_pickle)

    def publish(module: nn.Module, path: Path) -> None:
        from sift_cli.training.finished import finished
        from sift_cli.training.replanned import replanned

        with atomic(path, force=True) as temporary:
            rewrite(finished(replanned(start, module), module), temporary, companions)

    training = Training(asked, start, data, folder, machine, publish, watch or (lambda progress: None))
    return Trained(folder.path, tuple(training.run(resume=resume, force=force)))


def _start(recipe: Recipe, data: Data, *, dense: bool, allow_pickle: bool) -> tuple[TransformedModel, Path | None]:
    """The model that a training begins with, and the folder that has what belongs to it."""
    from sift_cli.checkpoint.folder import digest
    from sift_cli.core.revival import ZERO
    from sift_cli.export import artifact, publishing
    from sift_cli.models import load as load_model
    from sift_cli.surgery import TransformedModel
    from sift_cli.training.recipes.keys import mapping
    from sift_cli.training.recipes.models import architecture, example, transformed
    from sift_cli.training.recipes.runs import artifact_in

    path = artifact_in(Path(recipe.model.name))
    if not path.exists() and not dense:
        named = architecture(recipe.model, data)
        loaded = load_model(named, seed=recipe.seed, **example(named, data))
        return transformed(loaded, recipe.transform, recipe.seed), None
    arguments = mapping(dict(recipe.model.arguments), "model", ("arch",))  # all that a file leaves open
    model = open_source(path, allow_pickle=allow_pickle, input_shape=(1, *data.shape), **arguments)
    companions = publishing.companions_of(path)
    if dense:
        if not isinstance(model, TransformedModel) or not model.masks:
            raise ModelError(f"{path} has no masks to drop", hint="leave out --dense")
        about = {"source": path.name, "sha256": digest(path), **ZERO.about()}
        return artifact.densified(model, ZERO, about), companions
    if not isinstance(model, TransformedModel):
        return transformed(model, recipe.transform, recipe.seed), companions
    if recipe.transform is not None:
        raise PlanError(f"{path} is transformed already", hint="leave the transform out: --set transform=null")
    return model, companions
