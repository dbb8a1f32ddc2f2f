"""What the virtual device's kernel reports, played by hand."""

from __future__ import annotations

import torch
from torch import nn

from mpsprobe.run import Evidence
from mpsprobe.trace.dispatch import HostEvent, RecorderObserver
from mpsprobe.trace.recorder import Recorder

aten = torch.ops.aten


class Syncing(nn.Module):
    def __init__(self, observer: RecorderObserver) -> None:
        super().__init__()
        self.observer = observer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.observer.op(aten.exp.default, (x,), {}, x.exp(), 8)
        for _ in range(3):
            self.observer.sync("item")
            self.observer.crossing(16, "to-host")
        return x


def test_ops_syncs_crossings_and_findings_are_kept() -> None:
    recorder = Recorder()
    observer = RecorderObserver(recorder)
    model = nn.Sequential(Syncing(observer))
    with recorder.paths.following():
        model(torch.ones(4))
    observer.finding("the finding")
    ((use, flags),) = recorder.flagged_uses(Evidence.EMULATED)
    assert (use.op, use.module, flags) == ("aten::exp", "Sequential.0", 8)
    here = "tests/trace/test_virtual_calls.py"
    first = use.source.removeprefix(f"{here}:")
    assert observer.host_events() == [
        HostEvent("item", "Sequential.0", f"{here}:{int(first) + 2}", 3, 0),
        HostEvent("to-host", "Sequential.0", f"{here}:{int(first) + 3}", 3, 48),
    ]
    assert observer.findings == ["the finding"]
