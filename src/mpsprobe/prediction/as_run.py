"""A prediction as a run: the document that reports are drawn from, with its routes and its recommendation."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from datetime import datetime, timezone

from mpsprobe import __version__, mac
from mpsprobe.knowledge import cloud
from mpsprobe.knowledge.cloud import Cloud
from mpsprobe.prediction.document import Model, PredictedFinding, Prediction, Releases
from mpsprobe.routes.case import Case, Refusal, Release
from mpsprobe.routes.judge import outlook
from mpsprobe.run import DeviceChoice, Forecast, Mac, OpUse, Run, Target

#: Kinds of findings that an op use or the forecast of memory tells already.
_TOLD = ("missing-op", "fallback", "memory")
#: What the device of a prediction is called: no values were computed on any.
DEVICE = "predicted"


def as_run(
    prediction: Prediction,
    uses: Sequence[OpUse],
    *,
    forecast: Forecast | None = None,
    releases: Releases | None = None,
    offers: Cloud | None = None,
    profile: str = "transformers",
    architecture: str = "",
    data_bytes: int | None = None,
) -> Run:
    """The run of a prediction.

    Args:
        prediction: of one torch release.
        uses: its op uses, with their verdicts and results.
        forecast: memory and time; None when nothing was forecast.
        releases: the same target over torch releases; None when only one was asked about.
        offers: GPUs for rent; None for the shipped ones.
        profile: name of the target's profile.
        architecture: `model_type` of its config; empty when there is none.
        data_bytes: of a sample's raw data; None when not known.
    """
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = Run(
        mpsprobe=__version__,
        id=f"{now.replace('-', '').replace(':', '')}-{uuid.uuid4().hex[:4]}",
        started=now,
        ended=now,
        command=["mpsprobe", *sys.argv[1:]],
        target=_target(prediction.target, profile),
        host=mac.host(),
        device=DeviceChoice(DEVICE, DEVICE, "a prediction computes nothing"),
        mac=Mac(
            prediction.torch, prediction.macos, prediction.chip, prediction.memory_gb, prediction.fallback
        ),
        limits=list(prediction.unknowns),
        op_uses=list(uses),
    )
    made.outlook = outlook(
        Case(
            run=made,
            forecast=forecast,
            refusals=refusals(prediction.findings),
            stopped=prediction.stopped,
            releases=over(releases) if releases is not None else (),
            cloud=offers or cloud.shipped(),
            architecture=architecture,
            data_bytes=data_bytes,
        )
    )
    return made


def refusals(findings: Sequence[PredictedFinding]) -> tuple[Refusal, ...]:
    """What the device refuses beside missing ops and memory."""
    told = (one for one in findings if one.kind not in _TOLD)
    return tuple(
        Refusal(one.message.strip().splitlines()[0], one.source, certain=one.grade != "assumed")
        for one in told
    )


def over(releases: Releases) -> tuple[Release, ...]:
    """The rows of a prediction over all releases."""
    return tuple(
        Release(row.torch, row.calls, row.not_native, row.fully_native, row.stopped, row.findings)
        for row in releases.releases
    )


def _target(model: Model, profile: str) -> Target:
    return Target(
        name=model.name,
        profile=profile,
        architecture=model.architecture,
        parameters=model.parameters,
        weight_bytes=model.weight_bytes,
        dtype=", ".join(model.dtypes),
    )
