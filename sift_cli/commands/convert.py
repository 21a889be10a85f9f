"""Write the tensors and masks of a checkpoint as another kind of file. No number changes, unless --dtype asks for it.

IN is any file or folder that sift reads. What OUT is says its suffix: .safetensors, .pt, .npz, .onnx (from an ONNX
model), or none for a folder of safetensors files. An interrupted conversion goes on when it is started again.

Examples:

    sift convert pruned.pt small.safetensors

    sift convert small.safetensors dense.safetensors --to dense

    sift convert llama/ llama-sparse --shard-size 2GB --jobs 8

    sift convert checkpoint.mdl model.pt --pruned-nan --to mask

    sift convert pruned.onnx small.onnx

    sift convert model.safetensors half.safetensors --dtype bf16 --rename 's/^module\\.//'
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sift_cli import api
from sift_cli.commands import _output
from sift_cli.commands._options import AllowPickle, Force, _sparsity
from sift_cli.commands.export import Dtype
from sift_cli.registry import names

if TYPE_CHECKING:
    from rich.progress import TaskID

    from sift_cli.conversion import Progress

#: The encodings of tensors, and sparse initializers, which only a graph has.
_ENCODINGS = sorted((*names("sift_cli.conversion.encodings"), "coo"))
Encoding = StrEnum("Encoding", {name: name.replace("_", "-") for name in _ENCODINGS})  # type: ignore[misc]


class Substitution(tuple[str, str]):
    """A regular expression and what takes the place of what it matches."""


def _substitution(text: str) -> Substitution:
    mark = re.escape(text[1:2])
    found = re.fullmatch(rf"s{mark}((?:\\.|[^\\])*?){mark}((?:\\.|[^\\])*?){mark}", text, re.DOTALL) if mark else None
    if found is None:
        raise typer.BadParameter(f"{text!r} is no substitution; write it as 's/^module[.]//'")
    return Substitution((found[1], found[2]))


def command(
    source: Annotated[str, typer.Argument(metavar="IN", help="A checkpoint: a file, or a folder of transformers.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="What to write.")],
    to: Annotated[
        Encoding | None,
        typer.Option(help="How weights with a mask are stored.", show_default="what is usual in such a file"),
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Cast all floating-point tensors.", show_default="as they are")
    ] = None,
    rename: Annotated[
        list[Substitution] | None,
        typer.Option(
            parser=_substitution, metavar="s/REGEX/REPLACEMENT/",
            help="Change the names of tensors. It can be given several times.",
        ),
    ] = None,
    shard_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="How large a file of a folder may be.", show_default="5GB"),
    ] = None,
    min_sparsity: Annotated[
        Fraction | None,
        typer.Option(
            parser=_sparsity, metavar="S", show_default="where it is smaller",
            help="Share of zeros from which on a matrix without a mask gets one of its zeros.",
        ),
    ] = None,
    pruned_nan: Annotated[
        bool, typer.Option("--pruned-nan", help="NaN stands for a pruned weight (Cerebras before release 2).")
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Threads.", show_default="one a core")] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not read everything back.")] = False,
    allow_pickle: AllowPickle = False,
    force: Force = False,
) -> None:  # fmt: skip
    with _bar() as progress:
        done = api.convert(
            source, output, to=to.name if to else None, dtype=dtype.value if dtype else None, rename=rename or (),
            shard_size=shard_size, min_sparsity=min_sparsity, pruned_nan=pruned_nan, jobs=jobs, verify=not no_verify,
            force=force, allow_pickle=allow_pickle, progress=progress,
        )  # fmt: skip
    if _output.wants_json():
        _output.data(done.to_json())
        return
    if done.dropped:
        _output.note(f"note: {done.dropped} masks are not kept, which {done.encoding} has no place for")
    elif not done.masked and done.encoding != "dense":
        _output.note("note: no tensor is stored with a mask: none has one, or zeros enough to be smaller for it")
    if done.resumed:
        _output.note(f"note: {done.resumed} tensors were there from an interrupted run")
    if done.not_compared:
        _output.note(f"note: outputs were not compared: {done.not_compared}")
    verified = ", read back and compared" if done.verified else ""
    _output.text(
        f"wrote {output} ({_output.size(done.bytes)} of {_output.size(done.source_bytes)}; {done.tensors} tensors, "
        f"{done.masked} with masks{verified})"
    )


@contextmanager
def _bar() -> Iterator[Progress | None]:
    """A bar with throughput and time left on stderr while the block runs; none where stderr is no terminal."""
    console = _output.terminal()
    if console is None:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def show(doing: str, done: int, total: int) -> None:
            if doing not in tasks:
                tasks[doing] = bar.add_task(doing, total=total, completed=done)
            bar.update(tasks[doing], completed=done)

        yield show
