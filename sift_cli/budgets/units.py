"""Sizes, counts and shares as people write them, read exactly and written back."""

from __future__ import annotations

import re
from fractions import Fraction

from sift_cli.core.sparsity import parse_sparsity
from sift_cli.errors import ConfigError, PlanError

#: Short enough that no text of this form is a number that does not fit into memory.
_NUMBER = re.compile(r"\+?(\d[\d_]{0,30}(?:\.\d{1,30})?(?:e\+?\d{1,2})?)\s*([a-z]*|%)", re.IGNORECASE)
_SHARE = re.compile(r"[-+]?[\d._]{1,20}(/\d{1,20}|%)?")
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY = {f"{prefix}i": 2 ** (10 * power) for power, prefix in enumerate("kmgtp", 1)}
#: What a count may be followed by → where a count of that belongs.
_COUNTED = {"flops": "max-flops", "flop": "max-flops", "macs": "max-macs", "mac": "max-macs"}


def parse_bytes(value: object, at: str) -> int:
    """``"20 MB"`` is 20,000,000 bytes and ``"20 MiB"`` 20,971,520; a number alone is bytes.

    Args:
        value: A text or a whole number.
        at: What a message calls it.

    Raises:
        ConfigError: It is no size, or "20M", which some read as one and some as the other.
    """
    number, unit = _split(value, at, "a size, as 20 MB (10⁶ bytes) or 20 MiB (2²⁰ bytes)")
    prefix = unit.lower().removesuffix("b")
    if unit and not unit.lower().endswith("b"):
        raise ConfigError(f"{at}: {value!r} has no unit of bytes", hint="write MB for 10⁶ bytes, or MiB for 2²⁰")
    scale = (_DECIMAL | _BINARY).get(prefix)
    if scale is None:
        raise ConfigError(f"{at}: {unit!r} is no unit of bytes", hint="write B, kB, MB, GB, TB, or KiB, MiB, GiB, TiB")
    return int(number * scale)


def parse_count(value: object, at: str) -> int:
    """``"2G"`` is 2·10⁹ of whatever ``at`` counts; so is ``"2 GFLOPs"`` where FLOPs are counted.

    Raises:
        ConfigError: It is no number, or one of something else: MACs are not FLOPs, but half of them.
    """
    number, unit = _split(value, at, "a number, as 2000000, 2e6 or 2M")
    counted = next((word for word in _COUNTED if unit.lower().endswith(word)), "")
    if counted and not at.endswith(home := _COUNTED[counted]):
        raise ConfigError(f"{at}: {value!r} does not belong here", hint=f"put it under {home}")
    scale = _DECIMAL.get(unit.lower().removesuffix(counted))
    if scale is None:
        raise ConfigError(f"{at}: {unit!r} is no unit of it", hint="write k, M, G, T or P for 10³ to 10¹⁵")
    return int(number * scale)


def parse_share(value: object, at: str) -> Fraction:
    """A sparsity in [0, 1): ``.9``, ``"9/10"`` or ``"90%"``, exactly as it is written.

    Raises:
        ConfigError: It is none.
    """
    text = shown(value).strip("'")
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not _SHARE.fullmatch(text):
        raise ConfigError(f"{at}: {shown(value)} is no sparsity", hint="write it as 0.9, 9/10 or 90%")
    try:
        return parse_sparsity(text)
    except PlanError as error:
        raise ConfigError(f"{at}: {error.message}", hint=error.hint) from None


def parse_tolerance(value: object, at: str) -> Fraction:
    """``"+2%"`` is 1/50: by how much more than a saved figure is still allowed, as a part of that.

    Raises:
        ConfigError: It is no percentage, or less than nothing.
    """
    kind = "a tolerance, as +2%"
    number, unit = _split(value, at, kind)
    if unit != "%":
        raise ConfigError(f"{at}: {shown(value)} is not {kind}", hint="write it in percent")
    return number / 100


def count_text(count: int, unit: str) -> str:
    """A count for people: in powers of ten, and exactly."""
    if count < 1000:
        return f"{count} {unit}"
    power = min((len(str(count)) - 1) // 3, 5)
    return f"{count / 1000**power:.4g} {'_kMGTP'[power]}{'B' if unit == 'bytes' else unit} ({count:,})"


def shown(value: object) -> str:
    """A value as a message quotes it."""
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of that size"  # Python refuses to print one of thousands of digits
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _split(value: object, at: str, kind: str) -> tuple[Fraction, str]:
    """The number and the unit of a text, or of a plain number."""
    text = value.strip() if isinstance(value, str) else shown(value)
    found = None if isinstance(value, bool) else _NUMBER.fullmatch(text)
    if not isinstance(value, str | int | float) or found is None:
        raise ConfigError(f"{at}: {shown(value)} is not {kind}")
    try:
        return Fraction(found[1]), found[2]
    except ValueError:  # underscores in odd places
        raise ConfigError(f"{at}: {shown(value)} is not {kind}") from None
