"""Tables that the routes share in a report: the comparison matrix, the timeline to a first result, the releases."""

from __future__ import annotations

from collections.abc import Sequence

from mpsprobe.knowledge import environment
from mpsprobe.quantities import plural, rough, seconds
from mpsprobe.routes import alternatives, hybrid, mps
from mpsprobe.routes.case import Case, OnRelease
from mpsprobe.routes.cloud import Quote
from mpsprobe.routes.mlx.route import Effort
from mpsprobe.run import Fit, OpVerdict, Table

Cell = str | int | float | bool | None

_UNKNOWN = "unknown"


def matrix(case: Case, judgement: mps.Judgement, work: Effort, quote: Quote | None) -> Table:
    """Return the table that compares the four routes by setup, changes, speed, cost, plan and risk."""
    changes = len(judgement.certain_stops) + (judgement.fit is Fit.NO)
    mac_setup = _mac_setup(case)
    per_sample = case.seconds_per_sample
    return Table(
        ["criterion", "MPS", "hybrid", "MLX", "cloud GPU"],
        [
            ["setup time", mac_setup, _hybrid_setup(mac_setup, quote), _mlx_setup(work), _cloud_setup(quote)],
            ["code changes", _changes(changes), _changes(changes), _mlx_changes(work), "none"],
            [
                "iteration speed",
                _span(per_sample, _each(case)),
                _hybrid_speed(case),
                _mlx_speed(case, work),
                _cloud_iteration(case, quote),
            ],
            ["cost", "no rent", _hybrid_cost(quote), "no rent", _dollars(quote)],
            [
                f"the plan takes: {case.plan.counted}{f' ({case.workload})' if case.workload else ''}",
                _plan(case),
                _hybrid_plan(quote),
                _UNKNOWN,
                _with_setup(_cloud_plan(quote)),
            ],
            ["risk", _risk(judgement), _risk(judgement), _mlx_risk(work), _cloud_risk(quote)],
        ],
    )


def timeline(case: Case) -> Table:
    """Return how long each step to a first result takes on the Mac, with the basis of each figure."""
    network = case.cloud.network
    basis = "forecast; compiling kernels comes on top"
    if case.measured_seconds is not None:
        basis = "measured on mps"
    steps = [
        ("Model download", *_moving(case, "download", network.home_down)),
        ("Model load to MPS", *_moving(case, "load", network.mac_load)),
        (f"First {case.plan.unit}", case.seconds_per_sample, basis),
    ]
    known = [took for _, took, _ in steps if took is not None]
    total = sum(known) if len(known) == len(steps) else None
    rows: list[list[Cell]] = [
        [step, rough(took) if took is not None else _UNKNOWN, basis if took is not None else ""]
        for step, took, basis in steps
    ]
    rows.append(["Total", rough(total) if total is not None else _UNKNOWN, ""])
    return Table(["step", "time", "basis"], rows)


def _moving(case: Case, stage: str, rate: float) -> tuple[float | None, str]:
    """Return the seconds of downloading or loading the weights, forecast or at an assumed rate, and their basis."""
    part, weights = case.stage(stage), case.run.target.weight_bytes
    if part is not None and part.seconds.expected is not None:
        low, high = part.seconds.low, part.seconds.high
        spread = f", {rough(low)} to {rough(high)}" if low is not None and high is not None else ""
        return part.seconds.expected, f"forecast{spread}"
    if weights is None:
        return None, ""
    return weights / rate, f"assumed: {rate / 1e6:g} MB/s ({case.cloud.network.source})"


def releases(case: Case) -> Table | None:
    """Return the verdicts over torch releases; None when only one was requested."""
    if not case.releases:
        return None
    first = first_native(case.releases)
    rows: list[list[Cell]] = [_release(one, one.torch == first) for one in case.releases]
    columns = ["torch", "on the GPU", "falls back", "raises", "wrong", "not native", "macOS", "verdict"]
    return Table(columns, rows)


def first_native(found: Sequence[OnRelease]) -> str | None:
    """Return the oldest release since which every one is fully native; None when the newest is not."""
    first = None
    for one in reversed(found):
        if not one.fully_native:
            break
        first = one.torch
    return first


# ------------------------------------------------------------------------------------------------------ cells


def _release(one: OnRelease, is_first: bool) -> list[Cell]:
    total = sum(one.calls.values())
    native = sum(one.calls.get(verdict.value, 0) for verdict in (OpVerdict.NATIVE, OpVerdict.COMPOSITE))
    names = [name for group in one.not_native.values() for name in group]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if one.refused:
        shown = "; ".join([shown, *(f"{kind} refused" for kind in one.refused)]).lstrip("; ")
    minimum = environment.minimum_macos(one.torch)
    return [
        one.torch,
        f"{native / total:.2%}" if total else _UNKNOWN,
        one.calls.get(OpVerdict.FALLBACK.value, 0),
        one.calls.get(OpVerdict.RAISES.value, 0),
        one.calls.get(OpVerdict.WRONG.value, 0),
        shown,
        f"{minimum} or later" if minimum else _UNKNOWN,
        _release_verdict(one, is_first),
    ]


def _release_verdict(one: OnRelease, is_first: bool) -> str:
    if one.stopped:
        return f"stops: {one.stopped}"
    if one.calls.get(OpVerdict.WRONG.value):
        return "known wrong for this target"
    if one.fully_native:
        return "fully native, the first of those that are" if is_first else "fully native"
    if one.calls.get(OpVerdict.RAISES.value) or one.refused:
        return "raises"
    if one.calls.get(OpVerdict.UNKNOWN.value):
        return "not all is known"
    return "falls back in part"


def _mac_setup(case: Case) -> str:
    took, _ = _moving(case, "download", case.cloud.network.home_down)
    return f"{rough(took)} of download" if took is not None else _UNKNOWN


def _mlx_speed(case: Case, work: Effort) -> str:
    """Return the expected speed in MLX with 4-bit weights; for a target to be ported, that of one stage."""
    # published speeds are for inference only
    found = alternatives.speeds(case, "MLX") if case.run.target.training is None else []
    rate = next((f"{one.words}, {one.quantisation}" for one in found if one.expected is not None), _UNKNOWN)
    return rate if work.reused or rate == _UNKNOWN else f"{rate}, of that stage only, once it is ported"


def _mlx_setup(work: Effort) -> str:
    if work.days is None:
        return _UNKNOWN
    if work.reused:
        return "minutes"
    low, high = work.days
    return f"{low:g} to {high:g} days"


def _cloud_setup(quote: Quote | None) -> str:
    return rough(quote.start) if quote is not None and quote.start is not None else _UNKNOWN


def _changes(count: int) -> str:
    return "none" if count == 0 else plural(count, "change")


def _mlx_changes(work: Effort) -> str:
    if work.days is None:
        return _UNKNOWN
    written = sum(one.does != "reuse" for one in work.components)
    return f"{plural(written, 'part')} to write" if written else "another library's model"


def _span(value: float | None, of: str) -> str:
    return f"{seconds(value)} {of}" if value is not None else _UNKNOWN


def _at_least(quote: Quote) -> str:
    return "at least " if quote.least else ""


def _cloud_iteration(case: Case, quote: Quote | None) -> str:
    if quote is None or quote.per_sample is None:
        return _UNKNOWN
    return f"{_at_least(quote)}{seconds(quote.per_sample)} a {case.one}, plus sending its data"


def _hybrid_cost(quote: Quote | None) -> str:
    return f"{_dollars(quote)} for final runs" if quote is not None else _UNKNOWN


def _dollars(quote: Quote | None) -> str:
    return (
        f"{_at_least(quote)}${quote.cost:,.2f}" if quote is not None and quote.cost is not None else _UNKNOWN
    )


def _plan(case: Case) -> str:
    per_sample = case.seconds_per_sample
    if per_sample is None:
        return _UNKNOWN
    return f"{rough(per_sample * case.plan.inferences)}, once it is set up"


def _with_setup(took: str) -> str:
    return took if took == _UNKNOWN else f"{took}, set-up included"


def _hybrid_setup(mac_setup: str, quote: Quote | None) -> str:
    """Return the set-up of both machines; of the Mac only, where no GPU is rented."""
    rented = _cloud_setup(quote)
    return mac_setup if rented == _UNKNOWN else f"{mac_setup}, and {rented} on the rented GPU"


def _each(case: Case) -> str:
    """Return what is timed, with its weights where those are not the ones of the memory forecast."""
    return f"a {case.one}{' with plain weights' if case.packed else ''}"


def _hybrid_speed(case: Case) -> str:
    """Return the time on the Mac with the copies of what is left on the CPU, which the forecast leaves out."""
    text, copying = _span(case.seconds_per_sample, _each(case)), hybrid.copying_seconds(case)
    if text == _UNKNOWN or not hybrid.regions(case):
        return text
    more = f"at least {seconds(copying)} of copies" if copying is not None and copying > 1e-6 else "copies"
    return f"{text}, and {more}, and the CPU's own time"


def _hybrid_plan(quote: Quote | None) -> str:
    took = _cloud_plan(quote)
    return took if took == _UNKNOWN else f"{took} on the rented GPU, its set-up included"


def _cloud_plan(quote: Quote | None) -> str:
    if quote is None or quote.hours is None:
        return _UNKNOWN
    return f"{_at_least(quote)}{rough(quote.hours * 3600)}"


def _risk(judgement: mps.Judgement) -> str:
    certain, possible = len(judgement.certain_stops), len(judgement.possible_stops)
    wrong = sum(one.wrong for one in judgement.certain_stops)
    certain -= wrong
    parts = [
        *([f"{plural(certain, 'thing')} that will stop it"] if certain else []),
        *([f"{plural(wrong, 'fault')} with wrong values"] if wrong else []),
        *(
            [f"{plural(possible, 'advisory')} that may apply".replace("advisorys", "advisories")]
            if possible
            else []
        ),
        *([f"memory: {judgement.fit.label}"] if judgement.fit is not Fit.COMFORTABLE else []),
    ]
    return ", ".join(parts) or "none known"


#: What may go wrong with MLX, by the state of a part of the target, the worst state first.
_MLX_RISKS = {
    "blocked": "its numbers differ",
    "port-needed": "a part is still to be written",
    "name-only": "no parity run is known",
    "not-run-on-Metal": "agrees on a CPU; its Metal kernels were not run",
    "reuse-proven": "none known",
}


def _mlx_risk(work: Effort) -> str:
    states = [one.state for one in work.components]
    if not states:
        return _UNKNOWN
    return next(risk for state, risk in _MLX_RISKS.items() if state in states)


def _cloud_risk(quote: Quote | None) -> str:
    if quote is None:
        return _UNKNOWN
    return "none known" if quote.fit is Fit.COMFORTABLE else f"memory: {quote.fit.label}"
