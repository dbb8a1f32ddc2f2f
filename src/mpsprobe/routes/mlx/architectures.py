"""Find the architectures that MLX's model libraries support, by reading their source files without importing them.

Importing them has side effects that a look-up must not have: it lowers a limit of the process, registers streams,
and one module ends the process. That a library has an architecture does not prove that its results agree.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from importlib import metadata
from pathlib import Path

from mpsprobe.knowledge import mlx
from mpsprobe.knowledge.mlx import MlxLibrary

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
        folder = _folder(imported)
        found.append(read(folder, name, _version(name)) if folder is not None else shipped[name])
    return tuple(found)


def held_by(architecture: str) -> bool:
    """Return whether a library of MLX supports the architecture."""
    return bool(architecture) and any(one.module(architecture) for one in libraries())


def read(folder: Path, name: str, version: str) -> MlxLibrary:
    """Read a library's source tree.

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


def _folder(imported: str) -> Path | None:
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
