"""Where models come from, one module a source.

A source is a module with ::

    PACKAGE: str | None                         the package that it needs, if any
    names() -> tuple[str, ...]                  every architecture it can list
    has(name) -> bool                           whether it can build ``name``, which may be more than it lists
    variants(name) -> tuple[dict, ...]          argument sets that published checkpoints of ``name`` need
    build(name, **kwargs) -> nn.Module          the model with its architecture's own random weights
    inputs(name, kwargs) -> tuple[InputSpec, ...] | None
                                                one sample, with its batch dimension; None where only the user knows

and, where a name is not all there is to an architecture or to the names in its checkpoints,

    resolve(text) -> Architecture | None        what a user means by ``text``; None for nothing
    load(name, tensors, **kwargs) -> module, notes
                                                the model with a checkpoint's weights

Building downloads nothing. ``num_classes`` is the argument for the number of classes in every source that knows one.
Importing a source imports neither torch nor the package behind it.
"""
