"""Phase 3: the target's files on this machine, whole and readable."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from mpsprobe import consent
from mpsprobe.errors import MpsprobeError, TargetError
from mpsprobe.models import registry, stored
from mpsprobe.models.adapter import Adapter, Weights
from mpsprobe.models.hub import client
from mpsprobe.models.hub import snapshot as snapshots
from mpsprobe.models.hub.snapshot import Snapshot
from mpsprobe.models.profile import Profile
from mpsprobe.models.targets import TargetRef
from mpsprobe.models.weightless import config_only
from mpsprobe.phases.check import Checks, LinkFailed, Result, Stopwatch
from mpsprobe.phases.target_code import target_code
from mpsprobe.run import Evidence, Measurement, MeasurementKey, Phase, Status, Table, Target


@dataclass
class Obtained:
    """The link of phase 3.

    Attributes:
        ref: what was asked for.
        snapshot: its files, inspected.
        preflight: what the hub said before the download; None for a local or built target.
        source: `"built"`, `"folder"`, `"cache"` or `"hub"`; `"config"` for a target without its weights,
            `"file"` for a user's own file.
        seconds: wall time of building or fetching.
        progress: told which files of foreign code are about to run.
        changes: what was changed to shrink the target, one sentence each; known once its adapter is made.
        size: of the random weights of a target without its own; None where that is not known.
    """

    ref: TargetRef
    snapshot: Snapshot
    preflight: client.Preflight | None
    source: str
    seconds: float
    progress: Callable[[str], None] = lambda _: None
    changes: list[str] = field(default_factory=list)
    size: config_only.Size | None = None

    @property
    def profile(self) -> Profile:
        """The profile in force."""
        return self.ref.profile

    @functools.cached_property
    def adapter(self) -> Adapter:
        """The profile's adapter over the snapshot, or the one that needs no weights."""
        if not self.ref.weightless:
            return stored.make(self.ref, self.snapshot.path, self.progress)
        adapter, self.changes = config_only.make(self.ref, self.snapshot.path, Weights.RANDOM, self.progress)
        return adapter

    @property
    def target(self) -> Target:
        """What the run's document says of the target."""
        return Target(
            name=self.ref.title,
            profile=self.profile.name,
            revision=self.preflight.revision if self.preflight else self.ref.revision,
            path=str(self.snapshot.path),
            architecture=self.snapshot.architecture,
            parameters=self.size.parameters if self.size else self.snapshot.parameters or None,
            weight_bytes=self.size.nbytes if self.size else self.snapshot.weight_bytes or None,
            dtype=self.profile.dtype,
        )


def obtain(ref: TargetRef, progress: Callable[[str], None]) -> Obtained:
    """Build, find or fetch the target's files, and inspect them.

    Of a target that goes without its weights only the config and other small files are fetched, and its class is
    looked up: nothing else could tell whether they are of use.

    Args:
        ref: the target.
        progress: told how far a download is, and what foreign code is about to run.

    Raises:
        LinkFailed: with the typed error's words: no such model, gated, no space, offline, broken files.
    """
    if ref.weightless or ref.file is not None:  # its class is looked up, so its code runs
        with target_code(Phase.DOWNLOAD, "looking the target up", Evidence.MEASURED, "host"):
            return _without_weights(ref, progress) if ref.weightless else _file(ref)
    try:
        return _whole(ref, progress)
    except MpsprobeError as problem:
        raise LinkFailed(
            Phase.DOWNLOAD, Result(Status.FAIL, problem.what, problem.hint, evidence=Evidence.MEASURED)
        ) from problem


def _whole(ref: TargetRef, progress: Callable[[str], None]) -> Obtained:
    plan: client.Preflight | None = None
    with Stopwatch() as watch:
        if ref.folder is not None:
            source, folder = "folder", ref.folder
        elif ref.repo is None:
            source, folder = "built", registry.build_snapshot(ref.profile)
        elif ref.offline:
            source, folder = "cache", client.cached_snapshot(ref.repo, ref.revision)
        else:
            plan = client.preflight(ref.repo, ref.revision)
            source = "hub" if plan.needed_bytes else "cache"
            folder = client.download(
                plan, lambda done, total: progress(f"{done / 1e9:.2f} of {total / 1e9:.2f} GB")
            )
    consent.require(folder, ref.name, trusted=ref.trust_remote_code)
    obtained = Obtained(ref, snapshots.inspect(folder), plan, source, watch.seconds, progress)
    if stored.needs_remote_code(ref, folder):
        _ = obtained.adapter  # refused here, or said what will run
    return obtained


def _file(ref: TargetRef) -> Obtained:
    with Stopwatch() as watch:
        obtained = Obtained(ref, config_only.obtain(ref), None, "file", 0.0)
        _ = obtained.adapter  # imports it
    obtained.seconds = watch.seconds
    return obtained


def _without_weights(ref: TargetRef, progress: Callable[[str], None]) -> Obtained:
    with Stopwatch() as watch:
        obtained = Obtained(ref, config_only.obtain(ref), None, "config", 0.0, progress)
        adapter = obtained.adapter
    obtained.seconds = watch.seconds
    if ref.file is None:
        obtained.size = config_only.size(adapter, ref.profile.dtype)
    available = psutil.virtual_memory().available
    if obtained.size is not None and obtained.size.nbytes > available:
        raise TargetError(
            f"{ref.name}: {obtained.size.parameters / 1e9:.1f} B random weights take "
            f"{obtained.size.nbytes / 1e9:.1f} GB, {available / 1e9:.1f} GB are available.",
            "Give --shrink, or ask mpsprobe predict, which needs no memory.",
        )
    return obtained


CHECKS: Checks[Obtained] = Checks(Phase.DOWNLOAD)

_BY_ITSELF = "The target's file fetches what it needs by itself."


@CHECKS.add("files", "The target's files are here, whole and readable", link=True)
def _files(obtained: Obtained) -> Result:
    if obtained.source == "config":
        return _config_only(obtained)
    if obtained.source == "file":
        return Result(
            Status.PASS,
            f"{obtained.ref.file}: imported; it loads its own weights.",
            evidence=Evidence.MEASURED,
        )
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
        Measurement.of(MeasurementKey.STORED_WEIGHTS, found.weight_bytes, "bytes", Evidence.MEASURED, "host"),
        Measurement.of(MeasurementKey.STORED_PARAMETERS, found.parameters, "", Evidence.MEASURED, "host"),
        Measurement.of(MeasurementKey.OBTAINING, round(obtained.seconds, 3), "s", Evidence.MEASURED, "host"),
    ]
    return result


def _config_only(obtained: Obtained) -> Result:
    """What stands in for files of weights."""
    size = obtained.size
    told = f"{size.parameters:,} parameters, {size.nbytes / 1e6:,.1f} MB" if size else "of unknown size"
    result = Result(
        Status.PASS,
        " ".join([f"Random weights, {told}, from the config alone.", *obtained.changes]),
        evidence=Evidence.MEASURED,
        measurements=[
            Measurement.of(
                MeasurementKey.OBTAINING, round(obtained.seconds, 3), "s", Evidence.MEASURED, "host"
            )
        ],
    )
    if size is not None:
        result.measurements.append(
            Measurement.of(MeasurementKey.RANDOM_WEIGHTS, size.nbytes, "bytes", Evidence.MEASURED, "host")
        )
    return result


@CHECKS.add("preflight", "The download fits the disk and its terms are accepted")
def _preflight(obtained: Obtained) -> Result:
    plan = obtained.preflight
    if obtained.source == "config":
        return Result(
            Status.SKIPPED, "Weights are random: none are fetched, only the config and small files."
        )
    if obtained.source == "file":
        return Result(Status.SKIPPED, _BY_ITSELF)
    if plan is None:
        return Result(Status.SKIPPED, "Nothing had to be fetched: the target is on this machine.")
    return Result(
        Status.PASS,
        f"{plan.total_bytes / 1e9:.2f} GB in {len(plan.files)} files, {plan.needed_bytes / 1e9:.2f} GB of them"
        f" to fetch, {plan.free_bytes / 1e9:.0f} GB free"
        f"{', gated and accepted' if plan.gated else ''}, {'with' if plan.token else 'without'} a token.",
        evidence=Evidence.MEASURED,
        measurements=[
            Measurement.of(MeasurementKey.DOWNLOAD, plan.total_bytes, "bytes", Evidence.MEASURED, "host"),
            Measurement.of(MeasurementKey.TO_FETCH, plan.needed_bytes, "bytes", Evidence.MEASURED, "host"),
            Measurement.of(MeasurementKey.FREE_DISK, plan.free_bytes, "bytes", Evidence.MEASURED, "host"),
        ],
    )


@CHECKS.add("dtypes", "No stored tensor has a dtype that MPS cannot hold")
def _dtypes(obtained: Obtained) -> Result:
    if obtained.source == "config":
        return Result(Status.SKIPPED, "Weights are random: none are stored.")
    if obtained.source == "file":
        return Result(Status.SKIPPED, _BY_ITSELF)
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
