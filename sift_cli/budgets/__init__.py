"""Budgets of files, for CI: size, FLOPs, sparsity, the cost or the outputs of another file, and saved figures.

``docs/check.md`` says what is measured and how a configuration is written.
"""

from __future__ import annotations

from sift_cli.budgets.report import CheckReport, FileReport, Row

__all__ = ["CheckReport", "FileReport", "Row"]
