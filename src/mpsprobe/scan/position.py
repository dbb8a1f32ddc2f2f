"""The position of the walk in a module, and the registry of the detectors that are called with its nodes.

Most nodes are calls, and most detectors look for a few names. Calls are therefore looked up by the last part of the
callee's name, which keeps the walk at one dictionary access a call.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mpsprobe.scan.findings import Level
from mpsprobe.scan.lookup import TorchRelease
from mpsprobe.scan.names import Function, Names, Scope
from mpsprobe.scan.truth import Truth

_PROBE_STATEMENTS = 3
_CATCH_IMPORT = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
_CATCH_ANY = {"Exception", "BaseException", "AssertionError"}
_CATCH_DTYPE = {"Exception", "BaseException", "TypeError"}


@dataclass(frozen=True)
class Hit:
    """One hazard as a detector reports it.

    Attributes:
        code: The code of the rule.
        node: The syntax node of the place.
        message: One sentence about the code that was found.
        severity: The severity, where it differs from the rule's; else None.
        why: The reason, where the rule's is too general; else empty.
        fix: The fix, where the rule's is too general; else empty.
        links: Sources in addition to the rule's.
    """

    code: str
    node: ast.AST
    message: str
    severity: Level | None = None
    why: str = ""
    fix: str = ""
    links: tuple[str, ...] = ()


@dataclass
class Position:
    """The walk's position in one module.

    Attributes:
        names: The meaning of the identifiers that the module imports.
        truth: The truth values of conditions on a Mac.
        release: The torch release whose op tables are used.
        scope: The names of the innermost function, or of the module.
        parents: The nodes around the current one, innermost last.
        functions: The functions around it, innermost last.
        tries: The `try` statements whose body holds the node, innermost last.
        conditions: The number of undecidable conditions around the node.
        torch_imported_at: The line of the first import of torch, or of a package that imports torch.
        reported: The ids of nodes that a detector has reported, so that no other one reports them again.
        reported_imports: The CUDA-only packages whose import was reported, each with whether a function
            imports it.
        called: The dotted name of the callee of the current call; `""` when it has none.
    """

    names: Names
    truth: Truth
    release: TorchRelease
    scope: Scope
    parents: list[ast.AST] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    tries: list[ast.Try] = field(default_factory=list)
    conditions: int = 0
    torch_imported_at: int | None = None
    reported: set[int] = field(default_factory=set)
    reported_imports: set[tuple[str, bool]] = field(default_factory=set)
    called: str = ""

    def name(self, node: ast.AST) -> str:
        """Return the full dotted name of a chain of names such as `nn.Linear`; `""` for any other expression."""
        return self.names.of(node)

    def called_by(self, node: ast.Call) -> str:
        """Return the full dotted name of a call's callee; `""` when it is not a chain of names."""
        return self.names.of(node.func)

    def value(self, node: ast.expr) -> ast.expr:
        """Return the expression that a name or a conditional expression has on a Mac; see `Truth.value`."""
        return self.truth.value(node, self.scope)

    @property
    def in_class_body(self) -> bool:
        """Return whether the node is directly in the body of a class."""
        return bool(self.parents) and isinstance(self.parents[-1], ast.ClassDef)

    @property
    def failed_import_is_handled(self) -> bool:
        """Return whether an import here is in a `try` that catches its failure, or behind an undecidable condition."""
        return self.conditions > 0 or any(_catches(attempt, _CATCH_IMPORT) for attempt in self.tries)

    @property
    def failure_is_handled(self) -> bool:
        """Return whether a short `try` around the node catches the AssertionError of a torch without CUDA."""
        return any(_is_probe(attempt) and _catches(attempt, _CATCH_ANY) for attempt in self.tries)

    @property
    def unknown_dtype_is_handled(self) -> bool:
        """Return whether a short `try` around the node catches the TypeError for a dtype that MPS lacks."""
        return any(_is_probe(attempt) and _catches(attempt, _CATCH_DTYPE) for attempt in self.tries)

    @property
    def in_function(self) -> bool:
        """Return whether the node runs when a function is called, not when the module is imported."""
        return bool(self.functions)


def _is_probe(attempt: ast.Try) -> bool:
    """Return whether a `try` is so short that it tests for a feature, unlike one around a whole program."""
    return len(attempt.body) <= _PROBE_STATEMENTS


def _catches(attempt: ast.Try, wanted: set[str]) -> bool:
    for handler in attempt.handlers:
        if not caught(handler) or wanted & set(caught(handler)):
            return not (handler.body and isinstance(handler.body[-1], ast.Raise))
    return False


def caught(handler: ast.ExceptHandler) -> list[str]:
    """Return the last parts of the names of the caught exceptions; empty for a bare `except:`."""
    if handler.type is None:
        return []
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return [node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "?") for node in types]


def argument(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    """Return an argument by keyword, else by position; None when it is not passed, or hidden in a starred one."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    if position is None or any(isinstance(arg, ast.Starred) for arg in call.args[: position + 1]):
        return None
    return call.args[position] if position < len(call.args) else None


def text_of(node: ast.expr | None) -> str | None:
    """Return the value of a string constant; None for any other expression."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


Detector = Callable[[Any, Position], Iterator[Hit]]
D = TypeVar("D", bound=Detector)


@dataclass(frozen=True)
class Registry:
    """The detectors, by the nodes that they are called with.

    Attributes:
        nodes: Detectors by type of node.
        calls: Detectors by the last part of the callee's name: `"to"` for `x.to(...)`.
        torch_calls: Detectors that are called with every call of a function of torch.
        in_place_calls: Detectors that are called with every call, outside torch's functions, of a name that ends in
            `_`.
    """

    nodes: dict[type[ast.AST], list[Detector]] = field(default_factory=dict)
    calls: dict[str, list[Detector]] = field(default_factory=dict)
    torch_calls: list[Detector] = field(default_factory=list)
    in_place_calls: list[Detector] = field(default_factory=list)


#: All registered detectors; complete once `scan.walk` has imported them.
REGISTRY = Registry()


def on(*kinds: type[ast.AST]) -> Callable[[D], D]:
    """Return a decorator that registers a detector for nodes of these types in code that a Mac would run."""

    def register(detector: D) -> D:
        for kind in kinds:
            REGISTRY.nodes.setdefault(kind, []).append(detector)
        return detector

    return register


def on_call(*names: str) -> Callable[[D], D]:
    """Return a decorator that registers a detector of calls of functions and methods with these names."""

    def register(detector: D) -> D:
        for name in names:
            REGISTRY.calls.setdefault(name, []).append(detector)
        return detector

    return register


def on_torch_call(detector: D) -> D:
    """Register a detector of calls of any function below `torch`."""
    REGISTRY.torch_calls.append(detector)
    return detector


def on_in_place_call(detector: D) -> D:
    """Register a detector of calls of methods whose names end in `_`."""
    REGISTRY.in_place_calls.append(detector)
    return detector
