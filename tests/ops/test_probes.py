"""Probes answer ok on a sound device, bad on a planted fault, and unknown where only a Mac can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from mpsprobe.knowledge import advisories
from mpsprobe.ops.place import opened
from mpsprobe.ops.probes import PROBES, linear, run
from mpsprobe.ops.probes.registry import Lab, look
from tests.ops.test_replay import setup

pytestmark = pytest.mark.own_process


@pytest.fixture
def lab() -> Lab:
    return Lab(torch.device("cpu"), lambda: None)


def test_probes_and_advisories_name_each_other() -> None:
    assert {advisory.probe for advisory in advisories.load_all() if advisory.probe} == set(PROBES)


@pytest.mark.parametrize("name", PROBES)
def test_a_device_without_the_fault_is_ok(name: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        linear, "_seconds", lambda *_: 1e-3
    )  # no test depends on the time that something takes
    answer = look(PROBES[name], lab)
    assert (answer.answer, answer.message) == ("ok", "")


@pytest.mark.parametrize("device", ["cpu", "emulated"])
def test_only_a_mac_can_tell(device: str) -> None:
    with opened(setup(device)) as place:
        assert {run(name, place).answer for name in PROBES} == {"unknown"}
        assert run("nothing", place).answer == "unknown"


def _packed(original: Callable[..., Any]) -> Callable[..., Any]:
    """Linear as in 2.8.0: it reads a weight that is not contiguous as if it were."""

    def linear(x: torch.Tensor, w: torch.Tensor, *rest: Any) -> torch.Tensor:
        if x.dtype is torch.float64:  # the reference
            return original(x, w, *rest)
        return original(x, w if w.is_contiguous() else w.t().reshape(w.shape), *rest)

    return linear


def _without_bias(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, w, b=None: original(x, w, b if x.dtype is torch.float64 or x.shape[-2] != 1 else None)


def _leaky(original: Callable[..., Any]) -> Callable[..., Any]:
    """Causal attention that applies its mask once per four queries."""

    def attend(q: Any, k: Any, v: Any, **options: Any) -> Any:
        if q.dtype is torch.float64 or not options.get("is_causal"):
            return original(q, k, v, **options)
        rows = torch.arange(q.shape[-2]) // 4 * 4 + 3
        return original(q, k, v, attn_mask=torch.arange(k.shape[-2]) <= rows[:, None])

    return attend


def test_planted_faults_are_bad(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, plant in (("linear-noncontiguous", _packed), ("linear-bias-vector", _without_bias)):
        with monkeypatch.context() as patch:
            patch.setattr(functional, "linear", plant(functional.linear))
            assert look(PROBES[name], lab).answer == "bad", name
    monkeypatch.setattr(linear, "attend", _leaky(functional.scaled_dot_product_attention))
    answer = look(PROBES["sdpa-causal-half"], lab)
    assert answer.answer == "bad"
    assert "wrong" in answer.message


def test_a_slow_call_is_bad(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([8e-3, 1e-3])
    monkeypatch.setattr(linear, "_seconds", lambda *_: next(taken))
    answer = look(PROBES["linear-decode-speed"], lab)
    assert (answer.answer, answer.message) == ("bad", "8 ms instead of 1 ms")


def test_an_error_on_the_device_is_the_fault(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        raise RuntimeError("Output channels > 65536 not supported at the MPS device")

    monkeypatch.setattr(functional, "conv3d", refuse)
    answer = look(PROBES["conv3d"], lab)
    assert answer.answer == "bad"
    assert "65536" in answer.message


def test_a_probe_that_fails_itself_says_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "normal", lambda *_: 1 / 0)
    assert look(PROBES["conv3d"], lab).answer == "unknown"
