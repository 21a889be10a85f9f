"""``sparsify`` in training loops as people write them: nothing but one line is added, and the masks hold."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import loops
import pytest
import torch
from torch import Tensor, nn

import sift_cli
from sift_cli.errors import ModelError, PlanError
from sift_cli.training import Sparsifier
from sift_cli.training.schedules import Constant, Window

Make = Callable[..., torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "SGD, foreach": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, foreach=True),
    "SGD, fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "Adam, amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "AdamW, foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "Adadelta": torch.optim.Adadelta,
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "Muon": lambda p: torch.optim.Muon([one for one in p if one.dim() == 2], lr=0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.05),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rule", ["rigl", "gmp"])
def test_any_optimizer(name: str, rule: str) -> None:
    model = loops.net()
    optimizer = OPTIMIZERS[name](model.parameters())
    sparsifier = sift_cli.sparsify(model, optimizer, rule, sparsity=0.75, total_steps=12, frequency=3, stop=1)
    kept = [sparsifier.kept]
    loops.train(model, optimizer, 1, 12, lambda: (loops.check_zeros(model, optimizer), kept.append(sparsifier.kept)))
    assert [update.step for update in sparsifier.history] == [3, 6, 9]
    assert kept[-1] == (384 + 480) // 4
    assert (set(kept) == {kept[-1]}) == (rule == "rigl")
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_masks_move_and_the_model_knows() -> None:
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=10, frequency=4, stop=1)
    before = sift_cli.masks(model)
    loops.train(model, optimizer, 1, 3)
    assert all(map(torch.equal, before.values(), sift_cli.masks(model).values()))
    loops.train(model, optimizer, 4, 4)
    after = sift_cli.masks(model)
    (update,) = sparsifier.history
    assert update.exchanged == {
        name: (int((before[name] & ~after[name]).sum()), int((after[name] & ~before[name]).sum())) for name in before
    }
    # α/2 (1 + cos(π·4/10)) of 96 and 120 weights, rounded down.
    fraction = 0.15 * (1 + math.cos(0.4 * math.pi))
    assert [grown for _, grown in update.exchanged.values()] == [int(96 * fraction), int(120 * fraction)]
    assert update.churn == sum(grown for _, grown in update.exchanged.values()) / 216
    for name, mask in after.items():
        assert torch.equal(mask, sparsifier.masks[name])
        new = mask & ~before[name]
        assert not model.get_parameter(name)[new].any(), "new connections start at 0"
    loops.train(model, optimizer, 5, 5)
    assert all(model.get_parameter(name)[mask & ~before[name]].any() for name, mask in after.items()), "and are trained"


def test_chance_depends_on_the_weight_and_the_step_and_the_seed() -> None:
    """Two layers of one shape, two updates, two seeds: eight different draws, and each the same again."""
    from sift_cli.training.distributed import Replicas

    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    sparsifier = sift_cli.sparsify(model, torch.optim.SGD(model.parameters()), "static", sparsity=0.5)
    asked = {"gradient": False, "fraction": 0.0, "target": 32, "replicas": Replicas()}
    draws = [
        weight.layer(seed=seed, step=step, **asked).uniform()
        for weight in sparsifier._weights
        for seed in (0, 1)
        for step in (100, 200)
        for _ in range(2)
    ]
    assert all(map(torch.equal, draws[::2], draws[1::2]))
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 8


def test_growth_is_where_the_dense_gradient_is_largest() -> None:
    """The dense gradient from a copy without masks at the same weights, as of before the step."""
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=10, frequency=3, stop=1)
    loops.train(model, optimizer, 1, 2)
    dense, before = copy.deepcopy(model), sift_cli.masks(model)
    loops.loss(dense, 3).backward()
    loops.train(model, optimizer, 3, 3)
    for name, mask in sift_cli.masks(model).items():
        grown = mask & ~before[name]
        gradient = dense.get_parameter(name).grad.abs()
        others = gradient[~before[name] & ~grown]
        assert grown.any()
        assert gradient[grown].min() >= others.max()


def test_accumulated_gradients_are_scored_together() -> None:
    """Four quarters of a batch grow what the whole batch grows, and a step counts once."""
    results = []
    for parts in (1, 4):
        model = loops.net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=8, frequency=2, stop=1)
        for step in range(1, 9):
            inputs, labels = loops.batch(step)
            optimizer.zero_grad()
            for x, y in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
                (nn.functional.cross_entropy(model(x), y) / parts).backward()
            optimizer.step()
            loops.check_zeros(model, optimizer)
        assert sparsifier.step_count == 8
        results.append(sparsifier.masks)
    assert all(map(torch.equal, results[0].values(), results[1].values()))


@pytest.mark.parametrize("to_none", [True, False])
def test_a_gradient_that_was_thrown_away_is_not_scored(to_none: bool) -> None:
    """A backward pass whose gradients are set to None before the step, as in a GAN's other half, leaves no trace; nor
    does one of a step before."""
    results = []
    for extra in (False, True):
        model = loops.net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=8, frequency=2, stop=1)
        for step in range(1, 9):
            if extra and to_none:
                (100 * loops.loss(model, 1000 + step)).backward()
            optimizer.zero_grad(set_to_none=to_none)
            loops.loss(model, step).backward()
            optimizer.step()
        results.append(sparsifier.masks)
    assert all(map(torch.equal, results[0].values(), results[1].values()))


@pytest.mark.parametrize("step", [1, 2])
def test_clipping_sees_the_sparse_gradient(step: int) -> None:
    """The norm is that of the masked gradient, also before an update (step 2), where the dense one is looked at."""
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=8, frequency=2, stop=1)
    loops.train(model, optimizer, 1, step - 1)
    dense, masks = copy.deepcopy(model), sift_cli.masks(model)
    loops.loss(dense, step).backward()
    squares = sum(
        float((p.grad.double() * masks.get(name, True)).square().sum()) for name, p in dense.named_parameters()
    )
    optimizer.zero_grad()
    loops.loss(model, step).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    assert float(norm) == pytest.approx(math.sqrt(squares), rel=1e-6)
    everything = math.sqrt(sum(float(p.grad.double().square().sum()) for p in dense.parameters()))
    assert float(norm) < 0.99 * everything
    optimizer.step()
    loops.check_zeros(model, optimizer)


def test_no_dense_gradient_is_kept_but_before_an_update() -> None:
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=8, frequency=2, stop=1)
    held = []
    for step in range(1, 5):
        dense = copy.deepcopy(model)
        loops.loss(dense, step).backward()
        optimizer.zero_grad()
        loops.loss(model, step).backward()
        held.append([weight._outside is not None for weight in sparsifier._weights])
        for weight in sparsifier._weights:
            gradient, mask = dense.get_parameter(weight.name).grad, weight.whole_mask()
            assert torch.equal(weight.parameter.grad, gradient * mask)
            assert weight._outside is None or torch.equal(weight._outside, gradient * ~mask)
        optimizer.step()
        assert all(weight._outside is None for weight in sparsifier._weights)
    assert held == [[False, False], [True, True]] * 2


@pytest.mark.parametrize("name", ["SGD, momentum", "Adam without epsilon"])
def test_gradients_set_by_hand_are_masked(name: str) -> None:
    model = loops.net()
    # Without an epsilon Adam computes 0/0 wherever there is no weight.
    without = {"Adam without epsilon": lambda p: torch.optim.Adam(p, lr=0.01, eps=0.0)}
    optimizer = (OPTIMIZERS | without)[name](model.parameters())
    sift_cli.sparsify(model, optimizer, "static", sparsity=0.75)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, -1.0)
    optimizer.step()
    loops.check_zeros(model, optimizer)


def test_a_closure() -> None:
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=8, frequency=2, stop=1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = loops.loss(model, 1)
        found.backward()
        return found

    for _ in range(4):
        optimizer.step(closure)
        loops.check_zeros(model, optimizer)
    assert [update.step for update in sparsifier.history] == [2, 4]
    assert all(grown > 0 for update in sparsifier.history for _, grown in update.exchanged.values())


@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_step_is_none(fused: bool) -> None:
    """Under a gradient scaler: an overflow costs the step, whose number the next one gets, and its dense gradient."""
    model, twin = loops.net(), loops.net()
    results = []
    for one, overflow in ((model, True), (twin, False)):
        # Not SGD: torch 2.13 leaves its fused momentum uninitialised where the first step is skipped.
        optimizer = torch.optim.AdamW(one.parameters(), lr=0.01, fused=fused)
        sparsifier = sift_cli.sparsify(one, optimizer, sparsity=0.75, total_steps=8, frequency=2, stop=1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000, backoff_factor=1.0 - 2.0**-20)
        for step in range(1, 7):
            for bad in (True, False) if overflow else (False,):
                optimizer.zero_grad()
                value = loops.loss(one, step)
                scaler.scale(value * (1e38 if bad else 1)).backward()
                scaler.step(optimizer)
                scaler.update(2.0**10)
                assert sparsifier.step_count == step - bad
            loops.check_zeros(one, optimizer)
        results.append((sparsifier, [p.detach() for p in one.parameters()]))
    assert [update.step for update in results[0][0].history] == [2, 4, 6]
    assert all(map(torch.equal, results[0][0].masks.values(), results[1][0].masks.values()))
    assert all(map(torch.equal, results[0][1], results[1][1]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_clipping_of_unscaled_gradients(dtype: torch.dtype) -> None:
    model = loops.net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu")
    sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=8, frequency=2, stop=1)
    for step in range(1, 9):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            value = loops.loss(model, step)
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        loops.check_zeros(model, optimizer)
    assert sparsifier.step_count + scaler._get_growth_tracker() > 8  # some steps were done


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_type(dtype: torch.dtype) -> None:
    model = loops.net().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=6, frequency=2, stop=1)
    for step in range(1, 7):
        inputs, labels = loops.batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs.to(dtype)), labels).backward()
        optimizer.step()
        loops.check_zeros(model, optimizer)
    assert len(sparsifier.history) == 2


def test_parameter_groups_and_schedulers() -> None:
    model = loops.net()
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
    sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=10, frequency=2, stop=1)
    loops.train(model, optimizer, 1, 10, lambda: (loops.check_zeros(model, optimizer), scheduler.step()))
    assert sparsifier.step_count == 10
    assert scheduler.last_epoch == 10


def test_a_moving_average() -> None:
    """It has seen weights that are not kept any more; with the masks as they are now it is as sparse as the model."""
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=10, frequency=2, stop=1)
    loops.train(model, optimizer, 1, 10, lambda: average.update_parameters(model))
    masks = sift_cli.masks(model)
    values = {name: average.module.get_parameter(name).detach().clone() for name in masks}
    assert all(values[name][~mask].any() for name, mask in masks.items())
    sparsifier.copy_masks_to(average)
    for name, mask in masks.items():
        assert torch.equal(sift_cli.masks(average)[f"module.{name}"], mask)
        assert torch.equal(average.module.get_parameter(name), values[name] * mask)
    # A copy of its own: what the model's masks do later is not its business.
    loops.train(model, optimizer, 11, 12)
    assert all(torch.equal(sift_cli.masks(average)[f"module.{name}"], mask) for name, mask in masks.items())
    with pytest.raises(ModelError, match=r"has no '2\.weight'"):
        sparsifier.copy_masks_to(nn.Linear(2, 2))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_compiled_model(when: str) -> None:
    results = []
    for wrap in (lambda model: model, lambda model: torch.compile(model, backend="aot_eager")):
        model = loops.net()
        compiled = wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        sparsifier = sift_cli.sparsify(
            compiled if when == "before" else model, optimizer, sparsity=0.75, total_steps=6, frequency=2, stop=1
        )
        loops.train(compiled, optimizer, 1, 6, lambda: loops.check_zeros(model, optimizer))  # noqa: B023
        results.append(sparsifier)
    assert results[0].masks.keys() == results[1].masks.keys() == {"2.weight", "4.weight"}
    assert all(map(torch.equal, results[0].masks.values(), results[1].masks.values()))


def test_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b, self.last = (nn.Linear(16, 16) for _ in range(4))
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.b(self.a(self.first(x)).relu()).relu())

    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=6, frequency=2, stop=1)
    assert sparsifier.masks.keys() == {"a.weight"}
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(4, 16)).square().sum().backward()
        optimizer.step()
        loops.check_zeros(model, optimizer)
    assert torch.equal(sift_cli.masks(model.b)["weight"], sparsifier.masks["a.weight"])


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=8, frequency=2, stop=1)
    before = sparsifier.masks
    loops.train(model, optimizer, 1, 1)
    optimizer.zero_grad()
    loops.loss(model, 2).backward()
    # Kept weights are sound; of those that are not, one has a gradient that is not.
    sparsifier._weights[1]._outside[~before["4.weight"]] = torch.nan
    with pytest.warns(UserWarning, match="masks did not move after step 2: a weight or gradient is not finite"):
        optimizer.step()
    assert all(map(torch.equal, before.values(), sparsifier.masks.values()))
    assert sparsifier.history[-1].exchanged == {}
    loops.train(model, optimizer, 3, 4)
    assert sparsifier.history[-1].churn > 0


def test_a_weight_that_is_not_finite_moves_nothing() -> None:
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sift_cli.sparsify(model, optimizer, "set", sparsity=0.75, total_steps=8, frequency=2, stop=1)
    loops.train(model, optimizer, 1, 1)
    with torch.no_grad():
        model[2].weight[sparsifier.masks["2.weight"]] = torch.inf
    with pytest.warns(UserWarning, match="not finite"):
        loops.train(model, optimizer, 2, 2)
    assert sparsifier.history[-1].exchanged == {}
    assert not model[2].weight[~sparsifier.masks["2.weight"]].any()


def test_the_window_in_a_loop() -> None:
    """begin < step < stop · total: 10 and 30 are out, and after that masks stay."""
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sift_cli.sparsify(
        model, optimizer, "set", sparsity=0.75, total_steps=40, frequency=5, begin=10, stop=0.75
    )
    loops.train(model, optimizer, 1, 40)
    assert [update.step for update in sparsifier.history] == [15, 20, 25]


def test_gmp_begins_dense_and_ends_exactly() -> None:
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    start = [p.detach().clone() for p in model.parameters()]
    sparsifier = sift_cli.sparsify(model, optimizer, "gmp", sparsity=0.9, total_steps=100, frequency=10, stop=0.75)
    assert sparsifier.density == 1
    assert all(map(torch.equal, start, model.parameters()))
    loops.train(model, optimizer, 1, 100)
    # Zhu and Gupta between 0 and 70, the last step with an update: s = .9 (1 − (1 − t/70)³).
    for update in sparsifier.history:
        sparsity = 0.9 * (1 - (1 - update.step / 70) ** 3)
        assert abs(update.kept - (1 - sparsity) * 864) <= 1
    assert sparsifier.history[-1].step == 70
    assert sparsifier.kept == round(0.1 * 864)


def test_two_on_one_optimizer() -> None:
    """One layer by one rule, another by another."""
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sift_cli.sparsify(model, optimizer, "static", sparsity=0.75).remove()
    options = {"updates": Window(0, 10, 2), "drop_fraction": Constant(0.25)}
    grown = Sparsifier(model, optimizer, "rigl", weights=["2.weight"], **options)
    pruned = Sparsifier(model, optimizer, "gmp", weights=["4.weight"], sparsity={"4.weight": Constant(0.9)}, **options)
    loops.train(model, optimizer, 1, 10, lambda: loops.check_zeros(model, optimizer))
    assert grown.history[0].exchanged == {"2.weight": (24, 24)}
    assert pruned.history[0].exchanged == {"4.weight": (72, 0)}
    assert pruned.kept == 48
    with pytest.raises(ModelError, match=r"no mask for '3\.weight'"):
        Sparsifier(model, optimizer, weights=["3.weight"])


def test_a_schedule_of_sparsities_may_grow() -> None:
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sift_cli.sparsify(model, optimizer, "static", sparsity=0.75).remove()
    cycle = [0.5, 0.9, 0.75]
    sparsifier = Sparsifier(
        model, optimizer, "rigl", updates={2, 4, 6}, sparsity={"2.weight": lambda step: cycle[step // 2 - 1]}
    )
    loops.train(model, optimizer, 1, 6, lambda: loops.check_zeros(model, optimizer))
    assert [update.kept - 120 for update in sparsifier.history] == [192, 38, 96]


@pytest.mark.parametrize("pattern", ["2:4", "2:8T", "block4x4"])
@pytest.mark.parametrize("rule", ["set", "rigl"])
def test_patterns_are_kept_through_updates(pattern: str, rule: str) -> None:
    from sift_cli.sparsity.patterns import Gemm, parse

    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsity = {"2:4": 0.5, "2:8T": 0.75, "block4x4": 0.75}[pattern]
    sparsifier = sift_cli.sparsify(
        model,
        optimizer,
        rule,
        sparsity=sparsity,
        pattern=pattern,
        total_steps=6,
        frequency=2,
        stop=1,
        drop_fraction=0.5,
    )
    kind, first = parse(pattern), sparsifier.masks

    def check() -> None:
        loops.check_zeros(model, optimizer)
        for mask in sift_cli.masks(model).values():
            assert kind.violations(Gemm(tuple(mask.shape)), mask.numpy()) == 0
            assert int(mask.sum()) in kind.feasible(Gemm(tuple(mask.shape)))

    loops.train(model, optimizer, 1, 6, check)
    assert not any(map(torch.equal, first.values(), sparsifier.masks.values()))


def test_remove_lets_go() -> None:
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sift_cli.sparsify(model, optimizer, "static", sparsity=0.75)
    loops.train(model, optimizer, 1, 1)
    sparsifier.remove()
    loops.train(model, optimizer, 2, 2)
    assert all(model.get_parameter(name)[~mask].any() for name, mask in sift_cli.masks(model).items())
    assert sparsifier.step_count == 1


def test_what_is_held_is_not_held_twice() -> None:
    """By no second optimizer, no second rule, no file of settings; the first one goes on as if nothing had been."""
    model, twin = loops.net(), loops.net()
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9) for one in (model, twin)]
    options = {"sparsity": 0.75, "total_steps": 8, "frequency": 2, "stop": 1}
    first, alone = (sift_cli.sparsify(one, o, **options) for one, o in zip((model, twin), optimizers, strict=True))
    config = sift_cli.SparsityConfig.parse({"init_method": "from_zeros", "param_filter": ["2.weight", "4.weight"]})
    other = torch.optim.AdamW(model.parameters())
    for again in (
        lambda: sift_cli.sparsify(model, optimizers[0], **options),
        lambda: sift_cli.sparsify(model, other, "static"),
        lambda: sift_cli.sparsify(model, other, "gmp", **options),
        lambda: Sparsifier(model, other, weights=["4.weight"]),
        lambda: config.sparsify(model, other),
    ):
        with pytest.raises(ModelError, match=r"a Sparsifier holds the mask of [24]\.weight already") as caught:
            again()
        assert "remove()" in str(caught.value.hint)
    for one, optimizer in zip((model, twin), optimizers, strict=True):
        loops.train(one, optimizer, 1, 8, lambda: loops.check_zeros(one, optimizer))  # noqa: B023
    assert first.history == alone.history
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    first.remove()
    second = sift_cli.sparsify(model, other, total_steps=8, frequency=2, stop=1)
    loops.train(model, other, 1, 8, lambda: loops.check_zeros(model, other))
    assert (first.step_count, second.step_count) == (8, 8)


def test_two_optimizers_of_one_model() -> None:
    """Each with the weights that it trains."""
    model = loops.net()
    sift_cli.sparsify(model, torch.optim.SGD(model.parameters()), "static", sparsity=0.75).remove()
    halves = [torch.optim.SGD(half.parameters(), lr=0.1) for half in (model[:3], model[3:])]
    held = [sift_cli.sparsify(model, half, total_steps=8, frequency=2, stop=1) for half in halves]
    assert [list(one.masks) for one in held] == [["2.weight"], ["4.weight"]]
    for step in range(1, 9):
        model.zero_grad()
        loops.loss(model, step).backward()
        for half in halves:
            half.step()
    assert [one.step_count for one in held] == [8, 8]
    for name, mask in sift_cli.masks(model).items():
        assert not model.get_parameter(name)[~mask].any()


@pytest.mark.parametrize("late", ["unfrozen", "another group"])
def test_a_weight_that_is_trained_later_does_not_lose_its_mask(late: str) -> None:
    model = loops.net()
    sift_cli.sparsify(model, torch.optim.SGD(model.parameters()), "static", sparsity=0.75).remove()
    weight = model[4].weight
    weight.requires_grad_(late == "another group")
    first = [one for one in model.parameters() if one is not weight]
    optimizer = torch.optim.SGD(first if late == "another group" else model.parameters(), lr=0.1)
    sparsifier = sift_cli.sparsify(model, optimizer, "static")
    loops.train(model, optimizer, 1, 2)
    assert not weight[~sift_cli.masks(model)["4.weight"]].any()
    weight.requires_grad_(True)
    if late == "another group":
        optimizer.add_param_group({"params": [weight]})
    before = weight.detach().clone()
    with pytest.raises(ModelError, match=r"4\.weight has a mask and is trained now"):
        loops.train(model, optimizer, 3, 3)
    assert torch.equal(weight, before)
    sparsifier.remove()
    sift_cli.sparsify(model, optimizer, "static")
    loops.train(model, optimizer, 3, 6, lambda: loops.check_zeros(model, optimizer))
    assert not torch.equal(weight, before)


def test_a_new_group_without_masks_is_nobodys_business() -> None:
    model, head = loops.net(), nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=8, frequency=2, stop=1)
    loops.train(model, optimizer, 1, 2)
    before = head.weight.detach().clone()
    optimizer.add_param_group({"params": head.parameters(), "lr": 0.5})
    loops.train(nn.Sequential(model, head), optimizer, 3, 6, lambda: loops.check_zeros(model, optimizer))
    assert not torch.equal(head.weight, before)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_has_masks_and_no_hooks(how: str) -> None:
    """A copy is a model with masks like any other: it can be trained sparsely by itself, and the model goes on."""
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=20, frequency=2, stop=1)
    loops.train(model, optimizer, 1, 3)
    twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    then = sparsifier.masks
    weights = [one.detach().clone() for one in twin.parameters()]
    loops.train(model, optimizer, 4, 8)
    assert all(map(torch.equal, weights, twin.parameters()))
    assert all(torch.equal(sift_cli.masks(twin)[name], mask) for name, mask in then.items())
    other = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    held = sift_cli.sparsify(twin, other, total_steps=20, frequency=2, stop=1)
    loops.train(twin, other, 4, 8, lambda: loops.check_zeros(twin, other))
    assert (sparsifier.step_count, held.step_count) == (8, 5)
    assert all(torch.equal(sift_cli.masks(model)[name], mask) for name, mask in sparsifier.masks.items())


def test_the_optimizers_state_of_other_masks_does_not_come_through() -> None:
    """Momenta from before there were masks, loaded after sparsify."""
    model = loops.net()
    dense = torch.optim.AdamW(model.parameters(), lr=0.01)
    loops.train(model, dense, 1, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=20, frequency=2, stop=1)
    optimizer.load_state_dict(dense.state_dict())
    assert optimizer.state[model[2].weight]["exp_avg"].count_nonzero() > 384 // 4
    loops.train(model, optimizer, 4, 8, lambda: loops.check_zeros(model, optimizer))


def test_a_compiled_step() -> None:
    results = []
    for compiled in (False, True):
        model = loops.net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=6, frequency=2, stop=1)
        if compiled:
            optimizer.step = torch.compile(optimizer.step, backend="eager")  # type: ignore[method-assign]
        loops.train(model, optimizer, 1, 6, lambda: loops.check_zeros(model, optimizer))  # noqa: B023
        results.append((sparsifier.history, [one.detach() for one in model.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(map(torch.equal, results[0][1], results[1][1]))


def test_channels_last() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=6, frequency=2, stop=1)
    assert not model[1].weight.is_contiguous()
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()
        loops.check_zeros(model, optimizer)
    assert [update.step for update in sparsifier.history] == [2, 4]
    assert all(update.churn > 0 for update in sparsifier.history)


def test_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate")
    results = []
    for parts in (1, 2):
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=parts)
        model = loops.net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        model, optimizer = accelerator.prepare(model, optimizer)
        sparsifier = sift_cli.sparsify(model, optimizer, sparsity=0.75, total_steps=8, frequency=2, stop=1)
        accelerator.register_for_checkpointing(sparsifier)
        for step in range(1, 9):
            inputs, labels = loops.batch(step)
            for x, y in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
                with accelerator.accumulate(model):
                    accelerator.backward(nn.functional.cross_entropy(model(x), y))
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
        assert sparsifier.step_count == 8
        results.append(sparsifier.masks)
    assert all(map(torch.equal, results[0].values(), results[1].values()))


REFUSED = {
    "no such rule": (dict(rule="rigi"), PlanError, "no rule 'rigi'"),
    "no length": (dict(total_steps=None), PlanError, "how long the training is"),
    "no step for an update": (dict(total_steps=50), PlanError, "no step for an update"),
    "frequency": (dict(frequency=0), PlanError, "cannot move every 0 steps"),
    "drop_fraction": (dict(drop_fraction=1.5), PlanError, r"drop_fraction 1\.5 is not a share"),
    "stop": (dict(stop=75), PlanError, "cannot move"),
    "sparsity": (dict(sparsity=1.5), PlanError, "outside"),
    "sparsity 0": (dict(sparsity=0), PlanError, "makes no masks"),
    "no masks": (dict(sparsity=None), ModelError, "has no masks"),
    "gmp to where": (dict(sparsity=None, rule="gmp"), PlanError, "needs to know which"),
    "gmp to 2:4": (dict(sparsity=0.5, rule="gmp", pattern="2:4"), PlanError, "step by step"),
    "pattern and sparsity": (dict(pattern="2:4"), PlanError, "keeps 1/2 of the weights"),
    "mask": (dict(mask="file"), PlanError, "mask 'file'"),
    "distribution": (dict(distribution="normal"), PlanError, "no distribution"),
    "options without masks": (dict(sparsity=None, pattern="2:4"), PlanError, "how masks are made"),
    "glob": (dict(only="conv*"), PlanError, "no layer matches 'conv"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    options, error, message = REFUSED[what]
    model = loops.net()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(error, match=message) as caught:
        sift_cli.sparsify(model, optimizer, **{"sparsity": 0.75, "total_steps": 1000, **options})
    assert caught.value.hint
    assert all(map(torch.equal, before, model.parameters()))
    assert not sift_cli.masks(model)


def test_an_optimizer_of_other_parameters_is_refused() -> None:
    model = loops.net()
    with pytest.raises(ModelError, match="trains none of the model's masked weights"):
        sift_cli.sparsify(model, torch.optim.SGD(loops.net().parameters()), "static", sparsity=0.5)
    assert not sift_cli.masks(model)
    with pytest.raises(PlanError, match="LBFGS keeps one flat history"):
        sift_cli.sparsify(loops.net(), torch.optim.LBFGS(model.parameters()), "static", sparsity=0.5)
    with pytest.raises(PlanError, match=r"int is no torch\.optim\.Optimizer"):
        sift_cli.sparsify(loops.net(), 3, "static", sparsity=0.5)


def test_a_model_with_masks_gets_no_others() -> None:
    model = loops.net()
    optimizer = torch.optim.SGD(model.parameters())
    sift_cli.sparsify(model, optimizer, "static", sparsity=0.5).remove()
    with pytest.raises(ModelError, match="has masks already"):
        sift_cli.sparsify(model, optimizer, "static", sparsity=0.5)
    before = sift_cli.masks(model)
    with pytest.raises(PlanError, match="LBFGS"):
        sift_cli.sparsify(model, torch.optim.LBFGS(model.parameters()), "gmp", sparsity=0.75, total_steps=1000)
    assert all(map(torch.equal, before.values(), sift_cli.masks(model).values()))
    with pytest.raises(PlanError, match="sparser already"):
        sift_cli.sparsify(model, optimizer, "gmp", sparsity=0.25, total_steps=1000)
