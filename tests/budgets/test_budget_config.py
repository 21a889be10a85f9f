"""``sift.toml`` and ``[tool.sift]``: which budgets are for which file, and what is no configuration."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest

from sift_cli.budgets import budget, config
from sift_cli.budgets.select import MOST_FILES, select
from sift_cli.errors import ConfigError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "sift.toml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def test_every_key() -> None:
    path = write("""
        baseline = "base.json"
        tolerance = "+2%"
        [[check]]
        paths = ["exports/*.onnx", "b.pt"]
        max-size = "20 MB"
        max-flops = "2 G"
        max-macs = 1_000_000_000
        max-params = "12M"
        min-sparsity = 0.9
        iso-flop-of = "torchvision:resnet18"
        same-output-as = "base.onnx"
        arch = "package.module:factory"
        input = "1x3x8x8"
        dims = {sequence = 128}
        tolerance = {size = "+5%", macs = "0%"}
        allow-empty = true
    """)
    found = config.load(path)
    assert found.baseline == Path("base.json")
    assert found.tolerance == dict.fromkeys(budget.FIGURES, Fraction(1, 50))
    (table,) = found.tables
    assert table.patterns == ("exports/*.onnx", "b.pt")
    assert table.allow_empty
    assert budget.Budget() | table.settings == budget.Budget(
        max_size=20_000_000, max_flops=2 * 10**9, max_macs=10**9, max_params=12 * 10**6, min_sparsity=Fraction(9, 10),
        iso_flop_of="torchvision:resnet18", same_output_as="base.onnx", arch="package.module:factory",
        input=(1, 3, 8, 8), dims={"sequence": 128}, tolerance={"size": Fraction(1, 20), "macs": Fraction(0)},
    )  # fmt: skip


def test_the_nearest_upwards() -> None:
    write('[[check]]\npaths = "far.onnx"', "sift.toml")
    write('[[tool.sift.check]]\npaths = "near.onnx"', "a/pyproject.toml")
    write("[project]\nname = 'x'", "a/b/pyproject.toml")
    os.chdir("a/b")
    (table,) = config.find(Path()).tables
    assert table.patterns == ("near.onnx",)
    write('[check]\npaths = "nearest.onnx"', "sift.toml")
    (table,) = config.find(Path()).tables
    assert table.patterns == ("nearest.onnx",)


def test_paths_are_relative_to_the_configuration() -> None:
    write('[[check]]\npaths = "*.onnx"\nmax-size = 1\niso-flop-of = "base.pt"\n', "p/sift.toml")
    touch("p/x.onnx", "x.onnx", "p/q/here")
    os.chdir("p/q")
    selected = select((), config.find(Path()), {})
    assert list(selected) == [Path("../x.onnx")]
    assert selected[Path("../x.onnx")].iso_flop_of == "../base.pt"


def test_later_tables_win_key_by_key_and_options_win_over_all() -> None:
    path = write("""
        [[check]]
        paths = ["e/*.onnx"]
        max-size = "1 MB"
        max-macs = "1 M"
        [[check]]
        paths = ["e/big.onnx"]
        max-size = "9 MB"
    """)
    touch("e/big.onnx", "e/small.onnx", "other.onnx")
    found = select((), config.load(path), {"max_macs": 5})
    sizes = {str(file): (one.max_size, one.max_macs) for file, one in found.items()}
    assert sizes == {"e/big.onnx": (9_000_000, 5), "e/small.onnx": (1_000_000, 5)}
    named = select(["e/big.onnx", "other.onnx"], config.load(path), {})
    assert [(str(file), one.max_size) for file, one in named.items()] == [
        ("e/big.onnx", 9_000_000),
        ("other.onnx", None),
    ]


def test_globs() -> None:
    touch("a/1.onnx", "a/b/2.onnx", "a/[x].onnx", "a/x.onnx")
    names = [str(path) for path in select(["a/**/*.onnx"], config.Config(), {})]
    assert names == ["a/1.onnx", "a/[x].onnx", "a/b/2.onnx", "a/x.onnx"]
    assert [str(path) for path in select(["a/[x].onnx"], config.Config(), {})] == ["a/[x].onnx"]
    assert [str(path) for path in select(["./a/x.onnx", "a/x.onnx"], config.Config(), {})] == ["a/x.onnx"]
    assert len(select([f"{Path.cwd()}/a/?.onnx"], config.Config(), {})) == 2
    assert [str(path) for path in select([Path("a/x.onnx")], config.Config(), {})] == ["a/x.onnx"]
    Path("link.onnx").symlink_to("a/x.onnx")  # one file, by the name that it is given first
    assert [str(path) for path in select(["a/x.onnx", "link.onnx"], config.Config(), {})] == ["a/x.onnx"]
    assert [str(path) for path in select(["link.onnx", "a/x.onnx"], config.Config(), {})] == ["link.onnx"]
    with pytest.raises(ConfigError, match=r"nothing matches 'b/\*\.onnx'"):
        select(["b/*.onnx"], config.Config(), {})


def test_a_glob_that_matches_nothing() -> None:
    path = write('[[check]]\npaths = ["none/*.onnx"]\nmax-size = 1')
    with pytest.raises(ConfigError, match=r"sift\.toml, check 1: nothing matches 'none/\*\.onnx'"):
        select((), config.load(path), {})
    write('[[check]]\npaths = ["none/*.onnx"]\nmax-size = 1\nallow-empty = true')
    assert select((), config.load(path), {}) == {}
    with pytest.raises(ConfigError, match="nothing to check"):
        select((), config.Config(), {})


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("[[check]\n", "is no TOML: ", None),
        ("[[chek]]\npaths = ['x']", "nothing is called 'chek'", "did you mean 'check'?"),
        ("[[check]]\npaths = ['x']\nmax-sise = 1", "check 1: nothing is called 'max-sise'", "did you mean 'max-size'?"),
        ("[[check]]\npaths = ['x']\nmax_size = 1", "nothing is called 'max_size'", "did you mean 'max-size'?"),
        ("[[check]]\npaths = ['x']\nqqq = 1", "nothing is called 'qqq'", "there are: paths, allow-empty, max-size, "),
        ("[[check]]\npath = 'x'\nmax-size = 1", "check 1: nothing is called 'path'", "did you mean 'paths'?"),
        (
            "[[check]]\npaths = ['x']\nallow_empty = true",
            "nothing is called 'allow_empty'",
            "did you mean 'allow-empty'?",
        ),
        ("[[check]]\nmax-size = 1", "check 1: it has no paths", 'paths = ["exports/*.onnx"]'),
        ("[[check]]\npaths = []", "it has no paths", None),
        ("[[check]]\npaths = [1]", "paths: 1 is no text", None),
        ("[[check]]\npaths = ['']", "paths: '' is no text", None),
        ("[[check]]\npaths = ['x']\nmax-size = []", "max-size: [] is not a size", None),
        ("[[check]]\npaths = ['x']\nmax-size = true", "max-size: True is not a size", None),
        ("[[check]]\npaths = ['x']\nmax-size = 1979-05-27", "max-size: datetime.date(1979, 5, 27) is not", None),
        ("[[check]]\npaths = ['x']\nmax-size = 0x" + "f" * 9999, "max-size: a number of that size is not", None),
        ("[[check]]\npaths = ['x']\nmax-size = " + "9" * 9999, "is no TOML: ", None),
        ("[[check]]\npaths = ['x']\nmax-flops = nan", "max-flops: nan is not a number", None),
        ("[[check]]\npaths = ['x']\nmin-sparsity = 'most'", "min-sparsity: 'most' is no sparsity", None),
        ("[[check]]\npaths = ['x']\niso-flop-of = 1", "iso-flop-of: 1 is no text", None),
        ("[[check]]\npaths = ['x']\ninput = '1x0'", "input: a size is at least 1", None),
        ("[[check]]\npaths = ['x']\ninput = '1x²'", "input: '1x²' is no shape", None),
        ("[[check]]\npaths = ['x']\ndims = {n = 0}", "dims: {'n': 0} is no table of sizes", None),
        ("[[check]]\npaths = ['x']\nallow-empty = 'no'", "allow-empty: 'no' is neither true nor false", None),
        ("[[check]]\npaths = ['x']\ntolerance = {sise = '1%'}", "nothing is called 'sise'", "did you mean 'size'?"),
        ("tolerance = '-1%'", "tolerance: '-1%' is not a tolerance", None),
        ("baseline = 3", "baseline: 3 is no text", None),
        ("check = 3", "check: 3 is no table", "[[check]]"),
        ("check = [3]", "check: [3] is no table", None),
        ("x = " + "[" * 50_000, "nested too deep", None),
        ("#" * 2**21, "is larger than 1 MiB", None),
    ],
)
def test_no_configuration(text: str, says: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as raised:
        config.load(write(text))
    assert says in raised.value.message
    assert raised.value.message.startswith(("sift.toml", "cannot read sift.toml"))
    assert len(raised.value.message) < 300
    assert "\n" not in raised.value.message
    assert raised.value.exit_code == 2
    assert hint is None or hint in str(raised.value.hint)


def test_an_option_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"^options: nothing is called 'max_size'$"):
        budget.read({"max_size": 1}, Path(), "")


def test_files_that_are_none() -> None:
    Path("sift.toml").write_bytes(b"x = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load(Path("sift.toml"))
    Path("d.toml").mkdir()
    with pytest.raises(ConfigError, match="no regular file"):
        config.load(Path("d.toml"))
    with pytest.raises(ConfigError, match="No such file"):
        config.load(Path("nowhere.toml"))
    os.mkfifo("pipe.toml")
    with pytest.raises(ConfigError, match="no regular file"):
        config.load(Path("pipe.toml"))
    with pytest.raises(ConfigError, match=r"pyproject\.toml \[tool\.sift\]: it is no table"):
        config.load(write("[tool]\nsift = 3", "pyproject.toml"))


@pytest.mark.parametrize(
    "pattern", ["**/a" * 5, "a\0*", "x" * 5000 + "*", "**" + "/**" * 3000 + "/x*", "a**b*c" * 5, "[!]*", "*" * 3000]
)
def test_hostile_globs(pattern: str) -> None:
    touch("a/b/c/d/e")
    with pytest.raises(ConfigError):
        select([pattern], config.Config(), {"max_size": 1})


def test_a_glob_that_matches_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_FILES == 10_000
    monkeypatch.setattr("sift_cli.budgets.select.MOST_FILES", 2)
    touch("1.onnx", "2.onnx")
    assert len(select(["*.onnx"], config.Config(), {})) == 2
    touch("3.onnx")
    with pytest.raises(ConfigError, match="matches more than 2 paths"):
        select(["*.onnx"], config.Config(), {})
