"""The parts of a target: which of them to reuse, wrap or write for MLX, and how many days that takes.

Parts are derived from the op uses: from the module that called an op, and the file whose code called it. Code in
`transformers/models/qwen3_vl/` belongs to that architecture, whatever the target calls it; code outside
transformers is the target's own.

The architectures that MLX's model libraries have are read from their source files.
Importing them has side effects that a look-up must not have: it lowers a limit of the process, registers streams,
and one module ends the process. That a library has an architecture does not prove that its results agree.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from mpsprobe.knowledge import mlx
from mpsprobe.knowledge.mlx import Kind, MlxLibrary, Proof
from mpsprobe.quantities import enumerate_words, plural
from mpsprobe.run import Component, OpUse

#: Import names by distribution.
LIBRARIES = {
    "mlx-lm": "mlx_lm",
    "mlx-vlm": "mlx_vlm",
    "mlx-whisper": "mlx_whisper",
    "mlx-embeddings": "mlx_embeddings",
}
#: Names that their modules give to a model's config class.
_CONFIGS = frozenset({"ModelArgs", "ModelConfig", "ModelDimensions"})
#: A file that marks the folder of a library. Its models are in `models/`, or its one model is beside this file, as
# in mlx-whisper.
_LOADER = "load_models.py"
_RENAMES = "MODEL_REMAPPING"


@functools.cache
def libraries() -> tuple[MlxLibrary, ...]:
    """Return the libraries: installed ones from their files, the others from the data that mpsprobe ships."""
    shipped = {package.name: package for package in mlx.packages()}
    found = []
    for name, imported in LIBRARIES.items():
        folder = _package_folder(imported)
        found.append(read_library(folder, name, _version(name)) if folder is not None else shipped[name])
    return tuple(found)


def held_by(architecture: str) -> bool:
    """Return whether a library of MLX has a model of this architecture; False for an empty name."""
    return bool(architecture) and any(one.module(architecture) for one in libraries())


def read_library(folder: Path, name: str, version: str) -> MlxLibrary:
    """Read the names of a library's models, and the model types that it renames, from its source tree.

    Args:
        folder: The folder that holds `utils.py` and `models/`, or the one model of the library.
        name: The name of the distribution.
        version: The version of the distribution.
    """
    if (folder / "models").is_dir():
        models = [
            path.stem if path.is_file() else path.name
            for path in sorted((folder / "models").iterdir())
            if _is_model(path)
        ]
    else:  # a library of one model, whose class is named after its module
        models = [
            path.stem for path in sorted(folder.glob("*.py")) if _is_model(path, path.stem.capitalize())
        ]
    return MlxLibrary(name, version, models, _renamed(folder / "utils.py"))


def _package_folder(imported: str) -> Path | None:
    spec = importlib.util.find_spec(imported)  # find_spec does not run a top-level package
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    with_many = (folder / "models").is_dir() and (folder / "utils.py").is_file()
    return folder if with_many or (folder / _LOADER).is_file() else None


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def _is_model(path: Path, model: str = "Model") -> bool:
    """Return whether a module defines a class `model` and a config class at its top level."""
    file = path / "__init__.py" if path.is_dir() else path
    if file.suffix != ".py" or not file.is_file():
        return False
    names = _top_level(file)
    return model in names and bool(names & _CONFIGS)


def _top_level(file: Path) -> set[str]:
    """Return the names that a module defines, or imports by name."""
    names: set[str] = set()
    for node in _parsed(file).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _renamed(file: Path) -> dict[str, str]:
    for node in _parsed(file).body if file.is_file() else []:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == _RENAMES for target in targets):
            assert isinstance(node, ast.Assign)
            return dict(ast.literal_eval(node.value))
    return {}


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # written for a later Python, so its names are unknown
        return ast.Module(body=[], type_ignores=[])


#: Days of work. The rule is an estimate (`docs/routes.md`) with an uncertainty of 50 %.
REUSE_DAYS = 0.25
WRAP_DAYS = (0.5, 1.0)
NEW_DAYS, LINES_A_DAY = 0.5, 150
HOST_DAYS = 0.25
MISSING_DAYS = (0.5, 1.0)
#: Days in addition to the parts, where anything is written: feeding inputs, with generation if the target generates;
#: and, at most, validation on a Mac and tests, which take no longer than what was written.
INPUT_DAYS, GENERATION_DAYS, VALIDATION_DAYS, TEST_DAYS = (0.25, 0.5), (2.0, 3.0), (2.0, 3.0), 2.0

_FAMILY = re.compile(r"(?:^|/)transformers/models/(\w+)/")
#: Code that drives models and belongs to none (MLX's libraries have their own), and mpsprobe's, except for the default
# target.
_MACHINERY = re.compile(
    r"(?:^|/)(?:transformers|sentence_transformers|tokenizers|mpsprobe(?!/models/tiny_drive))/"
)


@dataclass
class Part:
    """A part of a target, found but not yet judged.

    Attributes:
        name: The path of the module, or the file.
        families: The number of calls by architecture of transformers.
        files: The files whose code called an op, by architecture.
        own: The number of calls by file outside transformers: the target's own or another library's.
        uses: The op uses of the part.
    """

    name: str
    families: Counter[str] = field(default_factory=Counter)
    files: dict[str, set[str]] = field(default_factory=dict)
    own: Counter[str] = field(default_factory=Counter)
    uses: list[OpUse] = field(default_factory=list)


def parts(uses: Iterable[OpUse]) -> list[Part]:
    """Group op uses into the parts of a target, each of which MLX has or lacks as a whole.

    A part is a top-level module, such as `vision_tower`; ops outside of any module belong to the folder of their
    source file. Parts of one architecture, or of one folder, are then joined. Ops of the generation loop are left out.
    """
    found: dict[str, Part] = {}
    for use in uses:
        file = use.source.rpartition(":")[0]
        family = _FAMILY.search(file)
        own = bool(file) and not family and not _MACHINERY.search(file)
        name = use.module.partition(".")[0] or (_folder(file) if own else "")
        if not name:
            continue  # bookkeeping of generation
        part = found.setdefault(name, Part(name))
        part.uses.append(use)
        if family:
            part.families[family[1]] += use.count
            part.files.setdefault(family[1], set()).add(file)
        elif own:
            part.own[file] += use.count
    return _merged([part for part in found.values() if part.families or part.own])


def _folder(file: str) -> str:
    return file.rpartition("/")[0] or file


def _merged(found: list[Part]) -> list[Part]:
    """Return the parts after joining those whose code is of one architecture, or lies in one folder."""
    alike: dict[str, Part] = {}
    for part in found:
        if len(part.families) == 1 and not part.own:
            key = f"architecture {next(iter(part.families))}"
        elif not part.families:
            key = f"folder {_folder(part.own.most_common(1)[0][0])}"
        else:
            key = f"part {part.name}"
        first = alike.setdefault(key, part)
        if first is not part:
            first.name += f", {part.name}"
            first.families += part.families
            for family, files in part.files.items():
                first.files.setdefault(family, set()).update(files)
            first.own += part.own
            first.uses += part.uses
    return list(alike.values())


def components(
    found: Sequence[Part], libraries: Sequence[MlxLibrary], proofs: Sequence[Proof]
) -> list[Component]:
    """Return each part with the verdict on it (reuse, wrap or port) and the days of work that it takes."""
    counted: set[tuple[str, int]] = set()
    return [_component(part, libraries, proofs, counted) for part in found]


def _component(
    part: Part, libraries: Sequence[MlxLibrary], proofs: Sequence[Proof], counted: set[tuple[str, int]]
) -> Component:
    homes = {family: _homes(family, libraries) for family in part.families}
    absent = [family for family, where in homes.items() if not where]
    present = [family for family, where in homes.items() if where]
    extra, reasons = _op_days(part.uses)
    unheld = [file for family in absent for file in part.files[family]]
    lines = own_lines([*part.own, *unheld], part.uses, counted)
    if part.families and not absent and not part.own:
        return _reused(part, present, homes, proofs, extra)
    if present and not absent:
        what = f"{enumerate_words(present)} is in {_names(homes, present)}, {lines} lines around it are not"
        days = (WRAP_DAYS[0] + extra[0], WRAP_DAYS[1] + extra[1])
        return Component(
            name=part.name, state="port-needed", does="wrap", days=days, reason=_sentence(what, reasons)
        )
    what = f"{plural(lines, 'line')} of code"
    if absent:
        what += f"; {enumerate_words(absent)} is in neither mlx-lm nor mlx-vlm"
    new = NEW_DAYS + lines / LINES_A_DAY
    return Component(
        name=part.name,
        state="port-needed",
        does="port",
        days=(round(new + extra[0], 2), round(new + extra[1], 2)),
        reason=_sentence(what, reasons),
    )


def _reused(
    part: Part,
    families: Sequence[str],
    homes: dict[str, list[str]],
    proofs: Sequence[Proof],
    extra: tuple[float, float],
) -> Component:
    """Return the verdict on a part whose architectures the libraries have, by the parity runs of these."""
    weakest = min((_proven(family, proofs) for family in families), key=lambda one: _STATES.index(one[0]))
    state, said = weakest
    where = f"{enumerate_words(families)} is in {_names(homes, families)}"
    del extra  # the libraries' code already handles such ops
    return Component(
        name=part.name,
        state=state,
        does="port" if state == "blocked" else "reuse",
        days=(REUSE_DAYS, REUSE_DAYS) if state != "blocked" else WRAP_DAYS,
        reason=f"{where}; {said}.",
    )


#: The states of a part, from worst to best.
_STATES = ("blocked", "name-only", "not-run-on-Metal", "reuse-proven")


def _proven(family: str, proofs: Sequence[Proof]) -> tuple[str, str]:
    mine = [proof for proof in proofs if proof.model_type == family]
    failed = [proof for proof in mine if not proof.agrees]
    agreed = [proof for proof in mine if proof.agrees]
    if failed and not agreed:
        one = failed[0]
        return (
            "blocked",
            f"{one.package} {one.version} gives other numbers: {one.note or 'see the parity run'}",
        )
    if not agreed:
        return "name-only", "no parity run has shown that its numbers agree"
    one = next((proof for proof in agreed if proof.device == "gpu"), agreed[0])
    inputs = enumerate_words(
        list(dict.fromkeys(proof.inputs for proof in agreed if proof.package == one.package))
    )
    error = max((proof.error or 0.0) for proof in agreed if proof.package == one.package)
    said = f"logits of a small random copy agree within {error:.1e} ({inputs}, {one.package} {one.version})"
    if one.device == "gpu":
        return "reuse-proven", f"{said}, on Metal"
    return "not-run-on-Metal", f"{said}, on a CPU; its Metal kernels were not run"


def _homes(family: str, libraries: Sequence[MlxLibrary]) -> list[str]:
    return [package.name for package in libraries if package.module(family) is not None]


def _names(homes: dict[str, list[str]], families: Sequence[str]) -> str:
    return enumerate_words(list(dict.fromkeys(name for family in families for name in homes[family])))


def _op_days(uses: Iterable[OpUse]) -> tuple[tuple[float, float], list[str]]:
    """Return the days for ops that run partly on the host or must be written, and a phrase on each of these groups."""
    host, missing, unknown = set[str](), set[str](), set[str]()
    for use in uses:
        row = mlx.row_for(use)
        if row is None:
            unknown.add(use.op)
        elif row.kind is Kind.HOST:
            host.add(use.op)
        elif row.kind is Kind.MISSING:
            missing.add(use.op)
    missing |= unknown
    low = len(host) * HOST_DAYS + len(missing) * MISSING_DAYS[0]
    high = len(host) * HOST_DAYS + len(missing) * MISSING_DAYS[1]
    reasons = []
    if host:
        reasons.append(f"on the host: {', '.join(sorted(host))}")
    if missing:
        reasons.append(f"to be written: {', '.join(sorted(missing))}")
    return (low, high), reasons


def _sentence(what: str, reasons: Sequence[str]) -> str:
    return f"{'; '.join([what, *reasons])}."


# ------------------------------------------------------------------------------------------------------ lines


def own_lines(files: Iterable[str], uses: Iterable[OpUse], counted: set[tuple[str, int]]) -> int:
    """Count the lines of the functions that the op uses come from, and of the constructors of their classes.

    Args:
        files: The files whose functions count.
        uses: The op uses with their source lines.
        counted: Functions that were counted before, by file and first line; this call adds to it.

    Returns:
        The number of lines without blank ones, comments and docstrings. For a file that cannot be found it is the
        number of distinct source lines of its op uses.
    """
    wanted = set(files)
    seen: dict[str, set[int]] = {}
    for use in uses:
        file, _, line = use.source.rpartition(":")
        if file in wanted and line.isdigit():
            seen.setdefault(file, set()).add(int(line))
    total = 0
    for file, lines in seen.items():
        found = _functions(file)
        if not found:
            total += len(lines)
            continue
        used = {one.owner for one in found if any(one.first <= line <= one.last for line in lines)}
        for one in found:
            ran = any(one.first <= line <= one.last for line in lines)
            if (ran or (one.makes and one.owner in used)) and (file, one.first) not in counted:
                counted.add((file, one.first))
                total += one.lines
    return total


@dataclass(frozen=True)
class _Function:
    """A function or method of a file.

    Attributes:
        first: Its first line.
        last: Its last line.
        lines: Its number of lines without blank ones, comments and docstrings.
        owner: The first line of its class, or its own for a function.
        makes: Whether it is a constructor.
    """

    first: int
    last: int
    lines: int
    owner: int
    makes: bool


@functools.cache
def _functions(file: str) -> tuple[_Function, ...]:
    """Return the functions of a file and the methods of its classes; empty when it cannot be found or parsed."""
    path = next((Path(root) / file for root in ("", *sys.path) if (Path(root) / file).is_file()), None)
    if path is None:
        return ()
    try:
        text = path.read_text(encoding="utf-8")
        body = ast.parse(text).body
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ()
    lines = text.splitlines()
    found = []
    for node in body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        found += [
            _function(one, node.lineno, lines)
            for one in inside
            if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))
        ]
    return tuple(found)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, owner: int, lines: Sequence[str]) -> _Function:
    first, last = node.lineno, node.end_lineno or node.lineno
    code = sum(_is_code(line) for line in lines[first - 1 : last])
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        code -= sum(_is_code(line) for line in lines[docstring.lineno - 1 : docstring.end_lineno])
    return _Function(first, last, code, owner, node.name == "__init__")


def _is_code(line: str) -> bool:
    text = line.strip()
    return bool(text) and not text.startswith("#")
