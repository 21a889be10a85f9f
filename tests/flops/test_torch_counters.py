"""Both torch counters on nets that carry their own answers, and on every way a weight can be used."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from sift_cli.core.counts import FlopReport
from sift_cli.errors import ModelError, UnsupportedOp, VerificationFailed
from sift_cli.flops import count_module, cross_check

both = pytest.mark.parametrize("counter", ["fvcore", "dispatch"])


class Net(nn.Module):
    """Any function as a module with parameters."""

    def __init__(self, forward, **parameters: Tensor) -> None:
        super().__init__()
        self.function = forward
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, *inputs: Tensor):
        return self.function(self, *inputs)


class Convolutions(nn.Module):
    """Grouped, depthwise, dilated and transposed convolutions on (2, 4, 9, 9); ``macs`` worked out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)  # 9 → 5
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)  # 5 → 5
        self.dilated = nn.Conv2d(8, 6, 2, dilation=3)  # 5 → 2
        self.transposed = nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2, output_padding=1)  # 2 → 6
        self.macs = {
            "grouped": 2 * (5 * 5) * (8 * 2 * 3 * 3),
            "depthwise": 2 * (5 * 5) * (8 * 1 * 3 * 3),
            "dilated": 2 * (2 * 2) * (6 * 8 * 2 * 2),
            "transposed": 2 * (2 * 2) * (6 * 2 * 3 * 3),  # every input position meets every weight
        }

    def forward(self, x: Tensor) -> Tensor:
        return self.transposed(self.dilated(torch.relu(self.depthwise(self.grouped(x)))))


class Block(nn.Module):
    """A transformer block of width 6 and two heads on a sequence of 5."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.up = nn.Linear(6, 10)
        self.down = nn.Linear(10, 6)
        self.macs = {
            "attention": 5 * (6 * 18) + 2 * (5 * 5 * 6),
            "attention.out_proj": 5 * 6 * 6,
            "up": 5 * 6 * 10,
            "down": 5 * 10 * 6,
        }

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.down(F.gelu(self.up(x)))


def by_name(report: FlopReport) -> dict[str, int]:
    macs: dict[str, int] = {}
    for layer in report.layers:
        macs[layer.name] = macs.get(layer.name, 0) + layer.dense
    return macs


def uncounted(report: FlopReport) -> dict[str, int]:
    return {entry.op: entry.times for entry in report.uncounted}


@both
@pytest.mark.parametrize(
    ("net", "shape"), [(Convolutions, (2, 4, 9, 9)), (Block, (1, 5, 6))], ids=["convolutions", "block"]
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_closed_form_by_layer(counter: str, net: type, shape: tuple[int, ...], device: str) -> None:
    module = net().to(device)
    report = count_module(module, (torch.zeros(shape, device=device),), counter=counter)
    assert by_name(report) == module.macs
    assert report.counter == counter


# MACs worked out from the shapes in each case: output elements × length of the sums.
CASES = {
    "linear on a vector": (nn.Linear(3, 4), [(3,)], 12),
    "linear on four axes": (nn.Linear(3, 4), [(2, 5, 6, 3)], 60 * 12),
    "matmul broadcasts": (Net(lambda net, x: net.w @ x, w=torch.ones(4, 3)), [(2, 5, 3, 6)], 10 * 4 * 3 * 6),
    "batches broadcast both ways": (
        Net(lambda net, x: x @ net.w, w=torch.ones(5, 3, 4)),
        [(2, 1, 6, 3)],
        10 * 6 * 3 * 4,
    ),
    "matrix and vector": (Net(lambda net, x: x @ net.w, w=torch.ones(3)), [(5, 3)], 15),
    "two vectors": (Net(lambda net, x: x @ net.w, w=torch.ones(3)), [(3,)], 3),
    "addmm": (Net(lambda net, x: torch.addmm(net.b, x, net.w), w=torch.ones(3, 4), b=torch.ones(4)), [(2, 3)], 24),
    "addmv": (Net(lambda net, x: torch.addmv(x[:, 0], x, net.w), w=torch.ones(3)), [(5, 3)], 15),
    "baddbmm": (Net(lambda net, x: torch.baddbmm(x, x, net.w), w=torch.ones(2, 3, 3)), [(2, 3, 3)], 54),
    "addbmm": (Net(lambda net, x: torch.addbmm(x[0], x, net.w), w=torch.ones(2, 3, 3)), [(2, 3, 3)], 54),
    "chain of four": (
        Net(lambda net, a, b, c, d: torch.einsum("ab,bc,cd,de->ae", a, b, c, d)),
        [(2, 3), (3, 4), (4, 5), (5, 6)],
        2 * 3 * 4 + 2 * 4 * 5 + 2 * 5 * 6,  # from left to right
    ),
    "chain of four along a path": (
        Net(lambda net, *x: torch.ops.aten.einsum("ab,bc,cd,de->ae", x, path=[0, 1, 0, 1, 0, 1])),
        [(2, 3), (3, 4), (4, 5), (5, 6)],
        2 * 3 * 4 + 4 * 5 * 6 + 2 * 4 * 6,  # ab·bc, then cd·de, then both results
    ),
    "weight in the middle of a chain": (
        Net(lambda net, a, c: torch.einsum("ab,bc,cd->ad", a, net.w, c), w=torch.ones(3, 4)),
        [(2, 3), (4, 5)],
        2 * 3 * 4 + 2 * 4 * 5,
    ),
    "einsum with an ellipsis": (
        Net(lambda net, a, b: torch.einsum("...ab,...bc->...ac", a, b)),
        [(7, 1, 2, 3), (5, 3, 4)],
        35 * 2 * 3 * 4,
    ),
    "einsum without an arrow": (Net(lambda net, a, b: torch.einsum("ij,jk", a, b)), [(2, 3), (3, 4)], 24),
    "einsum that sums one side first": (
        Net(lambda net, x: torch.einsum("abz,bc->c", x, net.w), w=torch.ones(3, 5)),
        [(2, 3, 4)],
        3 * 5,
    ),
    "einsum that sums the weight first": (
        Net(lambda net, x: torch.einsum("ab,bcz->ac", x, net.w), w=torch.ones(3, 4, 2)),
        [(2, 3)],
        2 * 3 * 4,
    ),
    "weight in another precision": (Net(lambda net, x: x.half() @ net.w.half(), w=torch.ones(3, 4)), [(2, 3)], 24),
    "weight repeated over two batches": (
        Net(lambda net, x: torch.bmm(x, net.w.expand(2, 3, 4)), w=torch.ones(3, 4)),
        [(2, 5, 3)],
        2 * 5 * 12,
    ),
    "part of a weight repeated over two batches": (
        Net(lambda net, x: torch.bmm(x, net.w[:, :2].expand(2, 3, 2)), w=torch.ones(3, 4)),
        [(2, 5, 3)],
        2 * 5 * 6,
    ),
    "batch of none": (Net(lambda net, x: x @ net.w, w=torch.ones(1, 3, 4)), [(0, 2, 3)], 0),
    "einsum that is elementwise": (Net(lambda net, a, b: torch.einsum("ij,jk->ijk", a, b)), [(2, 3), (3, 4)], 0),
    "padding by word": (nn.Conv1d(3, 4, 4, padding="same"), [(1, 3, 8)], 8 * 4 * 3 * 4),
    "convolution without a batch": (nn.Conv2d(3, 4, 3), [(3, 8, 8)], 36 * 4 * 3 * 9),
    "transposed in three axes": (nn.ConvTranspose3d(4, 2, 3, groups=2, stride=2), [(1, 4, 3, 3, 3)], 27 * 4 * 1 * 27),
    "shared keys and values": (
        Net(lambda net, q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True)),
        [(1, 8, 5, 4), (1, 2, 6, 4)],
        8 * 5 * 6 * (4 + 4),
    ),
    "values of another width": (
        Net(lambda net, q, k, v: F.scaled_dot_product_attention(q, k, v)),
        [(2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 7)],
        6 * 5 * 6 * (4 + 7),
    ),
    "lstm both ways": (nn.LSTM(3, 4, 2, bidirectional=True), [(5, 2, 3)], 10 * 2 * 16 * ((3 + 4) + (8 + 4))),
    "lstm with a projection": (nn.LSTM(3, 4, proj_size=2), [(5, 2, 3)], 10 * (16 * 3 + 16 * 2 + 2 * 4)),
    "gru": (nn.GRU(3, 4, 2, batch_first=True), [(5, 2, 3)], 10 * 12 * ((3 + 4) + (4 + 4))),
    "gru cell": (nn.GRUCell(3, 4), [(2, 3)], 2 * 12 * (3 + 4)),
    "keys and values of other widths": (
        nn.MultiheadAttention(6, 2, kdim=4, vdim=5, batch_first=True),
        [(1, 3, 6), (1, 7, 4), (1, 7, 5)],
        3 * 36 + 7 * 24 + 7 * 30 + 2 * (3 * 7 * 6) + 3 * 36,
    ),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_product(case: str) -> None:
    module, shapes, macs = CASES[case]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.view(-1)[0] = 0.0  # so that a counter that loses sight of a weight differs
    traced, dispatched = cross_check(module, tuple(torch.ones(shape) for shape in shapes))
    assert (traced.dense, dispatched.dense) == (macs, macs)


@both
def test_attention_is_counted_in_eval_mode_without_gradients(counter: str) -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    with torch.no_grad():
        report = count_module(encoder, (torch.zeros(1, 5, 8),), counter=counter)
    per_layer = 5 * 8 * 24 + 2 * (5 * 5 * 8) + 5 * 8 * 8 + 2 * (5 * 8 * 16)
    assert report.dense == 2 * per_layer
    assert report.by_operator()["attention"] == (2 * 2 * 5 * 5 * 8,) * 2


@both
def test_sparse_counts_nonzeros_or_what_it_is_told(counter: str) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(48, 5))
    with torch.no_grad():
        net[0].weight[0] = 0.0  # 18 of 54
        net[2].weight[:, 7] = -0.0  # 5 of 240
    x = (torch.zeros(1, 2, 4, 4),)

    def sparse(nonzero) -> dict[str, int]:
        report = count_module(net, x, counter=counter, nonzero=nonzero)
        assert report.dense == 16 * 54 + 240
        return {layer.weight: layer.sparse for layer in report.layers}

    assert sparse(None) == {"0.weight": 16 * 36, "2.weight": 235}
    assert sparse({"0.weight": 7}) == {"0.weight": 16 * 7, "2.weight": 240}
    assert sparse({}) == {"0.weight": 16 * 54, "2.weight": 240}
    meta = count_module(net.to("meta"), (x[0].to("meta"),), counter=counter, nonzero={"2.weight": 1})
    assert meta.sparse == 16 * 54 + 1


@both
def test_sparse_is_exact_where_a_float_density_is_not(counter: str) -> None:
    kept = 2**25 + 1  # float32 has no such number
    layer = nn.Linear(2**13, 2**13, bias=False, device="meta")
    report = count_module(layer, (torch.zeros(3, 2**13, device="meta"),), counter=counter, nonzero={"weight": kept})
    assert report.sparse == 3 * kept


def test_the_dispatcher_needs_no_memory() -> None:
    layer = nn.Linear(2**20, 2**20, device="meta")  # 4 TiB
    report = count_module(layer, (torch.zeros(1, 2**20),), counter="dispatch", nonzero={"weight": 2**40 - 1})
    assert (report.dense, report.sparse) == (2**40, 2**40 - 1)


@pytest.mark.parametrize(
    ("nonzero", "says"),
    [({"wieght": 1}, "no weight"), ({"weight": 13}, "cannot keep"), ({"weight": -1}, "cannot keep")],
)
def test_nonzero_that_does_not_fit_is_refused(nonzero: dict[str, int], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        count_module(nn.Linear(3, 4), (torch.zeros(1, 3),), nonzero=nonzero)


@both
def test_a_module_called_twice_counts_twice(counter: str) -> None:
    layer = nn.Linear(3, 3)
    report = count_module(nn.Sequential(layer, nn.ReLU(), layer), (torch.zeros(2, 3),), counter=counter)
    assert [(entry.name, entry.dense, entry.weight) for entry in report.layers] == [("0", 2 * 2 * 9, "0.weight")]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 3)
        self.head = nn.Linear(3, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


@both
@pytest.mark.parametrize("named", ["embed.weight", "head.weight"])
def test_a_tied_weight_goes_by_the_name_in_the_running_module(counter: str, named: str) -> None:
    report = count_module(Tied(), (torch.tensor([[1, 2]]),), counter=counter, nonzero={named: 4})
    assert [(x.name, x.weight, x.dense, x.sparse) for x in report.layers] == [("head", "head.weight", 42, 8)]


@both
def test_a_weight_used_in_parts(counter: str) -> None:
    """Packed projections on two sequences are used in a third and two thirds."""
    attend = Net(lambda net, q, k: net.inner(q, k, k, need_weights=False)[0])
    attend.inner = nn.MultiheadAttention(6, 2)
    with torch.no_grad():
        attend.inner.in_proj_weight[0, :4] = 0.0

    def packed(rows: int) -> tuple[int, int]:
        report = count_module(attend, (torch.zeros(3, 1, 6), torch.zeros(rows, 1, 6)), counter=counter)
        (layer,) = (x for x in report.layers if x.weight == "inner.in_proj_weight")
        return layer.dense, layer.sparse

    assert packed(3) == (3 * 108, 3 * 104)  # the parts make a whole: exact
    assert packed(7) == (3 * 36 + 7 * 72, 3 * 36 + 7 * 72)  # they do not: as many kept weights as the part can hold


@both
def test_a_computed_weight_has_no_name_and_counts_dense(counter: str) -> None:
    layer = nn.Linear(4, 4)
    prune.random_unstructured(layer, "weight", amount=6)
    (entry,) = count_module(layer, (torch.zeros(2, 4),), counter=counter).layers
    assert (entry.dense, entry.sparse, entry.weight, entry.op) == (32, 32, None, "matmul")


@both
def test_what_is_not_counted_is_listed(counter: str) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Softmax(1))
    report = count_module(net, (torch.zeros(1, 1, 4, 4),), counter=counter)
    assert report.dense == 16 * 2
    names = uncounted(report)
    assert sum(names.values()) == 4
    for word in ("batch_norm", "relu", "max_pool", "softmax"):
        assert [times for name, times in names.items() if word in name] == [1]


@both
def test_arithmetic_on_sizes_is_not_an_operator(counter: str) -> None:
    halves = Net(lambda net, x: x.reshape(x.shape[0] * (x.shape[1] // 2), 2) @ net.w, w=torch.ones(2, 3))
    report = count_module(halves, (torch.zeros(2, 4),), counter=counter)
    assert (report.dense, report.uncounted) == (4 * 2 * 3, ())


class Touchy(nn.Module):
    """Everything a counter could disturb: dropout, running statistics, a buffer it writes, hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.layer = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(1))
        self.drop.eval()

    def forward(self, x: Tensor) -> dict[str, Tensor | None]:
        self.calls += 1
        return {"out": self.layer(self.drop(self.norm(x))), "nothing": None}


@both
def test_the_module_is_left_as_it_was(counter: str) -> None:
    module = Touchy()
    seen = []
    module.layer.register_forward_hook(lambda *_: seen.append(1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.randn(2, 3)
    kept = x.clone()
    identities = [id(p) for p in module.parameters()]
    torch.backends.mha.set_fastpath_enabled(True)
    torch.backends.mkldnn.enabled = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count_module(module, (x,), counter=counter).dense == 18
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mkldnn.enabled
    assert torch.is_grad_enabled()
    assert torch.equal(x, kept)
    assert (module.training, module.norm.training, module.drop.training) == (True, True, False)
    assert [id(p) for p in module.parameters()] == identities
    assert all(p.requires_grad and p.device.type == "cpu" for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()] == [0, 0, 0, 1]


@both
def test_what_only_training_runs_is_not_counted(counter: str) -> None:
    module = Net(lambda net, x: (x @ net.w, x @ net.w) if net.training else x @ net.w, w=torch.ones(3, 3)).train()
    assert count_module(module, (torch.zeros(2, 3),), counter=counter).dense == 18


def test_a_module_that_reads_values_is_counted_all_the_same() -> None:
    def forward(net: nn.Module, x: Tensor) -> Tensor:
        x = x @ net.w
        return F.scaled_dot_product_attention(x, x, x) if x.sum() <= 0 else x

    traced, dispatched = cross_check(Net(forward, w=torch.ones(3, 3)), (torch.zeros(1, 2, 5, 3),))
    assert traced.by_operator() == dispatched.by_operator() == {"attention": (300, 300), "linear": (90, 90)}


@dataclass
class Output:
    logits: Tensor


def _dataclass(net: nn.Module, x: Tensor) -> Output:
    return Output(x @ net.w)


def _nothing(net: nn.Module, x: Tensor) -> None:
    net.layer(x)


def _dead_branch(net: nn.Module, x: Tensor) -> list[dict[str, object]]:
    net.layer(x)
    return [{"logits": x, "count": 3, "nothing": None}]


@both
@pytest.mark.parametrize("forward", [_dataclass, _nothing, _dead_branch])
def test_results_that_a_trace_would_drop_are_counted(forward, counter: str) -> None:
    net = Net(forward, w=torch.ones(3, 3))
    net.layer = nn.Linear(3, 3)
    assert count_module(net, (torch.zeros(2, 3),), counter=counter).dense == 18


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight


def test_cross_check_names_the_layers_that_differ() -> None:
    net = nn.Sequential(nn.Linear(3, 3), Net(lambda net, x: Hidden.apply(x, net.w), w=torch.ones(3, 3)))
    with pytest.raises(VerificationFailed, match=r"MACs of 1: \(0, 0\) and \(18, 18\)$"):
        cross_check(net, (torch.zeros(2, 3),))
    report = count_module(net, (torch.zeros(2, 3),), counter="fvcore")
    assert uncounted(report) == {"prim::PythonOp.Hidden": 1}


@both
def test_inputs_that_do_not_fit_are_refused_in_one_sentence(counter: str) -> None:
    with pytest.raises(UnsupportedOp) as caught:
        count_module(nn.Linear(3, 4), (torch.zeros(2, 5),), counter=counter)
    assert "\n" not in caught.value.message
    assert "Linear" in caught.value.message
