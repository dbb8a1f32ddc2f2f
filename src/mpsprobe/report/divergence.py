"""Draw a layer-by-layer comparison as a page: the first module that diverges, and how far each exceeds its limit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mpsprobe.layers.result import Divergence, FirstDivergence, Judged, Layer, Verdict
from mpsprobe.quantities import enumerate_words, plural
from mpsprobe.report.checkview import Grid, grid
from mpsprobe.report.templating import clean, fill
from mpsprobe.report.wording import EVIDENCE, STATUS, Word
from mpsprobe.run import Status, Table

#: The number of bars in the chart, and the smallest ratio that it distinguishes from zero.
_BARS, _SMALLEST = 40, 1e-3

#: CSS class of a module's bar: the colours of statuses.
_KEYS = {
    Verdict.MAKES: "raises",
    Verdict.CARRIES: "fallback",
    Verdict.SOUND: "native",
    Verdict.UNKNOWN: "unknown",
}

_MEANINGS = {
    Verdict.MAKES: "makes the error: beyond its limit although it was given the reference's own inputs",
    Verdict.CARRIES: "carries an error of what ran before it",
    Verdict.SOUND: "within its limit",
    Verdict.UNKNOWN: "could not be compared",
}


@dataclass(frozen=True)
class LayerBar:
    """One module: its path, the text beside its bar, the bar's length in per cent and its CSS class."""

    name: str
    text: str
    width: str
    key: str


@dataclass(frozen=True)
class DivergencePage:
    """The texts and figures of the page about a layer-by-layer comparison.

    Attributes:
        title: The title of the page.
        status: Whether anything diverges.
        sentence: The answer in one sentence.
        evidence: The word for the evidence of the subject's values.
        sides: The names of the reference and of the subject.
        cause: Sentences about the first module that diverges.
        chart: The bars, worst first.
        description: The chart in one sentence.
        limit: The position at which a bar reaches the limit, in per cent.
        left_out: The number of modules without a bar, as a sentence; empty when all have one.
        layers: All modules, in the order of their paths.
        outputs: The named results; None when there are none.
        notes: Sentences that state when a layer counts as diverging, and what was not compared.
    """

    title: str
    status: Word
    sentence: str
    evidence: Word
    sides: str
    cause: tuple[str, ...]
    chart: tuple[LayerBar, ...]
    description: str
    limit: str
    left_out: str
    layers: Grid
    outputs: Grid | None
    notes: tuple[str, ...]


def html(found: Divergence) -> str:
    """Return the comparison as one self-contained HTML page."""
    return fill("divergence.html.j2", page=divergence_page(found))


def divergence_page(found: Divergence) -> DivergencePage:
    """Return the page about a layer-by-layer comparison: the answer, the cause, the bars and the tables."""
    worst = [(layer, judged) for layer in found.layers if (judged := _worst(layer)) is not None]
    ratios = [judged.ratio for _, judged in worst if judged.ratio is not None and math.isfinite(judged.ratio)]
    top = max([10.0, *ratios])
    scale = 100 / (math.log10(top) - math.log10(_SMALLEST))
    chart = tuple(_bar(layer, judged, scale) for layer, judged in worst[:_BARS])
    summary = enumerate_words([f"{bar.name} {bar.text}" for bar in chart[:5]])
    subject, reference = found.subject, found.reference
    return DivergencePage(
        title=clean(f"mpsprobe: {found.target}: layer by layer"),
        status=STATUS[Status.FAIL if found.diverges else Status.PASS],
        sentence=clean(_sentence(found)),
        evidence=EVIDENCE[subject.evidence],
        sides=clean(
            f"{subject.label}, torch {subject.torch or 'unknown'}, against {reference.label}, "
            f"torch {reference.torch or 'unknown'}."
        ),
        cause=tuple(map(clean, _cause(found.first))) if found.first else (),
        chart=chart,
        description=clean(f"Error of each module, as a multiple of its limit, worst first: {summary}."),
        limit=f"{-math.log10(_SMALLEST) * scale:.3f}",
        left_out=f"{plural(len(worst) - _BARS, 'more module')} in the table, none worse."
        if len(worst) > _BARS
        else "",
        layers=grid(_table(found.layers)),
        outputs=grid(_outputs(found)) if found.outputs else None,
        notes=tuple(map(clean, dict.fromkeys([*found.criterion, *found.notes]))),
    )


def _worst(layer: Layer) -> Judged | None:
    return max(
        (judged for judged in (layer.local, layer.accumulated) if judged is not None),
        key=lambda judged: judged.rank,
        default=None,
    )


def _bar(layer: Layer, judged: Judged, scale: float) -> LayerBar:
    ratio = judged.ratio
    if ratio is None or not math.isfinite(ratio):
        text, width = judged.problem or "not a number", 0.0 if judged.excused else 100.0
    else:
        text = f"{ratio:.3g} of its limit" if ratio <= 1 else f"{ratio:.3g} times its limit"
        width = (math.log10(max(ratio, _SMALLEST)) - math.log10(_SMALLEST)) * scale
    name = f"{layer.module or 'the model itself'} ({layer.stage})"
    return LayerBar(clean(name), clean(text), f"{max(width, 0.4):.3f}", _KEYS[layer.verdict])


def _sentence(found: Divergence) -> str:
    if found.first is not None:
        name = found.first.module or "the model itself"
        kind = f" ({found.first.kind})" if found.first.kind else ""
        return (
            f"{found.target}: {name}{kind} is the first module whose values diverge, in {found.first.stage}"
        )
    if found.diverges:
        return f"{found.target}: no module diverges, but a result does: what comes after the model makes the difference"
    return f"{found.target}: nothing diverges beyond the noise floor"


def _cause(first: FirstDivergence) -> list[str]:
    judged, said = first.judged, []
    if judged.problem:
        said.append(f"{judged.place}: {judged.problem}.")
    elif judged.ratio is not None:
        said.append(
            f"{judged.place}: error {judged.error:.2g}, limit {judged.limit:.2g}, {judged.ratio:.3g} times it."
        )
    said.append(f"It {_MEANINGS[first.verdict]}.")
    if first.op_uses:
        calls = list(
            dict.fromkeys(f"`{use.op}`{f' at {use.source}' if use.source else ''}" for use in first.op_uses)
        )
        said.append(f"Its code calls {enumerate_words(calls[:6])}{' and more' if len(calls) > 6 else ''}.")
    said += [f"Known fault that its calls meet: `mpsprobe advisories {name}`." for name in first.advisories]
    return said


def _table(layers: Sequence[Layer]) -> Table:
    ordered = sorted(layers, key=lambda layer: (layer.stage, _natural(layer.module)))
    return Table(
        [
            "module",
            "class",
            "stage",
            "calls",
            "own error",
            "error with all before",
            "times its limit",
            "verdict",
        ],
        [
            [
                layer.module or "(the model)",
                layer.kind,
                layer.stage,
                layer.calls,
                _error(layer.local),
                _error(layer.accumulated),
                f"{worst.ratio:.2g}" if worst is not None and worst.ratio is not None else "",
                _MEANINGS[layer.verdict].partition(":")[0],
            ]
            for layer in ordered
            for worst in [_worst(layer)]
        ],
    )


def _natural(path: str) -> list[tuple[bool, int, str]]:
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"\.", path)]


def _error(judged: Judged | None) -> str:
    if judged is None:
        return ""
    return judged.problem or f"{judged.error:.2g}"


def _outputs(found: Divergence) -> Table:
    rows: list[list[str | int | float | bool | None]] = []
    for row in found.outputs:
        said = row.problem or (
            "the same" if row.same else "differs" if row.error is None else f"error {row.error:.2g}"
        )
        verdict = "diverges" if row.diverges else "within its limit" if row.judged else "not judged"
        rows.append([row.stage, row.name, said, f"{row.limit:.2g}" if row.limit is not None else "", verdict])
    return Table(["stage", "result", "found", "limit", "verdict"], rows)
