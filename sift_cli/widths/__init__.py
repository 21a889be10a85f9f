"""From a module to its widths: which tensor axes and integer attributes must change together, and what each faces."""

from sift_cli.widths.centres import centrable
from sift_cli.widths.graph import Attribute, Axis, Face, LayerRole, WidthGraph, WidthGroup, output_axis, trace_widths
from sift_cli.widths.scales import Rescaled, Unscalable, combined, rescaled
from sift_cli.widths.solve import solve_widths
from sift_cli.widths.trace import output_shapes

__all__ = [
    "Attribute",
    "Axis",
    "Face",
    "LayerRole",
    "Rescaled",
    "Unscalable",
    "WidthGraph",
    "WidthGroup",
    "centrable",
    "combined",
    "output_axis",
    "output_shapes",
    "rescaled",
    "solve_widths",
    "trace_widths",
]
