"""What a configuration may say, and one sentence for everything else."""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sift_cli import SparsityConfig
from sift_cli.app import app
from sift_cli.errors import PlanError, SiftError, Unreadable
from sift_cli.training.config.reading import MOST_BYTES
from sift_cli.training.schedules import Constant


def load(tmp_path: Path, text: str | bytes) -> SparsityConfig:
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return SparsityConfig.load(path)


RIGL = "{algorithm: rigl, sparsity: 0.75, update: {freq: 500, stop: 17209}}"


@pytest.mark.parametrize(
    "text",
    [
        RIGL,
        f"sparsity: {RIGL}",
        f"sparsity:\n- {RIGL}",
        f"sparsity:\n  groups:\n  - {RIGL}",
        # The file of a whole run, as up to release 2.2 and as from 2.3 on, with aliases here and there.
        f"model: {{name: gpt2}}\nsparsity: {RIGL}\noptimizer: {{lr: &lr 6.0e-4, end: *lr}}",
        f"trainer:\n  init:\n    sparsity: {RIGL}\n  fit: &data {{batch: 4}}\n  validate: *data",
        f"optimizer: &rigl {RIGL}\nsparsity:\n  <<: *rigl\n  init_method: random",
    ],
    ids=["alone", "section", "list", "groups", "run", "trainer", "merged"],
)
def test_where_it_stands(tmp_path: Path, text: str) -> None:
    (group,) = load(tmp_path, text).groups
    assert (group.rule, group.sparsity, group.start) == ("rigl", Constant(0.75), "random")
    assert [step for step in (499, 500, 17000, 17209, 17500) if step in group.updates] == [500, 17000]


def test_no_sparsity_at_all(tmp_path: Path) -> None:
    assert load(tmp_path, "model: {}\nsparsity: null").groups == ()
    with pytest.raises(PlanError, match=r"config\.yaml: there is no section 'sparsity'"):
        load(tmp_path, "model: {}\noptimizer: {}")
    with pytest.raises(PlanError, match=r"there is no trainer\.init\.sparsity"):
        load(tmp_path, "trainer: {init: {model: {}}}")
    with pytest.raises(PlanError, match=r"there is no trainer\.init\.sparsity"):
        load(tmp_path, "trainer:\n- trainer: {init: {}}")


def refused(tmp_path: Path, text: str | bytes, message: str) -> PlanError:
    """The error, which is one sentence."""
    with pytest.raises(PlanError, match=message) as caught:
        load(tmp_path, text)
    assert len(caught.value.message) < 400
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ("{sparsity: .5, param_filtr: a}", "sparsity has the key 'param_filtr'", "'param_filter'"),
        ("{sparsity: .5, 1: 2}", "sparsity has the key 1, which", "it takes type"),
        ("{sparsity: .5, [1]: 2}", "no YAML: found unhashable key at line 1", None),
        ("[{sparsity: .5}, {algorithm: rigl, sparsity: .5, update: {frq: 2}}]",
         r"sparsity\[1\]\.update has the key 'frq'", "'freq'"),
        ("{groups: [{sparsity: .5}, {algorithm: rigl, sparsity: .5, update: {freq: 0}}]}",
         r"sparsity\.groups\[1\]\.update\.freq is 0, and not a whole number from 1 on", None),
        ("{algorithm: rigel, sparsity: .5}", r"sparsity\.algorithm is 'rigel', and not one of static", "'rigl'"),
        ("{algorithm: sideband, sparsity: .5}", r"sparsity\.algorithm is 'sideband'", None),
        ("{type: sidebad, sparsity: .5}", r"sparsity\.type is 'sidebad'", "'sideband'"),
        ("{type: static, algorithm: static, sparsity: .5}", "both type and algorithm", None),
        ("{type: sideband, sparsity: .5, update: {freq: 2}}", "has update, which sideband does not",
         "gmp and set and rigl have it"),
        ("{algorithm: static, sparsity: .5, drop_fraction: .1}", "drop_fraction, which static", "set and rigl"),
        ("{algorithm: rigl}", "sparsity has no 'sparsity'", "sparsity: 0.75"),
        ("{algorithm: gmp, init_method: from_zeros}", "sparsity has no 'sparsity'", None),
        ("{algorithm: rigl, sparsity: .5, schedule: .6}", "both sparsity and schedule", None),
        ("1.5", r"sparsity is 1\.5, and not a number in \[0, 1\)", None),
        ("{sparsity: -0.1}", r"sparsity\.sparsity is -0\.1", None),
        ("{sparsity: .nan}", r"sparsity\.sparsity is nan, and not a number", None),
        ("{algorithm: rigl, sparsity: .5, drop_fraction: -.inf}", r"drop_fraction is -inf, and not", None),
        ("{sparsity: true}", r"sparsity\.sparsity is true, and not a number$", None),
        ("{sparsity: '0.5'}", r"sparsity\.sparsity is '0\.5', and not a number", None),
        ("{sparsity: 5e-1}", r"sparsity\.sparsity is the text '5e-1'", r"5\.0e-1"),
        ("{sparsity: 2020-01-01}", r"sparsity\.sparsity is a date, and not a number", None),
        ("{sparsity: {a: 1}}", r"sparsity\.sparsity is a mapping, and not a number", None),
        (f"{{sparsity: .5, seed: {'9' * 30}}}", r"seed is a number of more than 63 bits", None),
        ("{sparsity: .5, seed: -1}", r"sparsity\.seed is -1, and not a whole number from 0 on", None),
        ("{sparsity: .5, seed: 1.0}", r"sparsity\.seed is 1\.0", None),
        ("{sparsity: .5, init_method: topk2}", r"init_method is 'topk2', and not one of", "'topk'"),
        ("{sparsity: .5, init_method: balanced-topk}", r"init_method is 'balanced-topk'", None),
        ("{sparsity: .5, init_method: [topk]}", r"init_method is a list", None),
        ("{sparsity: .5, param_filter: []}", r"param_filter is a list, and not a text or a list of", None),
        ("{sparsity: .5, param_filter: [a, [b]]}", r"param_filter\[1\] is a list, and not a text", None),
        ("{type: sideband, sparsity: .5, param_name_patterns: 'a('}", "param_name_patterns is no regular", None),
        ("{type: sideband, sparsity: .5, param_name_patterns: [a, '*']}", r"patterns\[1\] is no regular", None),
        ("{type: sideband, param_name_patterns: {fc.*w: {sparsity: a}}}",
         r"sparsity\.param_name_patterns\['fc\.\*w'\]\.sparsity is 'a'", None),
        ("{type: sideband, param_name_patterns: {fc: {sparsty: .1}}}", r"patterns\.fc has the key 'sparsty'",
         "'sparsity'"),
        ("{type: sideband, param_name_patterns: {fc: {type: sideband, sparsity: .1}}}", "has the key 'type'", None),
        ("{type: sideband, param_name_patterns: {fc: 3}}", r"patterns\.fc is 3, and not a mapping", None),
        ("{type: sideband, param_name_patterns: {1: {sparsity: .1}}}", "has a key that is no text", None),
        ("{sparsity: .5, param_filter: a, param_name_patterns: b}", "both param_name_patterns and", None),
        ("{algorithm: gmp, sparsity: .5}", "is constant, and gmp prunes more", "static"),
        ("{algorithm: gmp, schedule: {type: constant, value: .5}}", r"sparsity\.schedule is constant", None),
        ("{algorithm: static, sparsity: {type: exp, init: 0, gamma: -1}}", "is a mapping, and not a num", None),
        ("{algorithm: gmp, sparsity: {init: 0, gamma: -1}}", r"sparsity\.sparsity has no 'type'", "constant"),
        ("{algorithm: gmp, sparsity: {type: exp, init: 0}}", r"sparsity\.sparsity has no 'gamma'", None),
        ("{algorithm: gmp, sparsity: {type: exp, init: 0, gama: 0}}", "has the key 'gama'", "'gamma'"),
        ("{algorithm: gmp, sparsity: {type: exp, init: 0, gamma: .nan}}", "gamma is nan, and not a number", None),
        ("{algorithm: gmp, sparsity: {type: linear, init: 0, slope: .inf}}", "slope is inf, and not a number", None),
        ("{algorithm: gmp, sparsity: {type: cosin, init: 0}}", "type is 'cosin'", "'cosine'"),
        ("{algorithm: gmp, sparsity: {type: cycling}}", r"sparsity\.sparsity has no 'values'", None),
        ("{algorithm: gmp, sparsity: [0.1, 1.1]}", r"sparsity\.sparsity\[1\] is 1\.1", None),
        ("{algorithm: gmp, sparsity: []}", r"is a list, and not a list of numbers, with at least", None),
        ("{algorithm: rigl, sparsity: 1}", r"sparsity\.sparsity is 1, and not a number in \[0, 1\)", None),
        ("{algorithm: rigl, sparsity: .5, drop_fraction: {type: power, init: .5, beta: -1}}",
         r"drop_fraction\.beta is -1, and not a number from 0 on", None),
        ("{algorithm: rigl, sparsity: .5, drop_fraction: {type: cosine, init: .5, half_period: 0}}",
         r"half_period is 0", None),
        ("{algorithm: rigl, sparsity: .5, update: {steps: [1, -1]}}", r"update\.steps\[1\] is -1", None),
        ("{algorithm: rigl, sparsity: .5, update: {steps: [1], freq: 2}}", "has the key 'freq'", None),
        ("{algorithm: rigl, sparsity: .5, update: 100}", r"update is 100, and not a mapping of freq", None),
        ("{algorithm: rigl, sparsity: .5, update: {start: 9, stop: 9}}", r"update\.stop is 9", None),
        ("{algorithm: rigl, sparsity: .5, balance_out_groups: 12}", "would have to hold in each update", None),
        ("{type: sideband, sparsity: .5, in_groups: 2, out_groups: 2}", "out_groups is one grouping too", None),
        ("{type: sideband, sparsity: .5, in_groups: 2, init_method: checkerboard}", "means nothing for", None),
        ("[[.5]]", r"sparsity\[0\] is a list, and not a number or a mapping", None),
        ("[null]", r"sparsity\[0\] is empty", None),
        ("text", "sparsity is 'text', and not a number or a mapping", None),
    ],
)  # fmt: skip
def test_settings_that_are_refused(tmp_path: Path, settings: str, message: str, hint: str | None) -> None:
    error = refused(tmp_path, f"sparsity: {settings}", message)
    assert hint is None or re.search(hint, error.hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("algoritm: rigl\nsparsity: .5", "the configuration has the key 'algoritm', which means nothing"),
        ("1.0", r"the configuration is 1\.0, and not a number in \[0, 1\)"),
        ("", "is empty"),
        ("# nothing", "is empty"),
        ("sparsity: {sparsity: .5, sparsity: .6}", "the key 'sparsity' is there twice at line 1"),
        ("a: [", "is no YAML: .* at line 1"),
        ("a: b: c", "is no YAML: .* at line 1"),
        ("\0", "is no YAML"),
        (b"\xff\xfe\xff", "is no YAML"),
        ("--- 1\n--- 2", "is no YAML"),
        ("sparsity: !!python/object/apply:os.system [ls]", "is no YAML: could not determine a constructor"),
        ("sparsity: !!int ''", "is no YAML"),
        ("sparsity: !!timestamp x", "is no YAML"),
        ("sparsity: 2020-99-99", "is no YAML"),
        ("sparsity: " + "9" * 5000, "is no YAML: Exceeds the limit"),
        ("[" * 5000, "is no YAML: it is nested too deeply"),
        ("a: &a [*a]", "at line 1, that contains itself"),
        ("a: &a\n  b: {c: *a}", "that contains itself"),
        ("x" * (MOST_BYTES + 1), "is larger than 256 KiB"),
    ],
)  # fmt: skip
def test_files_that_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    refused(tmp_path, text, message)


@pytest.mark.parametrize("merged", [False, True])
def test_ten_lines_that_stand_for_ten_billion_values(tmp_path: Path, merged: bool) -> None:
    """Merged, they would be made; in a list, they would be told in an error."""
    first = "{a: 1, b: 2}" if merged else "[a, b]"
    lines = [f"l0: &l0 {first}"]
    for level in range(1, 11):
        inner = ", ".join([f"*l{level - 1}"] * 10)
        lines.append(f"l{level}: &l{level} " + (f"{{<<: [{inner}]}}" if merged else f"[{inner}]"))
    with pytest.raises(PlanError, match="stands for more than 50,000 values"):
        load(tmp_path, "\n".join([*lines, "sparsity: {sparsity: *l10}"]))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        SparsityConfig.load(tmp_path / "nowhere.yaml")
    with pytest.raises(Unreadable, match="Is a directory"):
        SparsityConfig.load(tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        {"type": "static", "param_filter": "a", "sparsity": 0.5},
        {"algorithm": "static", "param_name_patterns": "a", "sparsity": 0.5},
        {"type": "sideband", "param_filter": "a", "sparsity": 0.5},
    ],
)
def test_mixed_dialects_are_read_with_a_warning(value: dict) -> None:
    with pytest.warns(UserWarning, match="which releases up to 2.1 know, beside"):
        (group,) = SparsityConfig.parse(value, "sparsity").groups
    glob = "param_filter" in value
    assert [group.names.select(name) for name in ("a", "ab")] == [True, not glob]


SETTINGS = ["sparsity", "schedule", "type", "algorithm", "param_filter", "param_name_patterns", "init_method", "seed",
            "update", "drop_fraction", "in_groups", "out_groups", "balance_in_groups", "groups"]  # fmt: skip
PARTS = [
    "freq",
    "start",
    "stop",
    "steps",
    "init",
    "gamma",
    "beta",
    "slope",
    "final",
    "half_period",
    "minimum",
    "values",
]
KEYS = [*SETTINGS, *PARTS]
WORDS = (*KEYS, "rigl", "gmp", "set", "static", "sideband", "exp", "cosine", "power", "cycling", "random", "a.*")
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.sampled_from(WORDS), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
        st.dictionaries(st.one_of(st.text(max_size=2), st.integers()), inner, max_size=2),
    ),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*which releases up to 2.1 know")
@settings(deadline=None)
@given(plain)
def test_any_values_give_groups_or_a_sentence(value: object) -> None:
    try:
        config = SparsityConfig.parse(value, "sparsity")
    except PlanError:
        return
    for group in config.groups:
        for step in (0, 1, 2, 99, 10**7):
            assert isinstance(step in group.updates, bool)
            assert 0 <= group.drop_fraction(step) <= 1
            assert group.sparsity is None or 0 <= group.sparsity(step) <= 1


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text("{}[]&*!<>:-|'\",#%? \n\tab01.e~", max_size=60).map(str.encode)))
def test_any_bytes_give_groups_or_a_sentence(raw: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        Path(file.name).write_bytes(raw)
        with contextlib.suppress(SiftError):
            SparsityConfig.load(file.name)


def test_a_transform_says_where_they_work(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("sparsity: 0.75")
    asked = ["transform", "builtin:mnist1d_cnn", "--sparsity-config", str(tmp_path / "c.yaml")]
    for more in ([], ["--sparsity", "0.75"]):
        result = CliRunner().invoke(app, asked + more)
        assert result.exit_code == 2
        assert "sift train RECIPE --sparsity-config FILE" in " ".join(result.stderr.split())
