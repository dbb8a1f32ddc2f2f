"""Repositories whose class is their own code: what would run, and running it where the user agreed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpsprobe.errors import TargetError
from mpsprobe.models.snapshot import architecture


@dataclass(frozen=True)
class CodeFile:
    """One Python file of a repository.

    Attributes:
        path: of the file.
        lines: how many.
        imports: top-level packages that it imports, other than its own files.
    """

    path: Path
    lines: int
    imports: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.path} ({self.lines} lines; imports {', '.join(self.imports) or 'nothing'})"


def is_needed(config: dict[str, Any]) -> bool:
    """Whether the class that a config names is the repository's own code."""
    if not isinstance(config.get("auto_map"), dict):
        return False
    import transformers

    return getattr(transformers, architecture(config) or "", None) is None


def files(folder: Path, config: dict[str, Any]) -> list[CodeFile]:
    """The files that loading the model's class would run, with those that they import."""
    from transformers.dynamic_module_utils import get_imports, get_relative_import_files

    found: dict[Path, None] = {}
    for reference in _references(config):
        if "--" in reference:  # another repository's code: REPO--module.Class
            continue
        path = folder / f"{reference.rpartition('.')[0].replace('.', '/')}.py"
        if path.is_file():
            found.update(dict.fromkeys([path, *map(Path, get_relative_import_files(str(path)))]))
    return [
        CodeFile(path, len(path.read_text(encoding="utf-8").splitlines()), tuple(sorted(get_imports(path))))
        for path in found
    ]


def refusal(folder: Path, config: dict[str, Any]) -> TargetError:
    """The error for a user who did not agree, which says what would run."""
    would = "; ".join(map(str, files(folder, config))) or ", ".join(_references(config))
    return TargetError(
        f"{folder}: {architecture(config)} is code of the repository itself, which is not run unasked.",
        f"Read it, then give --trust-remote-code. It would run: {would}",
    )


def load(folder: Path, config: dict[str, Any]) -> tuple[Any, Any]:
    """The class and the config object, made by the repository's own code.

    Raises:
        TargetError: that code raised, or is not there.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    table: dict[str, Any] = config["auto_map"]
    named = architecture(config)
    model_reference = next(
        (
            reference
            for key, reference in table.items()
            if key.startswith("AutoModel")
            and isinstance(reference, str)
            and (named is None or reference.rpartition(".")[2] == named)
        ),
        None,
    )
    if model_reference is None or not isinstance(table.get("AutoConfig"), str):
        raise TargetError(
            f"{folder / 'config.json'}: auto_map names no code for {named or 'a model'} and its config.",
            "Give the class by its path: package.module:Class --config config.json.",
        )
    try:
        config_class: Any = get_class_from_dynamic_module(table["AutoConfig"], folder, local_files_only=True)
        model_class = get_class_from_dynamic_module(model_reference, folder, local_files_only=True)
        return model_class, config_class.from_pretrained(folder, local_files_only=True)
    except (Exception, SystemExit) as problem:  # whatever foreign code raises
        reason = (str(problem).strip().splitlines() or ["no reason given"])[0]
        raise TargetError(
            f"{folder}: the repository's own code raised {type(problem).__name__}: {reason}"
        ) from problem


def _references(config: dict[str, Any]) -> list[str]:
    """`module.Class` of the config and the models; tokenizers and processors are not loaded from code."""
    table = config.get("auto_map") or {}
    return [
        reference
        for key, reference in table.items()
        if isinstance(reference, str) and key.startswith(("AutoConfig", "AutoModel"))
    ]


def modules(config: dict[str, Any]) -> list[str]:
    """File names of the repository's own code that its config names."""
    names = {reference.rpartition(".")[0].replace(".", "/") for reference in _references(config)}
    return sorted(f"{name}.py" for name in names if "--" not in name)
