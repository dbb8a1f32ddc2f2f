"""The op uses that get a test of their own, known when pytest collects.

A test id that can be selected, deselected, listed and written into an expectation file must exist at collection,
but the ops that a target calls are known only after it has run. The list is therefore cached on disk for each
target, device and torch. Where there is none yet, the suite's own recording check is run once, supervised, in a
child process, so that a target that crashes or hangs cannot end the collection. A test of an op use then needs the
list and the device, but not the model.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mpsprobe import __version__
from mpsprobe.errors import MpsprobeError, UsageError
from mpsprobe.models import targets
from mpsprobe.models.hub import client
from mpsprobe.models.hub.cache import cache_dir
from mpsprobe.models.targets import TargetRef
from mpsprobe.options import Settings
from mpsprobe.run import OpUse, Run, Status

_CORE = Path(__file__).parents[1] / "ops" / "core.json"
#: The check whose result is the recording.
_RECORDED = "ops.recorded"


class OpList(msgspec.Struct, forbid_unknown_fields=True):
    """Op uses, one for each kind of call.

    Attributes:
        source: A description of where they come from, for readers.
        uses: The op uses; see `ops.distinct.representatives`.
    """

    source: str
    uses: list[OpUse]


class RecordingFailedError(MpsprobeError):
    """The op uses of a target could not be recorded."""


def core() -> OpList:
    """Return the general list that ships with mpsprobe: the ops of transformers and of diffusion models."""
    return msgspec.json.decode(_CORE.read_bytes(), type=OpList)


def of_run(path: Path) -> OpList:
    """Return the op uses of a run that was recorded on any machine; their replay needs no model.

    Raises:
        DataError: The file cannot be read or is not a run's document.
        UsageError: The run holds no op uses.
    """
    from mpsprobe.ops.distinct import representatives

    run = Run.load(path)
    if not run.op_uses:
        raise UsageError(f"{path}: holds no op uses.", "Run the suite with the ops stage first.")
    return OpList(f"{path}: {run.target.name} on {run.device.used}", representatives(run.op_uses))


def of_target(settings: Settings, arguments: Sequence[str], tell: Callable[[str], None]) -> OpList:
    """Return the list of the target, from the cache or from a new recording.

    Args:
        settings: The options of the run.
        arguments: The same options as pytest options for the child.
        tell: A function that is called with a line when a recording begins.

    Raises:
        MpsprobeError: The target cannot be resolved; see `targets.resolve`.
        RecordingFailedError: The recording failed, for the reason that the message gives.
    """
    target = targets.resolve(settings)
    path = cache_dir() / "op-uses" / f"{_key(target, settings)}.json"
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=OpList)
    tell(f"mpsprobe: recording the op uses of {target.name} (once; kept in {path})")
    found = _record(target, arguments)
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            file.write(msgspec.json.encode(found))
        Path(file.name).replace(path)
    return found


def _record(target: TargetRef, arguments: Sequence[str]) -> OpList:
    from mpsprobe.ops.distinct import representatives
    from mpsprobe.supervision.supervisor import Supervisor

    with tempfile.TemporaryDirectory(prefix="mpsprobe-") as folder:
        run = Supervisor(Path(folder), lambda _: None).run([*arguments, "--mpsprobe-checks", _RECORDED])
    check = next((check for check in run.checks if check.id == _RECORDED), None)
    if not run.op_uses or check is None or check.status is not Status.PASS:
        raise RecordingFailedError(f"the op uses of {target.name} are not known: {_why(run)}")
    return OpList(f"{target.name}, recorded on {run.device.used}", representatives(run.op_uses))


def _why(run: Run) -> str:
    failed = [check for check in run.checks if check.status not in (Status.PASS, Status.WARN)]
    return failed[0].message if failed else "nothing was recorded"


def _key(target: TargetRef, settings: Settings) -> str:
    """Return a digest of everything that the list depends on: versions, options, the profile and the target's files."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    asked: list[object] = [settings]
    asked += [target.config.read_text(encoding="utf-8")] if target.config is not None else []
    parts = [__version__, versions, asked, target.name, target.revision, _files(target), target.profile]
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()


def _files(target: TargetRef) -> list[tuple[str, int, int]]:
    """Return names, sizes and modification times of the files in the target's folder; empty without a folder.

    Modification times are in nanoseconds. The folder of a repository is that in the Hub's cache.
    """
    folder = target.folder
    if target.repo is not None:
        with contextlib.suppress(MpsprobeError):
            folder = client.cached_snapshot(target.repo, target.revision)
    if folder is None:  # built by this package, or not fetched yet
        return []
    entries = ((path, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    return [(path.name, stat.st_size, stat.st_mtime_ns) for path, stat in entries]
