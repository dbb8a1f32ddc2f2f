"""Exception handlers that mistake a missing op or MPS's out-of-memory error for something else."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mpsprobe.scan.position import Hit, Position, caught, on

_RUNTIME = {"RuntimeError", "Exception", "BaseException"}
_LEAVES = (ast.Raise, ast.Break, ast.Return)
_EXITS = {"sys.exit", "exit", "quit", "os._exit", "os.abort"}


@on(ast.While)
def endless(node: ast.While, position: Position) -> Iterator[Hit]:
    """Report a loop that tries again after every RuntimeError, so that an op that MPS lacks makes it endless."""
    if not position.names.knows("torch"):
        return
    for attempt in _own(node.body, (ast.Try,)):
        assert isinstance(attempt, ast.Try)
        for handler in attempt.handlers:
            if caught(handler) and not _RUNTIME & set(caught(handler)):
                if "NotImplementedError" in caught(handler):
                    break
                continue
            if not _leaves(handler, position) and _is_retry(node, attempt):
                what = " or ".join(caught(handler)) or "everything"
                yield Hit("MPS501", handler, f"This loop catches {what} and tries again without end.")
            break  # Python runs the first handler that fits


def _is_retry(loop: ast.While, attempt: ast.Try) -> bool:
    """Return whether only success ends the loop: it neither counts its attempts nor runs as a server."""
    names = {node.id for node in ast.walk(loop.test) if isinstance(node, ast.Name)}
    counted = any(
        isinstance(step, ast.AugAssign) and isinstance(step.target, ast.Name) and step.target.id in names
        for step in ast.walk(loop)
    )
    if counted:
        return False
    if names:
        succeeded = {
            target.id
            for part in (*attempt.body, *attempt.orelse)
            for step in ast.walk(part)
            if isinstance(step, ast.Assign)
            for target in step.targets
            if isinstance(target, ast.Name)
        }
        return bool(names & succeeded)
    ends = [
        step for part in (*attempt.body, *attempt.orelse) for step in _own([part], (ast.Break, ast.Return))
    ]
    ends += _own(_after(loop, attempt), (ast.Break, ast.Return))
    return isinstance(loop.test, ast.Constant) and bool(loop.test.value) and bool(ends)


def _after(loop: ast.While, attempt: ast.Try) -> list[ast.stmt]:
    return loop.body[loop.body.index(attempt) + 1 :] if attempt in loop.body else []


def _leaves(handler: ast.ExceptHandler, position: Position) -> bool:
    """Return whether a handler raises, breaks, returns or exits anywhere."""
    return any(
        isinstance(node, _LEAVES) or (isinstance(node, ast.Call) and position.called_by(node) in _EXITS)
        for node in ast.walk(handler)
    )


def _own(body: list[ast.stmt], kinds: tuple[type[ast.stmt], ...]) -> list[ast.stmt]:
    """Return the statements of these kinds in a block and the blocks inside it, without inner functions and classes."""
    found: list[ast.stmt] = []
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop(0)
        if isinstance(node, kinds):
            found.append(node)
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.expr)):
            pending.extend(ast.iter_child_nodes(node))
    return found


@on(ast.Try)
def swallowed(node: ast.Try, position: Position) -> Iterator[Hit]:
    """Report a handler of RuntimeError around an op that MPS lacks: `except RuntimeError: x = x + noise`.

    The op's NotImplementedError is a RuntimeError, and the handler mistakes it for its own case.
    """
    for handler in node.handlers:
        names = caught(handler)
        if "NotImplementedError" in names:
            return
        if "RuntimeError" not in names:
            continue
        if any(isinstance(step, ast.Raise) for step in ast.walk(handler)):
            return
        for part in node.body:
            for call in ast.walk(part):
                called = position.called_by(call) if isinstance(call, ast.Call) else ""
                missing = position.release.missing(called)
                if missing is not None:
                    yield Hit(
                        "MPS502",
                        handler,
                        f"{called} is not on MPS in torch {position.release.torch} ({missing[0]}): "
                        "this handler takes that for its own case.",
                    )
                    return
        return


@on(ast.Try)
def out_of_memory(node: ast.Try, position: Position) -> Iterator[Hit]:
    """Report a handler of `torch.OutOfMemoryError`, which MPS does not raise, where no other catches RuntimeError."""
    for handler in node.handlers:
        types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        names = [position.name(kind) for kind in types if kind is not None]
        if any(name in ("torch.cuda.OutOfMemoryError", "torch.OutOfMemoryError") for name in names):
            others = [h for h in node.handlers if not caught(h) or _RUNTIME & set(caught(h))]
            if not others:
                yield Hit("MPS503", handler, "This handler does not see MPS run out of memory.")
