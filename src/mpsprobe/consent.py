"""List what of a target would run or be unpickled, from its files, before anything of it is imported.

These are the ways in which transformers 4.57 and 5.24 and diffusers 0.42 let code of a repository in, and what
mpsprobe does about each:

- `auto_map` of config.json, for the classes of config and model: listed by `models.hub.remote_code`, runs with
  consent.
- `auto_map` of tokenizers and processors: never runs, because mpsprobe does not request it.
- `custom_generate/generate.py`, which `from_pretrained` imports, before 5.x without any consent: listed here.
- `attn_implementation`, `experts_implementation` and similar settings that name a repository, whose compiled code
  is fetched where the package `kernels` is installed: listed here.
- Kernels that transformers fetches for some models by itself: switched off without consent
  (`launch.environment`).
- `model_index.json` with a pipeline or a part that is a file of the repository: refused, never runs.
- `model_index.json` with a part of another library: refused; nothing that an index names is imported.
- Pickled weights (`.bin`, `.pt`, `.ckpt`): refused; only safetensors are read.
- Pickles of tokenizers and retrievers, read where `TRUST_REMOTE_CODE` is set: the variable is removed.
- Chat templates: they run in the sandbox of jinja2 that transformers makes for them.
- A named pipe, a socket or a device among the files: refused, because reading one waits or never ends.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpsprobe import toml
from mpsprobe.errors import ConsentError, TargetError

#: The configs that transformers and diffusers read in a model's folder, or in that of a part of a pipeline.
_CONFIG = "config.json"
_PIPELINE = "model_index.json"
_GENERATE = "custom_generate/generate.py"
#: A kernel of the Hub: `owner/repo`, with `@revision`, `:function` and `|mask` as transformers parses it.
_KERNEL = re.compile(r"[^/:\s]+/[^/:\s]+(?:@[^:\s]+)?(?::[^/:\s]+)?")
#: Settings that may name such a kernel: `_attn_implementation_internal`, `_experts_implementation` and so on.
_IMPLEMENTATION = re.compile(r"_?\w*implementation(?:_internal)?")
#: The greatest number of entries of a model's folder that are examined.
_ENTRIES = 20_000
_NO_FILES = frozenset({"a pipe", "a socket", "a device"})


@dataclass(frozen=True)
class CodeToRun:
    """A file or a kernel of a target that would run.

    Attributes:
        what: The file, or the repository of a kernel.
        reason: The reason why it would run, such as `"from_pretrained imports it"`.
    """

    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what} ({self.reason})"


def code_to_run(folder: Path, *, stored: bool = True) -> list[CodeToRun]:
    """Return what in a model's folder would run, apart from the class that its `auto_map` names.

    Args:
        folder: The folder with the target's files.
        stored: Whether `from_pretrained` loads its weights; False where the model is built from its config.

    Raises:
        TargetError: A config cannot be read, is no JSON object or is too large, or the folder holds a pipe, a socket
            or a device.
    """
    refuse_special_files(folder)
    found: list[CodeToRun] = []
    for name in _configs(folder):
        found += [CodeToRun(kernel, f"{key} of {name}") for key, kernel in _kernels(_read(folder / name))]
    if stored and (folder / _GENERATE).exists():
        found.append(CodeToRun(_GENERATE, "transformers imports it when it loads the weights"))
    return found


def require(folder: Path, name: str, *, trusted: bool, stored: bool = True) -> None:
    """Check that the user agreed to everything that would run, and forbid the folder's code to run without consent.

    The ban holds for this process, until a later call with consent lifts it.

    Args:
        folder: The folder with the target's files.
        name: The name of the target, for the message.
        trusted: Whether the user gave `--trust-remote-code`.
        stored: Whether `from_pretrained` loads its weights; see `code_to_run`.

    Raises:
        ConsentError: Something would run, and the user did not agree.
        TargetError: The folder cannot be examined; see `code_to_run`.
    """
    found = code_to_run(folder, stored=stored)
    _shut(folder, shut=not trusted)
    if found and not trusted:
        raise ConsentError(
            f"{name}: would run code that nobody agreed to: {'; '.join(map(str, found))}.",
            "Read it, then give --trust-remote-code.",
        )


#: Prefixes of the paths of files whose code must not run in this process; None before there were any.
_closed: set[str] | None = None
#: Those of them that are caches of code from the Hub.
_closed_caches: set[str] = set()


def _shut(folder: Path, *, shut: bool) -> None:
    """Forbid or allow the code of a folder, and of the Hub's caches, to run in this process.

    `code_to_run` lists what would run from files. If a library has a way in that it does not know, the interpreter
    still refuses: its audit event `exec` is raised before the code of any module runs.
    """
    global _closed  # an audit hook belongs to the process and cannot be removed
    places = {f"{place}{os.sep}" for place in (folder.absolute(), folder.resolve())}
    caches = {f"{place}{os.sep}" for place in _caches()}
    if _closed is None:
        if not shut:
            return
        _closed = set()
        sys.addaudithook(_no_exec)
    if shut:
        _closed |= places | caches
        _closed_caches.update(caches)
    else:
        # Also the caches of an earlier environment, because libraries read its variables once, on import.
        _closed -= places | caches | _closed_caches


def _caches() -> Iterator[Path]:
    """Yield the folders in which transformers and `kernels` store code of repositories before they import it."""
    home = Path(
        os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    )
    for place in (
        os.environ.get("HF_MODULES_CACHE") or home / "modules",
        os.environ.get("HF_HUB_CACHE") or home / "hub",
    ):
        # as the libraries do: without a home folder the path stays, and begins with a folder called `~`
        yield Path(os.path.expanduser(place)).absolute()  # noqa: PTH111


def _no_exec(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse, as an audit hook, to run code of a file below a forbidden path.

    Raises:
        ConsentError: The code is of such a file.
    """
    if event != "exec" or not _closed:
        return
    name = getattr(arguments[0], "co_filename", "")
    if name.startswith(tuple(_closed)):
        raise ConsentError(
            f"{name}: code of a repository, which nobody agreed to run.",
            "Read it, then give --trust-remote-code.",
        )


def refuse_special_files(folder: Path) -> None:
    """Check that a folder tree holds no pipe, socket or device, because reading one waits or never ends.

    Only the first `_ENTRIES` files are examined.

    Raises:
        TargetError: The folder holds one; the message gives its path.
    """
    for count, path in enumerate(_entries(folder)):
        if count == _ENTRIES:
            return
        kind = toml.kind_of(path)
        if kind in _NO_FILES:
            raise TargetError(f"{path}: is {kind}, not a file of a model.", "Remove it from the folder.")


def _entries(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder tree, without hidden folders and without following links to folders."""
    for root, folders, files in os.walk(folder, onerror=None):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root) / name for name in files)


def _configs(folder: Path) -> Iterator[str]:
    """Yield the names of the configs in a folder: its own, and those of the parts of a pipeline."""
    if (folder / _CONFIG).is_file():
        yield _CONFIG
    if (folder / _PIPELINE).is_file():
        yield from sorted(str(path.relative_to(folder)) for path in folder.glob(f"*/{_CONFIG}"))


def _read(path: Path) -> dict[str, Any]:
    return toml.json_object(path, TargetError, "Download it again, or fix it there.")


def _kernels(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings of a config, at any depth, that name a kernel of the Hub, each with the kernel."""
    if isinstance(config, list):
        for one in config:
            yield from _kernels(one, path)
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        where = f"{path}.{key}" if path else key
        if _IMPLEMENTATION.fullmatch(key):
            values = value.values() if isinstance(value, dict) else [value]
            for one in values:
                if isinstance(one, str) and _names_kernel(one):
                    yield where, one
        elif isinstance(value, (dict, list)):
            yield from _kernels(value, where)


def _names_kernel(value: str) -> bool:
    """Return whether an implementation is a repository, from which transformers would fetch compiled code."""
    name = value.rpartition("|")[2]
    return _KERNEL.fullmatch(name) is not None
