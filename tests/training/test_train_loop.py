"""The loop of ``sift train`` against one that is written out, and against itself after it was killed."""

from __future__ import annotations

import copy
import csv
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import forked
from torch import Tensor, nn
from torch.nn import functional as F

import sift_cli
from sift_cli.core.seeds import derive_seed
from sift_cli.errors import Malformed, ModelError, OutputBusy, OutputExists, OutputUnwritable, PlanError
from sift_cli.models import load as load_model
from sift_cli.models import parse_architecture
from sift_cli.training.recipes.data import Data
from sift_cli.training.recipes.data._arrays import Arrays
from sift_cli.training.recipes.data.text import Pieces
from sift_cli.training.recipes.keys import numbers, read
from sift_cli.training.recipes.models import example, transformed
from sift_cli.training.recipes.recipe import Recipe
from sift_cli.training.recipes.runs import BEST, LAST, RECIPE, STATE, RunFolder
from sift_cli.training.recipes.tasks import Measured, loss

pytest.importorskip("accelerate")
from sift_cli.training.recipes import best, loop
from sift_cli.training.recipes.loop import Progress, Training, accelerator

TEXT = bytes(np.random.Generator(np.random.Philox(0)).integers(97, 105, 700, dtype=np.uint8))
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}


def language() -> Data:
    tokens = np.frombuffer(TEXT, np.uint8)
    return Data("language", 256, (10,), Pieces(tokens[:601], 10), Pieces(tokens[600:], 10))


def signals() -> Data:
    random = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(60, 1, 24, generator=random), torch.randint(10, (60,), generator=random)
    return Data("classification", 10, (1, 24), Arrays(inputs[:48], targets[:48]), Arrays(inputs[48:], targets[48:]))


class Run:
    """A training without artifacts: what would be written is kept."""

    def __init__(self, folder: Path, data: Data, **recipe: Any) -> None:
        net = "TinyLanguageModel" if data.task == "language" else "TinySignals"
        written = {"model": f"trainnets:{net}", "data": "none", "optimizer": SGD, "batch": 12, "steps": 9, **recipe}
        self.recipe = read(Recipe, numbers(written), "")
        self.folder = RunFolder(folder, self.recipe, "sparse")
        named = parse_architecture(self.recipe.model.name)
        self.start = transformed(load_model(named, seed=self.recipe.seed, **example(named, data)), None, 0)
        self.published: list[tuple[str, nn.Module]] = []
        self.watched: list[Progress] = []
        machine = accelerator("fp32")
        publish: Callable[[nn.Module, Path], object] = lambda module, path: self.published.append(  # noqa: E731
            (path.name, copy.deepcopy(module))
        )
        self.training = Training(self.recipe, self.start, data, self.folder, machine, publish, self.watched.append)

    def run(self, *, resume: bool = False) -> list[dict[str, Any]]:
        return self.training.run(resume=resume, force=False)

    @property
    def last(self) -> nn.Module:
        (name, module) = self.published[-1]
        assert name == LAST
        return module


def by_hand(run: Run, data: Data, steps: int, rate: Callable[[int], float], **sparsify: Any) -> nn.Module:
    """The same training, as one would write it for this one case: SGD with momentum, one group without weight decay."""
    model = copy.deepcopy(run.start.module).train()
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=1e-2)
    if sparsify:
        sift_cli.sparsify(model, optimizer, total_steps=steps, **sparsify)
    order = run.training._order
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        inputs, targets = order[step, 0]
        torch.manual_seed(derive_seed(run.recipe.seed, f"step {step} part 0", "forward"))
        optimizer.zero_grad()
        F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    return model


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


@pytest.mark.parametrize("kind", ["language", "signals"])
@pytest.mark.parametrize("sparse", [False, True])
def test_it_is_the_loop_one_would_write(tmp_path: Path, kind: str, sparse: bool) -> None:
    data = language() if kind == "language" else signals()
    layers = {"language": ["first", "hidden"], "signals": ["conv2", "conv3"]}[kind]
    rule = {"sparsity": 0.5, "frequency": 2, "only": layers}
    run = Run(
        tmp_path / "run", data, clip=0.5, label_smoothing=0.1, schedule={"name": "linear", "final": 0.2},
        **({"rule": {"name": "rigl", **rule}} if sparse else {}),
    )  # fmt: skip
    run.run()
    expected = by_hand(run, data, 9, lambda step: 0.1 * (1 - 0.8 * step / 9), **(rule if sparse else {}))
    assert same(run.last, expected)
    assert not same(run.last, run.start.module)
    if sparse:
        theirs, ours = sift_cli.masks(expected), sift_cli.masks(run.last)
        assert sorted(ours) == [f"{layer}.weight" for layer in layers]
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("how", ["recipe", "launcher"])
def test_a_compiled_model_trains_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """By the recipe's ``compile``, or by ``accelerate launch --dynamo_backend``; files and names are the same."""
    compiled: list[Any] = []
    compile = torch.compile

    def eagerly(model: nn.Module, **options: Any) -> Any:
        compiled.append(model)
        return compile(model, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", eagerly)
    rule = {"name": "rigl", "sparsity": 0.5, "frequency": 2, "only": ["first", "hidden"]}
    asked = {"rule": rule, "accumulate": 2, "clip": 0.5, "steps": 5}
    plain = Run(tmp_path / "plain", language(), **asked)
    plain.run()
    assert not compiled
    if how == "launcher":
        plugin = plain.training._accelerator.state.dynamo_plugin
        monkeypatch.setattr(plugin, "backend", type(plugin.backend).AOT_EAGER)
    run = Run(tmp_path / "run", language(), **asked, **({"compile": True} if how == "recipe" else {}))
    run.run()
    assert compiled == [run.training._module]
    ours, theirs = sift_cli.masks(run.last), sift_cli.masks(plain.last)
    assert ours.keys() == theirs.keys() == {"first.weight", "hidden.weight"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name, tensor in plain.last.state_dict().items():
        torch.testing.assert_close(run.last.state_dict()[name], tensor, rtol=0, atol=1e-6)
    assert (run.folder.state() or {})["model"].keys() == plain.last.state_dict().keys()


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_launcher_that_divides_the_model(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(PlanError, match=r"in each process, and was launched with (FSDP|DeepSpeed)"):
        accelerator("fp32")


def test_accumulated_parts_add_up_to_the_batch(tmp_path: Path) -> None:
    """Without dropout and BatchNorm, in double precision."""
    data = language()

    def trained(accumulate: int) -> nn.Module:
        run = Run(tmp_path / str(accumulate), data, accumulate=accumulate, clip=0.5)
        run.training._module.double().eval()
        run.training._module.train = lambda mode=True: run.training._module  # type: ignore[method-assign]
        run.run()
        return run.training._module

    one, three = trained(1), trained(3)
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(one.parameters(), three.parameters(), strict=True))  # fmt: skip  # noqa: E501


def test_the_log_says_what_was_measured(tmp_path: Path) -> None:
    data = signals()
    run = Run(
        tmp_path / "run", data, steps=8, evaluate=4,
        rule={"name": "set", "sparsity": 0.5, "frequency": 3, "only": ["conv2", "conv3"]},
    )  # fmt: skip
    rows = run.run()
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [int(row["step"]) for row in written] == [row["step"] for row in rows] == [4, 8]
    assert float(written[1]["validation_loss"]) == pytest.approx(rows[1]["validation_loss"], rel=1e-5)
    inputs, targets = data.validation.batch(np.arange(12), None)  # type: ignore[attr-defined]
    with torch.no_grad():
        logits = run.last.eval()(inputs)
    assert rows[1]["validation_loss"] == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-6)
    assert rows[1]["validation_accuracy"] == float((logits.argmax(1) == targets).float().mean())
    # MACs of a sample: 24 → 10 → 4 → 1 positions; conv2 and conv3 keep half of 144 and 192 weights.
    fixed, halves = 10 * 30 + 80, 4 * 144 + 1 * 192
    assert rows[1]["flops_of_dense_training"] == 8 * 12 * 3 * 2 * (fixed + halves)
    assert rows[1]["flops_sparse"] == 8 * 12 * 3 * 2 * (fixed + halves // 2)
    assert rows[1]["flops_dense_gradients"] == 0
    # SET at step 3 of a window that ends at 6: ⌊.15 · kept⌋ of 72 and of 96.
    assert rows[0]["churn"] == rows[1]["churn"] == (int(0.15 * 72) + int(0.15 * 96)) / 168
    assert rows[1]["density"] == 0.5
    assert run.watched[-1].step == run.watched[-1].steps == 8
    assert run.watched[-1].validation == Measured(
        "classification", rows[1]["validation_loss"], rows[1]["validation_accuracy"]
    )


def test_loss_and_perplexity_in_closed_form() -> None:
    logits = torch.tensor([[[0.0, math.log(3)], [math.log(3), 0.0]]])
    value, sums = loss(logits, torch.tensor([[1, 1]]), 2)
    measured = Measured.of("language", sums)
    assert float(value) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    assert measured.accuracy == 0.5
    assert measured.perplexity == pytest.approx(4 / math.sqrt(3))
    smoothed, same_sums = loss(logits, torch.tensor([[1, 1]]), 2, smoothing=0.5)
    assert float(smoothed) == pytest.approx((math.log(4 / 3) * 2 + math.log(4) * 2) / 4)
    assert same_sums[2] == 2


def test_the_moving_average_is_what_is_measured_and_written(tmp_path: Path) -> None:
    data = signals()
    run = Run(tmp_path / "run", data, steps=3, ema=0.75, evaluate=3)
    seen: list[dict[str, Tensor]] = []
    step = run.training._optimizer.step
    run.training._optimizer.step = lambda: (step(), seen.append(copy.deepcopy(run.training._module.state_dict())))
    (row,) = run.run()
    expected = {name: 0.75 * (0.75 * seen[0][name] + 0.25 * seen[1][name]) + 0.25 * seen[2][name] for name in seen[0]}
    for name, tensor in run.last.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, expected[name], atol=1e-6), name
    inputs, targets = data.validation.batch(np.arange(12), None)  # type: ignore[attr-defined]
    with torch.no_grad():
        assert row["validation_loss"] == pytest.approx(
            float(F.cross_entropy(run.last.eval()(inputs), targets)), rel=1e-6
        )


def test_the_best_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best, "_SHARE", 1e-9)  # so that only the first and the last time are times to publish
    run = Run(tmp_path / "run", signals(), steps=12, evaluate=1, optimizer={**SGD, "lr": 0.5})
    rows = run.run()
    assert [name for name, _ in run.published] == [BEST, BEST, LAST]
    found = run.published[1][1]
    inputs, targets = signals().validation.batch(np.arange(12), None)  # type: ignore[attr-defined]
    accuracies = [row["validation_accuracy"] for row in rows]
    with torch.no_grad():
        right = int((found.eval()(inputs).argmax(1) == targets).sum())
    assert right / 12 == max(accuracies)
    assert accuracies[-1] < max(accuracies)  # otherwise nothing was shown


@pytest.mark.parametrize(
    ("recipe", "kind", "message"),
    [
        ({"optimizer": {"name": "sdg", "lr": 1}}, PlanError, "no 'sdg'"),
        ({"optimizer": "sgd"}, PlanError, "'lr'"),
        ({"optimizer": {"name": "sgd", "lr": 1, "momentm": 1}}, PlanError, "'momentm'"),
        ({"optimizer": {"name": "sgd", "lr": -1}}, PlanError, "does not accept"),
        ({"optimizer": {"name": "sgd", "lr": "fast"}}, PlanError, "does not accept"),
        ({"rule": {"name": "rigl", "sparsity": 0.5, "frequncy": 1}}, PlanError, "'frequncy'"),
        ({"rule": {"name": "rigl", "sparsity": 0.5, "frequency": "often"}}, PlanError, "rule.frequency is 'often'"),
        ({"rule": {"name": "rigl", "sparsity": 0.5, "drop_fraction": "x"}}, PlanError, "rule.drop_fraction"),
        ({"rule": {"name": "rigl", "frequency": 1}}, ModelError, "no masks"),
        ({"batch": 100}, PlanError, "lower batch"),
        ({"optimizer": {"name": "sgd", "lr": 1e30}}, ModelError, "loss is"),
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, recipe: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        Run(tmp_path / "run", signals(), **recipe).run()
    assert message in f"{caught.value} {getattr(caught.value, 'hint', '')}"


def test_too_few_classes(tmp_path: Path) -> None:
    data = signals()
    with pytest.raises(ModelError, match="one for each of 11 classes"):
        Run(tmp_path / "run", Data("classification", 11, data.shape, data.train, data.validation)).run()


class Clock:
    """Time that passes as it is told."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_the_best_is_published_first_last_and_at_most_a_twentieth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, published = Clock(), []
    monkeypatch.setattr(best, "time", clock)

    def publish(module: nn.Module) -> None:
        published.append(float(module.weight.detach()[0, 0]))
        clock.now += 1

    def model(value: float) -> nn.Linear:
        made = nn.Linear(2, 2)
        nn.init.constant_(made.weight, value)
        return made

    kept = best.Best(model(0), publish)
    for value, score in ((1, 0.5), (2, 0.4), (3, 0.6), (4, 0.6)):
        kept.offer(model(value), score)
        kept.publish()
    assert published == [1]  # and not 3: it is too early
    clock.now += 20
    kept.publish()
    assert published == [1, 3]  # and not 4, which is no better
    kept.offer(model(5), 0.7)
    again = best.Best(model(0), publish)
    again.load_state_dict(kept.state_dict())
    assert again.score == 0.7
    kept.publish()
    kept.publish(last=True)
    kept.publish(last=True)
    again.publish(last=True)
    assert published == [1, 3, 5, 5]


def test_a_line_of_the_log_is_about_the_steps_since_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "run", language(), steps=6, evaluate=3, accumulate=2)
    seen: list[float] = []

    def recorded(output: Any, targets: Tensor, classes: int, *, smoothing: float) -> tuple[Tensor, Tensor]:
        value, sums = loss(output, targets, classes, smoothing=smoothing)
        if value.requires_grad:
            seen.append(float(value.detach()))
        return value, sums

    monkeypatch.setattr(loop, "loss", recorded)
    rows = run.run()
    assert len(seen) == 12
    assert [row["train_loss"] for row in rows] == pytest.approx([np.mean(seen[:6]), np.mean(seen[6:])])
    assert rows[1]["train_perplexity"] == pytest.approx(math.exp(np.mean(seen[6:])))


# -- stopping and going on -------------------------------------------------------------------------------------------

RESUMED = {
    "ema": 0.9, "accumulate": 2, "evaluate": 4, "checkpoint": 1, "steps": 14,
    "optimizer": {"name": "adamw", "lr": 1e-2}, "schedule": {"name": "cosine", "warmup": 3},
    "rule": {"name": "rigl", "sparsity": 0.5, "frequency": 3, "only": ["first", "hidden"]},
}  # fmt: skip


class Stopped(Exception):
    pass


def equal(first: Any, second: Any, where: str = "") -> None:
    """Bit for bit, but for the seconds that it took."""
    if isinstance(first, Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first.keys() - {"seconds"}:
            equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            equal(one, other, f"{where}[{index}]")
    else:
        assert first == second, where


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("whole") / "run", language(), **RESUMED)
    run.run()
    return run


def test_the_average_has_the_masks_of_the_model(whole: Run) -> None:
    ours, theirs = sift_cli.masks(whole.last), sift_cli.masks(whole.training._module)
    assert ours.keys() == theirs.keys() == {"first.weight", "hidden.weight"}
    assert whole.folder.state()["sparsifier"]["history"]  # type: ignore[index]
    for name, mask in ours.items():
        assert torch.equal(mask, theirs[name])
        assert not whole.last.get_parameter(name)[~mask].any()


@pytest.mark.parametrize("after", [1, 4, 6, 13])
def test_going_on_is_not_having_stopped(tmp_path: Path, whole: Run, after: int) -> None:
    run = Run(tmp_path / "run", language(), **RESUMED)
    write, written = run.folder.write_state, []

    def stop(state: Any) -> None:
        write(state)
        written.append(state["step"])
        if written[-1] == after:
            raise Stopped

    run.folder.write_state = stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        run.run()
    torch.rand(3)  # the state of the global generator is not to matter
    again = Run(tmp_path / "run", language(), **RESUMED)
    rows = again.run(resume=True)
    equal(again.folder.state(), whole.folder.state())
    assert [row["step"] for row in rows] == [4, 8, 12, 14]
    assert same(again.last, whole.last)
    assert not list((tmp_path / "run").glob(".*tmp"))


def test_a_run_that_is_done_is_not_run_again(tmp_path: Path) -> None:
    recipe = {"steps": 3}
    Run(tmp_path / "run", language(), **recipe).run()
    again = Run(tmp_path / "run", language(), **recipe)
    assert [row["step"] for row in again.run(resume=True)] == [3]
    assert again.published == []


BUSY = """
import sys, time
from pathlib import Path
import test_train_loop as t
run = t.Run(Path(sys.argv[1]), t.language(), **t.RESUMED)
write = run.folder.write_state
run.folder.write_state = lambda state: (write(state), time.sleep(600))
run.run(resume=True)
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """While another one writes, nothing in the folder changes; when that is killed, with -9, the way is free."""
    folder = tmp_path / "run"
    process = started(BUSY, folder)
    while list(folder.glob(".*tmp")):  # of the state, which has its name already
        time.sleep(0.01)
    try:
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        for asked in ({"resume": True}, {"force": True}, {}):
            again = Run(folder, language(), **RESUMED)
            with pytest.raises(OutputBusy, match="another process is writing") as caught:
                again.folder.check(**{"resume": False, "force": False, **asked})
            assert caught.value.exit_code == 10
            if asked:  # and had it begun in the moment between
                with pytest.raises(OutputBusy):
                    again.training.run(**{"resume": False, "force": False, **asked})
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [row["step"] for row in Run(folder, language(), **RESUMED).run(resume=True)] == [4, 8, 12, 14]


def test_a_folder_that_another_run_had_begun_meanwhile(tmp_path: Path) -> None:
    """Both were told that there is nothing in it; the second one is refused and the first one's files stay."""
    first, second = Run(tmp_path / "run", language(), steps=2), Run(tmp_path / "run", language(), steps=2)
    for run in (first, second):
        run.folder.check(resume=False, force=False)
    first.run()
    before = (tmp_path / "run" / STATE).read_bytes()
    with pytest.raises(OutputExists):
        second.run()
    assert (tmp_path / "run" / STATE).read_bytes() == before


def started(program: str, folder: Path) -> subprocess.Popen[bytes]:
    """A process that trains, when it has written its first state."""
    here = Path(__file__).parent
    environment = {"PYTHONPATH": f"{here}:{here.parent}:{here.parent.parent}", "PATH": ""}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # sums depend on it
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)], env=environment)
    deadline = time.monotonic() + 300
    while not (folder / STATE).exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    return process


KILLED = """
import sys, time
from pathlib import Path
import test_train_loop as t
run = t.Run(Path(sys.argv[1]), t.language(), **t.RESUMED)
write = run.folder.write_state
run.folder.write_state = lambda state: (write(state), time.sleep(0.2))
run.run(resume=True)
"""


def test_killed_and_resumed(tmp_path: Path, whole: Run) -> None:
    """kill -9, wherever the process is; and what it was writing is cleaned up."""
    process = started(KILLED, tmp_path / "run")
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    left = tmp_path / "run" / ".best.safetensors.sift-tmp"
    left.mkdir(exist_ok=True)
    (left / "new").write_bytes(b"half of it")
    again = Run(tmp_path / "run", language(), **RESUMED)
    stopped = again.folder.state()
    assert stopped is not None
    assert stopped["step"] < 14
    again.run(resume=True)
    equal(again.folder.state(), whole.folder.state())
    assert not list((tmp_path / "run").glob(".*tmp"))


def test_killed_before_there_was_a_recipe(tmp_path: Path) -> None:
    """What is left of the first moment of a run is no folder of somebody else's."""
    left = tmp_path / "run" / ".recipe.yaml.sift-tmp"
    left.mkdir(parents=True)
    (left / "new").write_bytes(b"half of it")
    run = Run(tmp_path / "run", language(), steps=2)
    run.folder.check(resume=False, force=False)
    run.run()
    assert not left.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    with pytest.raises(OutputUnwritable, match="no run of sift train"):
        Run(tmp_path / "mine", language(), steps=2).folder.check(resume=False, force=False)


def test_killed_while_a_run_is_replaced(tmp_path: Path) -> None:
    """Whatever of the old run is deleted by then, the folder is known as one, so that the next try may replace it."""
    Run(tmp_path / "run", language(), steps=2).run()
    folder = Run(tmp_path / "run", language(), steps=3).folder

    def begin() -> None:
        with folder.written(resume=False, force=True):
            pass

    event = 1
    while forked(begin, tmp_path, event=event).status == signal.SIGKILL:
        folder.check(resume=False, force=True)
        event += 1
    assert event > 15
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", RECIPE]
    folder.check(resume=True, force=False)


@pytest.mark.parametrize(
    "raw", [b"", b"PK\x03\x04", b"\x80\x02cos\nsystem\nq\x00X\x04\x00\x00\x00echoq\x01\x85q\x02Rq\x03."]
)
def test_a_damaged_state(tmp_path: Path, raw: bytes) -> None:
    Run(tmp_path / "run", language(), steps=2).run()
    (tmp_path / "run" / STATE).write_bytes(raw)
    with pytest.raises(Malformed, match=r"state\.pt is damaged"):
        Run(tmp_path / "run", language(), steps=2).run(resume=True)


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_state_runs_no_code(tmp_path: Path) -> None:
    Run(tmp_path / "run", language(), steps=2).run()
    torch.save({"format": "sift.training/1", "step": Runs(tmp_path / "ran")}, tmp_path / "run" / STATE)
    with pytest.raises(Malformed, match=r"state\.pt is damaged"):
        Run(tmp_path / "run", language(), steps=2).run(resume=True)
    assert not (tmp_path / "ran").exists()


def test_a_state_of_something_else(tmp_path: Path) -> None:
    Run(tmp_path / "run", language(), steps=2).run()
    for other in ({"format": "sift.training/1", "step": 1}, {"format": "x"}, [1]):
        torch.save(other, tmp_path / "run" / STATE)
        with pytest.raises(Malformed):
            Run(tmp_path / "run", language(), steps=2).run(resume=True)
    Run(tmp_path / "other", signals(), steps=2).run()
    (tmp_path / "other" / STATE).rename(tmp_path / "run" / STATE)
    with pytest.raises(Malformed, match="does not fit the recipe"):
        Run(tmp_path / "run", language(), steps=2).run(resume=True)


def test_another_recipe(tmp_path: Path) -> None:
    Run(tmp_path / "run", language(), steps=2).run()
    with pytest.raises(PlanError, match=r"of another recipe: optimizer\.lr differs"):
        Run(tmp_path / "run", language(), steps=2, optimizer={**SGD, "lr": 0.2}).run(resume=True)
