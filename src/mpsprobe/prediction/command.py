"""Make a prediction from options, as `mpsprobe predict` and `mpsprobe.predict` do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch as installed_torch

from mpsprobe import mac as machines
from mpsprobe.device.virtual.rules.contract import parse_macos
from mpsprobe.device.virtual.support import FALLBACK_AT_START, require
from mpsprobe.forecast import Wish
from mpsprobe.forecast.calibration import machines as calibrated
from mpsprobe.mac.catalogue import named, target_mac
from mpsprobe.models import late_imports
from mpsprobe.options import Settings
from mpsprobe.prediction import assemble
from mpsprobe.prediction.observed import resolve
from mpsprobe.prediction.releases import predict_releases
from mpsprobe.run import Run


def predict(
    settings: Settings,
    *,
    every_release: bool = False,
    tokens: int | None = None,
    calibration: Path | None = None,
    routes: bool = True,
    say: Callable[[str], None] = lambda _: None,
    step: Callable[[str], None] = lambda _: None,
) -> Run:
    """Predict a target.

    Args:
        settings: The target and the target Mac.
        every_release: Whether to predict for every torch release; the run then has `predicted.releases`.
        tokens: The number of new tokens for which memory and time are forecast; None for those that were run.
        calibration: A file of `mpsprobe calibrate`; None for the one in its usual place, if there is one.
        routes: Whether to judge the routes; with `every_release`, the release of the settings is then
            predicted for them.
        say: A function that is called with the foreign code that will run, before it does.
        step: A function that is called with the name of each long step when it begins.

    Raises:
        MpsprobeError: The target cannot be built or given an input, or this machine cannot run the virtual
            device.
    """
    require(memoryless=True)  # before the installed torch stands for that of the target Mac
    macos, mac = settings.macos, settings.mac
    if macos is not None:
        parse_macos(macos)
    meant = target_mac(
        machines.host(),
        str(installed_torch.__version__),  # a subclass of str, which JSON cannot encode
        name=mac,
        torch=settings.torch,
        macos=macos,
        fallback=FALLBACK_AT_START if settings.fallback is None else settings.fallback,
    )
    late_imports.postpone()
    step("find the model and its config")
    target = resolve(settings, say)
    releases = predict_releases(target, meant, step) if every_release else None
    if releases is not None and not routes:
        return releases
    wish = Wish(
        mac=named(mac, macos) if mac is not None else None,
        tokens=tokens if tokens is not None else settings.new_tokens,
        workload=settings.workload,
        calibrated=calibrated(calibration),
    )
    return assemble.predict(target, meant, wish, routes=routes, releases=releases, step=step)
