"""Carries out a plan. The only place in sift where a module's tensors change, and always on a copy."""

from sift_cli.surgery.apply import apply, apply_edits

__all__ = ["apply", "apply_edits"]
