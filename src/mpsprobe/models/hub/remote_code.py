"""Repositories whose class is their own code: list what would run, and run it where the user agreed."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mpsprobe.errors import TargetError, first_line
from mpsprobe.models import choose
from mpsprobe.models.hub import client
from mpsprobe.models.hub.snapshot import architecture

#: The name of a file of a repository without `.py`, which must be inside its folder.
_MODULE = r"\w[\w-]*(?:/\w[\w-]*)*"
_REFERENCE = re.compile(
    rf"(?:(?P<repo>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)--)?(?P<module>{_MODULE})\.(?P<name>\w+)"
)


@dataclass(frozen=True)
class CodeFile:
    """One Python file of a repository.

    Attributes:
        folder: The folder of the repository.
        name: The path of the file in that folder.
        lines: The number of lines.
        imports: The top-level packages that it imports, other than its own files.
    """

    folder: Path
    name: str
    lines: int
    imports: tuple[str, ...]

    @property
    def short(self) -> str:
        """Describe the file by its name, lines and imports; a link outside the Hub's cache also shows its target."""
        path = self.folder / self.name
        real = path.resolve()
        link = f" -> {real}" if path.is_symlink() and real.parent.name != "blobs" else ""
        return f"{self.name}{link} ({self.lines} lines; imports {', '.join(self.imports) or 'nothing'})"

    def __str__(self) -> str:
        return f"{self.folder}/{self.short}"


@dataclass(frozen=True)
class Reference:
    """A class as `auto_map` names it: `module.Class`, or `owner/name--module.Class` in another repository.

    Attributes:
        repo: The id of the other repository; None for the repository itself.
        module: The path of the file in the repository, without `.py`.
        name: The name of the class.
    """

    repo: str | None
    module: str
    name: str


def is_needed(config: dict[str, Any]) -> bool:
    """Return whether the class that a config names is the repository's own code: in `auto_map`, not in transformers."""
    if not isinstance(config.get("auto_map"), dict):
        return False
    import transformers

    return getattr(transformers, architecture(config) or "", None) is None


def files(folder: Path, config: dict[str, Any], *, offline: bool = False) -> list[CodeFile]:
    """Return the files that loading the model's class would run, including those that they import.

    Files of another repository are fetched so that they can be read; nothing is run.

    Args:
        folder: The folder with the repository's files.
        config: The repository's `config.json`.
        offline: Whether to use only the cache.

    Raises:
        TargetError: A file is missing, is not part of a repository, or cannot be parsed as Python.
    """
    found: dict[tuple[Path, str], None] = {}
    for reference in _references(folder, config):
        home = _home(folder, reference, offline)
        for name in _with_imports(reference.module, _getter(home, reference, offline), home):
            found[home, name] = None
    return [_code_file(home, name) for home, name in found]


def fetch(repo: str, config: dict[str, Any], revision: str | None = None, *, offline: bool = False) -> None:
    """Fetch the files of `repo`'s own code, and those that they import, into the cache; nothing is run.

    Files that do not exist are skipped, because `files` reports them. References to other repositories are left to
    `files` too.

    Raises:
        TargetError: The Hub cannot be asked, or refuses, or a file cannot be parsed as Python.
    """
    for text in _texts(config):
        matched = _REFERENCE.fullmatch(text)
        if matched is None or matched["repo"]:
            continue
        waiting, seen = [f"{matched['module']}.py"], set[str]()
        while waiting:
            name = waiting.pop()
            path = client.fetch_file(repo, name, revision, offline=offline)
            seen.add(name)
            if path is not None:
                waiting += [one for one in _imported(path, name) if _is_inside(one) and one not in seen]


def refusal(folder: Path, config: dict[str, Any], *, offline: bool = False) -> TargetError:
    """Return the error for a repository whose code would run without consent; it lists that code.

    Raises:
        TargetError: The code cannot be listed; see `files`.
    """
    by_folder: dict[Path, list[str]] = {}
    for file in files(folder, config, offline=offline):
        by_folder.setdefault(file.folder, []).append(file.short)
    if not by_folder:
        return _no_code(folder, config)
    would = "; ".join(f"in {home}: {', '.join(names)}" for home, names in by_folder.items())
    others = [repo for repo in map(choose.repo_of, by_folder) if repo] if folder not in by_folder else []
    owner = f"the repository {others[0]}" if others else "the repository itself"
    return TargetError(
        f"{_name(folder)}: {architecture(config) or 'its class'} is code of {owner}, which is not run unasked.",
        f"Read it, then give --trust-remote-code. It would run {would}.",
    )


def load(folder: Path, config: dict[str, Any], *, offline: bool = False) -> tuple[Any, Any]:
    """Run the repository's own code to make the model's class and its config object, and return both.

    Raises:
        TargetError: That code raised, is missing, or `auto_map` does not name it.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    files(folder, config, offline=offline)  # checks that what runs is what was listed
    named = architecture(config)
    table: dict[str, Any] = config["auto_map"]
    model = next(
        (
            found
            for key, text in table.items()
            if key.startswith("AutoModel") and isinstance(text, str)
            for found in (_reference(folder, text),)
            if named is None or found.name == named
        ),
        None,
    )
    stated = table.get("AutoConfig")
    if model is None or not isinstance(stated, str):
        raise _no_code(folder, config)

    def loaded(reference: Reference) -> Any:
        # from the listed folder, because transformers prefers a folder of that name in the working directory
        home = _home(folder, reference, offline)
        return get_class_from_dynamic_module(
            f"{reference.module}.{reference.name}", home, local_files_only=True
        )

    try:
        config_class = loaded(_reference(folder, stated))
        return loaded(model), config_class.from_pretrained(folder, local_files_only=True)
    except (Exception, SystemExit) as problem:  # foreign code may raise anything
        reason = first_line(problem)
        raise TargetError(
            f"{_name(folder)}: the repository's own code raised {type(problem).__name__}: {reason}"
        ) from problem


def _name(folder: Path) -> str:
    """Return the repo id of a folder in the Hub's cache; for any other folder its path."""
    return choose.repo_of(folder) or str(folder)


def _texts(config: dict[str, Any]) -> list[str]:
    """Return `auto_map`'s entries for configs and models; tokenizers and processors are not loaded from code."""
    table = config.get("auto_map")
    return [
        text
        for key, text in (table.items() if isinstance(table, dict) else ())
        if isinstance(text, str) and key.startswith(("AutoConfig", "AutoModel"))
    ]


def _references(folder: Path, config: dict[str, Any]) -> list[Reference]:
    return [_reference(folder, text) for text in _texts(config)]


def _reference(folder: Path, text: str) -> Reference:
    matched = _REFERENCE.fullmatch(text)
    if matched is None:
        raise TargetError(
            f"{_name(folder)}: auto_map of its config names {text!r}, which is no class in a file of a repository.",
            "It looks like module.Class, or owner/name--module.Class.",
        )
    return Reference(matched["repo"], matched["module"], matched["name"])


def _home(folder: Path, reference: Reference, offline: bool) -> Path:
    """Return the folder of the repository that holds a class, fetching its file from another repository if needed.

    Raises:
        TargetError: The file of the class cannot be fetched, or does not exist.
    """
    if reference.repo is None:
        return folder
    try:
        path = client.fetch_file(reference.repo, f"{reference.module}.py", offline=offline)
    except TargetError as problem:
        raise type(problem)(
            f"{_name(folder)}: its code cannot be obtained. {problem.what}", problem.hint
        ) from problem
    if path is None:
        raise _missing(folder, f"{reference.module}.py of {reference.repo}")
    return path.parents[reference.module.count("/")]


def _getter(home: Path, reference: Reference, offline: bool) -> Callable[[str], Path | None]:
    """Return a function from the name of a repository's file to its path, or None when there is none."""

    def get(name: str) -> Path | None:
        if reference.repo is not None:
            return client.fetch_file(reference.repo, name, offline=offline)
        return home / name if (home / name).is_file() else None

    return get


def _with_imports(module: str, get: Callable[[str], Path | None], home: Path) -> list[str]:
    """Return the names of a module's file and, recursively, of the repository's files that it imports.

    Raises:
        TargetError: One of the files is missing, or cannot be parsed as Python.
    """
    waiting, found = [f"{module}.py"], list[str]()
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        path = get(name) if _is_inside(name) else None
        if path is None:
            raise _missing(home, name)
        found.append(name)
        waiting += _imported(path, name)
    return found


def _is_inside(name: str) -> bool:
    return re.fullmatch(rf"{_MODULE}\.py", name) is not None


def _imported(path: Path, name: str) -> list[str]:
    """Return the names of the repository's files that a file imports, as transformers finds them."""
    from transformers.dynamic_module_utils import get_relative_imports

    _parsed(path)
    return [str(PurePosixPath(name).parent / f"{one}.py") for one in get_relative_imports(path)]


def _no_code(folder: Path, config: dict[str, Any]) -> TargetError:
    return TargetError(
        f"{_name(folder)}: auto_map names no code for {architecture(config) or 'a model'} and its config.",
        "Give the class by its path: package.module:Class --config config.json.",
    )


def _missing(folder: Path, name: str) -> TargetError:
    return TargetError(
        f"{_name(folder)}: its code is not complete: no {name}.",
        "Its code lies beside the config in its repository: hf download OWNER/NAME --include '*.py' "
        f"--local-dir {folder}. Or give the class by its path: package.module:Class --config config.json.",
    )


def _parsed(path: Path) -> str:
    """Return the text of a Python file that can be parsed.

    Raises:
        TargetError: The file cannot be read, or is not Python; the message gives the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        ast.parse(text)
    except OSError as problem:
        raise TargetError(f"{path}: cannot be read: {problem.strerror}.") from problem
    except SyntaxError as problem:
        version = ".".join(map(str, sys.version_info[:2]))
        raise TargetError(
            f"{path}:{problem.lineno or 1}: not what Python {version} can read: {problem.msg}."
        ) from problem
    except ValueError as problem:  # not UTF-8, or null bytes
        raise TargetError(f"{path}: not what Python can read: {problem}.") from problem
    return text


def _code_file(folder: Path, name: str) -> CodeFile:
    from transformers.dynamic_module_utils import get_imports

    text = _parsed(folder / name)
    return CodeFile(folder, name, len(text.splitlines()), tuple(sorted(get_imports(folder / name))))
