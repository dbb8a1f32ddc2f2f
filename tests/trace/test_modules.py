"""Module paths against `named_modules()` and against what is plainly called from where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mpsprobe.trace.dispatch import record
from mpsprobe.trace.modules import ModulePaths
from tests.trace.zoo import llama


class Scale(nn.Module):
    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> Any:
        return x * self.factor


class Tied(nn.Module):
    """Encoder and decoder share one embedding, as T5's do."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"embed": nn.Embedding(8, 4), "head": nn.Linear(4, 4)})
        self.decoder = nn.ModuleDict({"embed": self.encoder["embed"], "head": nn.Linear(4, 4)})
        self.branches: Any = nn.ModuleList([Branch(self.encoder["embed"]) for _ in range(2)])

    def forward(self, tokens: torch.Tensor) -> Any:
        return self.branches[0](tokens) + self.branches[1](tokens)


class Branch(nn.Module):
    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, tokens: torch.Tensor) -> Any:
        return self.embed(tokens)


def modules_of(op: str, model: nn.Module | dict[str, nn.Module] | None, run: object) -> list[str]:
    assert callable(run)
    with torch.no_grad(), record(model) as recorder:
        run()
    return [use.module for use in recorder.op_uses() if use.op == op]


def test_every_path_is_one_of_the_model() -> None:
    model = llama()
    tokens = torch.arange(3, 13)[None]
    with torch.no_grad(), record(model) as recorder:
        model.generate(tokens, max_new_tokens=3, do_sample=False, pad_token_id=0)
    paths = {use.module for use in recorder.op_uses()}
    assert paths <= {name for name, _ in model.named_modules()}
    assert {"", "model", "model.rotary_emb", "model.layers.1.self_attn.q_proj", "lm_head"} <= paths


def test_linear_layers_are_named_after_themselves() -> None:
    model = llama()
    wanted = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    seen = modules_of("aten::mm", model, lambda: model(torch.arange(3, 13)[None]))
    assert sorted(seen) == sorted(wanted)


def test_a_shared_module_has_the_path_of_its_caller() -> None:
    model = Tied()
    paths = modules_of("aten::embedding", model, lambda: model(torch.tensor([1, 2])))
    assert paths == ["branches.0.embed", "branches.1.embed"]


def test_several_models_are_told_apart() -> None:
    parts: dict[str, nn.Module] = {"unet": Scale(), "vae": Scale(3.0)}
    x = torch.ones(2)
    assert modules_of("aten::mul.Tensor", parts, lambda: [part(x) for part in parts.values()]) == [
        "unet",
        "vae",
    ]


def test_a_model_that_was_not_named_goes_by_its_class() -> None:
    model = nn.Sequential(Scale(), Scale(3.0))
    assert modules_of("aten::mul.Tensor", None, lambda: model(torch.ones(2))) == [
        "Sequential.0",
        "Sequential.1",
    ]


def test_modules_made_in_a_forward_pass_do_not_pile_up() -> None:
    class Careless(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return Scale()(x)

    model, x = Careless(), torch.ones(2)
    with torch.no_grad(), record(model) as recorder:
        for _ in range(20):
            model(x)
    (use,) = recorder.op_uses()
    assert (use.module, use.count) == ("Scale", 20)
    assert len(list(recorder.paths.nodes())) == 3  # outside, Careless, Scale


def test_an_exception_leaves_the_stack_in_order() -> None:
    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            raise ValueError("planted")

    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.failing = nn.Sequential(Failing())
            self.scale = Scale()

        def forward(self, x: torch.Tensor) -> Any:
            with pytest.raises(ValueError, match="planted"):
                self.failing(x)
            return self.scale(x + 1)

    model = Catching()
    with torch.no_grad(), record(model) as recorder:
        model(torch.ones(2))
        torch.ones(2).exp()
    modules = {use.op: use.module for use in recorder.op_uses()}
    assert modules == {"aten::ones": "", "aten::add.Tensor": "", "aten::mul.Tensor": "scale", "aten::exp": ""}


def test_hooks_still_run_and_see_the_module() -> None:
    model = nn.Sequential(Scale())
    seen = []
    model[0].register_forward_hook(lambda module, *_: seen.append(module))
    with record(model):
        model(torch.ones(2))
    assert seen == [model[0]]


def test_a_wrapper_put_on_top_of_ours_survives_it() -> None:
    original = nn.Module.__call__
    with ModulePaths().following():
        ours = nn.Module.__call__

        def theirs(self: nn.Module, *args: object, **kwargs: object) -> object:
            return ours(self, *args, **kwargs)

        nn.Module.__call__ = theirs  # type: ignore[method-assign]
    try:
        assert nn.Module.__call__ is theirs
        assert torch.equal(Scale()(torch.ones(2)), torch.full((2,), 2.0))
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]
