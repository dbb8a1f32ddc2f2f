"""Where the walk stands: what a detector can ask about the node it is shown."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from mpsprobe.scan.finding import Severity
from mpsprobe.scan.names import Names
from mpsprobe.scan.scope import Function, Scope
from mpsprobe.scan.tables import TorchRelease
from mpsprobe.scan.truth import Truth

_PROBE_STATEMENTS = 3
_CATCH_IMPORT = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
_CATCH_ANY = {"Exception", "BaseException", "AssertionError"}
_CATCH_DTYPE = {"Exception", "BaseException", "TypeError"}


@dataclass(frozen=True)
class Hit:
    """What a detector saw.

    Attributes:
        code: of its rule.
        node: the place.
        message: what is there, in one sentence.
        severity: where it is not the rule's.
        why, mend: where the rule's own words are too general.
        links: sources beside the rule's.
    """

    code: str
    node: ast.AST
    message: str
    severity: Severity | None = None
    why: str = ""
    mend: str = ""
    links: tuple[str, ...] = ()


@dataclass
class Site:
    """The walk's position in one module.

    Attributes:
        names: what its identifiers stand for.
        truth: which branches a Mac takes.
        release: the torch release asked about.
        scope: the innermost function's names, or the module's.
        parents: nodes around the current one, innermost last.
        functions: functions around it, innermost last.
        tries: `try` statements in whose body it stands, innermost last.
        conditions: how many conditions that cannot be decided stand around it.
        torch_imported_at: line of the module's first import of torch, or of what imports it.
        reported: nodes that a detector has dealt with, so that no other reports them again.
        told: CUDA-only packages whose import was reported, each with whether a function imports it.
        called: dotted name of what the call that is being shown calls; `""` when it has none.
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
    told: set[tuple[str, bool]] = field(default_factory=set)
    called: str = ""

    def name(self, node: ast.AST) -> str:
        """Dotted name of an expression; `""` of anything else."""
        return self.names.of(node)

    def called_by(self, node: ast.Call) -> str:
        """Dotted name of what a call calls."""
        return self.names.of(node.func)

    def value(self, node: ast.expr) -> ast.expr:
        """The expression behind a name or a condition, as far as it can be followed."""
        return self.truth.value(node, self.scope)

    @property
    def in_class_body(self) -> bool:
        """Whether the node is a statement of a class, not of a method."""
        return bool(self.parents) and isinstance(self.parents[-1], ast.ClassDef)

    @property
    def failed_import_is_handled(self) -> bool:
        """Whether an ImportError here does not leave the module."""
        return self.conditions > 0 or any(_catches(attempt, _CATCH_IMPORT) for attempt in self.tries)

    @property
    def failure_is_handled(self) -> bool:
        """Whether what torch raises without CUDA (AssertionError, RuntimeError ...) is caught here."""
        return any(_is_probe(attempt) and _catches(attempt, _CATCH_ANY) for attempt in self.tries)

    @property
    def unknown_dtype_is_handled(self) -> bool:
        """Whether the TypeError for a dtype that MPS lacks is caught here."""
        return any(_is_probe(attempt) and _catches(attempt, _CATCH_DTYPE) for attempt in self.tries)

    @property
    def in_function(self) -> bool:
        """Whether the node runs when a function is called, not when the module is imported."""
        return bool(self.functions)


def _is_probe(attempt: ast.Try) -> bool:
    """Whether a `try` is there to see if something works; around a whole program it only logs the failure."""
    return len(attempt.body) <= _PROBE_STATEMENTS


def _catches(attempt: ast.Try, wanted: set[str]) -> bool:
    for handler in attempt.handlers:
        if not caught(handler) or wanted & set(caught(handler)):
            return not (handler.body and isinstance(handler.body[-1], ast.Raise))
    return False


def caught(handler: ast.ExceptHandler) -> list[str]:
    """Last parts of the names of the exceptions it catches; empty for a bare `except:`."""
    if handler.type is None:
        return []
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return [node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "?") for node in types]


def argument(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    """An argument by keyword, or else by position; None when it was not passed."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    if position is None or any(isinstance(arg, ast.Starred) for arg in call.args[: position + 1]):
        return None
    return call.args[position] if position < len(call.args) else None


def text_of(node: ast.expr | None) -> str | None:
    """The value of a string constant."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
