"""Measure what a transform promised, on the artifact as it was read back from disk."""

from sift_cli.verify.evidence import Evidence, certify, macs_claim, require

__all__ = ["Evidence", "certify", "macs_claim", "require"]
