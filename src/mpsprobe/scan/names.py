"""The meaning of identifiers in one module: its imports, and the values that its functions bind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property


class Names:
    """The imports of one module, collected during the walk.

    An import inside a function also counts for the code after it in the file.
    """

    def __init__(self) -> None:
        self._meaning: dict[str, str] = {}

    def learn(self, node: ast.Import | ast.ImportFrom) -> None:
        """Record the names that an import statement binds."""
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
        """Return the full dotted name of a chain of names, by the imports: `"torch.nn.functional.pad"` for `F.pad`.

        A first name that was not imported is kept. Any other expression gives `""`.
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
        """Return whether the module has imported `package`, or something inside it, before the current node."""
        return any(name == package or name.startswith(f"{package}.") for name in self._meaning.values())


def modules_of(node: ast.AST) -> list[str]:
    """Return the full names of the modules of an import statement; empty for relative imports and other nodes."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


Function = ast.FunctionDef | ast.AsyncFunctionDef


class Scope:
    """The names of one function or module.

    Attributes:
        node: The function or module.
        outer: The enclosing scope; None for a module. A class body is not a scope for its methods.
    """

    def __init__(self, node: Function | ast.Module | ast.Lambda, outer: Scope | None = None) -> None:
        self.node = node
        self.outer = outer

    @cached_property
    def bindings(self) -> dict[str, list[tuple[int, ast.expr | None]]]:
        """Return the bindings of each name as pairs of a line and a value, which is None where it is no expression."""
        found: dict[str, list[tuple[int, ast.expr | None]]] = {}
        if not isinstance(self.node, ast.Module):
            arguments = self.node.args
            several = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
            for argument in (*several, arguments.vararg, arguments.kwarg):
                if argument is not None:
                    found.setdefault(argument.arg, []).append((self.node.lineno, None))
        for node in _own_nodes(self.node):
            for name, value in _bound(node):
                found.setdefault(name, []).append((node.lineno, value))
        return found

    def values(self, name: str) -> list[tuple[int, ast.expr | None]]:
        """Return all bindings of `name` in the scope that defines it; empty for a builtin or an import."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.bindings:
                return scope.bindings[name]
            scope = scope.outer
        return []

    def only(self, name: str) -> ast.expr | None:
        """Return the value of a name that is bound exactly once, to an expression; else None."""
        values = self.values(name)
        return values[0][1] if len(values) == 1 else None

    def latest(self, name: str, line: int) -> ast.expr | None:
        """Return the value last bound before `line` in this scope, in any branch; that of `only` for an outer name."""
        before = [value for at, value in self.bindings.get(name, ()) if at < line]
        return before[-1] if before else None if name in self.bindings else self.only(name)

    def uses(self, name: str) -> Iterator[tuple[ast.Name, list[ast.AST]]]:
        """Yield each place in this scope that reads `name`, with the enclosing nodes, innermost last."""
        yield from _uses(self.node, name, [])


def _own_nodes(root: ast.AST) -> Iterator[ast.stmt | ast.expr]:
    """Yield the statements and named expressions of a scope, without those of functions and classes inside it."""
    pending: list[ast.AST] = list(
        reversed(getattr(root, "body", [])) if not isinstance(root, ast.Lambda) else []
    )
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.stmt, ast.NamedExpr)):
            yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        inner = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
        if isinstance(node, ast.stmt):
            inner += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.NamedExpr)]
        pending.extend(reversed(inner))


def _bound(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value
            else:
                yield from ((name, None) for name in _stored(target))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        if node.value is not None:
            yield node.target.id, node.value
    elif isinstance(node, ast.NamedExpr):
        yield node.target.id, node.value
    elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        yield node.target.id, None
    elif isinstance(node, (ast.For, ast.AsyncFor)):
        yield from ((name, None) for name in _stored(node.target))
    elif isinstance(node, (ast.With, ast.AsyncWith)):
        for item in node.items:
            if item.optional_vars is not None:
                yield from ((name, None) for name in _stored(item.optional_vars))


def _stored(target: ast.AST) -> Iterator[str]:
    for node in ast.walk(target):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _uses(node: ast.AST, name: str, around: list[ast.AST]) -> Iterator[tuple[ast.Name, list[ast.AST]]]:
    if isinstance(node, ast.Name):
        if node.id == name and isinstance(node.ctx, ast.Load):
            yield node, list(around)
        return
    around.append(node)
    for child in ast.iter_child_nodes(node):
        yield from _uses(child, name, around)
    around.pop()
