"""One run of a model for many releases: its answer is that of a run for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from mpsprobe.device.virtual.rules.contract import Contract
from mpsprobe.knowledge import ops
from mpsprobe.models import profile
from mpsprobe.models.adapter import Weights
from mpsprobe.models.weightless.from_config import Blueprint
from mpsprobe.models.weightless.random_init import RandomInitAdapter
from mpsprobe.prediction import assemble
from mpsprobe.prediction.command import predict_each, predict_releases
from mpsprobe.prediction.observed import WeightlessTarget
from mpsprobe.run import Mac, Run
from tests.prediction.test_predict import _FAMILIES, _target

pytestmark = [pytest.mark.own_process, pytest.mark.filterwarnings("ignore")]

_HALF = {"LlamaForCausalLM", "MixtralForCausalLM", "Qwen3VLForConditionalGeneration", "BertModel"}


def _answer(run: Run) -> Any:
    return msgspec.to_builtins([run.op_uses, run.predicted, run.limits])


def _compared(target: WeightlessTarget, mac: Mac) -> tuple[list[str], list[str]]:
    """Return the releases whose joined answer is not that of a run of its own, and those that the model ran under.

    Of the latter, only the newest is compared.
    """
    steps: list[str] = []
    joined = {
        release: _answer(run) for release, run in predict_each(target, mac, ops.releases(), steps.append)
    }
    runs = [text.split()[1].strip(",") for text in steps]
    assert runs[0] == ops.releases()[-1]
    assert sorted(joined) == sorted(ops.releases())
    alone = {
        release: _answer(assemble.predict(target, msgspec.structs.replace(mac, torch=release)))
        for release in joined
        if release not in runs[1:]
    }
    return [release for release in alone if joined[release] != alone[release]], runs


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config"), _FAMILIES, ids=[name for name, _ in _FAMILIES])
def test_the_joined_answer_is_that_of_separate_runs(name: str, config: dict[str, Any]) -> None:
    target = _target(name, config, "bfloat16" if name in _HALF else "auto")
    differing, runs = _compared(target, Mac("2.13", "15.5", fallback=False))
    assert differing == []
    assert len(runs) < len(ops.releases())


class _Rare(nn.Module):
    """Calls what the releases answer differently, in words or in deed."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(size, size)

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        return {"x": torch.linspace(0, 1, 400 * 400, device="cpu").view(400, 400)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        torch.linalg.svdvals(x[:4, :4])
        torch.linalg.lu_factor(x[:4, :4])
        x.argsort(stable=True)
        x.to(torch.complex64).abs()
        x.to(torch.uint16)
        x.new_zeros(3).to(torch.float64) + 1
        with torch.autocast("mps", torch.bfloat16):
            self.layer(x)
        heads = x.view(1, 4, 10, -1)
        nn.functional.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.1)
        nn.functional.scaled_dot_product_attention(heads, heads[:, :2], heads[:, :2], enable_gqa=True)
        nn.functional.interpolate(x.view(1, 1, 10, 10, -1), scale_factor=2.0)
        x.untyped_storage().share_memory_()
        torch.bincount(torch.ones(4, dtype=torch.int64, device=x.device))
        return x.isneginf().sum() + torch.isin(x, x[0]).sum()


@pytest.mark.parametrize("fallback", [False, True])
def test_rare_answers_are_asked_too(fallback: bool) -> None:
    adapter = RandomInitAdapter(Path(), profile.load("transformers"), Blueprint("rare", _Rare, {"size": 400}))
    adapter.weights = Weights.NONE
    target = WeightlessTarget("rare", adapter, "float32")
    differing, runs = _compared(target, Mac("2.13", "15.5", fallback=fallback))
    assert differing == []
    assert len(runs) > 1


def test_memory_that_ends_is_told_in_the_words_of_each_release() -> None:
    name, config = _FAMILIES[0]
    large = _target(name, {**config, "intermediate_size": 40_000_000})
    assert _compared(large, Mac("2.13", "15.5", memory_gb=8, fallback=False))[0] == []


def test_a_rule_that_is_not_asked_is_found_by_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Contract, "ask", lambda *_: None)
    name, config = _FAMILIES[0]
    assert _compared(_target(name, config, "bfloat16"), Mac("2.13", "15.5", fallback=False))[0] != []


def test_closed_releases_keep_their_places() -> None:
    name, config = _FAMILIES[0]
    table = predict_releases(_target(name, config), Mac("2.13", "13.3", fallback=False)).predicted
    assert table is not None
    assert [row.torch for row in table.releases] == list(ops.releases())
    assert [row.torch for row in table.releases if row.stopped] == list(ops.releases())[-7:]
