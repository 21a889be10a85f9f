"""Every error sift raises on purpose, and the exit code each one ends the command line with.

::

    SiftError                      1   anything below; carries the sentence and .hint, what to type next
    ├─ UsageError                  2   the command line does not parse
    │  └─ ConfigError                  a configuration, an option or a baseline of sift check
    ├─ CheckpointError             3   a file could not be read
    │  ├─ Unreadable                   it is missing, a folder, or the system refuses it
    │  ├─ Malformed                    path, at, why: its bytes contradict themselves
    │  ├─ UnsafePickle                 reading it would run code
    │  └─ MissingTensor                name, nearest
    ├─ ModelError                  4   a file was read, but no model could be made of it
    │  ├─ UnknownArchitecture
    │  ├─ AmbiguousArchitecture        candidates
    │  ├─ MissingExtra                 package, extra
    │  └─ UnsupportedOp                op, module
    ├─ PlanError                   5   the transform asked for does not exist on this model
    │  └─ Infeasible                   transform, layer, need, have
    ├─ VerificationFailed          6   a claim was measured and did not hold; carries the Certificate
    ├─ ExportError                 7   the model cannot be written in the format asked for
    ├─ RuntimeUnavailable          8   native library missing, onnxruntime too old, instruction set absent
    ├─ OutputError                 9   the output could not be written
    │  ├─ OutputExists                 path
    │  ├─ OutputUnwritable             path, why
    │  └─ OutputBusy              10   path; another process is writing it
    └─ Interrupted               130   by Ctrl-C; 143 by SIGTERM

Anything that is not a :class:`SiftError` is a bug in sift and keeps its traceback. A message is one sentence: what is
wrong, and where. The hint says what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sift_cli.core.certificate import Certificate


class SiftError(Exception):
    """Base of all errors a user can cause.

    Args:
        message: One sentence saying what is wrong and where.
        hint: What to type or change next, or None where nothing can be suggested.
        fields: Facts of the error by name, also reported under ``--json``.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields


class UsageError(SiftError):
    exit_code = 2


class ConfigError(UsageError):
    """A usage error that is found in a file as well as on the command line."""


class CheckpointError(SiftError):
    exit_code = 3


class Unreadable(CheckpointError):
    def __init__(self, path: object, why: str, *, hint: str | None = None) -> None:
        super().__init__(f"cannot read {path}: {why}", hint=hint, path=str(path), why=why)


class Malformed(CheckpointError):
    """A file whose bytes contradict themselves or the format they claim to be.

    Args:
        path: The file.
        at: Where in the file: a byte offset, a header, a tensor's name.
        why: What is wrong there.
    """

    def __init__(self, path: object, at: str, why: str, *, hint: str | None = None) -> None:
        super().__init__(f"{path} is damaged at {at}: {why}", hint=hint, path=str(path), at=at, why=why)


class UnsafePickle(CheckpointError):
    def __init__(self, path: object, globals_: Iterable[str]) -> None:
        names = sorted(globals_)
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        super().__init__(
            f"{path} is a pickle that runs code when it is loaded; it needs: {shown}",
            hint="if you trust whoever made it, pass --allow-pickle; it is safer to save a state_dict or safetensors",
            path=str(path),
            globals=names,
        )


class MissingTensor(CheckpointError):
    def __init__(self, path: object, name: str, nearest: str | None = None) -> None:
        hint = f"did you mean {nearest!r}?" if nearest else None
        super().__init__(f"{path} has no tensor {name!r}", hint=hint, path=str(path), name=name, nearest=nearest)


class ModelError(SiftError):
    exit_code = 4


class UnknownArchitecture(ModelError):
    pass


class AmbiguousArchitecture(ModelError):
    def __init__(self, path: object, candidates: Iterable[str]) -> None:
        names = list(candidates)
        super().__init__(
            f"{path} fits {len(names)} architectures equally well: {', '.join(names)}",
            hint=f"pass --arch {names[0]} (or another of them)",
            path=str(path),
            candidates=names,
        )


class MissingExtra(ModelError):
    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package}, which is not installed",
            hint=f"pip install 'sift-cli[{extra}]'",
            package=package,
            extra=extra,
        )


class UnsupportedOp(ModelError):
    def __init__(self, op: str, module: str, why: str, *, hint: str | None = None) -> None:
        super().__init__(f"{op} in {module} is not supported: {why}", hint=hint, op=op, module=module)


class PlanError(SiftError):
    exit_code = 5


class Infeasible(PlanError):
    """No integers satisfy what the transform promises.

    Args:
        transform: Name of the transform.
        layer: Layer (or "the model") where it fails.
        need: What the promise needs, a number with its unit.
        have: What there is.
    """

    def __init__(self, transform: str, layer: str, need: str, have: str, *, hint: str | None = None) -> None:
        super().__init__(
            f"{transform} is not feasible on {layer}: it needs {need} but has {have}",
            hint=hint,
            transform=transform,
            layer=layer,
            need=need,
            have=have,
        )


class VerificationFailed(SiftError):
    exit_code = 6

    def __init__(self, message: str, certificate: Certificate | None = None, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint, certificate=certificate)
        self.certificate = certificate


class ExportError(SiftError):
    exit_code = 7


class RuntimeUnavailable(SiftError):
    exit_code = 8


class OutputError(SiftError):
    exit_code = 9


class OutputExists(OutputError):
    def __init__(self, path: object, *, hint: str = "pass --force to replace it") -> None:
        super().__init__(f"{path} already exists", hint=hint, path=str(path))


class OutputUnwritable(OutputError):
    def __init__(self, path: object, why: str) -> None:
        super().__init__(f"cannot write {path}: {why}", path=str(path), why=why)


class OutputBusy(OutputError):
    exit_code = 10

    def __init__(self, path: object, *, hint: str) -> None:
        super().__init__(f"another process is writing {path}", hint=hint, path=str(path))


class Interrupted(SiftError):
    """Ctrl-C or another signal ended the work; its exit code is a shell's, 128 + ``signal``.

    Args:
        signal: Its number.
        left: What became of what was being written, or None if nothing was.
    """

    exit_code = 130

    def __init__(self, signal: int = 2, left: str | None = None) -> None:
        super().__init__(f"interrupted; {left}" if left else "interrupted")
        self.exit_code = 128 + signal
