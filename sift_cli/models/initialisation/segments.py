"""What is known of the entries of one tensor: runs of them, in storage order, each with its distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sift_cli.models.initialisation.draw import Draw

#: More runs than this are a pattern (``dirac_`` writes one entry at a time), which no list of runs describes.
MAX_RUNS = 64

Change = Callable[[Draw | None], Draw | None]


class Segments:
    """Runs of entries that cover a tensor of ``size`` entries; a run of None is not known.

    >>> runs = Segments(12, Draw("normal", 0.0, 1.0))
    >>> runs.change(3, 6, lambda _: Draw("constant", 0.0))
    >>> [(start, stop, draw.distribution) for start, stop, draw in runs]
    [(0, 3, 'normal'), (3, 6, 'constant'), (6, 12, 'normal')]
    """

    def __init__(self, size: int, draw: Draw | None = None) -> None:
        self.size = size
        self._runs: list[tuple[int, int, Draw | None]] = [(0, size, draw)]

    def __iter__(self) -> Iterator[tuple[int, int, Draw | None]]:
        return iter(self._runs)

    @property
    def known(self) -> bool:
        return all(draw is not None for _, _, draw in self._runs)

    def copy(self) -> Segments:
        result = Segments(self.size)
        result._runs = list(self._runs)
        return result

    def change(self, start: int, stop: int, how: Change) -> None:
        """Apply ``how`` to the entries from ``start`` to ``stop``."""
        changed: list[tuple[int, int, Draw | None]] = []
        for begin, end, draw in self._runs:
            for left, right in ((begin, min(end, start)), (max(begin, start), min(end, stop)), (max(begin, stop), end)):
                if left < right:
                    now = how(draw) if start <= left and right <= stop else draw
                    if changed and changed[-1][2] == now:
                        left = changed.pop()[0]
                    changed.append((left, right, now))
        self._runs = changed if 0 < len(changed) <= MAX_RUNS else [(0, self.size, None)]
