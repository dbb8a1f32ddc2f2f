"""The hybrid route: develop on the Mac, with some ops on its CPU, and rent a GPU for final runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mpsprobe.knowledge import chips, ops
from mpsprobe.quantities import decimal_size, enumerate_words, plural, rough, seconds
from mpsprobe.routes import commands, mps
from mpsprobe.routes.case import Case
from mpsprobe.routes.cloud import Quote
from mpsprobe.run import Fit, OpUse, OpVerdict, Route, Table, TensorMeta, Viability
from mpsprobe.trace.formulas.traffic import is_strided, item_bytes, stored_elements

_OFF_GPU = (OpVerdict.FALLBACK, OpVerdict.RAISES, OpVerdict.WRONG)
_INDEX = re.compile(r"(?<=\.)\d+(?=\.|$)")
_SHOWN = 20


@dataclass(frozen=True)
class Region:
    """A module, or a line outside any module, whose ops should run on the CPU.

    Attributes:
        module: The path of the module, with `*` for layer numbers; empty for code outside modules.
        source: The place of its first op as `file:line`.
        ops: Those of its ops that are not native.
        calls: The number of calls of these ops.
        bytes: The bytes that are copied when each of these calls runs on the CPU; None when a size is unknown.
        cpu: Whether the CPU has a kernel for each of these ops.
    """

    module: str
    source: str
    ops: tuple[str, ...]
    calls: int
    bytes: int | None
    cpu: bool

    @property
    def name(self) -> str:
        """Return the module, or the line outside modules, that a user would move to the CPU."""
        return self.module or self.source or "code outside modules"


def regions(case: Case) -> list[Region]:
    """Return the regions whose ops fall back, raise or give wrong values, those with the most calls first."""
    groups: dict[tuple[str, str], list[OpUse]] = {}
    for use in case.uses:
        if use.verdict in _OFF_GPU:
            module = _INDEX.sub("*", use.module)
            groups.setdefault((module, "" if module else use.source), []).append(use)
    found = [_region(module, uses, case.mac.torch) for (module, _), uses in groups.items()]
    return sorted(found, key=lambda one: -one.calls)


def crossing(uses: Iterable[OpUse]) -> int | None:
    """Return the bytes of inputs and results to copy when each call runs on the CPU; None when a size is unknown."""
    total = 0
    for use in uses:
        for tensor in (*use.inputs, *use.outputs):
            size_ = _bytes(tensor)
            if size_ is None:
                return None
            total += size_ * use.count
    return total


def copying_seconds(case: Case) -> float | None:
    """Return the least time of copying the tensors of all calls that leave the GPU; None when unknown."""
    found, bandwidth = regions(case), _bandwidth(case)
    known = [region.bytes for region in found if region.bytes is not None]
    # host and GPU share one memory, which a copy reads and writes
    return 2 * sum(known) / bandwidth if bandwidth and len(known) == len(found) else None


def route(case: Case, judgement: mps.Judgement, quote: Quote | None) -> Route:
    """Return the hybrid route as a report shows it, with a table of the ops to leave on the CPU.

    Args:
        case: The case to judge.
        judgement: The verdict on the MPS route.
        quote: The rented GPU for final runs; None when none is known to hold the target.
    """
    found = regions(case)
    tables = {"What to leave on the CPU": _table(found)} if found else {}
    viability, sentence = _verdict(case, judgement, found, quote)
    return Route(
        name="hybrid",
        viability=viability,
        sentence=sentence,
        reasons=[*_crossings(case, found), *_final_runs(case, quote)],
        evidence=case.evidence,
        tables=tables,
        commands=[]
        if quote is None or viability is Viability.NO
        else commands.of_hybrid(case, quote.offer.name),
    )


def _verdict(
    case: Case, judgement: mps.Judgement, found: Sequence[Region], quote: Quote | None
) -> tuple[Viability, str]:
    if not case.uses:
        return Viability.UNKNOWN, "No op uses are known, so nothing can be divided."
    if judgement.fit is Fit.NO:
        return Viability.NO, "Leaving parts on the CPU does not help: on a Mac it shares the GPU's memory."
    stuck = [one for one in judgement.certain_stops if not one.fix]
    if any(not region.cpu for region in found) or stuck:
        return Viability.NO, "Some of it runs neither on the GPU nor on the CPU."
    if found:
        names = enumerate_words([region.name for region in found[:3]])
        more = f" and {plural(len(found) - 3, 'other place')}" if len(found) > 3 else ""
        rented = f"; final runs go to a rented {quote.offer.gpu}" if quote is not None else ""
        return Viability.CHANGES, f"Left on the CPU: {names}{more}; all other ops are native{rented}."
    if judgement.viability is Viability.UNKNOWN:
        return Viability.UNKNOWN, "No op has to leave the GPU, as far as is known."
    if judgement.viability is Viability.CHANGES:
        return Viability.CHANGES, "Nothing has to leave the GPU, once the MPS route's changes are made."
    if quote is None:
        return Viability.YES, "Nothing has to leave the GPU, so there is nothing to divide."
    return Viability.YES, f"Nothing has to leave the GPU; final runs could go to a rented {quote.offer.gpu}."


def _crossings(case: Case, found: Sequence[Region]) -> list[str]:
    if not found:
        return []
    known = [region.bytes for region in found if region.bytes is not None]
    text = f"Each such call waits for the GPU and copies its tensors: {decimal_size(sum(known))} in this run"
    if (copying := copying_seconds(case)) is not None:
        text += f", at least {seconds(copying)} of copying"
    reasons = [f"{text}, without the waits."]
    if any(region.module for region in found):
        reasons.append(
            "A module that is moved as a whole (`module.to('cpu')`) crosses once a call of the module: less than that."
        )
    return reasons


def _final_runs(case: Case, quote: Quote | None) -> list[str]:
    per_sample = case.seconds_per_sample
    if quote is None or quote.hours is None or per_sample is None:
        return []
    count = case.plan.inferences
    return [
        f"{case.plan.counted} {'takes' if count == 1 else 'take'} {rough(count * per_sample)} on the Mac, "
        f"{'at least ' if quote.least else ''}{rough(quote.hours * 3600)} on {quote.offer.name}."
    ]


def _table(found: Sequence[Region]) -> Table:
    rows: list[list[str | int | float | bool | None]] = [
        [
            one.name,
            ", ".join(one.ops),
            one.calls,
            decimal_size(one.bytes) if one.bytes is not None else None,
            "yes" if one.cpu else "no",
        ]
        for one in found[:_SHOWN]
    ]
    return Table(["leave on the CPU", "for", "calls", "copied op by op", "CPU has a kernel"], rows)


def _region(module: str, uses: list[OpUse], torch: str) -> Region:
    names = tuple(dict.fromkeys(use.op for use in uses))
    release = ops.release(torch)
    return Region(
        module=module,
        source=uses[0].source,
        ops=names,
        calls=sum(use.count for use in uses),
        bytes=crossing(uses),
        cpu=all(
            release.lookup(name).support is not ops.Support.MISSING_NO_CPU
            for name in names
            if name in ops.known_ops()
        ),
    )


def _bytes(tensor: TensorMeta) -> int | None:
    item = item_bytes(tensor)
    return stored_elements(tensor) * item if item is not None and is_strided(tensor) else None


def _bandwidth(case: Case) -> float | None:
    """Return the memory bandwidth of the Mac in bytes/s: the lowest with which its chip is sold; None when unknown."""
    chip = chips.find(case.mac.chip) if case.mac.chip else None
    return min(one.bandwidth_gbs for one in chip.variants) * 1e9 if chip else None
