"""Read PyTorch's own list of tests that are expected to fail on MPS in `common_mps.py`, without running it."""

from __future__ import annotations

import ast
from pathlib import Path

_FILE = "torch/testing/_internal/common_mps.py"
_LIST = "UNIMPLEMENTED_XFAILLIST"


def unimplemented(root: Path) -> dict[str, list[str] | None]:
    """Return by OpInfo name with variant the dtypes that fail, None for all; empty for wheels without the file.

    Entries that apply only to older systems are left out.

    Raises:
        ValueError: The list is not a dictionary of names to None or lists of dtypes.
    """
    path = root / _FILE
    if not path.is_file():
        return {}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        target: ast.expr
        value: ast.expr | None
        if isinstance(node, ast.AnnAssign):
            target, value = node.target, node.value
        elif isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        else:
            continue
        if isinstance(target, ast.Name) and target.id == _LIST and isinstance(value, ast.Dict):
            pairs = zip(value.keys, value.values, strict=True)
            listed = {_name(key): _dtypes(dtypes) for key, dtypes in pairs}
            return {name: dtypes for name, dtypes in listed.items() if dtypes is None or dtypes}
    raise ValueError(f"{path}: no dictionary {_LIST}.")


def _name(key: ast.expr | None) -> str:
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        return key.value
    raise ValueError(f"{_LIST}: a key is not a string: {ast.dump(key) if key else '**'}.")


def _dtypes(value: ast.expr) -> list[str] | None:
    if isinstance(value, ast.IfExp) and ast.unparse(value.test).startswith("MACOS_VERSION < "):
        value = value.orelse  # the failures that also occur on the newest system
    if isinstance(value, ast.Constant) and value.value is None:
        return None
    if isinstance(value, ast.List):
        return sorted(element.attr for element in value.elts if isinstance(element, ast.Attribute))
    raise ValueError(f"{_LIST}: a value is neither None nor a list: {ast.dump(value)}.")
