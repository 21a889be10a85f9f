"""Sizes, counts, shares and tolerances as people write them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sift_cli.budgets.units import count_text, parse_bytes, parse_count, parse_share, parse_tolerance
from sift_cli.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (17, 17),
        ("17", 17),
        ("17 B", 17),
        ("20MB", 20_000_000),
        ("20 mb", 20_000_000),
        ("20MiB", 20_971_520),
        ("1.5 kB", 1500),
        ("1.5KiB", 1536),
        ("2 GB", 2_000_000_000),
        ("2GiB", 2_147_483_648),
        ("1_000 kB", 1_000_000),
        ("0.3 MB", 300_000),  # as a float times 10⁶ it is 300000.0, but 1.1 MB would be 1100000.0000000002
        ("1.1 MB", 1_100_000),
    ],
)
def test_sizes(text: object, wanted: int) -> None:
    assert parse_bytes(text, "--max-size") == wanted


@pytest.mark.parametrize("text", ["20M", "20 MBit", "-1 MB", "MB", "", "1e999999999", "1__0", True, None, [], 2**5000])
def test_no_sizes(text: object) -> None:
    with pytest.raises(ConfigError, match="--max-size"):
        parse_bytes(text, "--max-size")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("2G", 2 * 10**9), ("1.8k", 1800), ("2e9", 2 * 10**9), (2e9, 2 * 10**9), (12, 12), ("3 T", 3 * 10**12)],
)
def test_counts(text: object, wanted: int) -> None:
    assert parse_count(text, "--max-flops") == wanted


def test_macs_are_no_flops() -> None:
    assert parse_count("2 GFLOPs", "--max-flops") == 2 * 10**9
    assert parse_count("2 GMACs", "sift.toml, check 1: max-macs") == 2 * 10**9
    with pytest.raises(ConfigError) as raised:
        parse_count("2 GMACs", "--max-flops")
    assert raised.value.hint == "put it under max-macs"
    with pytest.raises(ConfigError, match="2 GFLOPs"):
        parse_count("2 GFLOPs", "--max-params")


@pytest.mark.parametrize(
    ("text", "wanted"), [(0.9, Fraction(9, 10)), ("90%", Fraction(9, 10)), ("7/8", Fraction(7, 8)), (0, Fraction(0))]
)
def test_shares(text: object, wanted: Fraction) -> None:
    assert parse_share(text, "min-sparsity") == wanted


@pytest.mark.parametrize("text", [1, "1.5", -0.1, "nan", float("inf"), "1e-999999999", True, "1/0", "", {}, 2**5000])
def test_no_shares(text: object) -> None:
    with pytest.raises(ConfigError, match="min-sparsity"):
        parse_share(text, "min-sparsity")


def test_tolerances() -> None:
    assert parse_tolerance("+2%", "t") == parse_tolerance("2 %", "t") == Fraction(1, 50)
    assert parse_tolerance("+0%", "t") == 0
    for text in ("2", "-2%", 0.02, "", "2%%"):
        with pytest.raises(ConfigError):
            parse_tolerance(text, "t")


def test_counts_for_people() -> None:
    assert count_text(999, "bytes") == "999 bytes"
    assert count_text(20_000_000, "bytes") == "20 MB (20,000,000)"
    assert count_text(1304, "FLOPs") == "1.304 kFLOPs (1,304)"
    assert count_text(3 * 10**20, "MACs") == "3e+05 PMACs (300,000,000,000,000,000,000)"
