"""Make checks of replays: one check for each op use, or one for all of a target's within a time budget."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mpsprobe.errors import HarnessError
from mpsprobe.knowledge import advisories
from mpsprobe.ops.distinct import is_simple, unique_names
from mpsprobe.ops.expectations import Expectations
from mpsprobe.ops.isolation import OP_LIMIT_S, Isolation, allowance
from mpsprobe.ops.protocol import ProbeAnswer, Replay, ReplayOutcome, Request, Setup
from mpsprobe.phases.check import CheckSpec, Result
from mpsprobe.run import (
    Evidence,
    Mac,
    Measurement,
    MeasurementKey,
    OpUse,
    OpVerdict,
    Phase,
    ReplayRecord,
    Replays,
    Status,
    Table,
    worst,
)

#: The seed, which gives the same inputs on every machine, so that two runs can be compared.
SEED = 20251031
#: The time budget of replays in seconds. Those of the default target take two on the virtual device.
BUDGET_S = 20.0
#: The time limit of one op use in seconds, so that after a hang the check can still end within its own limit.
_HASTY_S = 30.0
_ROWS = 60
#: The outcome of a replay that an expectation file skips.
SKIPPED = "skipped"
_STATUS = {
    ReplayOutcome.NATIVE: Status.PASS,
    ReplayOutcome.SLOWER: Status.WARN,
    ReplayOutcome.FALLBACK: Status.WARN,
    ReplayOutcome.VARIES: Status.WARN,
    ReplayOutcome.UNKNOWN: Status.UNKNOWN,
    ReplayOutcome.WRONG: Status.FAIL,
    ReplayOutcome.NAN: Status.FAIL,
    ReplayOutcome.RAISES: Status.FAIL,
    ReplayOutcome.FAULT: Status.FAIL,
    ReplayOutcome.HANGS: Status.TIMEOUT,
    ReplayOutcome.CRASHED: Status.CRASHED,
}
_WORST_FIRST = [Status.CRASHED, Status.TIMEOUT, Status.FAIL, Status.WARN, Status.UNKNOWN, Status.SKIPPED]
_REMEDY = {
    ReplayOutcome.SLOWER: "Keep small ops of this kind on the CPU, or give the GPU larger batches.",
    ReplayOutcome.FALLBACK: "Each call copies both ways and waits; a newer torch may have a kernel: mpsprobe ops NAME.",
    ReplayOutcome.WRONG: "Compute it in float32 or on the CPU; mpsprobe advisories --op NAME lists known faults.",
    ReplayOutcome.NAN: "Compute it in float32 or on the CPU; mpsprobe advisories --op NAME lists known faults.",
    ReplayOutcome.RAISES: "mpsprobe explain reads the message; mpsprobe ops NAME lists the torch releases with the op.",
    ReplayOutcome.FAULT: "Update macOS and torch; do not trust results that follow.",
    ReplayOutcome.HANGS: "Read where it hangs; update torch, or run the op on the CPU.",
    ReplayOutcome.CRASHED: "Give its last output to mpsprobe explain; update torch, or run the op on the CPU.",
}


@dataclass
class Bench:
    """Replay op uses in a worker, and word the results as checks.

    Attributes:
        isolation: The isolation, through which a worker process replays op uses.
        device: The name of the device, as in a run.
        evidence: The evidence of results on the device.
        mac: The target Mac.
        expected: The failures that expectation files list.
        budget_s: The time budget in seconds for all replays of a run that does not request every one.
    """

    isolation: Isolation
    device: str
    evidence: Evidence
    mac: Mac
    expected: Expectations = field(default_factory=Expectations)
    budget_s: float = BUDGET_S

    def check(self, name: str, use: OpUse) -> Result:
        """Replay one op use, and return the result of its check."""
        return self._checked(name, use)[0]

    def _checked(self, name: str, use: OpUse) -> tuple[Result, ReplayOutcome | None]:
        """Replay one op use; the outcome is None where an expectation file skips it."""
        id_ = f"{Phase.OPS.value}.{name}"
        skip = self.expected.skip(id_)
        if skip is not None:
            return Result(Status.SKIPPED, skip), None
        replay = self.isolation.replay(Request(use, SEED))
        return self.expected.judged(id_, self.result(use, replay)), replay.outcome

    def probe(self, name: str) -> ProbeAnswer:
        """Return the answer of an advisory's probe on this device."""
        return self.isolation.probe(name)

    def result(self, use: OpUse, replay: Replay) -> Result:
        """Return the result of a check, worded for readers, from what a replay found."""
        known = (
            advisories.match(use, self.mac.torch, self.mac.macos, self.mac.chip) if self._bad(replay) else []
        )
        named = f" Known: {', '.join(match.advisory.id for match in known)}." if known else ""
        return Result(
            _STATUS[replay.outcome],
            f"{replay.message}{named}".strip(),
            _REMEDY.get(replay.outcome, "").replace("NAME", use.op),
            evidence=None if replay.outcome is ReplayOutcome.UNKNOWN else self.evidence,
            device=self.device,
            measurements=list(self._measurements(replay)),
            table=_comparisons(replay),
            output="\n".join(part for part in (replay.error, replay.output) if part),
        )

    @staticmethod
    def _bad(replay: Replay) -> bool:
        return _STATUS[replay.outcome] not in (Status.PASS, Status.UNKNOWN)

    def _measurements(self, replay: Replay) -> Sequence[Measurement]:
        found: list[tuple[MeasurementKey, float | int | str | bool | None, str]] = [
            (MeasurementKey.OUTCOME, replay.outcome.value, "")
        ]
        if replay.comparisons:
            worst = max(replay.comparisons, key=lambda one: one.difference / (one.scale or 1.0))
            found += [
                (MeasurementKey.DIFFERENCE, worst.difference, ""),
                (MeasurementKey.CPU_ROUNDING, worst.noise, ""),
            ]
        if replay.repeatable is not None:
            found.append((MeasurementKey.REPEATABLE, replay.repeatable, ""))
        if replay.fallbacks:
            found.append((MeasurementKey.FALLBACK_BYTES, replay.copied_bytes, "bytes"))
        if replay.timing is not None:
            found += [
                (MeasurementKey.CALL_TIME, replay.timing.device_s, "s"),
                (MeasurementKey.CPU_CALL_TIME, replay.timing.cpu_s, "s"),
                (MeasurementKey.LAUNCH_TIME, replay.timing.launch_s, "s"),
            ]
        return [Measurement.of(*one, self.evidence, self.device) for one in found]

    def all(self, uses: Sequence[OpUse]) -> Result:
        """Replay op uses, the most suspect first, until the budget is spent, and return one result for all.

        The budget begins after the first replay, which also starts the worker. If the worker fails later, the result
        has the status `error` and keeps the earlier replays.

        Args:
            uses: Distinct op uses with verdicts.

        Raises:
            HarnessError: The worker failed at the first op use.
        """
        names = unique_names(uses)
        order = sorted(range(len(uses)), key=lambda index: _suspicion(uses[index]))
        results: dict[int, tuple[Result, ReplayOutcome | None]] = {}
        self.isolation.op_limit_s = min(self.isolation.op_limit_s, _HASTY_S)
        until, lost = None, ""
        for index in order:
            if until is not None and time.monotonic() > until:
                break
            try:
                result, outcome = self._checked(names[index], uses[index])
            except HarnessError as problem:  # earlier results are kept
                if not results:
                    raise
                lost = str(problem)
                break
            results[index] = (result, outcome)
            # The first one also starts the worker, which takes as long as importing torch.
            until = until or time.monotonic() + self.budget_s
        return self._together(names, uses, results, lost)

    def _together(
        self,
        names: list[str],
        uses: Sequence[OpUse],
        results: dict[int, tuple[Result, ReplayOutcome | None]],
        lost: str,
    ) -> Result:
        counts = Counter(outcome.value if outcome else SKIPPED for _, outcome in results.values())
        status = worst(result.status for result, _ in results.values())
        left = len(uses) - len(results)
        summary = ", ".join(f"{count} {word}" for word, count in counts.most_common())
        place = f"the {self.device} device" if self.device == "emulated" else self.device
        message = f"{len(results)} op uses replayed on {place}: {summary}." if results else "None replayed."
        if lost:
            status = Status.ERROR
            message += f" {left} were not replayed: {lost}"
        elif left:
            message += f" {left} were not replayed within {self.budget_s:g} s."
        stale = self.expected.unused(f"{Phase.OPS.value}.{name}" for name in names)
        if stale:
            message += f" {len(stale)} ids of expectation files match nothing: {stale[0]}."
        told_of = [pair for pair in results.items() if pair[1][0].status is not Status.PASS]
        told_of.sort(key=lambda pair: _WORST_FIRST.index(pair[1][0].status))
        if told_of and status in (Status.CRASHED, Status.TIMEOUT, Status.FAIL):
            index, (result, _) = told_of[0]
            message += f" {names[index]}: {result.message}"
        rows: list[list[str | int | float | bool | None]] = [
            [
                names[index],
                outcome.value if outcome else SKIPPED,
                uses[index].count,
                uses[index].module,
                result.message,
            ]
            for index, (result, outcome) in told_of[:_ROWS]
        ]
        outputs = [result.output for result, _ in results.values() if result.output]
        return Result(
            status,
            message,
            "Run `pytest --pyargs mpsprobe.suite -m ops --mpsprobe-model MODEL` anywhere: each is a test of its own."
            if rows or left
            else "",
            evidence=self.evidence if results else None,
            device=self.device,
            measurements=[
                Measurement.of(MeasurementKey.REPLAYED, len(results), "", self.evidence, self.device),
                Measurement.of(MeasurementKey.NOT_REPLAYED, left, "", self.evidence, self.device),
            ],
            table=Table(columns=["op use", "outcome", "calls", "module", "what"], rows=rows)
            if rows
            else None,
            data=Replays(
                [
                    ReplayRecord(
                        f"{Phase.OPS.value}.{names[index]}",
                        outcome.value if outcome else SKIPPED,
                        result.message,
                        uses[index].count,
                    )
                    for index, (result, outcome) in results.items()
                ]
            ),
            output=outputs[0] if outputs else "",
        )


def make(
    device: str,
    evidence: Evidence,
    mac: Mac,
    *,
    threads: int = 0,
    op_limit_s: float = OP_LIMIT_S,
    expected: Expectations | None = None,
) -> Bench:
    """Return a bench for a device, whose worker starts with the first replay.

    Args:
        device: The name of the device, as in a run.
        evidence: The evidence of results on the device.
        mac: The target Mac.
        threads: The number of CPU threads of an op; 0 for torch's own choice.
        op_limit_s: The time limit of one op use in seconds.
        expected: The failures that expectation files list.
    """
    setup = Setup(device, mac.torch, mac.macos, mac.memory_gb, mac.fallback, threads, allowance())
    isolation = Isolation(setup, op_limit_s=min(op_limit_s, OP_LIMIT_S))
    return Bench(isolation, device, evidence, mac, expected or Expectations())


def specs(uses: Sequence[OpUse]) -> list[CheckSpec[Bench]]:
    """Return a check for each op use, to run on a bench."""
    return [_spec(name, use) for name, use in zip(unique_names(uses), uses, strict=True)]


def _spec(name: str, use: OpUse) -> CheckSpec[Bench]:
    return CheckSpec(
        Phase.OPS, name, f"{use.op} runs on the device and agrees with the CPU", lambda b: b.check(name, use)
    )


_VERDICTS = (OpVerdict.RAISES, OpVerdict.WRONG, OpVerdict.FALLBACK, OpVerdict.UNKNOWN)


def _suspicion(use: OpUse) -> tuple[int, int, int, int]:
    """Return a sort key, most suspect first: bad verdicts, then advisories, ops that are not simple, and calls."""
    verdict = _VERDICTS.index(use.verdict) if use.verdict in _VERDICTS else len(_VERDICTS)
    return (verdict, -len(use.advisories), is_simple(use.op), -use.count)


def _comparisons(replay: Replay) -> Table | None:
    if not replay.comparisons:
        return None
    return Table(
        columns=[
            "result",
            "dtype",
            "reference",
            "difference",
            "CPU's own",
            "scale",
            "off",
            "not finite",
            "elements",
        ],
        rows=[
            [
                one.output,
                one.dtype,
                one.reference,
                _rounded(one.difference),
                _rounded(one.noise),
                _rounded(one.scale),
                one.off,
                one.not_finite,
                one.elements,
            ]
            for one in replay.comparisons
        ],
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")
