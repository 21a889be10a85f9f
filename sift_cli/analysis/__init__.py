"""What a mask looks like as a graph, and how it moves: Ramanujan gap, weighted spectral gap, overlap and churn.

``docs/analysis.md`` has the definitions.
"""

from __future__ import annotations

from sift_cli.analysis.report import AnalysisReport, CheckpointAnalysis, LayerAnalysis
from sift_cli.analysis.series import analyze

__all__ = ["AnalysisReport", "CheckpointAnalysis", "LayerAnalysis", "analyze"]
