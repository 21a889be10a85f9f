"""What ``sift demo`` exports, held to ``examples/check/sift.toml``: sift's own use of its check.

The demo is run at less sparsity, for speed: the MACs are the same, and so are the kept weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Sift = Callable[..., Result]
CONFIG = Path(__file__).parents[2] / "examples" / "check" / "sift.toml"
#: Of the paper's ResNet-18 for CIFAR, from docs/flops.md.
MACS = 555_468_800


def test_the_demo_keeps_to_its_budgets(sift: Sift) -> None:
    assert sift("demo", "--output", ".", "--sparsity", "0.5").exit_code == 0
    shutil.copy(CONFIG, "sift.toml")
    done = sift("check", "--json", "--min-sparsity", "0.49")
    assert done.exit_code == 0, done.output
    found = {file["path"]: {row["budget"]: row for row in file["budgets"]} for file in json.loads(done.stdout)["files"]}
    assert set(found) == {"demo-wide-0.5.safetensors", "demo-wide-0.5.onnx"}
    for path, rows in found.items():
        assert set(rows) == {"max-size", "max-flops", "min-sparsity", "iso-flop-of"}
        # Less than one weight below them; the layers with the fewest positions have 4 × 4.
        assert MACS - 16 < rows["iso-flop-of"]["measured"] <= rows["iso-flop-of"]["allowed"] == MACS
        assert rows["max-size"]["measured"] == Path(path).stat().st_size
    # It is less sparse than the demo is by default, and that is seen.
    done = sift("check")
    assert done.exit_code == 6
    assert done.stdout.count("broken") == 2 + 1
