"""The oracle builds the larger model itself: the same class from a configuration with the new sizes in it."""

from __future__ import annotations

from typing import Any

import pytest
import tinyhf
import torch
from torch import nn

from sift_cli.core.plan import ResizeAxis, SetConfig
from sift_cli.errors import PlanError
from sift_cli.models import build, load, parse_architecture
from sift_cli.surgery import apply_edits, prove_config
from sift_cli.surgery.configured import changed, rebuilt

#: Sizes that the tiny model gets, by the key of its configuration.
WIDER: dict[str, dict[str, int]] = {
    "gpt2": {"n_embd": 44},
    "llama": {"hidden_size": 44, "intermediate_size": 68, "head_dim": 12},
    "t5": {"d_model": 45, "d_kv": 11, "d_ff": 91},
    "bert": {"hidden_size": 44, "intermediate_size": 91},
    "vit": {"hidden_size": 44, "intermediate_size": 91},
}


def sizes(config: dict[str, Any], wider: dict[str, int]) -> dict[int, set[int]]:
    return {config[key]: {new} for key, new in wider.items()}


@pytest.mark.parametrize("kind", tinyhf.CONFIGS)
def test_the_configuration_of_a_wider_model_is_found(kind: str) -> None:
    model = tinyhf.make(kind)
    wide = tinyhf.make(kind, **WIDER[kind])
    config = model.config.to_dict()
    found = prove_config(model, wide, sizes(config, WIDER[kind]))
    assert found is not None
    # A number nothing depends on may be proposed with its width; those that shapes depend on have to be right.
    assert {key: found[key] for key in WIDER[kind]} == {key: (config[key], new) for key, new in WIDER[kind].items()}
    edit = SetConfig(found)
    assert {n: t.shape for n, t in build_changed(model, edit).state_dict().items()} == {
        n: t.shape for n, t in wide.state_dict().items()
    }


def build_changed(model: nn.Module, edit: SetConfig) -> nn.Module:
    from sift_cli.core.plan import Architecture
    from sift_cli.models.sources.transformers import portable

    config = changed(portable(model.config), edit.changes)
    return build(Architecture("transformers", type(model).__name__, {"config": config}), device="meta")


def test_a_width_that_followed_from_another_is_given() -> None:
    model, wide = tinyhf.make("gpt2"), tinyhf.make("gpt2", n_embd=44, n_inner=100)
    assert prove_config(model, wide, {32: {44}, 128: {100}}) == {"n_embd": (32, 44), "n_inner": (None, 100)}


def test_numbers_that_are_no_widths_stay() -> None:
    same = {"vocab_size": 32, "max_position_embeddings": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model, wide = tinyhf.make("bert", **same), tinyhf.make("bert", **same, hidden_size=44)
    assert prove_config(model, wide, {32: {44}}) == {"hidden_size": (32, 44)}


def test_no_configuration_is_none() -> None:
    model, odd = tinyhf.make("bert"), tinyhf.make("bert")
    layer = odd.get_submodule("bert.encoder.layer.1.intermediate.dense")
    layer.weight = nn.Parameter(torch.zeros(91, 32))  # one layer of two: no number of the configuration says that
    assert prove_config(model, odd, {64: {91}}) is None
    assert prove_config(nn.Linear(2, 2), nn.Linear(2, 3), {2: {3}}) is None


def test_what_is_computed_from_sizes_follows() -> None:
    model = tinyhf.make("llama")
    grown = [
        ResizeAxis(name, axis, size, WIDTHS[size])
        for name, parameter in model.named_parameters()
        for axis, size in enumerate(parameter.shape)
        if size in WIDTHS
    ]
    widths = {"hidden_size": (32, 48), "intermediate_size": (48, 72), "head_dim": (8, 12)}
    wide, _ = apply_edits(model, [*grown, SetConfig(widths)])
    theirs = tinyhf.make("llama", hidden_size=48, intermediate_size=72, head_dim=12)
    assert torch.equal(wide.get_buffer("model.rotary_emb.inv_freq"), theirs.get_buffer("model.rotary_emb.inv_freq"))
    attention: Any = wide.get_submodule("model.layers.0.self_attn")
    assert (attention.head_dim, attention.scaling) == (12, 12**-0.5)
    assert wide.config.hidden_size == 48  # type: ignore[union-attr]
    assert torch.equal(
        wide.get_parameter("model.embed_tokens.weight")[:, :32], model.get_parameter("model.embed_tokens.weight")
    )
    assert not wide.get_parameter("model.embed_tokens.weight")[:, 32:].any()
    assert model.config.hidden_size == 32  # type: ignore[union-attr]
    wide.load_state_dict(theirs.state_dict())
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(wide(input_ids=ids).logits, theirs(input_ids=ids, use_cache=False).logits)


#: Of the tiny Llama: width, width of keys and values, width inside.
WIDTHS = {32: 48, 16: 24, 48: 72}


def test_ties_stay() -> None:
    model = tinyhf.make("gpt2")
    same = rebuilt(model, SetConfig({"n_inner": (None, 128)}))
    assert same.get_parameter("lm_head.weight") is same.get_parameter("transformer.wte.weight")
    assert same.get_parameter("lm_head.weight") is model.get_parameter("lm_head.weight")


@pytest.mark.parametrize(
    "changes",
    [
        {"n_embd": (32, 44)},  # the tensors have other sizes
        {"n_embd": (33, 44)},
        {"no_such_key": (32, 44)},
        {"n_embd.deeper": (32, 44)},
        {"n_layer": (2, 2**30)},
    ],
)
def test_changes_that_do_not_fit_are_refused(changes: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(PlanError):
        rebuilt(tinyhf.make("gpt2"), SetConfig(changes))


def test_a_model_without_a_configuration_is_refused() -> None:
    with pytest.raises(PlanError, match="which has none"):
        rebuilt(nn.Linear(2, 2), SetConfig({"n_embd": (2, 3)}))


def test_on_meta_it_stays_on_meta() -> None:
    model = load("transformers:gpt2", weights=False).module
    same = rebuilt(model, SetConfig({"n_inner": (None, 3072)}))
    assert all(tensor.is_meta for tensor in same.state_dict().values())
    assert parse_architecture("transformers:gpt2").kwargs["config"]["n_inner"] is None
