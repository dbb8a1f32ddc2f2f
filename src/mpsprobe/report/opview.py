"""Group op uses into rows, worst verdict first. Calls that differ only in layer or size share a row."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from mpsprobe import quantities
from mpsprobe.knowledge import advisories
from mpsprobe.quantities import enumerate_words, plural
from mpsprobe.report.templating import clean
from mpsprobe.report.wording import EVIDENCE, VERDICT, Word
from mpsprobe.run import Evidence, OpUse, OpVerdict, TensorMeta

#: Verdicts that a user has to act on.
TROUBLE = (OpVerdict.RAISES, OpVerdict.WRONG, OpVerdict.FALLBACK, OpVerdict.UNKNOWN)

#: The verdicts of calls that are known not to run correctly on the GPU.
BREAKS = tuple(verdict for verdict in TROUBLE if verdict is not OpVerdict.UNKNOWN)

_NOTE = "A verdict is looked up for the target Mac; the evidence beside it tells how the use itself is known."

_INDEX = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass(frozen=True)
class FaultMark:
    """A known fault that op uses meet: its number on the page, its id, its title and the address of its source.

    Title and link are empty where this version does not know an id, such as that of a later document.
    """

    number: str
    advisory: str
    title: str
    link: str


@dataclass(frozen=True)
class OpRow:
    """The calls of one op from one line of code, in one or several layers and sizes."""

    verdict: Word
    op: str
    signature: str
    count: str
    module: str
    source: str
    via: str
    advisories: str
    evidence: Word
    faults: tuple[FaultMark, ...] = ()


@dataclass(frozen=True)
class VerdictShare:
    """The share of a run's calls that has one verdict. `left` and `width` are per cent of the bar."""

    verdict: Word
    uses: str
    calls: str
    left: str
    width: str


@dataclass(frozen=True)
class OpTable:
    """Rows with a title, and the known faults that they meet, each once.

    `modules` and `ways` tell whether any row fills those columns: others are left out.
    """

    title: str
    rows: tuple[OpRow, ...]
    modules: bool
    ways: bool
    faults: tuple[FaultMark, ...] = ()


def op_table(title: str, rows: tuple[OpRow, ...]) -> OpTable:
    """Return a table of op uses, with the two flags on its optional columns set by its rows."""
    return OpTable(
        title,
        rows,
        modules=any(row.module for row in rows),
        ways=any(row.via or row.advisories for row in rows),
        faults=tuple(dict.fromkeys(one for row in rows for one in row.faults)),
    )


@dataclass(frozen=True)
class OpUses:
    """The op uses of a run as a template prints them.

    Attributes:
        summary: The number of op uses, in one sentence.
        note: A sentence that explains the evidence shown beside a verdict.
        shares: One share for each verdict that occurs, worst first; bars are by number of calls.
        trouble: The rows that a user has to act on.
        rest: All other rows.
        breaks: The rows of `trouble` whose verdict is not `unknown`.
        tables: A table of `trouble` and one of `rest`, without those that have no rows.
        shown: The first `limit` rows of `trouble` and `rest`, for the short reports.
        left_out: A sentence that counts the rows that were not shown.
        faults: The known faults of all rows, each once, in the order of their numbers.
    """

    summary: str
    note: str
    shares: tuple[VerdictShare, ...]
    trouble: tuple[OpRow, ...]
    rest: tuple[OpRow, ...]
    breaks: tuple[OpRow, ...]
    tables: tuple[OpTable, ...]
    shown: tuple[OpRow, ...]
    left_out: str
    faults: tuple[FaultMark, ...] = ()


def op_uses(uses: list[OpUse], limit: int = 40) -> OpUses | None:
    """Return the view of a run's op uses with at most `limit` rows in the short reports; None without op uses."""
    if not uses:
        return None
    order = list(VERDICT)
    groups = _grouped(uses)
    groups.sort(key=lambda group: (order.index(group[0].verdict), -_calls(group), group[0].op))
    faults = _faults(groups)
    trouble = tuple(_row(group, faults) for group in groups if group[0].verdict in TROUBLE)
    rest = tuple(_row(group, faults) for group in groups if group[0].verdict not in TROUBLE)
    shown = (*trouble, *rest)[:limit]
    hidden = len(trouble) + len(rest) - len(shown)
    return OpUses(
        summary=_summary(uses),
        note=_NOTE,
        shares=tuple(_shares(uses)),
        trouble=trouble,
        rest=rest,
        breaks=tuple(row for row in trouble if row.verdict in [VERDICT[each] for each in BREAKS]),
        tables=tuple(
            op_table(f"{title}: {plural(len(rows), 'row')}", rows)
            for title, rows in (
                ("Raises, wrong, falls back or unknown", trouble),
                ("Native or composite", rest),
            )
            if rows
        ),
        shown=shown,
        left_out=f"{plural(hidden, 'more row')} in report.html and run.json" if hidden else "",
        faults=tuple(faults.values()),
    )


def _faults(groups: list[list[OpUse]]) -> dict[str, FaultMark]:
    """Return each known fault that the groups meet by its id, numbered as they come."""
    marks: dict[str, FaultMark] = {}
    for id_ in dict.fromkeys(id_ for group in groups for id_ in group[0].advisories):
        found = advisories.find(id_)
        title, link = (found.title, found.links[0]) if found is not None else ("", "")
        marks[id_] = FaultMark(f"{len(marks) + 1}", clean(id_), clean(title), link)
    return marks


def signature(group: list[OpUse]) -> str:
    """Format dtypes and shapes of the tensor arguments: `bfloat16[1, 128, 64], int64[]`.

    Args:
        group: Op uses with equal dtypes and ranks. A size that differs among them becomes a range: `228..255`.
    """
    together = [[use.inputs[at] for use in group] for at in range(len(group[0].inputs))]
    return ", ".join(f"{metas[0].dtype}[{', '.join(_sizes(metas))}]" for metas in together)


def _sizes(metas: list[TensorMeta]) -> list[str]:
    spans = [(min(sizes), max(sizes)) for sizes in zip(*(meta.shape for meta in metas), strict=True)]
    return [f"{least}" if least == most else f"{least}..{most}" for least, most in spans]


def _grouped(uses: list[OpUse]) -> list[list[OpUse]]:
    """Group uses whose signature or module path differs only in numbers: stacked layers, a growing cache."""
    groups: dict[tuple[object, ...], list[OpUse]] = defaultdict(list)
    for use in uses:
        key = (
            use.op,
            tuple((meta.dtype, len(meta.shape)) for meta in use.inputs),
            _INDEX.sub("*", use.module),
            use.source,
            use.verdict,
            use.via,
            tuple(use.advisories),
            use.evidence,
        )
        groups[key].append(use)
    return list(groups.values())


def _calls(uses: list[OpUse]) -> int:
    return sum(use.count for use in uses)


def _row(group: list[OpUse], faults: dict[str, FaultMark]) -> OpRow:
    first = group[0]
    paths = {use.module for use in group}
    module = first.module if len(paths) == 1 else f"{_INDEX.sub('*', first.module)} ({len(paths)} modules)"
    return OpRow(
        verdict=VERDICT[first.verdict],
        op=clean(first.op),
        signature=clean(signature(group)),
        count=f"{_calls(group):,}",
        module=clean(module),
        source=clean(first.source),
        via=clean(first.via),
        advisories=clean(", ".join(first.advisories)),
        evidence=EVIDENCE[first.evidence],
        faults=tuple(faults[id_] for id_ in first.advisories),
    )


def _shares(uses: list[OpUse]) -> list[VerdictShare]:
    total = _calls(uses) or 1
    shares, left = [], 0.0
    for verdict, word in VERDICT.items():
        group = [use for use in uses if use.verdict is verdict]
        if not group:
            continue
        width = 100 * _calls(group) / total
        shares.append(
            VerdictShare(
                verdict=word,
                uses=plural(len(group), "use"),
                calls=plural(_calls(group), "call"),
                left=f"{left:.3f}",
                width=f"{width:.3f}",
            )
        )
        left += width
    return shares


def _summary(uses: list[OpUse]) -> str:
    ops = len({use.op for use in uses})
    text = f"{plural(len(uses), 'op use')} of {plural(ops, 'op')}, {plural(_calls(uses), 'call')} in all"
    known_as = {evidence: sum(use.evidence is evidence for use in uses) for evidence in Evidence}
    text += f" ({enumerate_words([f'{n:,} {evidence.value}' for evidence, n in known_as.items() if n])})."
    if known := [use.flops for use in uses if use.flops is not None]:
        work = quantities.scaled_flops(sum(known))
        text += f" Arithmetic: {work}, from the {plural(len(known), 'use')} with a known formula."
    if moved := [use.bytes for use in uses if use.bytes is not None]:
        text += (
            f" Least memory traffic: {quantities.decimal_size(sum(moved))}, from {plural(len(moved), 'use')}."
        )
    return text
