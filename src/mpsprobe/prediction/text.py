"""A prediction for people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from mpsprobe.knowledge import advisories
from mpsprobe.prediction import outlook_text
from mpsprobe.prediction.document import Model, PredictedUse, Prediction, Releases
from mpsprobe.prediction.layout import listed as _listed
from mpsprobe.prediction.layout import scaled as _scaled
from mpsprobe.prediction.layout import table as _table
from mpsprobe.run import OpVerdict

_ORDER = [verdict.value for verdict in OpVerdict]
_FINE = (OpVerdict.NATIVE.value, OpVerdict.COMPOSITE.value)


def of_prediction(prediction: Prediction) -> str:
    """The whole text."""
    parts = [
        _head(prediction.target),
        _mac(prediction.torch, prediction.macos, prediction.chip, prediction.fallback),
        _quantisation(prediction.target),
        _verdicts(prediction),
        _not_native(prediction.op_uses),
        _findings(prediction),
        _advisories(prediction.op_uses),
        _assumptions(prediction),
        outlook_text.of_outlook(prediction.outlook),
        _listed("Not known", [*prediction.unknowns, *outlook_text.limits(prediction.outlook)]),
    ]
    if prediction.stopped and prediction.next_step:
        parts.insert(
            2,
            f"It ended early, on the input that was made up for it: {prediction.stopped}. {prediction.next_step}. "
            "What follows ends there.",
        )
    elif prediction.stopped:
        parts.insert(2, f"The model's own code stopped: {prediction.stopped}. What follows ends there.")
    return "\n\n".join(part for part in parts if part)


def of_releases(releases: Releases) -> str:
    """The table over all releases."""
    shown = [v for v in _ORDER if any(v in row.op_uses for row in releases.releases)]
    rows = []
    for row in releases.releases:
        cells = [f"{row.op_uses.get(v, 0):,} / {row.calls.get(v, 0):,}" for v in shown]
        refused = ", ".join(f"{kind} {count}" for kind, count in row.findings.items())
        rows.append([row.torch, *cells, refused or "-", "yes" if row.fully_native else "no"])
    table = _table(["torch", *shown, "refused", "fully native"], rows)
    lines = []
    for row in releases.releases:
        for verdict, names in row.not_native.items():
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            lines.append(f"{row.torch}: {verdict} {', '.join(names[:6])}{more}")
        if row.stopped:
            lines.append(f"{row.torch}: stopped: {row.stopped}")
    first = releases.first_fully_native
    verdict = (
        f"Fully native from torch {first} on."
        if first
        else f"Not fully native on any release up to {releases.releases[-1].torch}."
    )
    parts = [
        _head(releases.target),
        _mac("", releases.macos, releases.chip, releases.fallback),
        _quantisation(releases.target),
        f"op uses / calls by verdict\n{table}",
        _listed("Not native", lines),
        verdict,
        _listed("Not known", releases.unknowns),
    ]
    return "\n\n".join(part for part in parts if part)


def _head(model: Model) -> str:
    dtypes = ", ".join(f"{dtype} {_billions(count)}" for dtype, count in model.dtypes.items())
    lines = [
        f"{model.architecture} ({model.name}): {_billions(model.parameters)} parameters, "
        f"{_scaled(model.weight_bytes)}B ({dtypes})",
        f"  ran    {model.doing}",
    ]
    lines += [f"  input  {one}" for one in model.inputs]
    lines += [f"  note   {one}" for one in model.notes]
    return "\n".join(lines)


def _mac(torch: str, macos: str | None, chip: str | None, fallback: bool) -> str:
    facts = [
        f"torch {torch}" if torch else "every torch release",
        f"macOS {macos}" if macos else "macOS not given",
        chip or "chip not given",
        f"PYTORCH_ENABLE_MPS_FALLBACK {'set' if fallback else 'not set'}",
    ]
    return f"Predicted for {', '.join(facts)}."


def _quantisation(model: Model) -> str:
    found = model.quantisation
    if found is None:
        return ""
    lines = [
        *found.sentences,
        *([f"Fix: {found.fix}."] if found.fix else []),
        f"Its weights take {_scaled(found.checkpoint_bytes)}B in the checkpoint.",
        *found.routes,
    ]
    return _listed(f"Quantised checkpoint ({found.method})", lines)


def _verdicts(prediction: Prediction) -> str:
    rows = []
    for verdict in (*_ORDER, "all"):
        total = prediction.totals.get(verdict)
        if total is not None:
            share = "-" if total.flops_share is None else f"{total.flops_share:.2%}"
            rows.append([verdict, total.ops, f"{total.op_uses:,}", f"{total.calls:,}", share])
    table = _table(["verdict", "ops", "op uses", "calls", "FLOPs"], rows)
    everything = prediction.totals["all"]
    counted = f"{_scaled(everything.flops)}FLOP in all"
    if everything.uncounted_calls:
        counted += f", not counting {everything.uncounted_calls:,} calls without a formula"
    return f"{table}\n{counted}."


def _not_native(uses: Iterable[PredictedUse]) -> str:
    """Op uses that do not run on the GPU, one line for each op, line of code and kind of module."""
    groups: dict[tuple[str, str, str, str, str], list[PredictedUse]] = {}
    for use in uses:
        if use.verdict not in _FINE:
            key = (use.verdict, use.op, use.source, _pattern(use.module), use.reason)
            groups.setdefault(key, []).append(use)
    lines = []
    for (verdict, op, source, module, reason), members in groups.items():
        calls = sum(use.count for use in members)
        where = f" in {module}" if module else ""
        grade = "" if members[0].grade == "certain" else f" [{members[0].grade}]"
        lines.append(f"{verdict}{grade}: {op}, {calls:,} calls at {source or '?'}{where}: {reason}")
    lines.sort(key=lambda line: _ORDER.index(re.split(r"[: ]", line)[0]), reverse=True)
    return _listed("Not native", lines)


def _findings(prediction: Prediction) -> str:
    """Refusals that no op use carries: while building, of memory, of devices."""
    told = {(use.op, use.source) for use in prediction.op_uses if use.verdict not in _FINE}
    lines = [
        f"{one.kind} [{one.grade}]{f' {one.op}' if one.op else ''}{f' at {one.source}' if one.source else ''}"
        f"{f' ({one.count} times)' if one.count > 1 else ''}: {one.message.strip().splitlines()[0]}"
        for one in prediction.findings
        if (one.op, one.source) not in told and one.kind != "quantisation"
    ]
    return _listed("Refused", lines)


def _advisories(uses: Sequence[PredictedUse]) -> str:
    met, possible = Counter[str](), Counter[str]()
    for use in uses:
        for name in use.advisories:
            met[name] += use.count
        for name in use.possible_advisories:
            possible[name] += use.count
    lines = [f"{name} ({calls:,} calls): {advisories.by_id(name).title}" for name, calls in met.most_common()]
    if possible:
        lines.append(
            f"{len(possible)} more may apply, depending on macOS, chip or a mode: {', '.join(possible)}"
        )
    return _listed("Advisories", lines)


def _assumptions(prediction: Prediction) -> str:
    lines = [
        f"{one.value}, for {one.op} at {one.source or '?'}"
        + (f"; decided {', '.join(one.dependents[:3])}" if one.dependents else "")
        for one in sorted(prediction.assumptions, key=lambda one: not one.dependents)
    ]
    return _listed("Assumed values", lines)


def _pattern(module: str) -> str:
    """`model.layers.*.mlp` for all layers."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", module)


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"
