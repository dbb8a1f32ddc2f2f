"""Find the files that a scan reads: those of a path, an installed package or a model. Nothing is imported or run."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from mpsprobe import toml
from mpsprobe.errors import DataError, TargetError

#: Folders that hold third-party code, or no code.
_SKIPPED = {
    ".git", ".hg", ".svn", "__pycache__", ".venv", "venv", ".tox", ".nox", ".mypy_cache", ".ruff_cache", ".eggs",
    "node_modules", "position-packages", ".ipynb_checkpoints",
}  # fmt: skip
_TEST_FOLDERS = {"tests", "test", "testing"}
_TEST_FILE = re.compile(r"test_.*\.py$|.*_test\.py$|conftest\.py$")


@dataclass(frozen=True)
class Sources:
    """The Python files of one target, and what was left out.

    Attributes:
        target: The target as reports name it.
        files: The Python files, sorted.
        tests_left_out: The number of test files that were left out.
        remarks: Sentences for the user about the choice.
    """

    target: str
    files: tuple[Path, ...]
    tests_left_out: int = 0
    remarks: tuple[str, ...] = ()


def of_path(path: Path, *, tests: bool = False, exclude: Sequence[str] = ()) -> Sources:
    """Return the sources of a path: a single file, or every Python file below a folder.

    Args:
        path: The file or folder; a file is read whatever its name.
        tests: Whether to include test files.
        exclude: Patterns (`fnmatch`) of paths below the folder to leave out.

    Raises:
        TargetError: There is no such path, or no Python file below it.
    """
    if path.is_file():
        return Sources(str(path), (path,))
    if not path.is_dir():
        raise TargetError(f"{path}: no such file or folder.")
    found = sorted(_below(path))
    kept = [file for file in found if not _excluded(file.relative_to(path), exclude)]
    chosen = [
        file for file in kept if tests or not (is_test(file.relative_to(path)) and _holds_tests(file, path))
    ]
    if not chosen:
        hint = "Its test files are left out: --tests takes them." if kept else ""
        raise TargetError(f"{path}: no Python source to scan.", hint)
    return Sources(str(path), tuple(chosen), len(kept) - len(chosen))


def of_package(name: str, *, tests: bool = False, exclude: Sequence[str] = ()) -> Sources:
    """Return the files of an installed package or module by its dotted name, without importing it.

    `importlib.util.find_spec("a.b")` imports `a`, so only the first part is looked up with it; the rest is searched
    for as folders and files below.

    Raises:
        TargetError: The package is not installed, or has no Python source.
    """
    top, *rest = name.split(".")
    spec = None
    if all(part.isidentifier() for part in (top, *rest)):
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):  # ValueError: already imported, without a spec
            spec = None
    if spec is None:
        raise TargetError(
            f"{name}: no such file or folder, and no package of that name is installed.",
            "Name a path, an installed package, a model folder, or a repository of the hub that is in the cache.",
        )
    places = _places(spec)
    for index, part in enumerate(rest):
        inside = [place / part for place in places if place.is_dir()]
        places = [place for place in inside if place.is_dir()] or [
            file for place in inside if (file := place.with_suffix(".py")).is_file()
        ]
        if not places:
            raise TargetError(f"{'.'.join((top, *rest[:index]))} has no module {part!r}.")
    if not places:
        raise TargetError(f"{name}: has no Python source (it is built in, or compiled).")
    every = [of_path(place, tests=tests, exclude=exclude) for place in places]
    files = tuple(file for sources in every for file in sources.files)
    return Sources(name, files, sum(sources.tests_left_out for sources in every))


def _places(spec: importlib.machinery.ModuleSpec) -> list[Path]:
    if spec.submodule_search_locations is not None:
        return [Path(place) for place in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []


def of_model(folder: Path, shown_as: str, *, tests: bool = False, exclude: Sequence[str] = ()) -> Sources:
    """Return the Python files in a model's folder or, when it has none, of the transformers module for its type.

    Raises:
        TargetError: There is neither.
    """
    config = _config(folder)
    elsewhere = sorted(_other_repositories(config))
    remarks = [f"Its config also names code of {repo}: scan that too." for repo in elsewhere]
    try:
        own = of_path(folder, tests=tests, exclude=exclude)
    except TargetError:
        own = None
    if own is not None:
        return Sources(shown_as, own.files, own.tests_left_out, tuple(remarks))
    kinds = [kind for kind in _model_types(config) if kind]
    for kind in kinds:
        try:
            module = f"transformers.models.{kind.replace('-', '_')}"
            sources = of_package(module, tests=tests, exclude=exclude)
        except TargetError:
            continue
        remarks.append(f"{shown_as} has no code of its own: this is {module}.")
        return Sources(shown_as, sources.files, sources.tests_left_out, tuple(remarks))
    raise TargetError(
        f"{shown_as}: no Python source, and no installed transformers module for it"
        + (f" (model type {kinds[0]})." if kinds else "."),
        "Scan the package whose class loads it.",
    )


def is_model_folder(path: Path) -> bool:
    """Return whether a folder is a model's: its `config.json` is a JSON object that is not empty."""
    return (path / "config.json").is_file() and bool(_config(path))


def shown(path: Path) -> str:
    """Return a path as reports show it: relative to the current folder where it is below that."""
    try:
        # Not resolved, because a Hub snapshot's files are links to blobs, whose names mean nothing.
        return path.absolute().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path.as_posix()


def is_test(path: Path) -> bool:
    """Return whether a path, relative to the scanned folder, is that of a test."""
    return bool(_TEST_FOLDERS & set(path.parts[:-1])) or _TEST_FILE.match(path.name) is not None


def _holds_tests(file: Path, folder: Path) -> bool:
    """Return whether a file with a test's path holds tests: it is in a test folder, or its text looks like tests."""
    if _TEST_FOLDERS & set(file.relative_to(folder).parts[:-1]) or file.name == "conftest.py":
        return True
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return (
        re.search(
            r"^\s*(def test_|async def test_|class Test|import (pytest|unittest)|from (pytest|unittest))",
            text,
            re.M,
        )
        is not None
    )


def _below(folder: Path) -> Iterable[Path]:
    """Yield the Python files below a folder, without following links to folders, which may form loops."""
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        yield from (Path(root) / name for name in files if name.endswith((".py", ".pyw")))


def _excluded(path: Path, patterns: Sequence[str]) -> bool:
    text = path.as_posix()
    return any(fnmatch(text, pattern) or fnmatch(path.name, pattern) for pattern in patterns)


def _config(folder: Path) -> dict[str, object]:
    try:
        return toml.json_object(folder / "config.json")
    except DataError:
        return {}


def _model_types(config: dict[str, object]) -> Iterable[str]:
    yield str(config.get("model_type") or "")
    for value in config.values():
        if isinstance(value, dict):
            yield str(value.get("model_type") or "")


def _other_repositories(config: dict[str, object]) -> set[str]:
    """Return the repositories whose code `auto_map` refers to, as `owner/name` in `"owner/name--module.Class"`."""
    auto_map = config.get("auto_map")
    values = auto_map.values() if isinstance(auto_map, dict) else ()
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return {text.partition("--")[0] for text in texts if isinstance(text, str) and "--" in text}
