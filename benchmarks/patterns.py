"""Claim: the magnitude that a transposable mask keeps is the most there is, and finding it takes seconds a layer.

    python benchmarks/patterns.py [--rows 512] [--columns 4608] [--rounds 3]

prints a markdown table for a matrix of normal weights, by default that of the last 3×3 convolutions of ResNet-18. The
fast path is what random masks take; "of the best" is the magnitude it keeps as a part of what the exact path keeps, on
average over the 8×8 tiles and in the worst of them. Times are those of a whole mask, the fastest of the rounds.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from sift_cli.sparsity.patterns import Gemm, _tiles, parse
from sift_cli.sparsity.patterns.transposable import Transposable

PATTERNS = ("1:8T", "2:8T", "4:8T")


def quality(pattern: Transposable, tiles: np.ndarray) -> np.ndarray:
    """Of each of ``tiles`` (tiles, M, M), magnitudes, what the fast path keeps as a part of the best."""
    gains = np.rint(tiles / tiles.max() * (2**_tiles.GAIN_BITS - 1)).astype(np.int64)
    bounds = pattern.bounds(*tiles.shape[1:])
    fast, best = (np.where(choose(gains, bounds), tiles, 0).sum(axis=(1, 2)) for choose in (_tiles.greedy, _tiles.best))
    return fast / best


def seconds(pattern: Transposable, weights: np.ndarray, rounds: int) -> tuple[float, float]:
    """Time of a random mask and of that of the largest weights, of a matrix (rows, columns)."""
    gemm = Gemm(weights.shape)
    (kept,) = pattern.feasible(gemm)
    times: tuple[list[float], list[float]] = ([], [])
    for seed in range(rounds):
        start = time.perf_counter()
        pattern.draw(gemm, kept, seed=seed, name="weight")
        times[0].append(time.perf_counter() - start)
        start = time.perf_counter()
        pattern.select(gemm, weights, kept)
        times[1].append(time.perf_counter() - start)
    return min(times[0]), min(times[1])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=512)
    options.add_argument("--columns", type=int, default=4608)
    options.add_argument("--rounds", type=int, default=3)
    asked = options.parse_args()
    weights = np.random.default_rng(0).standard_normal((asked.rows, asked.columns)).astype(np.float32)
    whole = np.abs(weights[: asked.rows // 8 * 8, : asked.columns // 8 * 8])
    tiles = whole.reshape(len(whole) // 8, 8, -1, 8).swapaxes(1, 2).reshape(-1, 8, 8)
    print(f"{asked.rows} × {asked.columns}, {len(tiles):,} whole tiles\n")
    print("| pattern | fast path, of the best | in the worst tile | random mask | best mask |\n|---|---|---|---|---|")
    for text in PATTERNS:
        pattern = parse(text)
        assert isinstance(pattern, Transposable)
        share = quality(pattern, tiles.astype(np.float64))
        fast, best = seconds(pattern, weights, asked.rounds)
        print(f"| {text} | {share.mean():.1%} | {share.min():.1%} | {fast:.2f} s | {best:.2f} s |")


if __name__ == "__main__":
    main()
