"""The one rule for "the user's line": from a running op, or an exception, to the line of code to fix.

It is the innermost frame that belongs neither to PyTorch, nor to the standard library, nor to a helper that only
passes tensors on, nor to mpsprobe. A modeling file inside transformers or diffusers counts; so does a cache or a
mask helper of theirs when it calls the op itself.
"""

from __future__ import annotations

import functools
import importlib.util
import site
import sys
import sysconfig
import traceback
from pathlib import Path
from types import CodeType, FrameType, TracebackType

#: Packages whose frames are never the line to fix, because they run ops on behalf of their callers.
PASS_THROUGH = (
    "torch",
    "torchgen",
    "functorch",
    "numpy",
    "einops",
    "opt_einsum",
    "jaxtyping",
    "beartype",
    "typeguard",
    "accelerate",
    "pluggy",
    "_pytest",
)

#: The room of mpsprobe whose lines count as user code, because it holds models.
_MODELS = "models"


class CallSite:
    """One line of user code; two calls on the same line share it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


NOWHERE = CallSite("")


#: Facts of a code object by its id: the code (kept alive, so that its id stays unique) and its lines
#: seen so far by instruction, or None when it is not user code. Hashing a code object hashes its bytecode,
#: and turning an instruction into a line number decodes the line table: both are too slow for every op.
#: Shared by all recorders.
_codes: dict[int, tuple[CodeType, dict[int, CallSite] | None]] = {}
_sites: dict[str, CallSite] = {}


def find_site(frame: FrameType | None) -> CallSite:
    """Return the innermost line of user code at or above `frame`; `NOWHERE` when there is none."""
    while frame is not None:
        code = frame.f_code
        known = _codes.get(id(code))
        if known is None:
            known = _codes[id(code)] = (code, {} if is_user_code(code.co_filename) else None)
        lines = known[1]
        if lines is not None:
            return lines.get(frame.f_lasti) or _locate(frame, lines)
        frame = frame.f_back
    return NOWHERE


def _locate(frame: FrameType, lines: dict[int, CallSite]) -> CallSite:
    code = frame.f_code
    text = f"{short_path(code.co_filename)}:{frame.f_lineno or code.co_firstlineno}"
    site = lines[frame.f_lasti] = _sites.setdefault(text, CallSite(text))
    return site


def line_of(trace: TracebackType | None) -> str:
    """Return `file:line` of the innermost user code of a traceback, its path shortened; `""` when there is none."""
    found = ""
    for frame, line in traceback.walk_tb(trace):
        if is_user_code(frame.f_code.co_filename):
            found = f"{short_path(frame.f_code.co_filename)}:{line}"
    return found


@functools.cache
def is_user_code(filename: str) -> bool:
    """Return whether a file is one that a person would fix; the module's docstring states the rule."""
    if filename.startswith("<"):  # <string>, <frozen importlib._bootstrap> and <eval_with_key> are not files
        return False
    return not filename.startswith(_library_roots())


@functools.cache
def _library_roots() -> tuple[str, ...]:
    roots = []
    for name in PASS_THROUGH:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            roots += [f"{place}/" for place in spec.submodule_search_locations]
        elif spec is not None and spec.origin:
            roots.append(spec.origin)
    ours = Path(__file__).parent.parent
    rooms = [entry for entry in ours.iterdir() if entry.name not in (_MODELS, "__pycache__")]
    roots += [f"{entry}/" if entry.is_dir() else str(entry) for entry in rooms]
    # The standard library's folder holds site-packages too, so it cannot be a prefix as a whole.
    standard = Path(sysconfig.get_path("stdlib"))
    roots += [
        str(entry) + ("/" if entry.is_dir() else "") for entry in standard.iterdir() if _standard(entry)
    ]
    return tuple(roots)


def _standard(entry: Path) -> bool:
    return entry.stem in sys.stdlib_module_names and entry.suffix in ("", ".py")


@functools.cache
def short_path(filename: str) -> str:
    """Shorten the path of a source file for readers.

    The result is relative to its site-packages, else to the working directory, else to the import path on which it
    was found (the Hub's remote code), else absolute.
    """
    path = Path(filename)
    packages = [*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    searched: list[str] = sorted((entry for entry in sys.path if len(entry) > 1), key=len, reverse=True)
    in_packages = [entry for entry in searched if Path(entry).name in ("site-packages", "dist-packages")]
    bases: list[str | Path] = [*packages, *in_packages, Path.cwd(), *searched]
    for base in bases:
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return path.as_posix()


def short_source(source: str) -> str:
    """Shorten the path of a `file:line`; return a text without a colon as it is."""
    path, colon, line = source.rpartition(":")
    return f"{short_path(path)}:{line}" if colon else source
