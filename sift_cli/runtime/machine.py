"""What a figure of speed was measured on."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sift_cli.errors import RuntimeUnavailable
from sift_cli.runtime.library import available_isas, peak_gflops


@dataclass(frozen=True)
class Machine:
    """The processor as this process sees it.

    Attributes:
        cpu: Its name, as the system tells it.
        cores: Hardware threads that this process may use.
        isas: Instruction sets that sift's library can use on it, best first; empty without a library.
        forced_isa: What ``SIFT_FORCE_ISA`` says, if anything.
        peak_gflops: 10⁹ float32 operations a second of one core, see :func:`~sift_cli.runtime.library.peak_gflops`;
            None where nobody asked for it, or the library cannot tell.
    """

    cpu: str
    cores: int
    isas: tuple[str, ...]
    forced_isa: str | None
    peak_gflops: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def this_machine(*, peak: bool = False) -> Machine:
    """The machine; ``peak`` measures what it can do at the best, which takes a moment."""
    try:
        isas, reached = available_isas(), peak_gflops() if peak else None
    except RuntimeUnavailable:
        isas, reached = (), None
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(_cpu(), usable, isas, os.environ.get("SIFT_FORCE_ISA") or None, reached)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
