"""What the routes judge: one run with what was forecast for it, and the totals that every route asks for."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mpsprobe.knowledge import cloud_prices
from mpsprobe.knowledge.cloud_prices import Cloud, ExperimentPlan
from mpsprobe.knowledge.mlx import Proof
from mpsprobe.run import (
    Evidence,
    Fit,
    Forecast,
    Mac,
    MeasurementKey,
    OpUse,
    OpVerdict,
    Phase,
    Run,
    Status,
    TimePart,
)

#: A kernel of the release runs it, itself or through others.
NATIVE = (OpVerdict.NATIVE, OpVerdict.COMPOSITE)
#: Stages whose failed checks stop the target itself.
_OF_TARGET = (Phase.TRANSFER, Phase.DATA, Phase.INFERENCE)
_BROKEN = (Status.FAIL, Status.CRASHED, Status.TIMEOUT)


@dataclass(frozen=True)
class UnrecordedRefusal:
    """Something the Mac refuses that no op use carries: a dtype, a generator, two devices in one call.

    Attributes:
        what: one sentence.
        where: `file:line`; may be empty.
        certain: False when it rests on an assumed value.
        fix: what helps, where that is known.
    """

    what: str
    where: str = ""
    certain: bool = True
    fix: str = ""


@dataclass(frozen=True)
class OnRelease:
    """The target on one torch release.

    Attributes:
        torch: minor release.
        calls: by verdict.
        not_native: ops by verdict, but for `native` and `composite`.
        fully_native: nothing falls back, raises, is wrong, unknown or refused.
        stopped: why it ended early, or why nothing was run; empty when neither.
        refused: kinds of refusals with their number.
    """

    torch: str
    calls: dict[str, int]
    not_native: dict[str, list[str]]
    fully_native: bool
    stopped: str = ""
    refused: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """Everything a judgement rests on.

    Attributes:
        run: target, Mac, op uses, and checks where any ran.
        forecast: memory and time; None when nothing could be forecast.
        refusals: what the Mac refuses beside ops.
        stopped: why the target's code ended early; empty when it did not.
        next_step: what to do where it ended on an input that was made up; empty otherwise.
        assumed: a value that nothing computed decided a branch or a size.
        releases: the same target over torch releases, oldest first; empty when only one was asked about.
        cloud: offers, plan and rates of transfer.
        proofs: parity runs of MLX that count, those of this user first.
        architecture: `model_type` of the target's config; empty when not known.
        words: of a command line, that name the target and its workload; empty when only its name is known.
    """

    run: Run
    forecast: Forecast | None = None
    refusals: Sequence[UnrecordedRefusal] = ()
    stopped: str = ""
    next_step: str = ""
    assumed: bool = False
    releases: Sequence[OnRelease] = ()
    cloud: Cloud = field(default_factory=cloud_prices.current)
    proofs: Sequence[Proof] = ()
    architecture: str = ""
    words: tuple[str, ...] = ()

    @property
    def mac(self) -> Mac:
        """Return the target Mac."""
        assert self.run.mac is not None, "a case is made for a run that knows its Mac"
        return self.run.mac

    @property
    def plan(self) -> ExperimentPlan:
        """Return what the owner wants: `--samples`, else the plan of the user's own price file, else the profile's."""
        target = self.run.target
        if target.training is not None:
            rows = target.training.rows
            return ExperimentPlan(max(target.samples, rows), 0, "--samples", step_rows=rows)
        if self.cloud.plan is not None and (target.samples, target.perturbations) == (1, 0):
            return self.cloud.plan
        return ExperimentPlan(
            target.samples,
            target.perturbations,
            f"profile {target.profile}" if target.perturbations else "--samples",
        )

    @property
    def uses(self) -> list[OpUse]:
        """Op uses of the run."""
        return self.run.op_uses

    @property
    def evidence(self) -> Evidence:
        """Return the weakest evidence of the op uses and of the forecast."""
        known = {use.evidence for use in self.uses}
        if self.forecast is not None:
            known.add(self.forecast.evidence)
        return weakest(known)

    @functools.cached_property
    def calls(self) -> dict[OpVerdict, int]:
        """Calls by verdict, those present only."""
        found: dict[OpVerdict, int] = {}
        for use in self.uses:
            found[use.verdict] = found.get(use.verdict, 0) + use.count
        return found

    @property
    def native_calls(self) -> float | None:
        """Return the share of the calls that run on the GPU; None without op uses."""
        total = sum(self.calls.values())
        return sum(self.calls.get(verdict, 0) for verdict in NATIVE) / total if total else None

    @property
    def native_time(self) -> float | None:
        """Return the share of the op time on the GPU: forecast, or all of it where every call is native."""
        if self.native_calls == 1.0:
            return 1.0
        return self.forecast.time.native_time_share if self.forecast and self.forecast.time else None

    @property
    def fit(self) -> Fit:
        """Of the memory, as forecast."""
        memory = self.forecast.memory if self.forecast else None
        return memory.fit if memory else Fit.UNKNOWN

    @property
    def broken(self) -> list[str]:
        """Messages of the checks of the target itself that failed."""
        return [
            f"{check.id}: {check.message}" if check.message else check.id
            for check in self.run.checks
            if check.phase in _OF_TARGET and check.status in _BROKEN
        ]

    @property
    def seconds_per_sample(self) -> float | None:
        """On the Mac: measured there, else forecast; None when neither is known."""
        measured = self.measured_seconds
        if measured is not None:
            return measured
        time = self.forecast.time if self.forecast else None
        return time.per_sample.expected if time and time.per_sample else None

    @property
    def measured_seconds(self) -> float | None:
        """Time per sample that this run measured on MPS."""
        for check in self.run.checks:
            for each in check.measurements:
                measured = each.evidence is Evidence.MEASURED and each.device == "mps"
                if (
                    measured
                    and each.key == MeasurementKey.TIME_PER_SAMPLE.value
                    and isinstance(each.value, (int, float))
                ):
                    return float(each.value)
        return None

    def stage(self, name: str) -> TimePart | None:
        """Return a part of the forecast of time on the Mac; None when it has none of that name."""
        time = self.forecast.time if self.forecast else None
        return next((part for part in time.parts if part.name == name), None) if time else None

    @property
    def data_bytes(self) -> int | None:
        """Of a sample, prepared; None when not known."""
        memory = self.forecast.memory if self.forecast else None
        return next((part.bytes for part in memory.parts if part.name == "data"), None) if memory else None

    @property
    def over_bytes(self) -> int | None:
        """Return what the target needs beyond Metal's recommended working set, where macOS begins to swap."""
        memory = self.forecast.memory if self.forecast else None
        if memory is None or memory.needed_bytes is None or memory.working_set_bytes is None:
            return None
        return max(0, memory.needed_bytes - memory.working_set_bytes)


def weakest(levels: Iterable[Evidence]) -> Evidence:
    """Return the weakest of some evidence levels; predicted for none."""
    order = list(Evidence)
    return min(levels, key=order.index, default=Evidence.PREDICTED)
