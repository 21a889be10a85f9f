"""The folder of a run: its recipe, its log, its state, and what came of it. Each file appears whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from sift_cli.core.files import atomic
from sift_cli.core.scratch import beside, clear
from sift_cli.errors import Malformed, MissingExtra, OutputBusy, OutputExists, OutputUnwritable, PlanError, Unreadable
from sift_cli.training.config.reading import read
from sift_cli.training.recipes.recipe import Recipe, differing

FORMAT = "sift.training/1"
RECIPE, STATE, LOG, BEST, LAST = "recipe.yaml", "state.pt", "log.csv", "best.safetensors", "last.safetensors"
#: Locked while a process writes into the folder; it has nothing in it and stays.
LOCK = ".lock"


def artifact_in(path: Path) -> Path:
    """The best artifact in the folder of a run; any other path is itself."""
    return path / BEST if (path / RECIPE).is_file() and (path / BEST).is_file() else path


#: What torch.load raises on bytes that are none of its own.
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, ValueError, LookupError, EOFError, AttributeError, TypeError)


class RunFolder:
    """A folder of one run.

    Args:
        path: The folder. It is made, in a folder that exists.
        recipe: What the run is of.
        phase: "sparse", or "dense" for a run that began with a sparse model's weights without masks.
    """

    def __init__(self, path: Path, recipe: Recipe, phase: str) -> None:
        self.path, self._about = path, {"phase": phase, **recipe.to_json()}

    def check(self, *, resume: bool, force: bool) -> None:
        """Refuse the folder before any work is done for it.

        Raises:
            OutputBusy: Another process is writing it.
            OutputExists: There is a run, and it is neither to go on nor to be replaced.
            OutputUnwritable: It is there and no run, or cannot be made.
            PlanError: The run that is there is of another recipe.
        """
        if (self.path / LOCK).is_file():
            with self._locked(fcntl.LOCK_SH):  # which several may look at together
                pass
        self._check(resume=resume, force=force)

    def _check(self, *, resume: bool, force: bool) -> None:
        if not self.path.absolute().parent.is_dir():
            raise OutputUnwritable(self.path, f"the folder {self.path.absolute().parent} does not exist")
        if not self._is_run:
            begun = {LOCK, beside(self.path / RECIPE).name}  # all there is of a run that was killed before it was one
            if self.path.exists() and not (self.path.is_dir() and {one.name for one in self.path.iterdir()} <= begun):
                raise OutputUnwritable(self.path, "it is there, and no run of sift train")
        elif resume:
            there = read(self.path / RECIPE)
            if (key := differing(there, self._about) if isinstance(there, dict) else "all of it") is not None:
                raise PlanError(
                    f"the run in {self.path} is of another recipe: {key} differs",
                    hint="go on with the recipe that it began with, or name another folder with --output",
                )
        elif not force:
            raise OutputExists(self.path, hint="pass --resume to go on with it, or --force to replace it")

    @contextlib.contextmanager
    def written(self, *, resume: bool, force: bool) -> Iterator[None]:
        """Make the folder, unless there is a run to go on with, and let no other process write it during the block.

        Raises:
            OutputError, PlanError: As :meth:`check`.
        """
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputUnwritable(self.path, error.strerror or str(error)) from None
        with self._locked(fcntl.LOCK_EX):
            self._check(resume=resume, force=force)  # again: it may have been begun meanwhile
            self._begin(resume=resume)
            try:
                yield
            except KeyboardInterrupt as stop:
                stop.add_note(f"go on with the run in {self.path} by --resume")
                raise

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        """Hold the lock, which the system releases when this process ends, in whatever way.

        A lock of POSIX and not one of BSD's ``flock``: those are inherited by the processes that prepare data, which
        live on for seconds when this one is killed.

        Raises:
            OutputBusy: Another process holds it.
        """
        try:
            file = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputUnwritable(self.path, error.strerror or str(error)) from None
        try:
            try:
                fcntl.lockf(file, kind | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    hint = "wait until it is done, or name another folder with --output"
                    raise OutputBusy(self.path, hint=hint) from None
                # Else the file system has no locks, as some of clusters have none, and is written without one.
            yield
        finally:
            os.close(file)

    def _begin(self, *, resume: bool) -> None:
        try:
            for name in (RECIPE, STATE, LOG, BEST, LAST):
                clear(self.path / name)
            if self._is_run and resume:
                return
            for name in (STATE, LOG, BEST, LAST):  # the recipe stays, by which a folder is known as a run
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputUnwritable(self.path, error.strerror or str(error)) from None
        with atomic(self.path / RECIPE, force=True) as temporary:
            temporary.write_text(yaml.safe_dump(self._about, sort_keys=False))

    @property
    def _is_run(self) -> bool:
        return (self.path / RECIPE).is_file()

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Put ``state``, tensors and plain values, in the place of the one that is there."""
        with atomic(self.path / STATE, force=True) as temporary:
            try:
                torch.save({"format": FORMAT, **state}, temporary)
            except RuntimeError as error:  # torch's writer does not pass on what the system said
                raise OSError(errno.EIO, "torch.save could not write all of it; is the disk full?") from error

    def state(self) -> dict[str, Any] | None:
        """The state that was written last; None where there is none.

        Raises:
            Unreadable, Malformed: It is damaged, or no state.
        """
        path = self.path / STATE
        if not path.exists():
            return None
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except OSError as error:
            raise Unreadable(path, error.strerror or str(error)) from None
        except (
            pickle.UnpicklingError,
            RuntimeError,
            ValueError,
            KeyError,
            EOFError,
            AttributeError,
            TypeError,
        ) as error:
            raise Malformed(path, "its contents", (str(error) or type(error).__name__).splitlines()[0]) from None
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise Malformed(path, "its contents", "it is no state of sift train")
        return state

    def write_log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write all lines of the log. They are few, and so a run that goes on has none twice."""
        with atomic(self.path / LOG, force=True) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({key: _written(value) for key, value in row.items()} for row in rows)

    def tensorboard(self, step: int) -> Any:
        """A writer of TensorBoard's logs, which forgets what comes after ``step``.

        Raises:
            MissingExtra: tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtra("tensorboard", "tensorboard", "tensorboard: true") from None
        return SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)


def _written(value: Any) -> Any:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
