"""Check a target's op uses: which run natively on the target Mac, and which do not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mpsprobe.knowledge import advisories
from mpsprobe.ops.bench import Bench
from mpsprobe.ops.distinct import representatives
from mpsprobe.ops.verdicts import JudgedUse, hazards, judge
from mpsprobe.phases import known_bad
from mpsprobe.phases.check import Checks, Result
from mpsprobe.phases.recording import Recording
from mpsprobe.quantities import plural
from mpsprobe.run import (
    Evidence,
    Hazard,
    Mac,
    Measurement,
    MeasurementKey,
    OpUse,
    OpVerdict,
    Phase,
    Status,
    Table,
)
from mpsprobe.trace.dispatch import HostEvent

#: Devices whose op uses are those that a Mac dispatches.
_AS_MPS = ("mps", "emulated")
#: Symptoms of faults that silently change values.
_SILENT = ("wrong", "nan")
#: The number of rows in a check's own table; all op uses are in the run's document.
_ROWS = 30


@dataclass(frozen=True)
class Recorded:
    """The op uses of the target, as the link of the checks below.

    Attributes:
        judged: The distinct op uses with their verdicts.
        mac: The Mac that the verdicts are for.
        device: The device on which they were recorded.
        evidence: The evidence of the uses themselves.
        bench: The bench that replays them.
        host_events: The waits of the host and copies; None where the device does not report them.
        hazards: Known faults that they meet, may meet, or would meet in a larger workload, the worst first; empty for
            a device that dispatches other ops than a Mac.
    """

    judged: list[JudgedUse]
    mac: Mac
    device: str
    evidence: Evidence
    bench: Bench
    host_events: list[HostEvent] | None = None
    hazards: list[Hazard] = field(default_factory=list)

    @property
    def uses(self) -> list[OpUse]:
        """Return the op uses as the run's document lists them."""
        return [one.use for one in self.judged]

    @property
    def dispatches_as_mps(self) -> bool:
        """Return whether the recorded ops are those that a Mac dispatches; the CPU and CUDA dispatch other ones."""
        return self.device in _AS_MPS

    def of(self, *verdicts: OpVerdict) -> list[JudgedUse]:
        """Return the op uses with one of these verdicts."""
        return [one for one in self.judged if one.use.verdict in verdicts]


def recorded(recording: Recording, bench: Bench) -> Recorded:
    """Return the op uses of a recording with their verdicts; without verdicts if a Mac would dispatch other ops."""
    asks_a_mac = bench.device in _AS_MPS
    if not asks_a_mac:
        judged = [JudgedUse(use) for use in recording.uses]
        return Recorded(judged, bench.mac, bench.device, bench.evidence, bench, recording.host_events)
    judged = judge(recording.uses, bench.mac, recording.token_limit, recording.autocast)
    known = hazards(judged, recording.token_limit)
    return Recorded(judged, bench.mac, bench.device, bench.evidence, bench, recording.host_events, known)


CHECKS: Checks[Recorded] = Checks(Phase.OPS)


@CHECKS.add("recorded", "Every op that the target calls is recorded", link=True)
def _recorded(link: Recorded) -> Result:
    calls = sum(use.count for use in link.uses)
    result = Result(
        Status.PASS if link.uses else Status.FAIL,
        f"{len(link.uses)} distinct op uses, {calls:,} calls, {len({use.op for use in link.uses})} ops.",
        evidence=link.evidence,
        device=link.device,
    )
    if link.host_events is not None:
        crossings = [event for event in link.host_events if event.bytes]
        result.measurements = [
            Measurement.of(quantity, value, unit, link.evidence, link.device)
            for quantity, value, unit in (
                (MeasurementKey.HOST_WAITS, sum(e.count for e in link.host_events if not e.bytes), ""),
                (MeasurementKey.CROSSINGS, sum(event.count for event in crossings), ""),
                (MeasurementKey.CROSSED_BYTES, sum(event.bytes for event in crossings), "bytes"),
            )
        ]
    if link.dispatches_as_mps:
        counts = Counter(use.verdict for use in link.uses)
        calls_by = Counter({v: sum(u.count for u in link.uses if u.verdict is v) for v in counts})
        result.table = Table(
            columns=["verdict", "op uses", "calls"],
            rows=[[verdict.value, n, calls_by[verdict]] for verdict, n in counts.most_common()],
        )
    return result


@CHECKS.add("missing", "No op that the target calls is missing on MPS, or refused by its kernel")
def _missing(link: Recorded) -> Result:
    remedy = (
        "Install a torch whose MPS has the kernel (`mpsprobe ops NAME` names it); or set "
        "PYTORCH_ENABLE_MPS_FALLBACK=1 before Python starts, which helps where a kernel is missing, not for dtypes."
    )
    return _found(link, link.of(OpVerdict.RAISES), Status.FAIL, remedy)


@CHECKS.add("fallback", "No op falls back to the CPU")
def _fallback(link: Recorded) -> Result:
    remedy = "Each costs two copies and a wait; look whether a newer torch has the kernel: mpsprobe ops NAME."
    return _found(link, link.of(OpVerdict.FALLBACK), Status.WARN, remedy)


@CHECKS.add("wrong", "No op use is known to give wrong results on this torch and macOS")
def _wrong(link: Recorded) -> Result:
    wrong = link.of(OpVerdict.WRONG)
    fixes = [one.fix for one in link.hazards if one.is_met and one.symptom in _SILENT]
    if wrong and (good := known_bad.nearest_good(link.uses, link.mac)):
        fixes.append(f"torch {good} is the nearest release that is not known to compute them wrongly.")
    result = _found(link, wrong, Status.FAIL, " ".join(dict.fromkeys(fixes)))
    if result.status is Status.FAIL:
        reasons = "; ".join(dict.fromkeys(one.reason for one in wrong))
        result.message = f"{reasons}: {result.message[0].lower()}{result.message[1:]}"
    return result


@CHECKS.add("advisories", "No op use meets every condition of an advisory")
def _advisories(link: Recorded) -> Result:
    remedy = "Each is a known fault, with its fix: mpsprobe advisories ID."
    result = _found(link, [one for one in link.judged if one.known], Status.WARN, remedy)
    if not link.dispatches_as_mps:
        return result
    met = [one for one in link.hazards if one.is_met]
    possible = [one for one in link.hazards if not one.is_met and one.listed]
    rest = len(link.hazards) - len(met) - len(possible)
    if met and result.status is Status.PASS:
        result.status, result.message, result.remedy = Status.WARN, f"On torch {link.mac.torch}.", remedy
    growing = [one for one in possible if one.severity == "critical" and one.from_tokens is not None]
    if growing and result.status is Status.PASS:  # only the length of this run keeps it away
        result.status, result.remedy = Status.WARN, remedy
        result.message += f" {growing[0].title}, {growing[0].why}."
    counts = [
        (len(met), "met"),
        (len(possible), "possible"),
        (rest, "only in circumstances that no recording shows"),
    ]
    listed = ", ".join(f"{count} {words}" for count, words in counts if count)
    result.message += f" Known faults of these ops: {listed}." if listed else ""
    if met or possible:
        result.table = Table(
            columns=["advisory", "severity", "what goes wrong", "certainty", "calls", "what to do"],
            rows=[
                [one.advisory, one.severity, one.title, one.why or one.certainty, one.calls, one.fix]
                for one in (met + possible)[:_ROWS]
            ],
        )
    return result


@CHECKS.add("known", "Every op is in the table of its torch release")
def _known(link: Recorded) -> Result:
    remedy = "Operators of other packages need their own MPS kernels: ask their maintainers."
    return _found(link, link.of(OpVerdict.UNKNOWN), Status.WARN, remedy)


@CHECKS.add("replay", "Every kind of op use, run again by itself, agrees with a float64 reference")
def _replay(link: Recorded) -> Result:
    return link.bench.all(representatives(link.uses))


@CHECKS.add("probes", "No known fault of MPS shows on this torch, macOS and chip")
def _probes(link: Recorded) -> Result:
    if link.device != "mps":
        return Result(
            Status.UNKNOWN,
            f"Only the GPU of a Mac can tell; this run computes on {link.device}.",
            "Run on the Mac.",
        )
    met = {id_ for use in link.uses for id_ in use.advisories}
    asked = [advisory for advisory in advisories.load_all() if advisory.probe]
    answers = [(advisory, link.bench.probe(advisory.probe)) for advisory in asked]
    bad = [(advisory, answer) for advisory, answer in answers if answer.answer == "bad"]
    hit = [advisory.id for advisory, _ in bad if advisory.id in met]
    unclear = sum(answer.answer == "unknown" for _, answer in answers)
    result = Result(
        Status.FAIL if hit else Status.WARN if bad else Status.PASS,
        f"{len(bad)} of {len(asked)} faults show here"
        + (f"; the target meets the conditions of {', '.join(hit)}" if hit else "")
        + (f"; {unclear} probes gave no answer" if unclear else "")
        + ".",
        "Each has its way around: mpsprobe advisories ID." if bad else "",
        evidence=link.evidence,
        device=link.device,
    )
    if bad:
        result.table = Table(
            columns=["advisory", "what shows", "the target meets it", "what to do"],
            rows=[[one.id, answer.message, one.id in met, one.fix] for one, answer in bad],
        )
    return result


def _found(link: Recorded, found: list[JudgedUse], status: Status, remedy: str) -> Result:
    """Return a pass when no op use was found, else `status` with a table of those found.

    The result is `unknown` for a device that dispatches other ops than a Mac.
    """
    if not link.dispatches_as_mps:
        return Result(
            Status.UNKNOWN,
            f"Recorded on {link.device}, whose kernels are not those of MPS.",
            "Run with --device emulated.",
        )
    # The uses were recorded, the verdicts come from tables; the weaker evidence of the two counts.
    on = f"torch {link.mac.torch}" + (f", macOS {link.mac.macos}" if link.mac.macos else "")
    if not found:
        return Result(Status.PASS, f"On {on}.", evidence=Evidence.PREDICTED, device="mps")
    names = Counter(one.use.op for one in found)
    shown = ", ".join(names) if len(names) <= 5 else f"{', '.join(list(names)[:5])} and {len(names) - 5} more"
    rows: list[list[str | int | float | bool | None]] = [
        [
            one.use.op,
            one.use.count,
            one.use.module,
            one.use.source,
            one.reason or ", ".join(one.known),
        ]
        for one in found[:_ROWS]
    ]
    return Result(
        status,
        f"{plural(len(found), 'op use')} on {on}: {shown}.",
        remedy,
        evidence=Evidence.PREDICTED,
        device="mps",
        table=Table(columns=["op", "calls", "module", "source", "why"], rows=[[*row] for row in rows]),
    )
