"""Make digests, by name, of all that a prediction depends on: equal digests mean equal answers.

Importing this module does not import torch, so that a cached prediction (`kept.py`) costs no import of it.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

import mpsprobe
from mpsprobe import mac
from mpsprobe.errors import MpsprobeError
from mpsprobe.forecast.calibration import usual_files
from mpsprobe.knowledge.cloud_prices import VARIABLE as PRICES
from mpsprobe.models import targets
from mpsprobe.models.hub import metadata
from mpsprobe.models.hub.cache import RepoCache
from mpsprobe.models.hub.snapshot import PIPELINE_INDEX
from mpsprobe.models.targets import TargetRef
from mpsprobe.options import Settings

#: Variables that describe a terminal, the shell or its working directory. All others count: a library may read any of
#: them, and making an answer again only costs seconds.
_IDLE = re.compile(
    r"_|SHLVL|OLDPWD|PWD|PS\d|PROMPT\w*|HIST\w+|TERM|TERM_\w+|TERMINFO\w*|COLORTERM|COLUMNS|LINES|NO_COLOR|CLICOLOR\w*|"
    r"LS_COLORS|LSCOLORS|LESS\w*|PAGER|EDITOR|VISUAL|WINDOWID|DISPLAY|WAYLAND_\w+|SSH_\w+|GPG_\w+|TMUX\w*|STY|"
    r"ITERM_\w+|LC_TERMINAL\w*|VSCODE_\w+|DBUS_\w+|XDG_(SESSION|SEAT|VTNR|RUNTIME)\w*|SECURITYSESSIONID|"
    r"__CF_USER_TEXT_ENCODING|XPC_\w+|COMMAND_MODE|_MPSPROBE_COMPLETE|GITHUB_STEP_SUMMARY"
)
#: Files of a target up to this size are compared by content, larger ones (weights, which no prediction reads) by size
#: and times.
_READ_BYTES = 32 << 20
#: The greatest number of entries in a target's folder for which predictions are kept.
_ENTRIES = 2_000


def ingredients(
    settings: Settings,
    *,
    every_release: bool,
    tokens: int | None,
    calibration: Path | None,
    routes: bool,
    environment: Mapping[str, str],
) -> dict[str, str] | None:
    """Return digests of everything that the answer of `command.predict` depends on, except the imported modules.

    Only answers about a folder with a config.json or a model_index.json, or a repository that has one, are kept.
    Everything else runs code of its own or reads files in other places: a class, a target.py, a profile of the
    user's, an adapter, code of a repository.

    Args:
        settings: The settings, as for `command.predict`.
        every_release: Whether every release is predicted.
        tokens: The requested number of tokens, as for `command.predict`.
        calibration: The file of the calibration, as for `command.predict`.
        routes: Whether the routes are judged, as for `command.predict`.
        environment: The environment variables with which this process began; libraries set some of their own later.

    Returns:
        The digests; None where the answer must not be kept. `"files"` is empty for a repository that was not fetched
        yet.
    """
    if settings.trust_remote_code or settings.config is not None:
        return None
    if settings.profile is not None and settings.profile.endswith(".toml"):
        return None
    try:
        ref = targets.resolve(settings)
    except MpsprobeError:  # the prediction says what is wrong
        return None
    profile = ref.profile
    if profile.file is not None or profile.package or profile.repositories or profile.stand_in:
        return None
    folder = ref.folder if ref.repo is None else _snapshot(ref)
    files = files_digest(folder) if folder is not None else None
    if files is None:
        return None
    asked = [msgspec.to_builtins(_fields(settings)), every_release, tokens, routes, str(Path.cwd())]
    named = [
        calibration,
        *usual_files(),
        environment.get(PRICES),
    ]
    return {
        "options": _digest([repr(asked)]),
        "target": _digest([str(folder), repr(profile), repr(ref.offline)]),
        "files": files,
        "named files": _digest(_content(Path(one).expanduser()) for one in named if one is not None),
        "mpsprobe": _digest([mpsprobe.__version__, *_tree(Path(mpsprobe.__file__).parent)]),
        "python": _digest([sys.version, sys.executable, sys.prefix, repr(sys.flags), repr(os.uname())]),
        "packages": _digest(_packages()),
        "environment": _digest(f"{name}={value}" for name, value in sorted(acting(environment).items())),
        "machine": _digest([repr(mac.host())]),
    }


def acting(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that may affect a prediction: all but those of terminals and shells."""
    return {name: value for name, value in variables.items() if not _IDLE.fullmatch(name)}


def imported() -> list[str]:
    """Return the paths of the files of all modules that this process has imported, sorted."""
    found = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not file.startswith("<"):
            found.add(file)
    return sorted(found)


def stated(files: Iterable[str]) -> str:
    """Return a digest of the paths, sizes and times of files; a missing file counts as missing."""
    return _digest(_stat(file) for file in files)


def files_digest(folder: Path) -> str | None:
    """Return a digest of the names and contents of a target's files; `""` for a folder that does not exist.

    Of large files the size and times count instead of the content; hidden folders are left out. None for a folder that
    has no config, too many entries, a link to a folder, or an entry that cannot be read.
    """
    if not folder.is_dir():
        return ""
    if not any((folder / name).is_file() for name in ("config.json", PIPELINE_INDEX)):
        return None
    found: list[str] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any((Path(root) / name).is_symlink() for name in folders):
            return None  # a loop, or half of the disk
        for name in sorted(names):
            path = Path(root) / name
            found += [str(path.relative_to(folder)), _content(path)]
        if len(found) > 2 * _ENTRIES:
            return None
    return None if "unreadable" in found else _digest(found)


def _fields(settings: Settings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def _snapshot(ref: TargetRef) -> Path | None:
    """Return the folder in which a repository's small files are, or will be once fetched; None where unknown.

    The Hub is asked for the commit unless the target is offline.
    """
    assert ref.repo is not None
    cache = RepoCache(ref.repo)
    try:
        # a branch moves: what it means now is asked of the hub
        commit = cache.commit(ref.revision) if ref.offline else metadata.pinned(ref.repo, ref.revision).commit
    except MpsprobeError:
        return None
    return cache.snapshot(commit) if commit else None


def _packages() -> list[str]:
    """Return texts that change with what can be imported: names on the import path, and times of installations."""
    found = []
    for place in sys.path:
        found.append(place)
        try:
            names = sorted(os.listdir(place))  # noqa: PTH208 - names, thousands of them
        except OSError:  # no folder: an archive of modules, or nothing
            found.append(_stat(place))
            continue
        found += [name for name in names if name != "__pycache__"]
        found += [
            _stat(os.path.join(place, name))  # noqa: PTH118 - likewise
            for name in names
            if name.endswith((".dist-info", ".egg-info", ".egg-link", ".pth"))
        ]
        if "torch" in names:
            found += _tree(Path(place) / "torch" / "lib")
    return found


def _tree(folder: Path) -> list[str]:
    """Return the path, size and times of each file below a folder, without caches of bytecode."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        found += [_stat(os.path.join(root, name)) for name in sorted(names)]  # noqa: PTH118
    return found


def _stat(path: str) -> str:
    try:
        one = os.stat(path)  # noqa: PTH116 - thousands of them
    except OSError:
        return f"{path} missing"
    return f"{path} {one.st_size} {one.st_mtime_ns} {one.st_ctime_ns}"


def _content(path: Path) -> str:
    """Return the digest of a file's content, its size and times if it is large, `missing`, or `unreadable`."""
    try:
        if not path.exists():
            return "missing"
        if not path.is_file():
            return "unreadable"  # a pipe or a device: the prediction refuses it
        if path.stat().st_size > _READ_BYTES:
            return _stat(str(path))
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "unreadable"


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()
