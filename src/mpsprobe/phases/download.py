"""Phase 3: the target's files on this machine, complete and readable."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mpsprobe import consent
from mpsprobe.errors import MpsprobeError, TargetError
from mpsprobe.knowledge import chips
from mpsprobe.models import choose, stored
from mpsprobe.models.adapter import Adapter, Weights
from mpsprobe.models.hub import client, metadata
from mpsprobe.models.hub import snapshot as snapshots
from mpsprobe.models.hub.snapshot import Snapshot
from mpsprobe.models.profile import Profile
from mpsprobe.models.targets import TargetRef
from mpsprobe.models.weightless import config_only
from mpsprobe.phases.check import Checks, LinkFailed, Result, Stopwatch
from mpsprobe.phases.target_code import target_code
from mpsprobe.quantities import decimal_size
from mpsprobe.quantities import size as binary_size
from mpsprobe.run import Evidence, Mac, Measurement, MeasurementKey, Phase, Status, Table, Target


@dataclass(frozen=True)
class Dependency:
    """A further repository that a target reads, such as that of its processor.

    Attributes:
        repo: The id of the repository.
        problem: The reason why it cannot be fetched; `""` when its small files are in the cache.
    """

    repo: str
    problem: str = ""


@dataclass
class Obtained:
    """The link of phase 3: a target's files on this machine.

    Attributes:
        ref: The requested target.
        snapshot: Its files, inspected.
        preflight: The Hub's answer before the download; None where the Hub was not asked or did not answer.
        source: `"built"`, `"folder"`, `"cache"` or `"hub"`; `"config"` for a target without its weights, `"file"`
            for a user's own file.
        seconds: The wall time of building or fetching in seconds.
        progress: A function that is called with a line for each file of foreign code that is about to run.
        changes: Sentences that state what was changed to shrink the target; known once its adapter is made.
        size: The size of the random weights of a target without its own; None where unknown.
        fetched: The outcome of the download; None where there was none.
        verified: The number of files compared with the Hub's checksums; None where there are no checksums.
        unanswered: The reason why the cached copy was used although the Hub was asked; `""` where it answered.
        dependencies: Further repositories that the target reads, each with its outcome.
        mac: The target Mac; None where unknown.
    """

    ref: TargetRef
    snapshot: Snapshot
    preflight: client.Preflight | None
    source: str
    seconds: float
    progress: Callable[[str], None] = lambda _: None
    changes: list[str] = field(default_factory=list)
    size: config_only.TargetSize | None = None
    fetched: client.Fetched | None = None
    verified: int | None = None
    unanswered: str = ""
    dependencies: list[Dependency] = field(default_factory=list)
    mac: Mac | None = None

    @property
    def profile(self) -> Profile:
        """Return the profile that is used for the target, with the user's options."""
        return self.ref.profile

    @functools.cached_property
    def adapter(self) -> Adapter:
        """Return the adapter that loads the target's stored weights, or the one that needs none; made once.

        Raises:
            MpsprobeError: The adapter cannot be made; see `stored.make` and `config_only.make`.
        """
        if not self.ref.weightless:
            return stored.make(self.ref, self.snapshot.path, self.progress)
        adapter, self.changes = config_only.make(self.ref, self.snapshot.path, Weights.RANDOM, self.progress)
        return adapter

    def _commit(self) -> str | None:
        """Return the commit of a folder in the Hub's cache, else the requested revision; None when there is neither."""
        path = self.snapshot.path
        return path.name if choose.repo_of(path) else self.ref.revision

    @property
    def target(self) -> Target:
        """Return the target as the run's document describes it."""
        return Target(
            name=self.ref.title,
            profile=self.profile.name,
            revision=self.preflight.revision if self.preflight else self._commit(),
            path=str(self.snapshot.path),
            architecture=self.snapshot.architecture,
            parameters=self.size.parameters if self.size else self.snapshot.parameters or None,
            weight_bytes=self.size.nbytes if self.size else self.snapshot.weight_bytes or None,
            dtype=self.profile.dtype,
        )


def obtain(
    ref: TargetRef,
    progress: Callable[[str], None],
    report: Callable[[client.DownloadProgress], None] | None = None,
    mac: Mac | None = None,
) -> Obtained:
    """Build, find or fetch the target's files, and inspect them.

    For a target without its weights, only the config and other small files are fetched. Its class is looked up at
    once, because nothing else shows whether the files can be used. A user's file is imported.

    Args:
        ref: The target.
        progress: A function that is called with lines for the user: waiting, retrying, foreign code that is
            about to run.
        report: A function that is called about twice a second with the progress of a download.
        mac: The target Mac, whose memory the weights are compared with.

    Raises:
        LinkFailed: The files cannot be used; its result has the error's message: no such model, gated, no space,
            offline, broken files, code without consent, random weights larger than the memory.
    """
    if ref.weightless or ref.file is not None:  # looking the class up runs its code
        with target_code(Phase.DOWNLOAD, "looking the target up", Evidence.MEASURED, "host"):
            return _without_weights(ref, progress) if ref.weightless else _file(ref)
    try:
        return _whole(ref, progress, report, mac)
    except MpsprobeError as problem:
        raise LinkFailed(
            Phase.DOWNLOAD, Result(Status.FAIL, problem.what, problem.hint, evidence=Evidence.MEASURED)
        ) from problem


def _whole(
    ref: TargetRef,
    progress: Callable[[str], None],
    report: Callable[[client.DownloadProgress], None] | None,
    mac: Mac | None,
) -> Obtained:
    plan: client.Preflight | None = None
    fetched: client.Fetched | None = None
    unanswered = ""
    with Stopwatch() as watch:
        if ref.folder is not None:
            source, folder = "folder", ref.folder
        elif ref.repo is None:
            source, folder = "built", choose.build_snapshot(ref.profile)
        elif ref.offline:
            source, folder = "cache", client.cached_snapshot(ref.repo, ref.revision)
        else:
            try:
                plan = client.preflight(ref.repo, ref.revision)
            except client.HubUnreachableError as problem:
                source, folder, unanswered = "cache", _cached_or(problem, ref), problem.what
            else:
                _announce(plan, ref.profile.dtype, mac, progress)
                fetched = client.download(plan, report, progress)
                source, folder = "hub" if fetched.fetched_bytes else "cache", fetched.folder
        verified = len(plan.files) if plan is not None else _verified(folder, ref, progress)
    consent.require(folder, ref.name, trusted=ref.trust_remote_code)
    found = snapshots.inspect(folder)
    obtained = Obtained(ref, found, plan, source, watch.seconds, progress, fetched=fetched, verified=verified,
                        unanswered=unanswered, mac=mac)  # fmt: skip
    obtained.dependencies = _dependencies(ref, found)
    if stored.needs_remote_code(ref, folder):
        _ = obtained.adapter  # refuses the target here, or announces what will run
    return obtained


def _announce(plan: client.Preflight, dtype: str, mac: Mac | None, progress: Callable[[str], None]) -> None:
    """Tell the user what will be fetched and left out, and warn if the weights exceed the target Mac's memory."""
    if not plan.missing_bytes:
        return
    out = plan.selection.described()
    if plan.info.renamed:
        progress(f"{plan.repo} is called {plan.info.renamed} now")
    progress(
        f"{plan.repo} at commit {plan.revision[:12]}: {decimal_size(plan.missing_bytes)} to fetch"
        f"{f'; left out: {out}' if out else ''}"
    )
    if plan.headers is not None and mac is not None and mac.memory_gb is not None:
        needed = snapshots.loaded_bytes(plan.headers.dtypes, plan.headers.nbytes, dtype)
        if needed > mac.memory_gb * (1 << 30):
            progress(
                f"warning: the weights take {binary_size(needed)}, the target Mac has {mac.memory_gb:g} GiB"
            )


def _cached_or(problem: client.HubUnreachableError, ref: TargetRef) -> Path:
    """Return the folder of the cached copy of a repository whose Hub does not answer.

    Raises:
        HubUnreachableError: The cache holds no copy, or an incomplete one (its config was fetched before the
            Hub failed).
    """
    assert ref.repo is not None
    try:
        return snapshots.inspect(client.cached_snapshot(ref.repo, ref.revision)).path
    except (client.NotCachedError, snapshots.SnapshotError) as missing:
        raise type(problem)(f"{problem.what} {missing.what}", problem.hint) from problem


def _verified(folder: Path, ref: TargetRef, progress: Callable[[str], None]) -> int | None:
    """Compare a folder in the Hub's cache with its checksums, and return its number of files; None for other folders.

    Raises:
        DamagedFileError: A file has other bytes; the message names it.
    """
    repo = choose.repo_of(folder)
    if repo is None:
        return None
    damaged = client.verify_cached(folder, repo, progress)
    if damaged:
        offline = ref.offline or ref.repo is not None
        raise client.DamagedFileError(
            f"{repo}: {', '.join(damaged[:5])} in the cache {'is' if len(damaged) == 1 else 'are'} damaged: "
            "the bytes are not those of the checksum.",
            "Run once without --offline: only damaged files are fetched again."
            if offline
            else f"Give {repo} in place of its folder: only damaged files are fetched again.",
        )
    return sum(1 for path in folder.rglob("*") if path.is_file())


def _dependencies(ref: TargetRef, found: Snapshot) -> list[Dependency]:
    """Fetch the small files of further repositories that the profile names, and return each with its outcome.

    Those that are local folders are left out.
    """
    done = []
    for wanted in ref.profile.repositories:
        repo = str(found.config.get(wanted.config_key) or wanted.repo) if wanted.config_key else wanted.repo
        if not repo or (found.path / repo).is_dir() or Path(repo).is_dir():
            continue
        try:
            config_only.fetch(repo, offline=ref.offline)
        except MpsprobeError as problem:
            done.append(Dependency(repo, problem.what))
        else:
            done.append(Dependency(repo))
    return done


def _file(ref: TargetRef) -> Obtained:
    with Stopwatch() as watch:
        obtained = Obtained(ref, config_only.obtain(ref), None, "file", 0.0)
        _ = obtained.adapter  # imports the class
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
            f"{decimal_size(obtained.size.nbytes)}, {decimal_size(available)} are available.",
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
    commit = obtained.target.revision if obtained.source in ("cache", "hub") else None
    at = f" at commit {commit[:12]}" if commit else ""
    how = {
        "built": "made on this machine",
        "folder": "a local folder",
        "cache": f"in the hub's cache{at}",
        "hub": f"fetched from the hub{at}",
    }[obtained.source]
    result = Result(
        Status.PASS,
        f"{len(found.files)} weight files, {decimal_size(found.weight_bytes)}, {how}.",
        evidence=Evidence.MEASURED,
    )
    if obtained.unanswered:
        result.status = Status.WARN
        result.message += f" The hub was asked for a newer commit and did not answer. {obtained.unanswered}"
    lacking = [one for one in obtained.dependencies if one.problem]
    if lacking:
        result.status = Status.WARN
        result.message += " Further repositories are missing: " + " ".join(one.problem for one in lacking)
        result.remedy = (
            "Something stands in for them, or loading fails: fetch them while the hub can be reached."
        )
    if there := [one.repo for one in obtained.dependencies if not one.problem]:
        result.message += f" It also reads {', '.join(there)}: in the cache."
    result.measurements = [
        Measurement.of(MeasurementKey.STORED_WEIGHTS, found.weight_bytes, "bytes", Evidence.MEASURED, "host"),
        Measurement.of(MeasurementKey.STORED_PARAMETERS, found.parameters, "", Evidence.MEASURED, "host"),
        Measurement.of(MeasurementKey.OBTAINING, round(obtained.seconds, 3), "s", Evidence.MEASURED, "host"),
    ]
    fetched = obtained.fetched
    if fetched is not None and fetched.fetched_bytes and fetched.transfer_s > 0:
        rate = fetched.fetched_bytes / fetched.transfer_s
        result.measurements += [
            Measurement.of(MeasurementKey.FETCHED, fetched.fetched_bytes, "bytes", Evidence.MEASURED, "host"),
            Measurement.of(MeasurementKey.THROUGHPUT, round(rate), "bytes/s", Evidence.MEASURED, "host"),
        ]
    return result


def _config_only(obtained: Obtained) -> Result:
    """Return the result of the files check for a target with random weights: its size, and what was shrunk."""
    size = obtained.size
    summary = f"{size.parameters:,} parameters, {size.nbytes / 1e6:,.1f} MB" if size else "of unknown size"
    result = Result(
        Status.PASS,
        " ".join([f"Random weights, {summary}, from the config alone.", *obtained.changes]),
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
    result = Result(Status.PASS, _planned(plan), evidence=Evidence.MEASURED)
    result.measurements = [
        Measurement.of(MeasurementKey.DOWNLOAD, plan.total_bytes, "bytes", Evidence.MEASURED, "host"),
        Measurement.of(MeasurementKey.TO_FETCH, plan.missing_bytes, "bytes", Evidence.MEASURED, "host"),
        Measurement.of(MeasurementKey.FREE_DISK, plan.free_bytes, "bytes", Evidence.MEASURED, "host"),
    ]
    rows: list[list[str | int | float | bool | None]] = [
        [name, size, "yes"] for name, size in plan.files.items()
    ]
    for reason, files in plan.selection.left_out.items():
        rows += [[file.name, file.size, f"no: {reason}"] for file in files]
    result.table = Table(columns=["file", "bytes", "loading reads it"], rows=rows)
    if clashes := metadata.collisions(plan.selection.files):
        result.status = Status.WARN
        summary = ", ".join(f"{first} and {second}" for first, second in clashes[:3])
        result.message += (
            f" On a Mac's usual disk, which knows no case, one of them replaces the other: {summary}."
        )
        result.remedy = "There, set HF_HOME to a case-sensitive volume."
    return result


def _planned(plan: client.Preflight) -> str:
    """Return sentences about what a download would bring: files, parameters, bytes, and the terms of access."""
    parts = [
        f"{decimal_size(plan.total_bytes)} in {len(plan.files)} files at commit {plan.revision[:12]}, "
        f"{decimal_size(plan.missing_bytes)} of them to fetch, {decimal_size(plan.free_bytes)} free."
    ]
    if plan.headers is not None:
        kinds = ", ".join(plan.headers.dtypes)
        parts.append(f"{plan.headers.parameters:,} parameters as {kinds}, by the headers of the weights.")
    access = (
        "private" if plan.info.private else "gated, its licence accepted" if plan.info.gated else "public"
    )
    parts.append(f"It is {access}; {'a' if plan.token else 'no'} token was found.")
    if plan.info.renamed:
        parts.append(f"It is called {plan.info.renamed} now.")
    if out := plan.selection.described():
        parts.append(f"Left out: {out}.")
    return " ".join(parts)


@CHECKS.add("memory", "The weights fit in the memory of the target Mac")
def _memory(obtained: Obtained) -> Result:
    mac = obtained.mac
    found = obtained.snapshot
    needed = snapshots.loaded_bytes(found.dtypes, found.weight_bytes, obtained.profile.dtype)
    if not needed:
        return Result(Status.SKIPPED, "The size of the weights is not known before they are built.")
    if mac is None or mac.memory_gb is None:
        return Result(Status.SKIPPED, "No target Mac with known memory: name one with --mac.")
    memory = round(mac.memory_gb * (1 << 30))
    limit, _ = chips.working_set(memory, mac.macos)
    of_mac = f"Metal recommends {binary_size(limit)} of its {mac.memory_gb:g} GiB at most"
    result = Result(
        Status.PASS,
        f"{binary_size(needed)} of weights; {of_mac}.",
        evidence=Evidence.PREDICTED,
        measurements=[
            Measurement.of(MeasurementKey.LOADED_WEIGHTS, needed, "bytes", Evidence.PREDICTED, "host"),
            Measurement.of(MeasurementKey.WORKING_SET, limit, "bytes", Evidence.PREDICTED, "mps"),
        ],
    )
    if needed > limit:
        beyond = "than its whole memory" if needed > memory else f"than fits: {of_mac}"
        result.status = Status.WARN
        result.message = f"The weights alone take {binary_size(needed)}, more {beyond}."
        result.remedy = (
            "Choose a quantised or smaller model, or a Mac with more memory: mpsprobe predict --mac NAME."
        )
    return result


@CHECKS.add("integrity", "Every file has the bytes that the hub's checksums state")
def _integrity(obtained: Obtained) -> Result:
    if obtained.verified is None:
        return Result(Status.SKIPPED, "The files are not the hub's: nothing states their checksums.")
    fetched = obtained.fetched
    result = Result(
        Status.PASS,
        f"{obtained.verified} files compared with their sha256 or git blob id.",
        evidence=Evidence.MEASURED,
        measurements=[
            Measurement.of(MeasurementKey.FILES_VERIFIED, obtained.verified, "", Evidence.MEASURED, "host")
        ],
    )
    if fetched is not None and fetched.damaged:
        result.message += f" Damaged and fetched again: {', '.join(sorted(set(fetched.damaged)))}."
    if fetched is not None and fetched.unverified:
        result.status = Status.WARN
        result.message += (
            f" Of {len(fetched.unverified)} files the hub states no checksum: only their size was compared."
        )
    return result


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
    unknown = [dtype for dtype in dtypes if not snapshots.is_dtype(dtype)]
    if unknown and not never:
        result = Result(
            Status.WARN,
            f"Stored as {', '.join(unknown)}, which this version of mpsprobe does not know.",
            "Look at the model card for the package that reads them.",
            evidence=Evidence.MEASURED,
        )
    result.table = Table(columns=["dtype", "elements"], rows=[[name, n] for name, n in dtypes.items()])
    return result
