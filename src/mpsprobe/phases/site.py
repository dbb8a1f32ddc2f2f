"""Where a run takes place: this machine, the device it uses, and the Mac it is asked about."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mpsprobe.device.real import Device
from mpsprobe.device.select import DeviceUnavailableError, choose, limits
from mpsprobe.mac.asked import Mac
from mpsprobe.phases import availability
from mpsprobe.phases.check import Checks, LinkFailed, Result
from mpsprobe.phases.settings import Settings
from mpsprobe.run import Check, DeviceChoice, Evidence, Host, Phase, Status


@dataclass
class Site:
    """The link of phase 1. Its checks look at it even when the device asked for is not there."""

    setting: availability.Setting
    choice: DeviceChoice
    limits: list[str]
    mac: Mac

    @property
    def device(self) -> Device:
        """The device in use.

        Raises:
            LinkFailed: the one asked for is not to be had.
        """
        if self.setting.device is not None:
            return self.setting.device
        problem = self.setting.unavailable
        assert problem is not None
        raise LinkFailed(
            Phase.AVAILABILITY,
            Result(Status.FAIL, problem.what, problem.hint, evidence=Evidence.MEASURED),
        )


@contextmanager
def open_site(settings: Settings, host: Host) -> Iterator[Site]:
    """Choose the device, and keep it open as long as the run lasts."""
    device: Device | None = None
    unavailable = None
    try:
        device, choice = choose(settings.device, host)
    except DeviceUnavailableError as problem:
        unavailable, choice = problem, DeviceChoice(settings.device, settings.device, problem.what)
    setting = availability.look(host, settings.device, device, dict(os.environ), unavailable)
    mac = Mac(
        torch=setting.torch.version or "",
        macos=host.os_version if host.system == "Darwin" else None,
        chip=host.chip if host.system == "Darwin" else None,
        fallback=os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK", "0") not in ("", "0"),
    )
    yield Site(setting, choice, limits(choice, host) if device is not None else [], mac)


def _spec(name: str, function: Callable[[availability.Setting], Check]) -> None:
    """Take over a check of phase 1 as it is stated there."""
    inner = function.func if isinstance(function, functools.partial) else function

    def found(site: Site) -> Result:
        check = function(site.setting)
        return Result(
            check.status,
            check.message,
            check.remedy,
            evidence=check.evidence,
            device=check.device,
            measurements=check.measurements,
            table=check.table,
            output=check.output,
        )

    CHECKS.add(name, (inner.__doc__ or name).splitlines()[0].rstrip("."))(found)


CHECKS: Checks[Site] = Checks(Phase.AVAILABILITY)
for _name, _function in availability.CHECKS.items():
    _spec(_name.removeprefix("availability."), _function)
