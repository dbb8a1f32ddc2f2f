"""Walk over one module, along the branches that a Mac takes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mpsprobe.scan.detect import (  # noqa: F401 - importing a module registers its detectors
    choices,
    cuda_packages,
    devices,
    dtypes,
    handlers,
    ops,
    processes,
    training_loops,
)
from mpsprobe.scan.lookup import TorchRelease, cuda_only
from mpsprobe.scan.names import Function, Names, Scope, modules_of
from mpsprobe.scan.position import REGISTRY, Hit, Position, caught
from mpsprobe.scan.truth import Truth

#: Fields without code that runs: annotations, contexts, operators.
_NOT_CODE = {"annotation", "returns", "ctx", "type_comment", "op", "ops", "type_params"}
_FIELDS = {
    kind: tuple(name for name in kind._fields if name not in _NOT_CODE)
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)
#: Importing one of these imports torch.
_IMPORTS_TORCH = {
    "torch", "torchvision", "torchaudio", "diffusers", "accelerate", "peft", "timm", "sentence_transformers",
}  # fmt: skip
#: Names of code that exists for flash_attn, cuDNN or CUDA graphs, which no Mac has.
_IS_CUDA_CODE = re.compile(r"flash_?att(n|ention)|cudnn|cuda_?graph", re.IGNORECASE)


def walk(tree: ast.Module, release: TorchRelease) -> list[Hit]:
    """Return the hits of all detectors in the code of a module that a Mac would run."""
    return _Walk(tree, release).run()


class _Walk:
    def __init__(self, tree: ast.Module, release: TorchRelease) -> None:
        names = Names()
        self._tree = tree
        self._position = Position(names=names, truth=Truth(names), release=release, scope=Scope(tree))
        self._registry = REGISTRY
        #: Hits, each with the names of the functions and classes around it.
        self._hits: list[tuple[Hit, frozenset[str]]] = []
        self._inside: list[str] = []
        self._used: set[str] = set()

    def run(self) -> list[Hit]:
        self._show(self._tree)
        self._position.parents.append(self._tree)
        self._block(self._tree.body)
        unused = self._only_used_elsewhere() if self._hits else set()
        return [hit for hit, inside in self._hits if not unused & inside]

    def _only_used_elsewhere(self) -> set[str]:
        """Return the functions and classes with hits that are mentioned only in code that a Mac does not reach."""
        names = {name for _, inside in self._hits for name in inside} - self._used
        if not names:
            return names
        mentioned = {
            node.id if isinstance(node, ast.Name) else node.attr
            for node in ast.walk(self._tree)
            if isinstance(node, (ast.Name, ast.Attribute))
        }
        return names & mentioned

    def _show(self, node: ast.AST) -> None:
        for detector in self._registry.nodes.get(type(node), ()):
            self._take(detector(node, self._position))

    def _take(self, hits: Iterator[Hit]) -> None:
        for hit in hits:
            self._hits.append((hit, frozenset(self._inside)))

    def _show_call(self, node: ast.Call) -> None:
        position, registered = self._position, self._registry
        position.called = position.names.of(node.func)
        last = node.func.attr if isinstance(node.func, ast.Attribute) else position.called.rpartition(".")[2]
        found = registered.calls.get(last, ())
        if position.called.startswith("torch."):
            found = (*found, *registered.torch_calls)
        elif last.endswith("_"):
            found = (*found, *registered.in_place_calls)
        for detector in (*found, *(registered.nodes.get(ast.Call, ()) if node.args else ())):
            self._take(detector(node, position))

    # ---- statements: each method returns whether control ends there on a Mac ----

    def _block(self, statements: list[ast.stmt]) -> bool:
        return any(self._statement(statement) for statement in statements)

    def _statement(self, node: ast.stmt) -> bool:
        self._show(node)
        position = self._position
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self._learn_import(node)
            return False
        if isinstance(node, ast.If):
            return self._if(node)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self._function(node)
            return False
        if isinstance(node, ast.Try):
            return self._try(node)
        if isinstance(node, ast.ClassDef):
            self._class(node)
            return False
        position.parents.append(node)
        if isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                self._expression(item)
            suppresses = any(_suppresses(item.context_expr, position) for item in node.items)
            position.conditions += suppresses
            ends = self._block(node.body) and not suppresses
            position.conditions -= suppresses
            position.parents.pop()
            return ends
        if isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
            self._expression(node.test if isinstance(node, ast.While) else node.iter)
            if isinstance(node, ast.While) or not position.truth.is_empty(node.iter):
                self._block(node.body)
            self._block(node.orelse)
        else:
            self._fields(node)
        position.parents.pop()
        return isinstance(node, (ast.Return, ast.Raise, ast.Continue, ast.Break))

    def _if(self, node: ast.If) -> bool:
        position = self._position
        position.parents.append(node)
        self._expression(node.test)
        answer = position.truth.of(node.test, position.scope)
        if answer is not None and not position.functions:
            self._learn_names(node.body if answer else node.orelse)
        position.conditions += answer is None
        # The walk continues after a check that raises without CUDA, because the next hazard counts too.
        then_ends = answer is not False and self._block(node.body) and not _refuses(node.body, answer)
        else_ends = answer is not True and self._block(node.orelse)
        position.conditions -= answer is None
        position.parents.pop()
        if answer is None:
            return then_ends and else_ends and bool(node.orelse)
        return then_ends if answer else else_ends

    def _try(self, node: ast.Try) -> bool:
        position = self._position
        position.parents.append(node)
        fails = _import_that_fails(node.body)
        position.tries.append(node)
        self._block(node.body)
        position.tries.pop()
        for handler in node.handlers:
            if handler.type is not None:
                self._expression(handler.type)
            self._block(handler.body)
        if fails and not position.functions:
            for name in _imported(node.body):
                position.truth.learnt.setdefault(name, None)
            self._learn_names(
                [
                    statement
                    for handler in node.handlers
                    if _is_for_imports(handler)
                    for statement in handler.body
                ]
            )
        if not fails:
            self._block(node.orelse)
        self._block(node.finalbody)
        position.parents.pop()
        return False

    def _class(self, node: ast.ClassDef) -> None:
        if _IS_CUDA_CODE.search(node.name):
            return
        self._position.parents.append(node)
        self._inside.append(node.name)
        self._fields(node)
        self._inside.pop()
        self._position.parents.pop()

    def _function(self, node: Function) -> None:
        position = self._position
        if _IS_CUDA_CODE.search(node.name):
            return
        position.parents.append(node)
        for outside in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
            if outside is not None:
                self._expression(outside)
        outer_scope, outer_tries, outer_conditions = position.scope, position.tries, position.conditions
        # A function that is defined inside a `try` does not run inside it.
        position.scope, position.tries, position.conditions = Scope(node, outer_scope), [], 0
        position.functions.append(node)
        self._inside.append(node.name)
        self._block(node.body)
        self._inside.pop()
        position.functions.pop()
        position.scope, position.tries, position.conditions = outer_scope, outer_tries, outer_conditions
        position.parents.pop()

    # ---- expressions ----

    def _expression(self, node: ast.AST) -> None:
        position = self._position
        if isinstance(node, ast.Call):
            self._show_call(node)
        elif isinstance(node, ast.Attribute):
            self._used.add(node.attr)
            self._show(node)
        elif isinstance(node, ast.Name):
            self._used.add(node.id)
        else:
            self._show(node)
        position.parents.append(node)
        if isinstance(node, ast.BoolOp):
            self._bool_op(node)
        elif isinstance(node, _COMPREHENSIONS):
            self._comprehension(node)
        elif isinstance(node, ast.IfExp):
            self._expression(node.test)
            answer = position.truth.of(node.test, position.scope)
            if answer is not False:
                self._expression(node.body)
            if answer is not True:
                self._expression(node.orelse)
        else:
            self._fields(node)
        position.parents.pop()

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        position = self._position
        for generator in node.generators:
            self._expression(generator.iter)
            if position.truth.is_empty(generator.iter):
                return
            for test in generator.ifs:
                self._expression(test)
                if position.truth.of(test, position.scope) is False:
                    return
        for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self._expression(part)

    def _bool_op(self, node: ast.BoolOp) -> None:
        stops = isinstance(node.op, ast.Or)
        for value in node.values:
            self._expression(value)
            if self._position.truth.of(value, self._position.scope) is stops:
                return

    def _fields(self, node: ast.AST) -> None:
        for name in _FIELDS[type(node)]:
            value = getattr(node, name, None)
            if isinstance(value, list):
                for item in value:
                    self._child(item)
            elif value is not None:
                self._child(value)

    def _child(self, node: object) -> None:
        if isinstance(node, ast.stmt):
            self._statement(node)
        elif isinstance(node, ast.Name):
            self._used.add(node.id)
        elif isinstance(node, ast.Constant):
            return
        elif isinstance(node, ast.AST):
            self._expression(node)

    # ---- values of the module's names on a Mac ----

    def _learn_import(self, node: ast.Import | ast.ImportFrom) -> None:
        position = self._position
        position.names.learn(node)
        if position.torch_imported_at is None and any(
            module.partition(".")[0] in _IMPORTS_TORCH for module in modules_of(node)
        ):
            position.torch_imported_at = node.lineno

    def _learn_names(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            if isinstance(statement, ast.Assign):
                for target in statement.targets:
                    names = target.elts if isinstance(target, ast.Tuple) else [target]
                    values = (
                        statement.value.elts if isinstance(statement.value, ast.Tuple) else [statement.value]
                    )
                    if len(values) != len(names):
                        values = [statement.value] * len(names) if len(values) == 1 else []
                    for name, value in zip(names, values, strict=False):
                        if isinstance(name, ast.Name) and isinstance(value, ast.Constant):
                            self._position.truth.learnt[name.id] = value


def _suppresses(context: ast.expr, position: Position) -> bool:
    """Return whether a context expression is `contextlib.suppress(...)`."""
    return isinstance(context, ast.Call) and position.called_by(context).rpartition(".")[2] == "suppress"


def _refuses(body: list[ast.stmt], answer: bool | None) -> bool:
    return answer is True and bool(body) and isinstance(body[-1], ast.Raise)


def _import_that_fails(body: list[ast.stmt]) -> bool:
    return any(cuda_only(module) for statement in body for module in modules_of(statement))


def _imported(body: list[ast.stmt]) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            for alias in statement.names:
                yield alias.asname or alias.name.partition(".")[0]


def _is_for_imports(handler: ast.ExceptHandler) -> bool:
    names = caught(handler)
    return not names or bool({"ImportError", "ModuleNotFoundError", "Exception"} & set(names))
