"""The first link of the chain: this machine and its free memory, the device that it uses, and the target Mac."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import msgspec
import psutil
from torch import nn

from mpsprobe.device.emulated import Emulated
from mpsprobe.device.installed import torch_facts
from mpsprobe.device.real import Device
from mpsprobe.device.select import DeviceUnavailableError, choose, limits, why_mps_unavailable
from mpsprobe.mac import environment_at_start
from mpsprobe.mac.catalogue import target_mac
from mpsprobe.mac.unavailable import TorchFacts, Unavailability, why_no_mps
from mpsprobe.options import Settings
from mpsprobe.phases.check import LinkFailed, Result
from mpsprobe.quantities import decimal_size
from mpsprobe.run import DeviceChoice, Evidence, Host, Mac, Phase, Status


@dataclass(frozen=True)
class Availability:
    """The link of phase 1. Its checks examine it even when the requested device is unavailable.

    Attributes:
        host: The facts of this machine, including those that only torch can read.
        mac: The target Mac; by default this machine, if it is a Mac.
        choice: The device requested, the device used (the same when it is unavailable), and the reason.
        limits: Sentences that state what the results of the run do not show.
        found: The device; None when the requested one is unavailable.
        unavailable: The reason why it is unavailable; None when it is available.
        no_mps: The reason why MPS does not compute here; None where it computes, or where torch finds it and
            another device was requested.
        torch: The facts of the installed torch.
        env: The environment variables now.
        env_at_start: The environment variables at the start of the process; None when unknown.
    """

    host: Host
    mac: Mac
    choice: DeviceChoice
    limits: list[str]
    found: Device | None
    unavailable: DeviceUnavailableError | None
    no_mps: Unavailability | None
    torch: TorchFacts
    env: Mapping[str, str]
    env_at_start: Mapping[str, str] | None

    @property
    def device(self) -> Device:
        """Return the device of the run, on which later links are made.

        Raises:
            LinkFailed: The requested device is unavailable.
        """
        if self.found is None:
            raise LinkFailed(Phase.AVAILABILITY, self.missing())
        return self.found

    def missing(self) -> Result:
        """Return a failed result with the reason why the requested device is unavailable; only for such a site."""
        assert self.unavailable is not None
        return Result(Status.FAIL, self.unavailable.what, self.unavailable.hint, evidence=Evidence.MEASURED)


@contextmanager
def open_site(settings: Settings, host: Host) -> Iterator[Availability]:
    """Choose the device, gather the facts for phase 1, and keep the device open while the block runs.

    An unavailable device does not raise here, so that phase 1 can report all it knows. `Availability.device` raises
    for the links that need a device.

    Args:
        settings: The options that name the device and the target Mac.
        host: The facts of this machine.

    Yields:
        The link of phase 1.
    """
    requested = settings.device
    facts = torch_facts()
    mac = target_mac(
        host,
        facts.version or "",
        name=settings.mac,
        torch=settings.torch,
        macos=settings.macos,
        fallback=_fallback_at_start() if settings.fallback is None else settings.fallback,
    )
    found: Device | None
    unavailable: DeviceUnavailableError | None
    try:
        found, choice = choose(
            requested, host, emulated=lambda: Emulated(mac, keep_going=settings.keep_going)
        )
        unavailable = None
    except DeviceUnavailableError as problem:
        found, choice, unavailable = None, DeviceChoice(requested, requested, problem.what), problem
    host = _with_device(host, found)
    site = Availability(
        host=host,
        mac=mac,
        choice=choice,
        limits=limits(choice, host) if found is not None else [],
        found=found,
        unavailable=unavailable,
        # Trying MPS in a child process takes seconds, so it is done only where the answer decides.
        no_mps=why_mps_unavailable(host) if requested in ("auto", "mps") else why_no_mps(host, facts),
        torch=facts,
        env=dict(os.environ),
        env_at_start=environment_at_start(),
    )
    with found.opened() if isinstance(found, Emulated) else nullcontext():
        yield site


def _fallback_at_start() -> bool:
    """Return whether PYTORCH_ENABLE_MPS_FALLBACK was on when the process started, which is when PyTorch reads it.

    Where the environment at the start is unknown, the present one counts.
    """
    value = (environment_at_start() or os.environ).get("PYTORCH_ENABLE_MPS_FALLBACK", "0")
    return value.strip().isdigit() and int(value) != 0


def _with_device(host: Host, device: Device | None) -> Host:
    """Return the host's facts with those that torch knows of a real device: the GPU's name, the working set."""
    if device is None or device.evidence is not Evidence.MEASURED:
        return host
    limit = device.memory().limit if device.name == "mps" else None
    return msgspec.structs.replace(
        host,
        gpu=host.gpu or device.gpu,
        working_set_bytes=limit or host.working_set_bytes,
    )


#: The share of the free memory that a copy may take.
_SHARE = 0.8


def fits(nbytes: int) -> bool:
    """Return whether a copy of that many bytes fits in the host's available memory, with a fifth of it to spare."""
    return nbytes <= _SHARE * psutil.virtual_memory().available


def float32_bytes(model: nn.Module) -> int:
    """Return the size in bytes of the parameters of a float32 copy."""
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def no_room_for_reference(model: nn.Module) -> str:
    """Return a sentence with the memory that a model's float32 reference needs and the memory that is available."""
    needed, available = float32_bytes(model), psutil.virtual_memory().available
    return f"A float32 reference needs {decimal_size(needed)}, {decimal_size(available)} are available."
