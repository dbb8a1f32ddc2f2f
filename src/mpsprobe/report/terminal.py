"""Format a prediction as the text that `mpsprobe predict` prints."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mpsprobe.quantities import billions, decimal_size, plural, times_in_words
from mpsprobe.report.hazardview import waiting_lines, waits_cost, waits_text, warning
from mpsprobe.report.headline import of_calls
from mpsprobe.report.wording import FIT, epoch_time, unmeasured
from mpsprobe.run import (
    Fit,
    Forecast,
    Hazard,
    Mac,
    Memory,
    OpUse,
    OpVerdict,
    Outlook,
    Predicted,
    Range,
    Rate,
    Run,
    Timing,
)

_ORDER = list(OpVerdict)
_FINE = (OpVerdict.NATIVE, OpVerdict.COMPOSITE)
#: The greatest number of rows in a list; the JSON has all of them.
_ROWS = 20
_UNKNOWN = "unknown"

_ONCE_LOADED = "in all, once loaded"

#: The width in characters of the column with the basis of a part of the memory.
_BASIS_COLUMNS = 42
#: The number of lines of code that the section on waits of the host lists.
_SHOWN_WAITS = 6


def text(run: Run, *, verbose: bool = False) -> str:
    """Return the text of a prediction: of one torch release, or the table over all of them.

    Its first and its last paragraph give the answer.

    Args:
        run: A prediction.
        verbose: Whether to list every detail; otherwise long lists are counted.
    """
    assert run.predicted is not None
    every = bool(run.predicted.releases)
    answer = _of_newest(run.predicted) if every else _answer(run, run.predicted)
    details = _of_releases(run, run.predicted) if every else _of_one(run, run.predicted, verbose=verbose)
    more = "" if verbose else "\n-v shows every detail; --output FOLDER writes them as a report."
    return "\n\n".join(part for part in (answer, *details, f"{answer}{more}") if part)


def _answer(run: Run, made: Predicted) -> str:
    """Return the first lines: what to do, and how many op calls run on the GPU."""
    advice = run.outlook.recommendation if run.outlook is not None else None
    outcome = f"{of_calls(run)}."
    lines = [warning(run), advice.sentence if advice is not None else "", outcome]
    if made.stopped and not made.next_step:
        lines.append(f"The model's own code stopped: {made.stopped}. What follows ends there.")
    elif made.stopped:
        lines.append(
            f"It ended early, on the input that was made up for it: {made.stopped}. {made.next_step}. "
            "What follows ends there."
        )
    return "\n".join(line for line in lines if line)


def _of_one(run: Run, made: Predicted, *, verbose: bool) -> list[str]:
    assert run.mac is not None
    outlook = run.outlook or Outlook()
    unknown = [*made.unknowns, *_limits(outlook)]
    return [
        _head(run, made),
        _mac(run.mac.torch, run.mac),
        _quantisation(made),
        _verdicts(run.op_uses),
        _not_native(run.op_uses),
        _refusals(run.op_uses, made),
        _hazards(made.hazards, verbose=verbose),
        _assumptions(made, verbose=verbose),
        _host_waits(made, outlook, verbose=verbose),
        _outlook(outlook, verbose=verbose),
        _listed("Not known", unknown) if verbose else _counted("limit", "of this prediction", unknown),
    ]


def _counted(noun: str, what: str, lines: Sequence[str]) -> str:
    return f"{plural(len(lines), noun)} {what}: -v." if lines else ""


def _of_newest(made: Predicted) -> str:
    """Return from which release on the target is fully native, or that it is not on the newest one."""
    newest = made.releases[-1]
    if newest.fully_native:
        return f"Fully native from torch {made.first_fully_native} on."
    if made.quantisation is not None and made.quantisation.packed:
        return "Not known on any release: the ops of packed weights are not predicted."
    return f"Not fully native on any release up to {newest.torch}."


def _of_releases(run: Run, made: Predicted) -> list[str]:
    assert run.mac is not None
    shown = [v.value for v in _ORDER if any(v.value in row.op_uses for row in made.releases)]
    rows, lines = [], []
    for row in made.releases:
        cells = [f"{row.calls.get(v, 0):,}" for v in shown]
        rows.append([row.torch, *cells, "yes" if row.fully_native else "no"])
        if row.findings:
            lines.append(
                f"{row.torch}: refused: {', '.join(f'{kind} {count}' for kind, count in row.findings.items())}"
            )
        for verdict, names in row.not_native.items():
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            lines.append(f"{row.torch}: {verdict} {', '.join(names[:6])}{more}")
        if row.stopped:
            lines.append(f"{row.torch}: stopped: {row.stopped}")
    return [
        _head(run, made),
        _mac("", run.mac),
        _quantisation(made),
        f"op calls by verdict\n{table(['torch', *shown, 'fully native'], rows)}",
        _listed("Not native", lines),
        _listed("Not known", made.unknowns),
    ]


def _head(run: Run, made: Predicted) -> str:
    target = run.target
    dtypes = ", ".join(f"{dtype} {billions(count)}" for dtype, count in made.dtypes.items())
    lines = [
        f"{target.architecture} ({target.name}): {billions(target.parameters or 0)} parameters, "
        f"{_scaled(target.weight_bytes or 0)}B ({dtypes})",
        f"  ran    {made.doing}",
    ]
    lines += [f"  input  {one}" for one in made.inputs]
    lines += [f"  note   {one}" for one in (*(each.sentence for each in made.source), *made.notes)]
    if made.kept_since:
        when = made.kept_since.replace("T", " ").replace("Z", " UTC")
        lines.append(f"  made   {when}, taken from the cache: --no-cache makes it anew")
    return "\n".join(lines)


def _mac(torch: str, mac: Mac) -> str:
    facts = [
        f"torch {torch}" if torch else "every torch release",
        f"macOS {mac.macos}" if mac.macos else "macOS not given",
        mac.chip or "chip not given",
        f"PYTORCH_ENABLE_MPS_FALLBACK {'set' if mac.fallback else 'not set'}",
    ]
    return f"Predicted for {', '.join(facts)}."


def _quantisation(made: Predicted) -> str:
    found = made.quantisation
    if found is None:
        return ""
    lines = [
        *found.sentences,
        *([f"Fix: {found.fix}."] if found.fix else []),
        f"Its weights take {_scaled(found.checkpoint_bytes)}B in the checkpoint.",
        *found.routes,
    ]
    return _listed(f"Quantised checkpoint ({found.method})", lines)


@dataclass
class _Sum:
    """The number of op uses, their calls and FLOPs, and the calls without a FLOP formula, as sums."""

    op_uses: int = 0
    calls: int = 0
    flops: int = 0
    uncounted_calls: int = 0

    def add(self, use: OpUse) -> None:
        self.op_uses += 1
        self.calls += use.count
        self.flops += use.flops or 0
        self.uncounted_calls += use.count if use.flops is None else 0


def _verdicts(uses: Sequence[OpUse]) -> str:
    everything, by_verdict = _Sum(), {verdict: _Sum() for verdict in _ORDER}
    ops: dict[OpVerdict, set[str]] = {verdict: set() for verdict in _ORDER}
    for use in uses:
        everything.add(use)
        by_verdict[use.verdict].add(use)
        ops[use.verdict].add(use.op)
    rows = []
    named = [(verdict.value, len(ops[verdict]), by_verdict[verdict]) for verdict in _ORDER if ops[verdict]]
    for name, count, total in [*named, ("all", len(set().union(*ops.values())), everything)]:
        share = f"{total.flops / everything.flops:.2%}" if everything.flops else "-"
        rows.append([name, count, f"{total.op_uses:,}", f"{total.calls:,}", share])
    rows_of = table(["verdict", "ops", "op uses", "calls", "FLOPs"], rows)
    counted = f"{_scaled(everything.flops)}FLOP in all"
    if everything.uncounted_calls:
        counted += f", not counting {everything.uncounted_calls:,} calls without a formula"
    return f"{rows_of}\n{counted}."


def _not_native(uses: Iterable[OpUse]) -> str:
    """Return the list of ops that do not run on the GPU, by line of code and kind of module, worst verdict first."""
    groups: dict[tuple[OpVerdict, str, str, str, str], list[OpUse]] = {}
    for use in uses:
        if use.verdict not in _FINE:
            key = (use.verdict, use.op, use.source, _pattern(use.module), use.reason)
            groups.setdefault(key, []).append(use)
    lines = []
    for (verdict, op, source, module, reason), members in groups.items():
        calls = sum(use.count for use in members)
        where = f" in {module}" if module else ""
        grade = "" if members[0].grade == "certain" else f" [{members[0].grade}]"
        line = f"{verdict.value}{grade}: {op}, {calls:,} calls at {source or '?'}{where}: {reason}"
        lines.append((_ORDER.index(verdict), line))
    lines.sort(key=lambda pair: pair[0], reverse=True)
    return _listed("Not native", [line for _, line in lines])


def _refusals(uses: Iterable[OpUse], made: Predicted) -> str:
    """Return the refusals that belong to no op use: of building the model, of memory and of devices."""
    refused = {(use.op, use.source) for use in uses if use.verdict not in _FINE}
    lines = [
        f"{one.kind} [{one.grade}]{f' {one.op}' if one.op else ''}{f' at {one.source}' if one.source else ''}"
        f"{f' ({one.count} times)' if one.count > 1 else ''}: {one.message.strip().splitlines()[0]}"
        for one in made.refusals
        if (one.op, one.source) not in refused and one.kind not in ("quantisation", "compile")
    ]
    unknown = [
        f"at {one.source or '?'}{f' ({one.count} times)' if one.count > 1 else ''}: {one.message}"
        for one in made.refusals
        if one.kind == "compile"
    ]
    return "\n\n".join(filter(None, [_listed("Refused", lines), _listed("Unknown", unknown)]))


def _hazards(hazards: Sequence[Hazard], *, verbose: bool) -> str:
    """Return the known faults that are met, and with `verbose` also those that may be; the others are counted."""
    met = [one for one in hazards if one.is_met]
    possible = [one for one in hazards if not one.is_met and one.listed]
    rest = [one for one in hazards if not one.is_met and not one.listed]
    lines = [f"{one.severity}, {one.certainty}: {_hazard(one)}" for one in met]
    if verbose:
        lines += [f"{one.severity}, possible: {_hazard(one)}" for one in possible]
    elif possible:
        lines.append(f"{len(possible):,} possible, where the workload, macOS or chip decides: -v lists them.")
    if rest:
        more = plural(len(rest), "other fault" if lines else "known fault")
        need, do, them = ("needs", "does", "it") if len(rest) == 1 else ("need", "do", "them")
        lines.append(
            f"{more} {need} circumstances that no recording shows, or {do} little harm; --json lists {them}."
        )
    return _listed("Known faults of these ops", lines)


def _hazard(one: Hazard) -> str:
    why = f" [{one.why}]" if one.why else ""
    return f"{one.title} ({one.advisory}, {plural(one.calls, 'call')}){why}"


def _host_waits(made: Predicted, outlook: Outlook, *, verbose: bool) -> str:
    """Return the section on where the host waits for the GPU, or without `verbose` one line; empty for no waits."""
    ranked = waiting_lines(made)
    if not ranked:
        return ""
    time = outlook.forecast.time if outlook.forecast is not None else None
    waits = sum(count for _, _, count in ranked)
    if not verbose:
        cost = f", {cost}" if (cost := waits_cost(time)) else ""
        return f"The host waits for the GPU {times_in_words(waits)}{cost}. -v lists where."
    lines = [f"{count:,} at {source} ({what})" for source, what, count in ranked[:_SHOWN_WAITS]]
    rest = ranked[_SHOWN_WAITS:]
    if rest:
        left = sum(count for _, _, count in rest)
        lines.append(f"{left:,} at {plural(len(rest), 'other line')}; --json lists them.")
    return _listed(f"The host waits for the GPU {times_in_words(waits)}", [*lines, waits_text(made, time)])


def _assumptions(made: Predicted, *, verbose: bool) -> str:
    deciding = [one for one in made.assumptions if one.dependents]
    if not verbose and not deciding:
        return ""
    lines = [
        f"{one.value}, for {one.op} at {one.source or '?'}"
        + (f"; decided {', '.join(one.dependents[:3])}" if one.dependents else "")
        for one in (sorted(made.assumptions, key=lambda one: not one.dependents) if verbose else deciding)
    ]
    return _listed("Assumed values", lines)


def _pattern(module: str) -> str:
    """Return a module path with `*` for the numbers of layers: `model.layers.*.mlp`."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", module)


# ------------------------------------------------------------------------------------------------ memory and time


def _outlook(outlook: Outlook, *, verbose: bool) -> str:
    """Return the paragraphs on rates, memory and routes, with `verbose` also on times; empty without an outlook."""
    forecast = outlook.forecast
    parts: list[str] = []
    if forecast is not None:
        parts.append(_rates(forecast))
        parts += [_memory(forecast.memory)] if forecast.memory is not None else []
        parts += [_time(forecast.time)] if forecast.time is not None and verbose else []
        parts += [_elsewhere(forecast)] if verbose else []
    parts.append(_routes(outlook, verbose=verbose))
    return "\n\n".join(part for part in parts if part)


def _rates(forecast: Forecast) -> str:
    """Return the workload and the Mac's expected rates, such as tokens per second; empty without a workload."""
    if not forecast.workload:
        return ""
    lines = [f"Workload: {forecast.workload}."]
    time = forecast.time
    if time is not None and any(one.expected is not None for one in time.rates):
        memory = forecast.memory
        held = memory is None or memory.fit is not Fit.NO
        where = f"On {time.hardware}" if held else f"On {time.hardware}, if its memory held the target"
        lines.append(f"{where}: {'; '.join(of_rate(one) for one in time.rates)}.")
        lines += filter(None, [unmeasured(time)])
    if forecast.epoch is not None:
        steps = plural(forecast.epoch.steps, "step")
        lines.append(
            f"An epoch of {forecast.epoch.samples:,} samples: {steps}, {epoch_time(forecast.epoch)}."
        )
    return "\n".join(lines)


def of_rate(rate: Rate, *, named: bool = True) -> str:
    """Format a rate: `"decode 31 tokens/s (24 - 38)"`, `"unet 131 ms/it (92 ms - 276 ms)"`.

    Args:
        rate: The rate.
        named: Whether to state its name and unit; below a head that has both, it is `"31 (24 - 38)"`.
    """
    name = f"{rate.name} " if named else ""
    if rate.expected is None:
        return f"{name}unknown"
    timed = rate.unit == "s" or (named and rate.unit == "s/it")
    shown = _seconds if timed else _three_digits
    unit = "" if not named else rate.unit.removeprefix("s") if timed else f" {rate.unit}"
    known = rate.low is not None and rate.high is not None
    span = f" ({shown(rate.low or 0)} - {shown(rate.high or 0)})" if known else ""
    return f"{name}{shown(rate.expected)}{unit}{span}"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _routes(outlook: Outlook, *, verbose: bool) -> str:
    """Return the verdict on each route and the commands, with `verbose` also the reasons; empty without advice."""
    made = outlook.recommendation
    if made is None:
        return ""
    routes = [f"{one.name:<8}{one.viability.value}: {one.sentence}" for one in outlook.routes]
    parts = [_listed("Because", made.reasons) if verbose else "", _listed("Routes", routes)]
    shell = [line if line.startswith("#") else f"$ {line}" for line in made.commands]
    parts.append(_listed("Commands", shell))
    parts.append(_listed("What would change it", made.would_change) if verbose else "")
    return "\n\n".join(part for part in parts if part)


def _limits(outlook: Outlook) -> list[str]:
    """Return the limits of a forecast of memory and time; empty where no memory was forecast."""
    forecast = outlook.forecast
    return list(forecast.limits) if forecast is not None and forecast.memory is not None else []


def _memory(memory: Memory) -> str:
    rows = [[part.name, _size(part.bytes), part.basis] for part in memory.parts]
    whole, needed = memory.available_bytes, memory.needed_bytes
    rows.append(["needed by the GPU", _size(needed), "all but the OS and other"])
    if memory.working_set_bytes is not None:
        rows.append(["Metal's recommendation", _size(memory.working_set_bytes), "at most, for the GPU"])
    sold = f" ({whole / 2**30:g} GiB)" if whole is not None else ""
    rows.append(["available", _size(whole), f"physical memory{sold}"])
    if memory.largest_buffer_bytes is not None and memory.buffer_limit_bytes is not None:
        limit = f"of at most {_size(memory.buffer_limit_bytes)} in one buffer"
        rows.append(["largest tensor", _size(memory.largest_buffer_bytes), limit])
    lines = []
    for name, size, basis in rows:
        lead = f"  {name:<22} {size:>10}  "
        filled = textwrap.wrap(basis, _BASIS_COLUMNS) or [""]
        lines += [lead + filled[0], *(" " * len(lead) + more for more in filled[1:])]
    head = f"Memory: {FIT[memory.fit].text}. {memory.reason}"
    return "\n".join([head, *lines, *(f"  would help: {one.sentence}" for one in memory.remedies)])


def _time(time: Timing) -> str:
    rows, work = [], []
    for part in time.parts:
        each = part.seconds.expected
        rows.append([part.name, _seconds(part.seconds.floor), _expected(part.seconds), part.bound])
        work.append(
            [
                part.name,
                part.repeats,
                _seconds(each / part.repeats) if each is not None and part.repeats > 1 else "",
                f"{_scaled(part.flops)}FLOP" if part.flops is not None else "",
                f"{_scaled(part.bytes)}B" if part.bytes is not None else "",
                f"{part.launches:,}" if part.launches is not None else "",
            ]
        )
    if time.per_sample is not None and len(rows) > 1:
        whole = time.per_sample
        rows.append([_ONCE_LOADED, _seconds(whole.floor), _expected(whole), ""])
    head = f"Time on {time.hardware}, by {time.basis}"
    if time.native_time_share is not None and time.native_call_share is not None:
        head += f"; native {time.native_time_share:.1%} of op time, {time.native_call_share:.1%} of calls"
    times = table(["stage", "at least", "expected (range)", "bound by"], rows)
    return f"{head}\n{times}\n\n{table(['stage', 'times', 'each', 'work', 'moved', 'kernels'], work)}"


def _elsewhere(forecast: Forecast) -> str:
    rows = [
        [one.hardware, _seconds(one.per_sample.floor), _expected(one.per_sample), one.basis]
        for one in forecast.elsewhere
        if one.per_sample is not None
    ]
    lines = table(["a sample on", "at least", "expected (range)", "by"], rows).splitlines() if rows else []
    return _listed("Elsewhere", [line.removeprefix("  ") for line in lines])


def _expected(seconds: Range) -> str:
    if seconds.expected is None:
        return _UNKNOWN
    if seconds.low is None or seconds.high is None:
        return _seconds(seconds.expected)
    return f"{_seconds(seconds.expected)} ({_seconds(seconds.low)} - {_seconds(seconds.high)})"


def _seconds(value: float) -> str:
    """Format a time: `"6.5 s"`, `"16 ms"`, `"25 min"`."""
    if value >= 600:
        return f"{value / 60:,.0f} min"
    if value >= 100:
        return f"{value:,.0f} s"
    for least, factor, unit in ((1.0, 1.0, "s"), (1e-3, 1e3, "ms")):
        if value >= least:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def _size(count: int | None) -> str:
    return _UNKNOWN if count is None else decimal_size(count)


# ---------------------------------------------------------------------------------------------------------- layout


def _listed(title: str, lines: Sequence[str]) -> str:
    """Return a titled list, cut after `_ROWS` lines; empty for no lines."""
    if not lines:
        return ""
    shown = [f"  {line}" for line in lines[:_ROWS]]
    if len(lines) > _ROWS:
        shown.append(f"  and {len(lines) - _ROWS} more: --json has all")
    return "\n".join([title, *shown])


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a table with aligned columns, the first of them left-aligned."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return "\n".join(
        "  "
        + "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


def _scaled(value: float) -> str:
    """Format a number with an SI prefix: `"16.1 G"`."""
    for power, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= power:
            return f"{value / power:.3g} {prefix}"
    return f"{value:.0f} "
