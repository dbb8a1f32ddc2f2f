"""Make a prediction: run a target on memoryless tensors, and join its op uses with the tables of a torch release."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib import metadata
from typing import Any

import msgspec
import torch
from packaging.version import Version

from mpsprobe import __version__
from mpsprobe import mac as facts
from mpsprobe.device.virtual.observer import Finding, OpFlag
from mpsprobe.device.virtual.support import unconfirmed
from mpsprobe.forecast import ForecastOptions, build
from mpsprobe.forecast.build import epoch, training_rates
from mpsprobe.knowledge import cloud_prices, ops
from mpsprobe.knowledge.cloud_prices import Cloud
from mpsprobe.models.adapter import Adapter
from mpsprobe.models.hub import integrity
from mpsprobe.models.training import TrainingAdapter
from mpsprobe.models.weightless import config_only
from mpsprobe.ops.verdicts import JudgedUse, hazards, judge
from mpsprobe.phases import known_bad
from mpsprobe.prediction.fitting import architecture, every_mac
from mpsprobe.prediction.observed import MACOS, Observed, WeightlessTarget, observe
from mpsprobe.routes.case import Case, OnRelease, UnrecordedRefusal
from mpsprobe.routes.commands import words_of
from mpsprobe.routes.mlx.components import held_by
from mpsprobe.routes.recommend import outlook
from mpsprobe.run import (
    AssumedValue,
    DeviceChoice,
    Forecast,
    Hazard,
    Host,
    HostWait,
    Mac,
    OpUse,
    OpVerdict,
    Outlook,
    Phase,
    Predicted,
    Quantisation,
    Refusal,
    Run,
    Target,
    TrainingStep,
)
from mpsprobe.run.journal import new_run_id, utc_now
from mpsprobe.trace.source import short_source

#: Kinds of refusals that an op use or the memory forecast already carries.
_CARRIED = ("missing-op", "fallback", "memory")
#: The device name of a prediction, which computes on no device.
DEVICE = "predicted"
#: Plain integers, because operations on enum members would take a tenth of the join.
_RAISED, _REDIRECTED, _ASSUMED, _FOREIGN = (
    int(flag) for flag in (OpFlag.RAISED, OpFlag.REDIRECTED, OpFlag.ASSUMED, OpFlag.FOREIGN)
)


def predict(
    target: WeightlessTarget,
    mac: Mac,
    wish: ForecastOptions | None = None,
    *,
    routes: bool = False,
    releases: Run | None = None,
    offers: Cloud | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> Run:
    """Predict what `mac` does with `target`.

    Args:
        target: The target to build and run.
        mac: The target Mac.
        wish: The memory and time to forecast; None for no forecast.
        routes: Whether to judge the routes too.
        releases: The same target over torch releases, from `predict_releases`; None when only one was requested.
        offers: The GPUs for rent; None for the price file in use.
        step: A function that is called with the name of each long step when it begins.

    Returns:
        A run with `predicted` set. Its op uses are also stored for the pins of later runs.

    Raises:
        MpsprobeError: The target cannot be built or given an input, or this machine cannot run the emulated
            device.
    """
    release = ops.resolve_release(mac.torch)
    with no_collection():
        step(f"run the model without memory, under the rules of torch {release}")
        seen = observe(target, mac)
        step(f"judge {len(seen.uses):,} op uses for torch {release}")
        known = _judge(seen, mac)
        if wish is not None:
            step("forecast memory and time")
        forecast = _forecast(target, seen, mac, wish) if wish is not None else None
    if target.ref is not None:
        known_bad.remember(target.ref, [use for use, _ in seen.uses], seen.token_limit)
    made = _predicted(target, seen, mac, release, known)
    if package := target.adapter.profile.package:
        places = {use.source for use, _ in seen.uses if use.source}
        made.source = config_only.source_findings(package, release, places)
    if releases is not None and releases.predicted is not None:
        made.releases = releases.predicted.releases
        made.first_fully_native = releases.predicted.first_fully_native
    run = _run(target, seen, made, msgspec.structs.replace(mac, torch=release), facts.host())
    if forecast is not None:
        run.outlook = Outlook(forecast=forecast)
    if routes:
        step("compare the routes")
        run.outlook = _routes(run, made, target, forecast, offers)
        if wish is not None:
            run.outlook.macs = every_mac(
                seen,
                release,
                mac.macos,
                wish,
                mlx=held_by(architecture(target.adapter)),
                training=_step(target.adapter, seen),
                samples=int(target.plan.get("samples", 1)),
            )
    return run


def _predicted(
    target: WeightlessTarget, seen: Observed, mac: Mac, release: str, known: list[Hazard]
) -> Predicted:
    return Predicted(
        doing=seen.doing,
        inputs=seen.inputs,
        notes=list(dict.fromkeys(seen.notes)),
        dtypes=seen.dtypes,
        quantisation=_quantisation(seen),
        refusals=[*_of_weights(target, release), *_quantised(seen), *_refusals(seen.findings)],
        hazards=known,
        host_waits=[
            HostWait(kind=e.kind, module=e.module, source=e.source, count=e.count, bytes=e.bytes)
            for e in seen.host_events
        ],
        assumptions=[
            AssumedValue(
                value=one.value,
                op=one.op,
                source=short_source(one.source),
                count=one.count,
                dependents=[_short_dependent(text) for text in one.dependents],
            )
            for one in seen.assumptions
        ],
        unknowns=unknowns(seen, mac, release),
        stopped=seen.stopped,
        next_step=seen.next_step,
    )


def run_of(target: WeightlessTarget, seen: Observed, mac: Mac, host: Host) -> Run:
    """Return a run made of what a target did, with verdicts on its op uses.

    Args:
        target: The target.
        seen: What it did.
        mac: The target Mac, whose torch must be a release with data.
        host: The facts of this machine.
    """
    known = _judge(seen, mac)
    return _run(target, seen, _predicted(target, seen, mac, mac.torch, known), mac, host)


def _run(target: WeightlessTarget, seen: Observed, made: Predicted, mac: Mac, host: Host) -> Run:
    now = utc_now()
    quantisation = made.quantisation
    return Run(
        mpsprobe=__version__,
        id=new_run_id(now),
        started=now,
        ended=now,
        command=["mpsprobe", *sys.argv[1:]],
        target=Target(
            name=target.name,
            profile=target.adapter.profile.name,
            architecture=seen.architecture,
            parameters=seen.parameters,
            weight_bytes=seen.weight_bytes,
            dtype=", ".join(seen.dtypes),
            training=_step(target.adapter, seen),
            **target.plan,
        ),
        host=host,
        device=DeviceChoice(DEVICE, DEVICE, "a prediction computes nothing"),
        mac=mac,
        limits=[
            f"What was run: {made.doing}. Its input: {'; '.join(made.inputs) or 'none'}.",
            *(one.sentence for one in made.source),
            *made.notes,
            *([*quantisation.sentences, *quantisation.routes] if quantisation else []),
            *made.unknowns,
        ],
        op_uses=[use for use, _ in seen.uses],
        predicted=made,
    )


def _step(adapter: Adapter, seen: Observed) -> TrainingStep | None:
    return adapter.plan.step_of(seen.fed.rows) if isinstance(adapter, TrainingAdapter) else None


def _routes(
    run: Run, made: Predicted, target: WeightlessTarget, forecast: Forecast | None, offers: Cloud | None
) -> Outlook:
    """Return the outlook of a prediction: the verdict on each route and the recommendation."""
    beside = [one for one in made.refusals if one.kind not in _CARRIED]
    return outlook(
        Case(
            run=run,
            forecast=forecast,
            refusals=tuple(
                UnrecordedRefusal(
                    one.message.strip().splitlines()[0], one.source, one.grade != "assumed", one.fix
                )
                for one in beside
            ),
            stopped=made.stopped,
            next_step=made.next_step,
            assumed=any(one.dependents for one in made.assumptions),
            releases=tuple(
                OnRelease(
                    row.torch,
                    row.calls,
                    row.not_native,
                    row.fully_native,
                    row.stopped,
                    {kind: count for kind, count in row.findings.items() if kind not in _CARRIED},
                )
                for row in made.releases
            ),
            cloud=offers or cloud_prices.current(),
            architecture=architecture(target.adapter),
            words=words_of(target.ref.settings) if target.ref is not None else None,
        )
    )


def _forecast(target: WeightlessTarget, seen: Observed, mac: Mac, wish: ForecastOptions) -> Forecast:
    """Forecast memory and time, with the rates and the epoch of a training step.

    `_judge` must come first, because it gives the op uses their verdicts.
    """
    forecast = build(seen.trace, mac, wish, dtypes=seen.dtypes, fed=seen.fed)
    step = _step(target.adapter, seen)
    if step is not None:
        for timing in [*filter(None, [forecast.time]), *forecast.elsewhere]:
            timing.rates = training_rates(timing, seen.fed)
            timing.parts = [
                msgspec.structs.replace(part, name="step") if part.name == "forward" else part
                for part in timing.parts
            ]
        samples = int(target.plan.get("samples", 1))
        if forecast.time is not None and samples > 1:
            forecast.epoch = epoch(forecast.time, samples, step.rows)
            forecast.limits.append(
                "An epoch is its steps: loading data, evaluation and writing checkpoints come on top."
            )
    loading = seen.loading
    if forecast.memory is not None and loading is not None and not loading.dense:
        packed = f"packed as in the checkpoint: {loading.title}"
        forecast.memory.parts = [
            msgspec.structs.replace(part, basis=packed) if part.name == "weights" else part
            for part in forecast.memory.parts
        ]
    if seen.stopped:
        forecast.limits.insert(
            0, "The model's code stopped early: what would have come after is not counted."
        )
    return forecast


def installed() -> dict[str, str]:
    """Return the versions of torch and transformers, the installed packages that ran the model's code, by name."""
    return {"torch": str(torch.__version__), "transformers": metadata.version("transformers")}


def unknowns(seen: Observed, mac: Mac, release: str) -> list[str]:
    """Return sentences on what a prediction cannot show, and on what it takes from installed packages or assumes.

    Args:
        seen: What the target did.
        mac: The target Mac.
        release: The torch release that was predicted.
    """
    versions = installed()
    texts = [
        "No result was computed: whether the numbers are right is not predicted. Shares of FLOPs are not shares of "
        "time.",
        f"Which ops a composite op is made of, and their strides, are those of the installed torch "
        f"{versions['torch']}; which of them have an MPS kernel, and what it refuses, are those of the target "
        f"Mac's release.",
        f"The model's code is that of the installed transformers {versions['transformers']}.",
    ]
    if text := unconfirmed():
        texts.append(text)
    if mac.macos is None:
        texts.append(f"No macOS was given: where rules differ by macOS, {MACOS} is assumed.")
    if mac.memory_gb is None:
        texts.append("No Mac was given: nothing is said of memory.")
    if seen.loading is not None and not seen.loading.dense:
        texts.append(
            "The ops are those of the model with plain weights: what unpacks the quantised ones was not predicted."
        )
    branched = sum(1 for one in seen.assumptions if one.dependents)
    if branched:
        texts.append(
            f"{branched} assumed values decided a branch or a size: see assumptions; "
            "mpsprobe run --device emulated has real ones."
        )
    foreign = sorted({use.op for use, flags in seen.uses if flags & OpFlag.FOREIGN})
    if foreign:
        texts.append(
            f"torch {release} has no op of that name, so it would call others: {', '.join(foreign)}."
        )
    if seen.dropped:
        texts.append(f"{seen.dropped} calls were past the recorder's limit and are not itemised.")
    return texts


# ------------------------------------------------------------------------------------------------------- join


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Switch off the cyclic garbage collector while the context lasts; restore it afterwards.

    A prediction makes some 100,000 lasting objects, in addition to the million that importing torch and
    transformers made. Collecting them again and again would take a third of the whole time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def observed(target: WeightlessTarget, mac: Mac) -> Observed:
    """Run a target once on memoryless tensors, and return what it did, with verdicts on its op uses.

    Raises:
        MpsprobeError: The target cannot be built or given an input.
    """
    with no_collection():
        seen = observe(target, mac)
        _judge(seen, mac)
    return seen


def _judge(seen: Observed, mac: Mac) -> list[Hazard]:
    """Give each op use its verdict, and return the known faults that the op uses meet or may meet.

    Layers repeat the same calls, and a verdict depends only on the call, so each distinct call is judged once.
    """
    first: dict[Any, OpUse] = {}
    keys = []
    for use, _ in seen.uses:
        # equal tensors are one object, because `tensor_meta` is cached
        key = (use.op, tuple(map(id, use.inputs)), tuple(map(id, use.outputs)), repr(use.scalars))
        keys.append(key)
        first.setdefault(key, use)
    judged = judge(first.values(), mac, seen.token_limit, seen.autocast)
    verdicts = dict(zip(first, judged, strict=True))
    known = hazards(
        [replace(verdicts[key], use=use) for (use, _), key in zip(seen.uses, keys, strict=True)],
        seen.token_limit,
    )
    refused = {(one.op, short_source(one.source)): one for one in seen.findings}
    for (use, flags), key in zip(seen.uses, keys, strict=True):
        _join(use, flags, verdicts[key], refused)
    return known


def _join(use: OpUse, flags: int, judged: JudgedUse, refused: dict[tuple[str, str], Finding]) -> None:
    """Write the verdict of the tables, corrected by what the emulated run met, into an op use."""
    verdict, reason = judged.use.verdict, judged.reason
    grade = "certain" if judged.certain else "likely"
    if flags & _RAISED and verdict not in (OpVerdict.RAISES, OpVerdict.FALLBACK):
        # a check inside the kernel, which the tables of registrations do not cover
        verdict = OpVerdict.RAISES
    if verdict is OpVerdict.RAISES and (finding := refused.get((use.op, use.source))) is not None:
        reason, grade = _first_sentence(finding.message), finding.grade.value
    if flags & _FOREIGN:
        reason = "that release has no such op: its code calls others"
    if flags & _REDIRECTED and grade == "certain":
        grade = "likely"
    if flags & _ASSUMED:
        grade = "assumed"
    use.verdict, use.via, use.reason, use.grade = verdict, judged.use.via, reason, grade
    use.advisories = list(judged.use.advisories)
    use.possible_advisories = [name for name in judged.use.advisories if name not in judged.known]


def _refusals(findings: Iterable[Finding]) -> list[Refusal]:
    return [
        Refusal(
            Phase.INFERENCE, one.kind, one.op, one.message, one.grade.value, short_source(one.source), count
        )
        for one, count in Counter(findings).items()
    ]


def _of_weights(target: WeightlessTarget, release: str) -> list[Refusal]:
    """Return the refusals to load a local folder's weight files; empty for a repository, whose files are fetched again.

    Pickles are refused by transformers 4.52 and later where the predicted torch is older than 2.6.
    """
    if target.ref is None or target.ref.folder is None or not target.ref.folder.is_dir():
        return []
    asks = Version(metadata.version("transformers")) >= Version(integrity.ASKS_FOR_IT)
    refused = asks and Version(Version(release).base_version) < Version(integrity.READS_PICKLES)
    return [
        Refusal(
            Phase.TRANSFER, "weights", "", f"from_pretrained raises: {one.what}", "certain", "", fix=one.fix
        )
        for one in integrity.faults(target.ref.folder)
        if not one.pickled or refused
    ]


def _quantised(seen: Observed) -> list[Refusal]:
    """Return a list with the refusal to load a quantised checkpoint; empty if it loads or is not quantised."""
    loading = seen.loading
    if loading is None or not loading.fails:
        return []
    message = f"{loading.stage} the checkpoint ({loading.title}) raises {loading.error}"
    if not loading.raises:
        message = (
            f"Loading the checkpoint ({loading.title}) does not give its weights. {loading.sentences[0]}"
        )
    return [Refusal(Phase.TRANSFER, "quantisation", "", message, "certain", "", fix=loading.fix)]


def _quantisation(seen: Observed) -> Quantisation | None:
    loading = seen.loading
    if loading is None:
        return None
    return Quantisation(
        method=loading.title,
        outcome=loading.outcome.value,
        error=loading.error,
        fix=loading.fix,
        checkpoint_bytes=seen.checkpoint_bytes,
        sentences=list(loading.sentences),
        routes=loading.routes,
        mlx_loads=loading.quantised.mlx and not loading.part,
        packed=not loading.dense,
    )


def _short_dependent(text: str) -> str:
    what, found, source = text.rpartition(" at ")
    return f"{what} at {short_source(source)}" if found else text


def _first_sentence(text: str) -> str:
    line = text.strip().splitlines()[0]
    end = line.find(". ")
    return line[: end + 1] if end > 0 else line
