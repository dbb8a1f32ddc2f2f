"""Which dotted name an identifier stands for, from a module's imports."""

from __future__ import annotations

import ast


class Names:
    """The imports of one module, learnt as the walk meets them.

    An import inside a function counts for what follows it in the file, which is where its name is used.
    """

    def __init__(self) -> None:
        self._meaning: dict[str, str] = {}

    def learn(self, node: ast.Import | ast.ImportFrom) -> None:
        """Take in one import statement."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    self._meaning[alias.asname] = alias.name
                else:
                    top = alias.name.partition(".")[0]
                    self._meaning[top] = top
        else:
            package = "." * node.level + (node.module or "")
            for alias in node.names:
                self._meaning[alias.asname or alias.name] = f"{package}.{alias.name}"

    def of(self, node: ast.AST) -> str:
        """`"torch.nn.functional.pad"` of `F.pad`; `""` of anything but a chain of names.

        A name that no import made stands for itself.
        """
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        parts.append(self._meaning.get(node.id, node.id))
        return ".".join(reversed(parts))

    def knows(self, package: str) -> bool:
        """Whether the module imported `package`, or something of it."""
        return any(name == package or name.startswith(f"{package}.") for name in self._meaning.values())


def modules_of(node: ast.AST) -> list[str]:
    """Modules that an import statement imports by their full names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
