"""Phase 3: the target's files on this machine, whole and readable."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from mpsprobe.errors import MpsprobeError
from mpsprobe.models import hub, registry
from mpsprobe.models import snapshot as snapshots
from mpsprobe.models.adapter import Adapter
from mpsprobe.models.profile import Profile
from mpsprobe.models.snapshot import Snapshot
from mpsprobe.models.targets import TargetRef
from mpsprobe.phases.check import Checks, LinkFailed, Result, Stopwatch
from mpsprobe.run import Evidence, Measurement, Phase, Status, Table, Target


@dataclass
class Obtained:
    """The link of phase 3.

    Attributes:
        ref: what was asked for.
        snapshot: its files, inspected.
        preflight: what the hub said before the download; None for a local or built target.
        source: `"built"`, `"folder"`, `"cache"` or `"hub"`.
        seconds: wall time of building or fetching.
    """

    ref: TargetRef
    snapshot: Snapshot
    preflight: hub.Preflight | None
    source: str
    seconds: float

    @property
    def profile(self) -> Profile:
        """The profile in force."""
        return self.ref.profile

    @functools.cached_property
    def adapter(self) -> Adapter:
        """The profile's adapter over the snapshot."""
        return registry.make_adapter(self.profile, self.snapshot.path)

    @property
    def target(self) -> Target:
        """What the run's document says of the target."""
        return Target(
            name=self.ref.name,
            profile=self.profile.name,
            revision=self.preflight.revision if self.preflight else self.ref.revision,
            path=str(self.snapshot.path),
            architecture=self.snapshot.architecture,
            parameters=self.snapshot.parameters,
            weight_bytes=self.snapshot.weight_bytes,
            dtype=self.profile.dtype,
        )


def obtain(ref: TargetRef, progress: Callable[[str], None]) -> Obtained:
    """Build, find or fetch the target's files, and inspect them.

    Args:
        ref: the target.
        progress: told how far a download is.

    Raises:
        LinkFailed: with the typed error's words: no such model, gated, no space, offline, broken files.
    """
    plan: hub.Preflight | None = None
    try:
        with Stopwatch() as watch:
            if ref.folder is not None:
                source, folder = "folder", ref.folder
            elif ref.repo is None:
                source, folder = "built", registry.build_snapshot(ref.profile)
            elif ref.offline:
                source, folder = "cache", hub.cached_snapshot(ref.repo, ref.revision)
            else:
                plan = hub.preflight(ref.repo, ref.revision)
                source = "hub" if plan.needed_bytes else "cache"
                folder = hub.download(
                    plan, lambda done, total: progress(f"{done / 1e9:.2f} of {total / 1e9:.2f} GB")
                )
        return Obtained(ref, snapshots.inspect(folder), plan, source, watch.seconds)
    except MpsprobeError as problem:
        raise LinkFailed(
            Phase.DOWNLOAD, Result(Status.FAIL, problem.what, problem.hint, evidence=Evidence.MEASURED)
        ) from problem


CHECKS: Checks[Obtained] = Checks(Phase.DOWNLOAD)


@CHECKS.add("files", "The target's files are here, whole and readable", link=True)
def _files(obtained: Obtained) -> Result:
    found = obtained.snapshot
    how = {
        "built": "made on this machine",
        "folder": "a local folder",
        "cache": "in the hub's cache already",
        "hub": "fetched from the hub",
    }[obtained.source]
    result = Result(
        Status.PASS,
        f"{len(found.files)} weight files, {found.weight_bytes / 1e6:,.1f} MB, {how}.",
        evidence=Evidence.MEASURED,
    )
    result.measurements = [
        Measurement("weights", found.weight_bytes, "bytes", Evidence.MEASURED, "host"),
        Measurement("parameters stored", found.parameters, "", Evidence.MEASURED, "host"),
        Measurement("time to obtain", round(obtained.seconds, 3), "s", Evidence.MEASURED, "host"),
    ]
    return result


@CHECKS.add("preflight", "The download fits the disk and its terms are accepted")
def _preflight(obtained: Obtained) -> Result:
    plan = obtained.preflight
    if plan is None:
        return Result(Status.SKIPPED, "Nothing had to be fetched: the target is on this machine.")
    return Result(
        Status.PASS,
        f"{plan.total_bytes / 1e9:.2f} GB in {len(plan.files)} files, {plan.needed_bytes / 1e9:.2f} GB of them"
        f" to fetch, {plan.free_bytes / 1e9:.0f} GB free"
        f"{', gated and accepted' if plan.gated else ''}, {'with' if plan.token else 'without'} a token.",
        evidence=Evidence.MEASURED,
        measurements=[
            Measurement("download", plan.total_bytes, "bytes", Evidence.MEASURED, "host"),
            Measurement("to fetch", plan.needed_bytes, "bytes", Evidence.MEASURED, "host"),
            Measurement("free disk", plan.free_bytes, "bytes", Evidence.MEASURED, "host"),
        ],
    )


@CHECKS.add("dtypes", "No stored tensor has a dtype that MPS cannot hold")
def _dtypes(obtained: Obtained) -> Result:
    dtypes = obtained.snapshot.dtypes
    result = Result(Status.PASS, ", ".join(dtypes), evidence=Evidence.MEASURED)
    never = [dtype for dtype in dtypes if dtype in ("float64", "complex128")]
    if never:
        result = Result(
            Status.WARN,
            f"Stored as {', '.join(never)}, which no MPS release can hold.",
            "Load with dtype=float32 or a half precision: the cast must happen before the move.",
            evidence=Evidence.MEASURED,
        )
    result.table = Table(columns=["dtype", "elements"], rows=[[name, n] for name, n in dtypes.items()])
    return result
