"""From the options of `mpsprobe predict` to its text and document."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch as installed_torch

from mpsprobe import mac as machines
from mpsprobe import report
from mpsprobe.device.virtual.rules.contract import parse_macos
from mpsprobe.device.virtual.support import FALLBACK_AT_START
from mpsprobe.forecast import Wish
from mpsprobe.forecast.calibration import machines as calibrated
from mpsprobe.mac.asked import Mac, ask
from mpsprobe.mac.lineup import named
from mpsprobe.options import Settings
from mpsprobe.prediction import text
from mpsprobe.prediction.as_run import as_run
from mpsprobe.prediction.document import Prediction, Releases
from mpsprobe.prediction.predict import predict_releases, predicted
from mpsprobe.prediction.target import resolve


def run(
    settings: Settings,
    *,
    every_release: bool = False,
    tokens: int | None,
    calibration: Path | None,
    output: Path | None,
    say: Callable[[str], None],
) -> tuple[str, Prediction | Releases, bool]:
    """Predict.

    Args:
        settings: what is built and run, and for which Mac.
        every_release: predict for every torch release instead of the settings' one.
        tokens: new tokens that memory and time are forecast for; None for those that were run.
        calibration: file of `mpsprobe calibrate`; None for the one in its usual place, if there is one.
        output: folder for the reports of the prediction as a run; None for none.
        say: is told what foreign code will run, before it does.

    Returns:
        The text for people, the document, and whether nothing falls back, raises or is wrong (on any
        release, where all are asked about).
    """
    macos, mac = settings.macos, settings.mac
    if macos is not None:
        parse_macos(macos)
    asked: Mac = ask(
        machines.host(),
        str(installed_torch.__version__),  # a str of its own kind, which JSON has none for
        name=mac,
        torch=settings.torch,
        macos=macos,
        fallback=FALLBACK_AT_START if settings.fallback is None else settings.fallback,
    )
    target = resolve(settings, say)
    releases = predict_releases(target, asked) if every_release else None
    if releases is not None and output is None:
        return _all(releases)
    wish = Wish(
        mac=named(mac, macos) if mac is not None else None,
        tokens=tokens if tokens is not None else settings.new_tokens,
        workload=settings.workload,
        calibrated=calibrated(calibration),
    )
    prediction, uses = predicted(target, asked, wish)
    if mac is not None or output is not None:
        run_of_it = as_run(target, prediction, uses, releases=releases)
        if run_of_it.outlook is not None:
            prediction.outlook = run_of_it.outlook
        if output is not None:
            written = report.write(run_of_it, output)
            say(f"report: {written['html']}")
    if releases is not None:
        return _all(releases)
    return text.of_prediction(prediction), prediction, prediction.fully_native


def _all(releases: Releases) -> tuple[str, Releases, bool]:
    """The answer on every release."""
    return text.of_releases(releases), releases, all(row.fully_native for row in releases.releases)
