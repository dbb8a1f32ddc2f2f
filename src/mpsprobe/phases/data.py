"""Phase 5: one sample, processed on the CPU and moved to the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mpsprobe.device.real import Device
from mpsprobe.device.virtual.observer import Finding
from mpsprobe.models.adapter import Batch
from mpsprobe.phases.check import Checks, LinkFailed, Result, Stopwatch
from mpsprobe.phases.refusals import collected, keeps_going, unless_refused
from mpsprobe.phases.target_code import target_code
from mpsprobe.phases.transfer import NEVER_MOVED, Loaded, lacked, lacking_text, same_bits
from mpsprobe.run import Evidence, Measurement, MeasurementKey, Phase, Status, Table
from mpsprobe.trace.dispatch import watched


@dataclass
class Prepared:
    """The link of phase 5: a loaded model and a sample on its device.

    Attributes:
        loaded: The model that the sample is for.
        sample: The raw input.
        cpu: The processed input on the CPU.
        device_batch: The processed input on the device.
        processing_s: The wall time of processing in seconds.
        moving_s: The wall time of moving in seconds.
        refused: The ops that the device refused while the batch was moved, if it continues past refusals.
    """

    loaded: Loaded
    sample: dict[str, Any]
    cpu: Batch
    device_batch: Batch
    processing_s: float
    moving_s: float
    refused: list[Finding] = field(default_factory=list)

    @property
    def device(self) -> Device:
        """Return the device that the batch was moved to."""
        return self.loaded.device


def tensors(batch: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of nested dicts, lists and tuples with its path: `history.xyz`, `images[0]`."""
    if isinstance(batch, torch.Tensor):
        yield path, batch
    elif isinstance(batch, dict):
        for key, value in batch.items():
            yield from tensors(value, f"{path}.{key}" if path else str(key))
    elif isinstance(batch, (list, tuple)):
        for index, value in enumerate(batch):
            yield from tensors(value, f"{path}[{index}]")


def move(batch: Any, device: torch.device) -> Any:
    """Return a nested batch with its tensors on `device`, and everything else unchanged."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(move(value, device) for value in batch)
    return batch


def prepare(loaded: Loaded, flight: Path | None = None) -> Prepared:
    """Get a sample from the adapter, process it and move it to the device.

    Args:
        loaded: The loaded target.
        flight: The file for the op in flight (see `watched`); None to record none.

    Raises:
        LinkFailed: The adapter raised, moving raised, or the batch holds float64, which MPS lacks, on an `mps` device
            that does not continue past refusals.
    """
    device = loaded.device
    with (
        target_code(Phase.DATA, "preparing a sample", device.evidence, device.name),
        watched(flight),
        Stopwatch() as processing,
    ):
        sample = loaded.adapter.sample()
        cpu = loaded.adapter.prepare(sample)
    doubles = {name: tensor.dtype for name, tensor in tensors(cpu) if tensor.dtype is NEVER_MOVED}
    if doubles and device.torch_device.type == "mps" and not keeps_going(device):
        # Checked here, because the device's own error does not name the tensor.
        raise LinkFailed(Phase.DATA, _lacking(loaded, doubles))
    with (
        target_code(Phase.DATA, "moving the sample to the device", device.evidence, device.name),
        watched(flight),
        collected(device) as refused,
        Stopwatch() as moving,
    ):
        device_batch = move(cpu, device.torch_device)
        device.synchronize()
    return Prepared(loaded, sample, cpu, device_batch, processing.seconds, moving.seconds, refused)


def _lacking(loaded: Loaded, tensors_lacking: Mapping[str, torch.dtype]) -> Result:
    return loaded.result(
        Status.FAIL,
        f"{', '.join(tensors_lacking)}: {lacking_text(tensors_lacking.values())}.",
        "Cast on the CPU before the move: tensor.to(torch.float32).",
    )


CHECKS: Checks[Prepared] = Checks(Phase.DATA)


@CHECKS.add("prepare", "A sample is processed and moved to the device", link=True)
def _prepare(prepared: Prepared) -> Result:
    moved = dict(tensors(prepared.device_batch))
    lines = [f"{len(moved)} tensors.", *prepared.loaded.adapter.notes]
    result = prepared.loaded.result(Status.PASS, " ".join(lines))
    result.table = Table(
        columns=["tensor", "dtype", "shape", "device"],
        rows=[
            [name, str(t.dtype).removeprefix("torch."), "x".join(map(str, t.shape)), str(t.device)]
            for name, t in moved.items()
        ],
    )
    size = sum(tensor.numel() * tensor.element_size() for tensor in moved.values())
    result.measurements = [
        Measurement.of(
            MeasurementKey.PROCESSING, round(prepared.processing_s, 4), "s", Evidence.MEASURED, "host"
        ),
        prepared.loaded.measured(MeasurementKey.BATCH_SIZE, size, "bytes"),
    ]
    if prepared.device.evidence is Evidence.MEASURED:
        result.measurements.append(
            prepared.loaded.measured(MeasurementKey.MOVING, round(prepared.moving_s, 5), "s")
        )
    return unless_refused(Phase.DATA, result, prepared.device, prepared.refused)


@CHECKS.add("dtypes", "No tensor of the batch has a dtype that MPS cannot hold")
def _dtypes(prepared: Prepared) -> Result:
    lacks = lacked(prepared.device)
    found = {name: tensor.dtype for name, tensor in tensors(prepared.cpu) if tensor.dtype in lacks}
    if found:  # for float64 on mps the link has already failed
        return _lacking(prepared.loaded, found)
    return prepared.loaded.result(Status.PASS)


@CHECKS.add("moved", "What is on the device equals what was sent, bit for bit")
def _moved(prepared: Prepared) -> Result:
    wanted = prepared.device.torch_device.type
    sent = dict(tensors(prepared.cpu))
    for name, tensor in tensors(prepared.device_batch):
        if tensor.device.type != wanted:
            return prepared.loaded.result(Status.FAIL, f"{name} is on {tensor.device}, not on {wanted}.")
        # float64 is refused; where the run continues, float32 replaces it, which data.dtypes reports
        if not same_bits(tensor.cpu(), sent[name].to(tensor.dtype)):
            return prepared.loaded.result(Status.FAIL, f"{name} changed on its way to the device.")
    return prepared.loaded.result(Status.PASS)


@CHECKS.add("repeatable", "Preparing the same sample again gives the same batch")
def _repeatable(prepared: Prepared) -> Result:
    again = dict(tensors(prepared.loaded.adapter.prepare(prepared.sample)))
    first = dict(tensors(prepared.cpu))
    if again.keys() != first.keys():
        return prepared.loaded.result(Status.FAIL, f"Other tensors: {sorted(again.keys() ^ first.keys())}.")
    differing = [name for name, tensor in first.items() if not same_bits(tensor, again[name])]
    if differing:
        return prepared.loaded.result(
            Status.FAIL,
            f"{', '.join(differing)} differ.",
            "The processor consumes its input or draws random numbers: build the batch anew, with a seed.",
        )
    return prepared.loaded.result(Status.PASS)
