"""Checks: one file a claim, named as the claim. ``measure(evidence)`` yields what was measured, held or not."""
