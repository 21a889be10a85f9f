"""The certificate: every claim with the number that was measured for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

SCHEMA = "sift.certificate/1"
Verdict = Literal["held", "broken"]


@dataclass(frozen=True)
class Claim:
    """One statement about an artifact, measured on the artifact as read back from disk.

    Attributes:
        name: What is claimed: ``iso_flop``, ``mask_cardinality``, ``io_shapes``, ``same_function``, ``roundtrip``.
        verdict: "held" or "broken".
        before: The number (or shapes) of the original.
        after: The number measured on the artifact.
        bound: What ``after`` had to satisfy, in words with units.
        counter: What measured it ("plan", "fvcore", "dispatch", "onnx", "bitmask", "torch", …).
    """

    name: str
    verdict: Verdict
    before: Any
    after: Any
    bound: str
    counter: str

    @property
    def held(self) -> bool:
        return self.verdict == "held"


def claim(name: str, held: bool, *, before: Any, after: Any, bound: str, counter: str) -> Claim:
    """A :class:`Claim` from a truth value."""
    return Claim(name, "held" if held else "broken", before, after, bound, counter)


@dataclass(frozen=True)
class Certificate:
    """All claims of one artifact. Not a bool: a claim that is missing was not made, and without one nothing holds."""

    claims: tuple[Claim, ...] = ()

    @property
    def held(self) -> bool:
        return bool(self.claims) and all(c.held for c in self.claims)

    @property
    def broken(self) -> tuple[Claim, ...]:
        return tuple(c for c in self.claims if not c.held)

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "claims": [asdict(c) for c in self.claims]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Certificate:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: Another schema, or a claim with missing or unknown fields.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"not a {SCHEMA} document")
        try:
            claims = tuple(Claim(**c) for c in data["claims"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a {SCHEMA} document: {error}") from None
        for one in claims:
            if one.verdict not in ("held", "broken") or not all(
                isinstance(text, str) for text in (one.name, one.bound, one.counter)
            ):
                raise ValueError(f"not a {SCHEMA} document: a claim is {one.verdict!r:.40}")
        return cls(claims)

    def __add__(self, more: Iterable[Claim]) -> Certificate:
        return Certificate((*self.claims, *more))
