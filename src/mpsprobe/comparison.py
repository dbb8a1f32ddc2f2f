"""Compare two runs: which checks, numbers and op verdicts changed, and which of the changes are regressions.

Numbers are compared only if both were obtained in the same way on the same kind of device. Otherwise both are
listed with the reason.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from mpsprobe.run import Check, Evidence, Host, Measurement, MeasurementKey, OpUse, OpVerdict, Run, Status


class Change(str, enum.Enum):
    """Whether a check, a number or an op is better, worse or otherwise different in B."""

    WORSE = "worse"
    LOST = "lost"  #: known in A but not in B: not checked, skipped, or an error of the harness
    OTHER = "other"  #: different, and neither better nor worse
    GAINED = "gained"  #: known in B but not in A
    BETTER = "better"
    SAME = "same"

    @property
    def order(self) -> int:
        """Return the key by which changes are sorted: 0 for the most important."""
        return list(Change).index(self)


class RunSide(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The facts of one of the two runs that a comparison shows.

    Attributes:
        id: The id of the run.
        started: When it started, in UTC (ISO 8601).
        target: The name of the target.
        dtype: The dtype of the weights; empty when unknown.
        device: The device that was used.
        evidence: The evidence levels of its checks, weakest first.
        machine: The GPU, else the chip or the architecture, of its host.
        os: The operating system and its version.
        packages: The versions of torch and transformers.
        cut_off: Whether it was interrupted.
    """

    id: str
    started: str
    target: str
    dtype: str
    device: str
    evidence: list[Evidence]
    machine: str
    os: str
    packages: dict[str, str]
    cut_off: bool


class CheckChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A check in A and B; a status is None where the run lacks it, `caution` says why the two are not comparable."""

    id: str
    title: str
    change: Change
    a: Status | None
    b: Status | None
    message: str
    caution: str = ""


class Significance(str, enum.Enum):
    """Whether a difference of two benchmarks exceeds the scatter of their rounds."""

    SIGNIFICANT = "significant"
    WITHIN = "within the scatter"
    UNKNOWN = "unknown"  #: measured once, or without a record of the scatter


class NumberChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A measurement that both runs have.

    Attributes:
        check: The id of the check.
        name: The name of the measurement.
        unit: The unit of both values.
        a: The value in A.
        b: The value in B.
        ratio: The quotient b / a; None when they must not be compared (for the reason in `caution`) or when a is 0.
        significance: Whether the difference of two medians exceeds the scatter of their rounds.
        change: Whether B is better or worse; `OTHER` for a unit of which neither more nor less is better.
        caution: The reason why the values were not compared; empty when they were.
    """

    check: str
    name: str
    unit: str
    a: float | int
    b: float | int
    ratio: float | None
    significance: Significance
    change: Change
    caution: str = ""


class OpChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An op with its input dtypes, and its worst verdict in each run; None where a run does not call it."""

    op: str
    dtypes: list[str]
    change: Change
    a: OpVerdict | None
    b: OpVerdict | None
    calls_a: int
    calls_b: int
    module: str
    source: str
    caution: str = ""


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The comparison of A and B, worst first in each list.

    Attributes:
        a: The facts of run A.
        b: The facts of run B.
        cautions: Sentences that say which parts cannot be compared, and why.
        checks: The checks that changed.
        measurements: The measurements that both runs have, changed or not.
        ops: The ops that changed.
        same_checks: The number of unchanged checks.
        same_ops: The number of unchanged ops.
        worse: Whether B has a regression.
    """

    a: RunSide
    b: RunSide
    cautions: list[str]
    checks: list[CheckChange]
    measurements: list[NumberChange]
    ops: list[OpChange]
    same_checks: int
    same_ops: int
    worse: bool


#: The ratio at which a number that was measured once, or whose rounds are unknown, counts as worse: single timings on
#: an idle machine vary by some per cent, and by more on a busy one.
WORSE_BY = 1.2
#: A significant difference below this ratio does not count as a regression.
_NOTABLE = 1.05

#: Units of which less is better. Everything else (counts, versions, errors with limits of their own) is
#: shown without a judgement.
_LESS_IS_BETTER = ("s", "ms", "us", "bytes", "B")
_MORE_IS_BETTER = ("bytes/s", "B/s", "FLOP/s", "tokens/s", "samples/s", "1/s")

#: Statuses that say something about the target, from good to bad. Blocked ranks with fail.
_SEVERITY = {
    Status.PASS: 0,
    Status.WARN: 1,
    Status.FAIL: 2,
    Status.BLOCKED: 2,
    Status.TIMEOUT: 3,
    Status.CRASHED: 3,
}
_OP_SEVERITY = {
    OpVerdict.NATIVE: 0,
    OpVerdict.COMPOSITE: 0,
    OpVerdict.FALLBACK: 1,
    OpVerdict.RAISES: 2,
    OpVerdict.WRONG: 2,
}

Word = TypeVar("Word", Status, OpVerdict)


def compare(a: Run, b: Run, worse_by: float = WORSE_BY) -> Comparison:
    """Compare a run B with a run A: which checks, measurements and op verdicts changed.

    Args:
        a: The older run, or the one to live up to.
        b: The run to judge.
        worse_by: The ratio at or above which a number without known scatter counts as worse.
    """
    checks = [_check(one, other) for one, other in _paired(_by_id(a.checks), _by_id(b.checks))]
    numbers = _numbers(a, b, worse_by)
    ops = _ops(a, b)
    worse = any(item.change is Change.WORSE for group in (checks, numbers, ops) for item in group)
    return Comparison(
        a=_side(a),
        b=_side(b),
        cautions=_cautions(a, b),
        checks=sorted((c for c in checks if c.change is not Change.SAME or c.caution), key=_check_order),
        measurements=sorted(numbers, key=lambda n: (n.change.order, -_size(n.ratio))),
        ops=sorted((o for o in ops if o.change is not Change.SAME), key=lambda o: (o.change.order, o.op)),
        same_checks=sum(c.change is Change.SAME for c in checks),
        same_ops=sum(o.change is Change.SAME for o in ops),
        worse=worse or (b.interruption is not None and a.interruption is None),
    )


def _by_id(checks: Iterable[Check]) -> dict[str, Check]:
    return {check.id: check for check in checks}


def _paired(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """Return pairs of the entries of A and B, in A's order; None stands for a missing one, those only in B are last."""
    return [(a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b])]


def _check(a: Check | None, b: Check | None) -> CheckChange:
    known = b or a
    assert known is not None
    caution = ""
    if a is not None and b is not None and a.evidence and b.evidence:
        caution = _differently(a.evidence, a.device, b.evidence, b.device)
    before, after = (check.status if check else None for check in (a, b))
    return CheckChange(
        id=known.id,
        title=known.title,
        change=_judge(before, after, _SEVERITY),
        a=before,
        b=after,
        message=b.message if b else "",
        caution=caution,
    )


def _judge(a: Word | None, b: Word | None, severity: Mapping[Word, int]) -> Change:
    """Return the direction of a change of status or verdict; one without a severity counts as not known."""
    if a == b:
        return Change.SAME
    before, after = (None if word is None else severity.get(word) for word in (a, b))
    if before is None and after is None:
        return Change.OTHER
    if after is None:
        return Change.LOST
    if before is None:
        # What was unknown before was not seen to be better, so it counts as new.
        return Change.GAINED
    if before == after:
        return Change.OTHER
    return Change.WORSE if after > before else Change.BETTER


def _differently(evidence_a: Evidence, device_a: str, evidence_b: Evidence, device_b: str) -> str:
    """Return the reason why two results cannot be compared; `""` when they can."""
    if evidence_a is not evidence_b:
        return f"{evidence_a.value} in A, {evidence_b.value} in B"
    if device_a != device_b:
        return f"on {device_a} in A, on {device_b} in B"
    return ""


def _numbers(a: Run, b: Run, worse_by: float) -> list[NumberChange]:
    result = []
    others = _by_id(b.checks)
    for check in a.checks:
        other = others.get(check.id)
        if other is None:
            continue
        theirs = {m.id: m for m in other.measurements}
        mine = {m.id: m for m in check.measurements}
        for measurement in check.measurements:
            twin = theirs.get(measurement.id)
            if twin is None or not (_is_number(measurement.value) and _is_number(twin.value)):
                continue
            result.append(
                _number(check.id, measurement, twin, mine, theirs, worse_by, same_target=_same_target(a, b))
            )
    return result


def _number(
    check: str,
    a: Measurement,
    b: Measurement,
    mine: Mapping[str, Measurement],
    theirs: Mapping[str, Measurement],
    worse_by: float,
    *,
    same_target: bool,
) -> NumberChange:
    assert not isinstance(a.value, (str, bool)) and a.value is not None  # noqa: PT018 - `_is_number` saw to it
    assert not isinstance(b.value, (str, bool)) and b.value is not None  # noqa: PT018
    caution = _differently(a.evidence, a.device, b.evidence, b.device)
    if not same_target:
        caution = "of two targets"
    elif a.unit != b.unit:
        caution = f"in {a.unit or 'no unit'} in A, in {b.unit or 'no unit'} in B"
    ratio = None if caution or not a.value else b.value / a.value
    rounds = a.key == MeasurementKey.MEDIAN.value and not caution
    significance = _significance(mine, theirs) if rounds else Significance.UNKNOWN
    return NumberChange(
        check=check,
        name=a.name,
        unit=b.unit,
        a=a.value,
        b=b.value,
        ratio=ratio,
        significance=significance,
        change=_number_change(a.unit, ratio, significance, worse_by, same=a.value == b.value),
        caution=caution,
    )


def _number_change(
    unit: str, ratio: float | None, significance: Significance, worse_by: float, *, same: bool
) -> Change:
    if same:
        return Change.SAME
    if ratio is None or ratio <= 0 or unit not in (*_LESS_IS_BETTER, *_MORE_IS_BETTER):
        return Change.OTHER
    if unit in _MORE_IS_BETTER:
        ratio = 1 / ratio
    threshold = {Significance.SIGNIFICANT: _NOTABLE, Significance.UNKNOWN: worse_by}.get(
        significance, math.inf
    )
    if ratio >= threshold:
        return Change.WORSE
    return Change.BETTER if ratio <= 1 / threshold else Change.SAME


def _significance(mine: Mapping[str, Measurement], theirs: Mapping[str, Measurement]) -> Significance:
    """Return whether two medians of rounds differ significantly, by their notches.

    The notch is median +- 1.57 IQR / sqrt(rounds); medians whose notches do not overlap differ at about the 5 %
    level (McGill, Tukey and Larsen, Variations of Box Plots, 1978).
    """
    notch_a, notch_b = _notch(mine), _notch(theirs)
    if notch_a is None or notch_b is None:
        return Significance.UNKNOWN
    (low_a, high_a), (low_b, high_b) = notch_a, notch_b
    apart = high_a < low_b or high_b < low_a
    return Significance.SIGNIFICANT if apart else Significance.WITHIN


def _notch(side: Mapping[str, Measurement]) -> tuple[float, float] | None:
    values = [
        side[quantity.value].value
        for quantity in (
            MeasurementKey.MEDIAN,
            MeasurementKey.LOWER_QUARTILE,
            MeasurementKey.UPPER_QUARTILE,
            MeasurementKey.ROUNDS,
        )
        if quantity.value in side
    ]
    if len(values) < 4 or not all(_is_number(value) for value in values):
        return None
    median, low, high, rounds = (float(value or 0) for value in values)
    if rounds < 3:
        return None
    half = 1.57 * (high - low) / math.sqrt(rounds)
    return median - half, median + half


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _ops(a: Run, b: Run) -> list[OpChange]:
    if not (a.op_uses and b.op_uses):  # a run without recorded ops says nothing about any op
        return []
    caution = ""
    evidence_a, evidence_b = ({use.evidence for use in run.op_uses} for run in (a, b))
    if evidence_a != evidence_b:
        caution = f"op uses {_words(evidence_a)} in A, {_words(evidence_b)} in B"
    return [
        _op(one or [], other or [], caution) for one, other in _paired(_by_op(a.op_uses), _by_op(b.op_uses))
    ]


def _words(evidence: Iterable[Evidence]) -> str:
    return ", ".join(sorted(one.value for one in evidence))


def _by_op(uses: Iterable[OpUse]) -> dict[tuple[str, tuple[str, ...]], list[OpUse]]:
    groups: dict[tuple[str, tuple[str, ...]], list[OpUse]] = {}
    for use in uses:
        dtypes = tuple(sorted({meta.dtype for meta in use.inputs}))
        groups.setdefault((use.op, dtypes), []).append(use)
    return groups


def _op(a: list[OpUse], b: list[OpUse], caution: str) -> OpChange:
    """Compare the verdicts and calls of one op; an empty list means that a run does not call it."""
    before, after = (_worst_use(uses).verdict if uses else None for uses in (a, b))
    known = _worst_use(b or a)
    change = _judge(before, after, _OP_SEVERITY)
    if not a:  # a new op is worse when it does not run natively
        change = Change.WORSE if after is not None and _OP_SEVERITY.get(after, 0) > 0 else Change.OTHER
    elif not b:
        change = Change.OTHER
    return OpChange(
        op=known.op,
        dtypes=sorted({meta.dtype for meta in known.inputs}),
        change=change,
        a=before,
        b=after,
        calls_a=sum(use.count for use in a),
        calls_b=sum(use.count for use in b),
        module=known.module,
        source=known.source,
        caution=caution,
    )


def _worst_use(uses: list[OpUse]) -> OpUse:
    return max(uses, key=lambda use: _OP_SEVERITY.get(use.verdict, -1))


def _check_order(check: CheckChange) -> tuple[int, int, str]:
    severity = _SEVERITY.get(check.b, -1) if check.b is not None else -1
    return check.change.order, -severity, check.id


def _size(ratio: float | None) -> float:
    """Return the distance of a ratio from 1 on a logarithmic scale, in either direction."""
    return abs(math.log(ratio)) if ratio is not None and ratio > 0 else 0.0


def _side(run: Run) -> RunSide:
    host = run.host
    return RunSide(
        id=run.id,
        started=run.started,
        target=run.target.name,
        dtype=run.target.dtype or "",
        device=run.device.used,
        evidence=sorted({check.evidence for check in run.checks if check.evidence}, key=list(Evidence).index),
        machine=_machine(host),
        os=f"{'macOS' if host.system == 'Darwin' else host.system} {host.os_version}".strip(),
        packages={name: host.packages[name] for name in ("torch", "transformers") if name in host.packages},
        cut_off=run.interruption is not None,
    )


def _machine(host: Host) -> str:
    name = host.gpu or host.chip or host.machine
    return f"{name} (virtual GPU)" if host.virtual_gpu else name


def _cautions(a: Run, b: Run) -> list[str]:
    cautions = []
    if not _same_target(a, b):
        cautions.append(
            f"The targets differ: {_target(a)} in A, {_target(b)} in B. Numbers are of two models."
        )
    if a.target.dtype != b.target.dtype:
        cautions.append(f"The weights are {a.target.dtype} in A, {b.target.dtype} in B.")
    if a.device.used != b.device.used:
        cautions.append(
            f"A used {a.device.used}, B used {b.device.used}: numbers of different devices are not set against "
            "each other."
        )
    elif _machine(a.host) != _machine(b.host):
        cautions.append(f"The machines differ: {_machine(a.host)} in A, {_machine(b.host)} in B.")
    if bool(a.op_uses) != bool(b.op_uses):
        cautions.append(f"Only {'A' if a.op_uses else 'B'} has recorded ops: op verdicts were not compared.")
    cautions += [
        f"Run {name} was cut off: what it did not reach is unknown."
        for name, run in (("A", a), ("B", b))
        if run.interruption is not None
    ]
    return cautions


def _same_target(a: Run, b: Run) -> bool:
    """Return whether both runs have a target of the same name, revision and size of weights."""
    mine, theirs = a.target, b.target
    return (mine.name, mine.revision, mine.weight_bytes) == (
        theirs.name,
        theirs.revision,
        theirs.weight_bytes,
    )


def _target(run: Run) -> str:
    return f"{run.target.name}{f' at {run.target.revision[:12]}' if run.target.revision else ''}"
