"""What the command line does, as functions. Each command is one call of one of these."""

from __future__ import annotations

from sift_cli.api._written import Written as Written
from sift_cli.api.checking import check as check
from sift_cli.api.converting import convert as convert
from sift_cli.api.counting import Convention as Convention
from sift_cli.api.counting import flops as flops
from sift_cli.api.counting import training_flops as training_flops
from sift_cli.api.exporting import ExportFormat as ExportFormat
from sift_cli.api.exporting import densify as densify
from sift_cli.api.exporting import export as export
from sift_cli.api.exporting import save as save
from sift_cli.api.reading import analyze as analyze
from sift_cli.api.reading import diff as diff
from sift_cli.api.reading import inspect as inspect
from sift_cli.api.reading import load as load
from sift_cli.api.running import Run as Run
from sift_cli.api.running import bench as bench
from sift_cli.api.running import run as run
from sift_cli.api.training import Trained as Trained
from sift_cli.api.training import train as train
from sift_cli.api.transforming import plan as plan
from sift_cli.api.transforming import read_plan as read_plan
from sift_cli.api.transforming import transform as transform
from sift_cli.api.transforming import try_plan as try_plan
