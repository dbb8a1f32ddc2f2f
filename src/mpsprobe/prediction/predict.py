"""The join of a recorded run on ghosts with the tables of a torch release."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

import msgspec
import torch

from mpsprobe.device.virtual.observer import Finding, OpFlag
from mpsprobe.device.virtual.support import unconfirmed
from mpsprobe.errors import UsageError
from mpsprobe.forecast import Wish, build
from mpsprobe.knowledge import environment, ops
from mpsprobe.knowledge.quantisation import other_routes
from mpsprobe.mac.asked import Mac
from mpsprobe.ops.verdicts import Judged, judge
from mpsprobe.prediction.document import (
    HostWait,
    Model,
    PredictedAssumption,
    PredictedFinding,
    PredictedUse,
    Prediction,
    Quantisation,
    ReleaseRow,
    Releases,
    Total,
)
from mpsprobe.prediction.recording import MACOS, Recording, record
from mpsprobe.prediction.target import Target
from mpsprobe.run import Forecast, OpUse, OpVerdict, Outlook
from mpsprobe.trace.source import short_source

#: A kernel of that release runs it, itself or through others.
_NATIVE = (OpVerdict.NATIVE, OpVerdict.COMPOSITE)
#: As plain numbers: operations on enum members would take a tenth of the join.
_RAISED, _REDIRECTED, _ASSUMED, _FOREIGN = (
    int(flag) for flag in (OpFlag.RAISED, OpFlag.REDIRECTED, OpFlag.ASSUMED, OpFlag.FOREIGN)
)


def predict(target: Target, mac: Mac, wish: Wish | None = None) -> Prediction:
    """What `mac` does with `target`; see `predicted`."""
    return predicted(target, mac, wish)[0]


def predicted(target: Target, mac: Mac, wish: Wish | None = None) -> tuple[Prediction, list[OpUse]]:
    """What `mac` does with `target`, and its op uses as a run has them.

    Args:
        target: what is built and run.
        mac: the Mac asked about.
        wish: what memory and time to forecast; None for none.

    Raises:
        MpsprobeError: the target cannot be built or fed, or this machine cannot carry the device.
    """
    release = ops.resolve_release(mac.torch)
    with _no_collection():
        recording = record(target, mac)
        uses = _judged(recording, mac)
        forecast = _forecast(recording, mac, wish) if wish is not None else None
    prediction = Prediction(
        target=_model(target, recording),
        torch=release,
        macos=mac.macos,
        chip=mac.chip,
        memory_gb=mac.memory_gb,
        fallback=mac.fallback,
        installed=installed(),
        op_uses=uses,
        totals=_totals(uses),
        findings=[*_quantised(recording), *_findings(recording.findings)],
        host_waits=[
            HostWait(kind=e.kind, module=e.module, source=e.source, count=e.count, bytes=e.bytes)
            for e in recording.host_events
        ],
        assumptions=[
            PredictedAssumption(
                value=one.value,
                op=one.op,
                source=short_source(one.source),
                count=one.count,
                dependents=[_short_dependent(text) for text in one.dependents],
            )
            for one in recording.assumptions
        ],
        unknowns=unknowns(recording, mac, release),
        stopped=recording.stopped,
        next_step=recording.next_step,
        outlook=Outlook(forecast=forecast),
    )
    return prediction, [use for use, _ in recording.uses]


def _forecast(recording: Recording, mac: Mac, wish: Wish) -> Forecast:
    """Memory and time; after `_judged`, which gives the uses their verdicts."""
    forecast = build(recording.trace, mac, wish, dtypes=recording.dtypes, fed=recording.fed)
    loading = recording.loading
    if forecast.memory is not None and loading is not None and not loading.dense:
        packed = f"packed as in the checkpoint: {loading.quantised.title}"
        forecast.memory.parts = [
            msgspec.structs.replace(part, basis=packed) if part.name == "weights" else part
            for part in forecast.memory.parts
        ]
    if recording.stopped:
        forecast.limits.insert(
            0, "The model's code stopped early: what would have come after is not counted."
        )
    return forecast


def predict_releases(target: Target, mac: Mac) -> Releases:
    """The same for every torch release that there is data on; the release of `mac` does not count.

    Raises:
        MpsprobeError: as `predict` does, or no release opens MPS on that macOS.
    """
    rows: list[ReleaseRow] = []
    model: Model | None = None
    unknown: list[list[str]] = []
    for release in ops.releases():
        row = _closed(release, mac.macos)
        if row is None:
            asked = Mac(release, mac.macos, mac.chip, mac.memory_gb, mac.fallback)
            row, model, texts = _summary(predict(target, asked))
            unknown.append(texts)
        rows.append(row)
    if model is None:
        raise UsageError(f"No torch release opens MPS on macOS {mac.macos}.", "Update macOS.")
    first = None
    for row in reversed(rows):
        if not row.fully_native:
            break
        first = row.torch
    return Releases(
        target=model,
        macos=mac.macos,
        chip=mac.chip,
        memory_gb=mac.memory_gb,
        fallback=mac.fallback,
        installed=installed(),
        releases=rows,
        first_fully_native=first,
        unknowns=[text for text in unknown[-1] if all(text in texts for texts in unknown)],
    )


def _summary(prediction: Prediction) -> tuple[ReleaseRow, Model, list[str]]:
    """What the table over releases needs of one: the op uses of a large model take 200 MB."""
    return _row(prediction), prediction.target, prediction.unknowns


def installed() -> dict[str, str]:
    """Versions of what ran the model's code."""
    return {"torch": str(torch.__version__), "transformers": metadata.version("transformers")}


def unknowns(recording: Recording, mac: Mac, release: str) -> list[str]:
    """What a prediction cannot say, and what it took from the installed packages."""
    versions = installed()
    texts = [
        "Nothing was computed: whether the numbers are right is not predicted. Shares of FLOPs are not shares of "
        "time.",
        f"Which ops a composite op is made of, and their strides, are those of the installed torch "
        f"{versions['torch']}; which of them have an MPS kernel, and what it refuses, are those of the release "
        f"asked about.",
        f"The model's code is that of the installed transformers {versions['transformers']}.",
    ]
    if text := unconfirmed():
        texts.append(text)
    if mac.macos is None:
        texts.append(f"No macOS was given: where rules differ by macOS, those of {MACOS} hold.")
    if mac.memory_gb is None:
        texts.append("No Mac was given: nothing is said of memory.")
    if recording.loading is not None and not recording.loading.dense:
        texts.append(
            "The ops are those of the model with plain weights: what unpacks the quantised ones was not predicted."
        )
    branched = sum(1 for one in recording.assumptions if one.dependents)
    if branched:
        texts.append(
            f"{branched} assumed values decided a branch or a size: see assumptions; "
            "mpsprobe run --device emulated has real ones."
        )
    foreign = sorted({use.op for use, flags in recording.uses if flags & OpFlag.FOREIGN})
    if foreign:
        texts.append(
            f"torch {release} has no op of that name, so it would call others: {', '.join(foreign)}."
        )
    if recording.dropped:
        texts.append(f"{recording.dropped} calls were past the recorder's limit and are not itemised.")
    return texts


# ------------------------------------------------------------------------------------------------------- join


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the cyclic garbage collector.

    A prediction makes some 100,000 objects that stay, beside the million that importing torch and
    transformers made: looking through them again and again takes a third of the whole time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def judged(target: Target, mac: Mac) -> Recording:
    """Return a recording whose uses have their verdicts.

    Raises:
        MpsprobeError: the target cannot be built or fed.
    """
    with _no_collection():
        recording = record(target, mac)
        _judged(recording, mac)
    return recording


def _judged(recording: Recording, mac: Mac) -> list[PredictedUse]:
    """Each op use with its verdict. Layers repeat the same calls, and a verdict depends on the call alone."""
    first: dict[Any, OpUse] = {}
    keys = []
    for use, _ in recording.uses:
        # equal tensors are one object: `tensor_meta` is cached
        key = (use.op, tuple(map(id, use.inputs)), tuple(map(id, use.outputs)), repr(use.scalars))
        keys.append(key)
        first.setdefault(key, use)
    verdicts = dict(zip(first, judge(first.values(), mac), strict=True))
    refused = {(one.op, short_source(one.source)): one for one in recording.findings}
    return [
        _predicted(use, flags, verdicts[key], refused)
        for (use, flags), key in zip(recording.uses, keys, strict=True)
    ]


def _predicted(
    use: OpUse, flags: int, judged: Judged, refused: dict[tuple[str, str], Finding]
) -> PredictedUse:
    verdict, reason = judged.use.verdict, judged.reason
    grade = "certain" if judged.certain else "likely"
    if flags & _RAISED and verdict not in (OpVerdict.RAISES, OpVerdict.FALLBACK):
        # a check of the kernel's own, which the tables of registrations do not know
        verdict = OpVerdict.RAISES
    if verdict is OpVerdict.RAISES and (finding := refused.get((use.op, use.source))) is not None:
        reason, grade = _first_sentence(finding.message), finding.grade.value
    if flags & _FOREIGN:
        reason = "that release has no such op: its code calls others"
    if flags & _REDIRECTED and grade == "certain":
        grade = "likely"
    if flags & _ASSUMED:
        grade = "assumed"
    use.verdict, use.via, use.advisories = verdict, judged.use.via, list(judged.use.advisories)
    return PredictedUse(
        op=use.op,
        dtypes=[one.dtype for one in use.inputs],
        shapes=[one.shape for one in use.inputs],
        strides=[one.strides for one in use.inputs],
        scalars=use.scalars,
        count=use.count,
        module=use.module,
        source=use.source,
        verdict=verdict.value,
        via=judged.use.via,
        reason=reason,
        grade=grade,
        advisories=list(judged.known),
        possible_advisories=[name for name in judged.use.advisories if name not in judged.known],
        flops=use.flops,
        bytes=use.bytes,
    )


def _totals(uses: Iterable[PredictedUse]) -> dict[str, Total]:
    totals = {"all": Total()}
    names: dict[str, set[str]] = {"all": set()}
    for use in uses:
        for group in ("all", use.verdict):
            total = totals.setdefault(group, Total())
            total.op_uses += 1
            total.calls += use.count
            total.flops += use.flops or 0
            total.bytes += use.bytes or 0
            total.uncounted_calls += use.count if use.flops is None else 0
            names.setdefault(group, set()).add(use.op)
    for group, total in totals.items():
        total.ops = len(names[group])
        if totals["all"].flops:
            total.flops_share = total.flops / totals["all"].flops
    return totals


def _findings(findings: Iterable[Finding]) -> list[PredictedFinding]:
    counted = Counter(findings)
    return [
        PredictedFinding(
            kind=one.kind,
            op=one.op,
            message=one.message,
            grade=one.grade.value,
            source=short_source(one.source),
            count=count,
        )
        for one, count in counted.items()
    ]


def _quantised(recording: Recording) -> list[PredictedFinding]:
    """The refusal to load a quantised checkpoint, where there is one."""
    loading = recording.loading
    if loading is None or not loading.raises:
        return []
    return [
        PredictedFinding(
            kind="quantisation",
            op="",
            message=f"Loading the {loading.quantised.title} checkpoint raises {loading.error}",
            grade="certain",
            source="",
            fix=loading.fix,
        )
    ]


def _closed(release: str, macos: str | None) -> ReleaseRow | None:
    """The row of a release that does not open MPS on that macOS at all."""
    answer = environment.macos_allows(release, macos) if macos is not None else None
    if answer is None or answer.ok is not False:
        return None
    return ReleaseRow(
        torch=release,
        op_uses={},
        calls={},
        findings={},
        not_native={},
        fully_native=False,
        stopped=answer.message,
    )


def _row(prediction: Prediction) -> ReleaseRow:
    by_verdict = {verdict: total for verdict, total in prediction.totals.items() if verdict != "all"}
    not_native: dict[str, dict[str, None]] = {}
    for use in prediction.op_uses:
        if use.verdict not in [verdict.value for verdict in _NATIVE]:
            not_native.setdefault(use.verdict, {})[use.op] = None
    return ReleaseRow(
        torch=prediction.torch,
        op_uses={verdict: total.op_uses for verdict, total in by_verdict.items()},
        calls={verdict: total.calls for verdict, total in by_verdict.items()},
        findings=dict(Counter(finding.kind for finding in prediction.findings)),
        not_native={verdict: list(names) for verdict, names in not_native.items()},
        fully_native=prediction.fully_native,
        stopped=prediction.stopped,
    )


def _model(target: Target, recording: Recording) -> Model:
    return Model(
        name=target.name,
        architecture=recording.architecture,
        parameters=recording.parameters,
        weight_bytes=recording.weight_bytes,
        dtypes=recording.dtypes,
        inputs=recording.inputs,
        doing=recording.doing,
        notes=list(dict.fromkeys(recording.notes)),
        quantisation=_quantisation(recording),
    )


def _quantisation(recording: Recording) -> Quantisation | None:
    loading = recording.loading
    if loading is None:
        return None
    return Quantisation(
        method=loading.quantised.title,
        outcome=loading.outcome.value,
        error=loading.error,
        fix=loading.fix,
        checkpoint_bytes=recording.checkpoint_bytes,
        sentences=list(loading.sentences),
        routes=other_routes(loading.quantised),
    )


def _short_dependent(text: str) -> str:
    what, found, source = text.rpartition(" at ")
    return f"{what} at {short_source(source)}" if found else text


def _first_sentence(text: str) -> str:
    line = text.strip().splitlines()[0]
    end = line.find(". ")
    return line[: end + 1] if end > 0 else line
