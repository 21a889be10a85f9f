"""Any checkpoint that sift reads, as any file that it writes: nothing changes but how the tensors are stored.

Everything is known before the first byte is written: which weights have a mask (:mod:`~sift_cli.conversion.source`),
how each is encoded (``encodings/`` ◆), where it lies in the output (``containers/`` ◆). So tensors are written in any
order and several at a time, a conversion that was interrupted goes on where it was (:mod:`~sift_cli.conversion.work`),
and in memory there are never more than two of them.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sift_cli import __version__
from sift_cli.checkpoint import Checkpoint, open_checkpoint
from sift_cli.checkpoint.folder import MASKS
from sift_cli.conversion import containers, encodings
from sift_cli.conversion.options import Converted, Options, Progress
from sift_cli.conversion.source import Source
from sift_cli.conversion.steps import Conversion
from sift_cli.conversion.work import Work
from sift_cli.core.files import atomic, atomic_folder, check_folder, check_writable
from sift_cli.errors import ExportError, OutputError, SiftError

__all__ = ["Converted", "Options", "Progress", "convert"]


def convert(
    path: Path,
    output: Path,
    options: Options,
    *,
    jobs: int,
    verify: bool = True,
    force: bool = False,
    allow_pickle: bool = False,
    progress: Progress = lambda *_: None,
) -> Converted:
    """Write the tensors and masks of ``path`` to ``output``.

    Args:
        path: Any checkpoint that sift reads.
        output: A file, or a folder.
        options: How.
        jobs: Threads.
        verify: Read everything back, and compare it.
        force: Replace the output if it exists.
        allow_pickle: Load a pickle that runs code.
        progress: Told how far it is.

    Raises:
        CheckpointError: The source cannot be read.
        ExportError: The output cannot hold it.
        OutputError: The output cannot be written. What is written so far stays for the next run of the same conversion,
            as it does when the process is stopped.
        VerificationFailed: What was read back differs.
    """
    encoding, container = encodings.get(options.encoding), containers.get(options.container)
    if options.container not in encoding.CONTAINERS:
        raise ExportError(
            f"{output} cannot hold weights as {options.encoding!r}",
            hint=f"name it {containers.suffixes(encoding.CONTAINERS)}, or choose another encoding (--to)",
        )
    folder = options.container == "folder"
    if folder:
        check_folder(output, force=force, ours=MASKS)
    else:
        check_writable(output, force=force)
    with open_checkpoint(path, allow_pickle=allow_pickle) as checkpoint:
        source = Source(checkpoint, dtype=options.dtype, rename=options.rename, pruned_nan=options.pruned_nan)
        work = Work(output, {"version": __version__, "source": _identity(checkpoint), "options": asdict(options)})
        keep = True
        try:
            conversion = Conversion(source, work, encoding, container, options, jobs, progress)
            conversion.look()
            files = conversion.write()
            if verify:
                conversion.verify()
            keep = False
            result = conversion.result(output, verified=verify)
            with atomic_folder(output, ours=MASKS, force=force) if folder else atomic(output, force=force) as new:
                conversion.publish(new, files, path if path.is_dir() else None)
        except SiftError as error:
            keep = isinstance(error, OutputError) and any(step == "write" for step, _ in work.done)
            raise
        except KeyboardInterrupt as stop:
            stop.add_note("the same command goes on from there")
            raise
        finally:
            work.close(keep=keep)
    return result


def _identity(checkpoint: Checkpoint) -> list[list[Any]]:
    """What the files of a source are known by, as JSON."""
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in checkpoint.files()]
