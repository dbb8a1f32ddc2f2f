"""The input of every route: one run with its forecast, and the totals that the routes share."""

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

#: Verdicts of op uses that run in kernels of the release, directly or through other ops.
NATIVE = (OpVerdict.NATIVE, OpVerdict.COMPOSITE)
#: Stages whose failed checks stop the target itself.
_OF_TARGET = (Phase.TRANSFER, Phase.DATA, Phase.INFERENCE)
_BROKEN = (Status.FAIL, Status.CRASHED, Status.TIMEOUT)


@dataclass(frozen=True)
class UnrecordedRefusal:
    """A refusal by the Mac that no op use carries, such as a dtype, a generator or two devices in one call.

    Attributes:
        what: The refusal, in one sentence.
        where: The place as `file:line`; may be empty.
        certain: False when the refusal rests on an assumed value.
        fix: The fix; empty when none is known.
    """

    what: str
    where: str = ""
    certain: bool = True
    fix: str = ""


@dataclass(frozen=True)
class OnRelease:
    """What a torch release other than the run's does with the target.

    Attributes:
        torch: The minor release.
        calls: The number of calls by verdict.
        not_native: The ops by verdict, without those that are `native` or `composite`.
        fully_native: Whether nothing falls back, raises, is wrong, is unknown or is refused.
        stopped: The reason why the target's code ended early or was not run; empty otherwise.
        refused: The number of refusals by kind.
    """

    torch: str
    calls: dict[str, int]
    not_native: dict[str, list[str]]
    fully_native: bool
    stopped: str = ""
    refused: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """The input of every route: a run, its forecast and the prices of GPUs.

    Attributes:
        run: The run with its target, Mac and op uses, and with checks where any ran.
        forecast: Memory and time; None when nothing could be forecast.
        refusals: The refusals by the Mac that no op use carries.
        stopped: The reason why the target's code ended early; empty when it did not.
        next_step: The advice for a run whose made-up input stopped the target; empty otherwise.
        assumed: Whether an assumed value decided a branch or a size.
        releases: The same target over torch releases, oldest first; empty when only one was requested.
        cloud: The offers, the plan and the transfer rates.
        proofs: The parity runs of MLX that count, this user's own first.
        architecture: The `model_type` of the target's config; empty when unknown.
        words: The command-line words that name the target and its workload, none for the default target; None when
            only the target's name is known.
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
    words: tuple[str, ...] | None = None

    @property
    def mac(self) -> Mac:
        """Return the Mac that the run or prediction is about."""
        assert self.run.mac is not None, "a case is made for a run that knows its Mac"
        return self.run.mac

    @property
    def one(self) -> str:
        """Return what is timed: `"sample"`, or `"step"` where the target is trained."""
        return "sample" if self.run.target.training is None else "step"

    @property
    def plan(self) -> ExperimentPlan:
        """Return the plan that routes are timed for.

        Where the target is trained it is an epoch of the given samples, at least one step. Otherwise the run's own
        numbers of samples and perturbations count, and only where these are 1 and 0 the plan of the price file, if
        it has one.
        """
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
        """Return the op uses of the run."""
        return self.run.op_uses

    @property
    def ops_evidence(self) -> Evidence:
        """Return the weakest evidence of the op uses."""
        return weakest(use.evidence for use in self.uses)

    @property
    def evidence(self) -> Evidence:
        """Return the weakest evidence of the op uses and, unless the Mac's own time was measured, of the forecast."""
        if self.forecast is None or self.measured_seconds is not None:
            return self.ops_evidence
        return weakest([self.ops_evidence, self.forecast.evidence])

    @functools.cached_property
    def calls(self) -> dict[OpVerdict, int]:
        """Return the number of calls by verdict, without verdicts that do not occur."""
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
        """Return the share of the op time on the GPU: the forecast, or 1 where every call is native."""
        if self.native_calls == 1.0:
            return 1.0
        return self.forecast.time.native_time_share if self.forecast and self.forecast.time else None

    @property
    def fit(self) -> Fit:
        """Return whether the forecast memory fits; `Fit.UNKNOWN` without a forecast of it."""
        memory = self.forecast.memory if self.forecast else None
        return memory.fit if memory else Fit.UNKNOWN

    @property
    def packed(self) -> bool:
        """Return whether the weights stay packed once they load, so that the op uses are those of plain weights."""
        found = self.run.predicted.quantisation if self.run.predicted is not None else None
        return found is not None and found.packed

    @property
    def workload(self) -> str:
        """Return the workload that a sample is, as in `a prompt of 32 tokens, 128 new tokens`; empty when unknown."""
        if self.forecast is not None and self.forecast.workload:
            return self.forecast.workload.partition(" (defaults")[0]
        return self.run.predicted.doing if self.run.predicted is not None else ""

    @property
    def wrong_from(self) -> int | None:
        """Return the fewest tokens with which wrong values occur; None for none, or where this workload meets some."""
        faults = self.run.predicted.hazards if self.run.predicted is not None else []
        met = [one for one in faults if one.symptom in ("wrong", "nan") and one.is_met]
        later = [one.from_tokens for one in met if one.certainty != "certain" and one.from_tokens is not None]
        return min(later) if later and len(later) == len(met) else None

    @property
    def broken(self) -> list[str]:
        """Return `ID: message` of each failed, crashed or timed-out check of loading, data and inference."""
        return [
            f"{check.id}: {check.message}" if check.message else check.id
            for check in self.run.checks
            if check.phase in _OF_TARGET and check.status in _BROKEN
        ]

    @property
    def seconds_per_sample(self) -> float | None:
        """Return the time of a sample on the Mac in seconds: measured, else forecast; None when neither is known."""
        measured = self.measured_seconds
        if measured is not None:
            return measured
        time = self.forecast.time if self.forecast else None
        return time.per_sample.expected if time and time.per_sample else None

    @property
    def measured_seconds(self) -> float | None:
        """Return the time of a sample in seconds that this run measured on MPS; None when it did not."""
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
        """Return the stage with this name of the time forecast for the Mac; None when there is none."""
        time = self.forecast.time if self.forecast else None
        return next((part for part in time.parts if part.name == name), None) if time else None

    @property
    def data_bytes(self) -> int | None:
        """Return the size of a prepared sample in bytes; None when unknown."""
        memory = self.forecast.memory if self.forecast else None
        return next((part.bytes for part in memory.parts if part.name == "data"), None) if memory else None

    @property
    def over_bytes(self) -> int | None:
        """Return by how many bytes the target exceeds Metal's recommended working set; None when unknown."""
        memory = self.forecast.memory if self.forecast else None
        if memory is None or memory.needed_bytes is None or memory.working_set_bytes is None:
            return None
        return max(0, memory.needed_bytes - memory.working_set_bytes)


def weakest(levels: Iterable[Evidence]) -> Evidence:
    """Return the weakest of several evidence levels; `predicted` for none."""
    order = list(Evidence)
    return min(levels, key=order.index, default=Evidence.PREDICTED)
