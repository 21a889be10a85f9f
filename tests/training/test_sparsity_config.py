"""A configuration at work: which weights, which first masks, and what becomes of them."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from loops import batch, check_zeros, net, train
from torch import nn

import sift_cli
from sift_cli import Sparsifier, SparsityConfig
from sift_cli.errors import ModelError, PlanError
from sift_cli.surgery import PackedMask, carry


class Net(nn.Module):
    """Names as in the documentation of release 1.7."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding_layer = nn.Embedding(50, 20)
        self.wte = nn.Embedding(30, 20)
        self.layer_norm = nn.Linear(20, 20)  # a norm by name
        self.fc_layers = nn.ModuleList(nn.Linear(20, 20) for _ in range(2))
        self.conv = nn.Conv2d(3, 10, 3)
        self.final_layer = nn.Linear(20, 7)
        self.LM_head = nn.Linear(20, 50)


FC = ("fc_layers.0.weight", "fc_layers.1.weight")
#: What is sparse by default, with the number of its weights.
DEFAULT = {"fc_layers.0.weight": 400, "fc_layers.1.weight": 400, "conv.weight": 270, "final_layer.weight": 140}


def sparsify(config: object, model: nn.Module, **options: object) -> Sparsifier:
    return SparsityConfig.parse(config, "sparsity").sparsify(
        model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **options
    )


def kept(sparsifier: Sparsifier) -> dict[str, int]:
    return {name: int(mask.count_nonzero()) for name, mask in sparsifier.masks.items()}


def rounded(sparsity: str, numel: int) -> int:
    return round((1 - Fraction(sparsity)) * numel)


# -- the snippets of the documentation of release 1.7 ------------------------------------------------------------------

SNIPPETS = {
    "default": """
sparsity:
    type: sideband
    sparsity: 0.3 # uniform sparsify of every >1D non-norm non-embedding tensor (default heuristic)
    init_method: "random"
    seed: 1234 # random sparsity pattern is deterministic based on parameter name
""",
    "text": """
sparsity:
    type: sideband
    sparsity: 0.3
    init_method: "random"
    param_name_patterns: "fc_layers.*weight" # only these tensors, regex supported
    seed: 1234
""",
    "list": """
sparsity:
    type: sideband
    sparsity: 0.3
    init_method: "topk" # absolute weight magnitude based sparsity; also the default setting of `init_method`
    param_name_patterns: # only these tensors, multi regex supported
    - "fc_layers.*weight"
    - "final_layer.*weight"
""",
    "groups": """
sparsity:
    type: sideband
    param_name_patterns:
        fc_layers.*weight: # per-tensor-group setting (can set init_method, sparsity, seed, etc per group)
            sparsity: 0.3
        final_layer.*weight:
            sparsity: 0.4
""",
}


@pytest.fixture
def from_file(tmp_path: Path):
    def load(text: str) -> tuple[nn.Module, Sparsifier]:
        (tmp_path / "config.yaml").write_text(text)
        model = Net()
        config = SparsityConfig.load(tmp_path / "config.yaml")
        return model, config.sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1))

    return load


def is_topk(weight: torch.Tensor, mask: torch.Tensor, before: torch.Tensor) -> bool:
    return before[mask].abs().min() >= before[~mask].abs().max() and torch.equal(weight, before * mask)


def test_every_matrix_by_default(from_file) -> None:
    _, sparsifier = from_file(SNIPPETS["default"])
    assert sparsifier.rule == "static"
    assert kept(sparsifier) == {name: rounded("0.3", numel) for name, numel in DEFAULT.items()}
    _, again = from_file(SNIPPETS["default"])
    _, other = from_file(SNIPPETS["default"].replace("1234", "1235"))
    for name, mask in sparsifier.masks.items():
        assert torch.equal(mask, again.masks[name])
        assert not torch.equal(mask, other.masks[name])


def test_one_expression(from_file) -> None:
    _, sparsifier = from_file(SNIPPETS["text"])
    assert kept(sparsifier) == dict.fromkeys(FC, 280)
    # A function of seed and name: the masks of the snippet before, whatever else there is.
    _, more = from_file(SNIPPETS["default"])
    assert all(torch.equal(mask, more.masks[name]) for name, mask in sparsifier.masks.items())
    assert not torch.equal(*sparsifier.masks.values())


def test_several_expressions(from_file) -> None:
    model, sparsifier = from_file(SNIPPETS["list"])
    assert kept(sparsifier) == {**dict.fromkeys(FC, 280), "final_layer.weight": 98}
    before = dict(Net().named_parameters())
    for name, mask in sparsifier.masks.items():
        assert is_topk(model.get_parameter(name), mask, before[name])


def test_a_setting_of_its_own_for_each_group(from_file) -> None:
    model, sparsifier = from_file(SNIPPETS["groups"])
    assert kept(sparsifier) == {**dict.fromkeys(FC, 280), "final_layer.weight": 84}
    before = dict(Net().named_parameters())
    for name, mask in sparsifier.masks.items():
        assert is_topk(model.get_parameter(name), mask, before[name]), "topk, if nothing is said"


# -- which weights -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (0.5, {name: numel // 2 for name, numel in DEFAULT.items()}),
        # Globs are for whole names, expressions for any part.
        ({"sparsity": 0.5, "param_filter": "fc_layers.*.weight"}, dict.fromkeys(FC, 200)),
        ({"sparsity": 0.5, "param_filter": ["layers.*", "*[0-9].weight", "conv"]}, dict.fromkeys(FC, 200)),
        ({"sparsity": 0.5, "param_filter": ["layers.*", "fc*0.weight"]}, {FC[0]: 200}),
        ({"type": "static", "sparsity": 0.5, "param_name_patterns": "layers.1"}, {FC[1]: 200}),
        # Whoever names an embedding means it; a bias is dense whatever is named.
        ({"sparsity": 0.5, "param_filter": "*wte*"}, {"wte.weight": 300}),
        ({"sparsity": 0.5, "param_filter": "final_layer.*"}, {"final_layer.weight": 70}),
        # The first group counts, also where it leaves its weights dense.
        (
            [{"sparsity": 0.5, "param_filter": "*.0.weight"}, {"sparsity": 0.9, "param_filter": "fc*"}],
            {FC[0]: 200, FC[1]: 40},
        ),
        (
            [{"sparsity": None, "param_filter": "fc*"}, {"sparsity": 0.9}],
            {"conv.weight": 27, "final_layer.weight": 14},
        ),
        (
            {"type": "sideband", "sparsity": 0.5, "param_name_patterns": {r"s\.0": None, "fc": {"sparsity": 0.75}}},
            {FC[0]: 200, FC[1]: 100},
        ),
    ],
)
def test_which_weights(config: object, expected: dict[str, int]) -> None:
    assert kept(sparsify(config, Net())) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sparsity": 0.5, "param_filter": "fc_layers"}, "sparsity is for no weight of this model"),
        ([{"sparsity": 0.5}, {"sparsity": 0.9, "param_filter": "fc*"}], r"sparsity\[1\] is for no weight .* before it"),
        (
            {"type": "sideband", "sparsity": 0.5, "param_name_patterns": {"fc": {}, "fd": {}}},
            r"sparsity\.param_name_patterns\.fd is for no weight",
        ),
        ({"sparsity": None}, "makes no weight sparse"),
        (None, "makes no weight sparse"),
        ({"sparsity": 0.999}, r"at sparsity 0\.999 fc_layers\.0\.weight keeps none of its 400 weights"),
        ({"algorithm": "rigl", "sparsity": 0.5, "update": {"freq": 11}}, "no update in 10 steps"),
        ({"algorithm": "set", "sparsity": 0.5, "update": {"steps": [0, 11]}}, "no update in 10 steps"),
        ({"type": "sideband", "sparsity": 0.5, "out_groups": 3}, r"3 groups of outputs, and fc_layers\.0\.weight"),
        ({"type": "sideband", "sparsity": 0.5, "in_groups": 2}, r"2 groups of inputs, and conv\.weight is of shape"),
    ],
)
def test_what_a_model_has_no_place_for(config: object, message: str) -> None:
    model = Net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PlanError, match=message):
        sparsify(config, model, total_steps=10)
    assert not sift_cli.masks(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_head_that_shares_an_embedding_and_a_frozen_layer_stay_dense() -> None:
    model = Net()
    model.final_layer.weight = model.wte.weight
    model.fc_layers[0].weight.requires_grad_(False)
    assert kept(sparsify(0.5, model)) == {FC[1]: 200, "conv.weight": 135}
    assert sift_cli.masks(model).keys() == {FC[1], "conv.weight"}


def test_wrappers_do_not_change_names() -> None:
    model = net()
    masks = sparsify({"sparsity": 0.5, "param_filter": "2.weight"}, torch.compile(net())).masks
    assert torch.equal(
        masks["2.weight"], sparsify({"sparsity": 0.5, "param_filter": "2.weight"}, model).masks["2.weight"]
    )


# -- first masks -------------------------------------------------------------------------------------------------------


def test_groups_keep_as_much_each() -> None:
    model = nn.Sequential(nn.Linear(12, 8))
    weight = model[0].weight.detach().clone()
    asked = {"type": "sideband", "sparsity": 0.75}
    outputs = sparsify({**asked, "out_groups": 4}, model).masks["0.weight"]
    for first in range(0, 8, 2):  # 2 outputs of 12 inputs: 24 weights
        mask, part = outputs[first : first + 2], weight[first : first + 2].abs()
        assert mask.count_nonzero() == 6
        assert part[mask].min() > part[~mask].max()
    model = nn.Sequential(nn.Linear(12, 8))
    inputs = sparsify({**asked, "in_groups": 3, "init_method": "random"}, model).masks["0.weight"]
    assert [int(inputs[:, first : first + 4].count_nonzero()) for first in range(0, 12, 4)] == [8, 8, 8]
    assert len({int(column.count_nonzero()) for column in inputs.T}) > 1
    assert kept(sparsify({**asked, "in_groups": 1}, nn.Sequential(nn.Linear(3, 8)))) == {"0.weight": 6}
    one = {"algorithm": "rigl", "sparsity": 0.75, "balance_in_groups": 1, "balance_out_groups": 1}
    assert kept(sparsify(one, nn.Sequential(nn.Linear(3, 8)))) == {"0.weight": 6}


def test_balanced_topk_is_balanced_in_columns() -> None:
    model = nn.Sequential(nn.Linear(5, 8))
    weight = model[0].weight.detach().clone().numpy()
    mask = sparsify({"type": "sideband", "sparsity": 0.75, "init_method": "balanced-topk"}, model).masks["0.weight"]
    expected = np.argsort(np.argsort(-np.abs(weight), axis=0), axis=0) < 2
    assert np.array_equal(mask.numpy(), expected)


def test_a_checkerboard() -> None:
    def board(sparsity: float) -> np.ndarray:
        model = nn.Sequential(nn.Linear(12, 9, bias=False))
        return sparsify({"sparsity": sparsity, "init_method": "checkerboard"}, model).masks["0.weight"].numpy()

    row, column = np.indices((9, 12))
    assert np.array_equal(board(0.5), (row + column) % 2 == 1)
    assert np.array_equal(board(0.75), (3 * row + column) % 4 == 3)


def test_from_zeros_keeps_what_is_there() -> None:
    model = Net()
    with torch.no_grad():
        model.fc_layers[0].weight[:, :5] = 0
    sparsifier = sparsify({"sparsity": 0.9, "init_method": "from_zeros", "param_filter": FC[0]}, model)
    assert torch.equal(sparsifier.masks[FC[0]], torch.arange(20).expand(20, 20) >= 5)

    masked = net()
    mask = torch.rand(24, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    carry(masked, {"2.weight": PackedMask.of(sift_cli.core.masks.Mask.from_bool(mask.numpy()), "block1x1")})
    with torch.no_grad():
        masked[2].weight.zero_()  # a weight that is kept may be 0
    for other in ({"sparsity": 0.5}, {"sparsity": 0.5, "param_filter": "4.*"}):
        with pytest.raises(ModelError, match=r"has masks already|leaves it dense"):
            sparsify(other, masked)
    sparsifier = sparsify({"algorithm": "set", "init_method": "from_zeros", "param_filter": "2.weight"}, masked)
    assert torch.equal(sparsifier.masks["2.weight"], mask)
    assert sift_cli.surgery.packed_masks_of(masked)["2.weight"].pattern == "block1x1"


# -- at work -----------------------------------------------------------------------------------------------------------


def run(config: object, steps: int = 12, **options: object) -> tuple[nn.Module, Sparsifier]:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sparsifier = SparsityConfig.parse(config, "sparsity").sparsify(model, optimizer, total_steps=steps, **options)
    train(model, optimizer, 1, steps, lambda: check_zeros(model, optimizer))
    return model, sparsifier


def test_rigl_exchanges_as_it_is_told() -> None:
    """Half of a half period after the begin, the share is half of the first one."""
    drop = {"type": "cosine", "init": 0.5, "half_period": 8}
    _, sparsifier = run(
        {"algorithm": "rigl", "sparsity": 0.75, "param_filter": "2.weight", "drop_fraction": drop,
         "update": {"freq": 2, "stop": 9}}
    )  # fmt: skip
    share = {step: 0.25 + 0.25 * math.cos(math.pi * step / 8) for step in (2, 4, 6, 8)}
    assert [update.step for update in sparsifier.history] == [2, 4, 6, 8]
    for update in sparsifier.history:
        count = int(share[update.step] * 96 + 1e-9)
        assert update.exchanged == {"2.weight": (count, count)}


def test_dense_until_the_first_update() -> None:
    for update in ({"freq": 3, "start": 5}, {"steps": [5, 8, 11]}):
        for rule in ("rigl", "set"):
            _, sparsifier = run({"algorithm": rule, "sparsity": 0.75, "param_filter": "2.weight", "update": update})
            assert [(one.step, one.kept) for one in sparsifier.history] == [(5, 96), (8, 96), (11, 96)]
            assert sparsifier.history[0].exchanged == {"2.weight": (288, 0)}
            assert sparsifier._spent["2.weight"].kept == 5 * 384 + 7 * 96


def test_gmp_follows_its_schedule() -> None:
    schedule = {"type": "exp", "init": 0, "gamma": -0.25}
    _, sparsifier = run({"algorithm": "gmp", "schedule": schedule, "param_filter": "2.weight", "update": {"freq": 4}})
    assert [(one.step, one.kept) for one in sparsifier.history] == [
        (step, round(math.exp(-0.25 * step) * 384)) for step in (4, 8, 12)
    ]


def test_sparsities_in_turn() -> None:
    """Masks of the first value, and each update brings the next one; gmp never takes a weight back."""
    cycle = {"sparsity": [0.25, 0.5, 0.75], "param_filter": "2.weight", "update": {"freq": 3}}
    for rule, expected in (("set", [192, 96, 288, 192]), ("gmp", [192, 96, 96, 96])):
        _, sparsifier = run({"algorithm": rule, **cycle})
        assert [update.kept for update in sparsifier.history] == expected
    _, late = run({"algorithm": "rigl", **cycle, "update": {"freq": 3, "start": 3}})
    assert [update.kept for update in late.history] == [288, 192, 96, 288]


def test_the_seed_is_that_of_the_file_or_else_the_given_one() -> None:
    config = {"algorithm": "set", "sparsity": 0.5, "update": {"freq": 2}}

    def masks(**options: int) -> list[torch.Tensor]:
        own = {"seed": options.pop("file")} if "file" in options else {}
        return list(run({**config, **own}, 4, **options)[1].masks.values())

    def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
        return all(map(torch.equal, one, other))

    assert same(masks(seed=5), masks(file=5))
    assert same(masks(seed=1, file=5), masks(file=5))
    assert not same(masks(seed=1), masks(file=5))


SEVERAL = [
    {"algorithm": "rigl", "sparsity": 0.75, "param_filter": "2.weight", "update": {"freq": 2, "stop": 9}},
    {"algorithm": "gmp", "sparsity": {"type": "linear", "init": 0, "slope": 0.05}, "param_filter": "4.weight",
     "update": {"freq": 4}},
    {"algorithm": "static", "sparsity": 0.5},
]  # fmt: skip


def test_a_rule_for_each_group() -> None:
    model, sparsifier = run(SEVERAL)
    assert isinstance(sparsifier, Sparsifier)
    assert sparsifier.step_count == 12
    assert kept(sparsifier) == {"0.weight": 48, "2.weight": 96, "4.weight": 192, "6.weight": 40}
    assert sparsifier.kept == 376
    assert sparsifier.density == 376 / (96 + 384 + 480 + 80)
    masks = sift_cli.masks(model)
    assert masks.keys() == sparsifier.masks.keys()
    assert all(torch.equal(mask, masks[name]) for name, mask in sparsifier.masks.items())
    # 96 + 40 + 48 of the others, and of the 480 what the schedule says after the update.
    assert [(update.step, update.kept) for update in sparsifier.history] == [
        (2, 664), (4, 184 + 384), (6, 184 + 384), (8, 184 + 288), (12, 376),
    ]  # fmt: skip
    assert sparsifier.history[1].exchanged.keys() == {"2.weight", "4.weight"}
    assert sparsifier.history[1].churn == sparsifier.history[1].exchanged["2.weight"][1] / 568
    assert [name for name, _ in sparsifier.history[4].exchanged.items()] == ["4.weight"]
    average = net()
    sparsifier.copy_masks_to(average)
    assert all(torch.equal(mask, sift_cli.masks(average)[name]) for name, mask in masks.items())

    spent = sparsifier.flops((batch(1)[0],))
    macs = 12 * (48 + 40) + 12 * 96 + 4 * 480 + 4 * 384 + 4 * 288
    assert spent.sparse == 3 * 2 * 8 * macs
    assert spent.gradients == 2 * 8 * 4 * (384 - 96)
    sparsifier.remove()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer, 13, 13)
    assert all(weight.grad[~masks[name]].count_nonzero() for name, weight in model.named_parameters() if name in masks)


def test_groups_of_one_rule_move_at_their_own_steps() -> None:
    rigl = {"algorithm": "rigl", "sparsity": 0.75}
    groups = [
        {**rigl, "param_filter": "2.weight", "update": {"freq": 3}, "drop_fraction": 0.25},
        {**rigl, "param_filter": "4.weight", "update": {"freq": 6}, "drop_fraction": 0.5},
    ]
    _, sparsifier = run(groups)
    second, fourth = (24, 24), (60, 60)
    assert [dict(update.exchanged) for update in sparsifier.history] == [
        {"2.weight": second}, {"2.weight": second, "4.weight": fourth},
        {"2.weight": second}, {"2.weight": second, "4.weight": fourth},
    ]  # fmt: skip


def test_going_on_is_as_if_it_had_not_stopped() -> None:
    whole, expected = run(SEVERAL)

    def begin() -> tuple[nn.Module, torch.optim.Optimizer, Sparsifier]:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        return model, optimizer, SparsityConfig.parse(SEVERAL).sparsify(model, optimizer)

    model, optimizer, sparsifier = begin()
    train(model, optimizer, 1, 5)
    state = [part.state_dict() for part in (model, optimizer, sparsifier)]
    state = torch.load(_saved(state), weights_only=True)
    model, optimizer, sparsifier = begin()
    for part, own in zip((model, optimizer, sparsifier), state, strict=True):
        part.load_state_dict(own)
    train(model, optimizer, 6, 12)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))
    assert sparsifier.history == expected.history
    inputs = (batch(1)[0],)
    assert sparsifier.flops(inputs) == expected.flops(inputs)
    with pytest.raises(ModelError, match="state of other rules"):
        sparsifier.load_state_dict(run(0.5)[1].state_dict())


def _saved(state: object):
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file
