"""Randomness that is a function of names.

A seed belongs to a tensor and not to a position in a loop: the same layer gets the same numbers whatever else is in
the model, in every process and on every platform. (Cerebras' 1.7 release hashed the name with Python's salted
``hash`` and so gave another mask in each process.)
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, name: str, purpose: str) -> int:
    """A 63-bit seed of ``purpose`` ("mask", "init", …) for the tensor ``name`` under the user's ``seed``."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, name: str, purpose: str) -> np.random.Generator:
    """numpy's counter-based Philox generator on :func:`derive_seed`; its stream is fixed across numpy versions."""
    return np.random.Generator(np.random.Philox(derive_seed(seed, name, purpose)))
