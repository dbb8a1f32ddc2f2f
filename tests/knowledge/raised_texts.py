"""The texts that a package raises or warns of, read from its sources, with words in place of its variables."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

#: Calls that write a text for people.
_WRITERS = {
    "warning",
    "warning_once",
    "warn",
    "error",
    "critical",
    "exception",
    "rank_zero_warn",
    "warn_once",
}

#: What stands in place of an expression, by a part of its source.
_WORDS = (
    ("preface", "FlashAttention2 has been toggled on, but it cannot be used due to the following error:"),
    ("flash_attn", "2"),
    ("accelerator_name", "mps"),
    ("accelerator_cls", "CUDAAccelerator"),
    ("dtype", "torch.float16"),
    ("gpus", "[0]"),
    ("device", "mps"),
    ("version", "2.8.0"),
    ("python", "3.12"),
    ("path", "/x/file"),
    ("class", "LlamaModel"),
)
_NUMBER = re.compile(r"len\(|shape|size|num_|count|\bidx\b|bits|dim|index|heads|major|minor|_devices_flag")


def of_package(name: str, about: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yield the place (`file:line`) and the text of all that an installed package raises or warns of.

    Args:
        name: The name that `import` takes.
        about: What a text has to be about; files without it are not parsed.
    """
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    for path in sorted(root.rglob("*.py")):
        source = path.read_text("utf-8", errors="replace")
        if "testing" in path.name or "/test" in path.as_posix() or not about.search(source):
            continue
        for line, text in _of_source(source):
            if about.search(text):
                yield f"{path.relative_to(root.parent)}:{line}", " ".join(text.split())


def _of_source(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        kind, arguments = "", list[ast.expr]()
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            kind, arguments = f"{ast.unparse(node.exc.func).rpartition('.')[2]}: ", node.exc.args[:2]
        elif isinstance(node, ast.Assert) and node.msg is not None:
            kind, arguments = "AssertionError: ", [node.msg]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            arguments = node.args[:1] if called in _WRITERS else []
        for argument in arguments:
            text = _text(argument)
            if text and len(text) > 20 and isinstance(node, ast.Raise | ast.Assert | ast.Call):
                yield node.lineno, kind + text
                break


def _text(node: ast.expr) -> str:
    """Return the text that an expression makes, with words for its variables; empty where it makes none."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            _word(part.value) if isinstance(part, ast.FormattedValue) else _text(part) for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left), _text(node.right)
        return (left or _word(node.left)) + (right or _word(node.right)) if left or right else ""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return re.sub(r"%[-\d.]*[sdrf]", "mps", _text(node.left))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return re.sub(r"\{[^{}]*\}", "mps", _text(node.func.value))
    return ""


def _word(node: ast.expr) -> str:
    source = ast.unparse(node).lower()
    if _NUMBER.search(source):
        return "7"
    return next((word for part, word in _WORDS if part in source), "name")
