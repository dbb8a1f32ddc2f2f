"""Record the target's op uses on the device of the run."""

from __future__ import annotations

from dataclasses import dataclass

from mpsprobe.device.emulated import Emulated
from mpsprobe.models.adapter import token_limit
from mpsprobe.phases.data import Prepared, move
from mpsprobe.phases.inference import autocast
from mpsprobe.phases.target_code import target_code
from mpsprobe.run import OpUse, Phase
from mpsprobe.trace.dispatch import HostEvent, RecorderObserver, record
from mpsprobe.trace.recorder import Recorder


@dataclass(frozen=True)
class Recording:
    """The op uses and host events of one inference on the device of the run.

    Attributes:
        uses: The distinct op uses.
        host_events: The waits of the host for the device and the copies between them; None where the device does
            not report them.
        token_limit: The largest token limit that the model's config states; None when it states none.
        autocast: Whether the profile requests autocast.
    """

    uses: list[OpUse]
    host_events: list[HostEvent] | None
    token_limit: int | None = None
    autocast: bool = False


def record_inference(prepared: Prepared) -> Recording:
    """Run the target's own inference once more under the recorder.

    Raises:
        LinkFailed: The target raised.
    """
    loaded = prepared.loaded
    device, adapter, model = loaded.device, loaded.adapter, loaded.model

    limit, under_autocast = token_limit(model), bool(loaded.profile.autocast)

    def infer() -> None:
        adapter.extract(adapter.infer(model, batch))
        device.synchronize()

    guard = target_code(Phase.OPS, "recording an inference", device.evidence, device.name)
    with guard, adapter.grad_mode, autocast(loaded.profile, device.torch_device):
        batch = move(adapter.prepare(prepared.sample), device.torch_device)
        if isinstance(device, Emulated):  # its kernels report what reaches them
            observer = RecorderObserver(Recorder(model))
            with observer.recorder.paths.following(), device.observed_by(observer):
                infer()
            return Recording(
                observer.recorder.op_uses(device.evidence), observer.host_events(), limit, under_autocast
            )
        with record(model) as recorder:
            infer()
        return Recording(recorder.op_uses(device.evidence), None, limit, under_autocast)
