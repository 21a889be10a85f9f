"""Named tensors + architecture → ``nn.Module`` + example inputs. torch is imported only to build a model."""

from sift_cli.models.building import build, example_inputs, input_specs
from sift_cli.models.identify import Identified, architecture_of, candidates, identify
from sift_cli.models.loading import LoadedModel, load
from sift_cli.models.naming import parse_architecture

__all__ = [
    "Identified",
    "LoadedModel",
    "architecture_of",
    "build",
    "candidates",
    "example_inputs",
    "identify",
    "input_specs",
    "load",
    "parse_architecture",
]
