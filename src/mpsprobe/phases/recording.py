"""The target's op uses, recorded on the device of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mpsprobe.device.emulated import Emulated
from mpsprobe.device.real import Device
from mpsprobe.phases.data import Prepared, move
from mpsprobe.phases.inference import autocast
from mpsprobe.phases.target_code import target_code
from mpsprobe.run import OpUse, Phase
from mpsprobe.trace.dispatch import record
from mpsprobe.trace.recorder import Recorder


def record_uses(prepared: Prepared) -> list[OpUse]:
    """Run the target's own inference once more, with the recorder on.

    Raises:
        LinkFailed: the target raised.
    """
    loaded = prepared.loaded
    device, adapter, model = loaded.device, loaded.adapter, loaded.model
    guard = target_code(Phase.OPS, "recording an inference", device.evidence, device.name)
    with guard, torch.inference_mode(), autocast(loaded.profile, device.torch_device):
        batch = move(adapter.prepare(prepared.sample), device.torch_device)
        with _recording(device, model) as recorder:
            adapter.extract(adapter.infer(model, batch))
            device.synchronize()
    return recorder.op_uses(device.evidence)


@contextmanager
def _recording(device: Device, model: torch.nn.Module) -> Iterator[Recorder]:
    """Record what reaches the device's kernels: told by the virtual device itself, or by a dispatch hook."""
    if isinstance(device, Emulated):
        recorder = Recorder(model)
        with recorder.paths.following(), device.passing_ops_to(recorder):
            yield recorder
    else:
        with record(model) as recorder:
            yield recorder
