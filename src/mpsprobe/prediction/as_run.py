"""A prediction as a run: the document that reports are drawn from, with its routes and its recommendation."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mpsprobe import __version__, mac
from mpsprobe.knowledge import cloud
from mpsprobe.knowledge.cloud import Cloud
from mpsprobe.models.adapter import Adapter
from mpsprobe.models.weightless.random_init import RandomInitAdapter
from mpsprobe.prediction.document import Model, PredictedFinding, Prediction, Releases
from mpsprobe.prediction.target import Target as Resolved
from mpsprobe.routes.case import Case, Refusal, Release
from mpsprobe.routes.judge import outlook
from mpsprobe.run import DeviceChoice, Mac, OpUse, Run, Target
from mpsprobe.run.journal import new_run_id, utc_now

#: Kinds of findings that an op use or the forecast of memory tells already.
_TOLD = ("missing-op", "fallback", "memory")
#: What the device of a prediction is called: no values were computed on any.
DEVICE = "predicted"


def as_run(
    target: Resolved,
    prediction: Prediction,
    uses: Sequence[OpUse],
    *,
    releases: Releases | None = None,
    offers: Cloud | None = None,
) -> Run:
    """The run of a prediction, with its routes.

    Args:
        target: what was predicted.
        prediction: of one torch release, with its forecast where one was made.
        uses: its op uses, with their verdicts and results.
        releases: the same target over torch releases; None when only one was asked about.
        offers: GPUs for rent; None for those in force.
    """
    now = utc_now()
    made = Run(
        mpsprobe=__version__,
        id=new_run_id(now),
        started=now,
        ended=now,
        command=["mpsprobe", *sys.argv[1:]],
        target=_target(prediction.target, target),
        host=mac.host(),
        device=DeviceChoice(DEVICE, DEVICE, "a prediction computes nothing"),
        mac=Mac(
            prediction.torch, prediction.macos, prediction.chip, prediction.memory_gb, prediction.fallback
        ),
        limits=[
            _scope(prediction.target),
            *prediction.target.notes,
            *_quantisation(prediction.target),
            *prediction.unknowns,
        ],
        op_uses=list(uses),
    )
    made.outlook = outlook(
        Case(
            run=made,
            forecast=prediction.outlook.forecast,
            refusals=refusals(prediction.findings),
            stopped=prediction.stopped,
            next_step=prediction.next_step,
            assumed=any(one.dependents for one in prediction.assumptions),
            releases=over(releases) if releases is not None else (),
            cloud=offers or cloud.current(),
            architecture=_architecture(target.adapter),
        )
    )
    return made


def refusals(findings: Sequence[PredictedFinding]) -> tuple[Refusal, ...]:
    """What the device refuses beside missing ops and memory."""
    told = (one for one in findings if one.kind not in _TOLD)
    return tuple(
        Refusal(one.message.strip().splitlines()[0], one.source, one.grade != "assumed", one.fix)
        for one in told
    )


def over(releases: Releases) -> tuple[Release, ...]:
    """The rows of a prediction over all releases."""
    return tuple(
        Release(
            row.torch,
            row.calls,
            row.not_native,
            row.fully_native,
            row.stopped,
            {kind: count for kind, count in row.findings.items() if kind not in _TOLD},
        )
        for row in releases.releases
    )


def _quantisation(model: Model) -> list[str]:
    return [*model.quantisation.sentences, *model.quantisation.routes] if model.quantisation else []


def _scope(model: Model) -> str:
    """What was run, on what: a run's checks tell it, and a prediction has none."""
    return f"What was run: {model.doing}. Its input: {'; '.join(model.inputs) or 'none'}."


def _architecture(adapter: Adapter) -> str:
    """`model_type` of the target's config; empty when it has none."""
    config = adapter.blueprint.config if isinstance(adapter, RandomInitAdapter) else None
    return str(getattr(config, "model_type", "") or "")


def _target(model: Model, resolved: Resolved) -> Target:
    return Target(
        name=model.name,
        profile=resolved.adapter.profile.name,
        architecture=model.architecture,
        parameters=model.parameters,
        weight_bytes=model.weight_bytes,
        dtype=", ".join(model.dtypes),
        **resolved.plan,
    )
