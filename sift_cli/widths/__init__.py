"""From a module to its widths: which tensor axes and integer attributes must change together, and what each faces."""

from sift_cli.widths.graph import Attribute, Axis, Face, LayerRole, WidthGraph, WidthGroup, trace_widths
from sift_cli.widths.solve import solve_widths
from sift_cli.widths.trace import output_shapes

__all__ = [
    "Attribute",
    "Axis",
    "Face",
    "LayerRole",
    "WidthGraph",
    "WidthGroup",
    "output_shapes",
    "solve_widths",
    "trace_widths",
]
