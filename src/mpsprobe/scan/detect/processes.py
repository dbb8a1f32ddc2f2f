"""Worker processes started by fork, and MPS variables that are set too late."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mpsprobe.scan.position import Hit, Position, argument, on, on_call, text_of

_CONTEXTS = ("multiprocessing_context", "mp_context", "start_method")
_VARIABLE = re.compile(r"PYTORCH_(ENABLE_MPS_FALLBACK|MPS_\w+|DEBUG_MPS_\w+)$")


@on_call("fork")
def bare_fork(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report `os.fork()`, after which Metal cannot be used in the child."""
    if position.called == "os.fork" and position.names.knows("torch"):
        yield Hit("MPS601", node, "os.fork() in a program that uses torch.")


@on_call("set_start_method", "get_context")
def start_method(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report that workers are started by fork: `multiprocessing.set_start_method("fork")`, `get_context("fork")`."""
    method = argument(node, "method", 0)
    if method is not None and text_of(position.value(method)) == "fork":
        yield Hit("MPS601", node, f'{ast.unparse(node.func)} chooses "fork".')


@on(ast.keyword)
def forked_workers(node: ast.keyword, position: Position) -> Iterator[Hit]:
    """Report a data loader with forked workers: `DataLoader(..., multiprocessing_context="fork")`."""
    if node.arg in _CONTEXTS and text_of(position.value(node.value)) == "fork":
        yield Hit("MPS601", node, f'{node.arg}="fork" starts workers by fork.')


@on_call("share_memory_", "share_memory")
def shared(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report `model.share_memory()`, which raises for tensors on MPS."""
    if (
        isinstance(node.func, ast.Attribute)
        and position.names.knows("torch")
        and not _is_cpu(node.func.value, position)
    ):
        yield Hit("MPS602", node, f".{node.func.attr}() raises for tensors on MPS.")


@on_call(
    "Process",
    "spawn",
    "start_processes",
    "put",
    "apply",
    "apply_async",
    "map",
    "map_async",
    "starmap",
    "submit",
)
def sent_to_worker(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a tensor on a device that may be MPS that is sent to another process: `queue.put(x.to("mps"))`."""
    if not (position.names.knows("torch.multiprocessing") or position.names.knows("multiprocessing")):
        return
    given = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg in ("args", "kwargs"))]
    inner = [
        one
        for value in given
        for one in (value.elts if isinstance(value, (ast.Tuple, ast.List)) else [value])
    ]
    for one in inner:
        placed = _placed(position.value(one), position)
        if placed:
            last = position.called.rpartition(".")[2] or "it"
            yield Hit(
                "MPS602", node, f"{last} sends a tensor to another process that {placed} placed on a device."
            )
            return


def _placed(node: ast.expr, position: Position) -> str:
    """Return how an expression moves a tensor to a device that may be MPS; empty where it does not."""
    if not isinstance(node, ast.Call):
        return ""
    if isinstance(node.func, ast.Attribute) and node.func.attr == "to" and node.args:
        place = position.value(node.args[0])
        text = text_of(place)
        named = text is not None and text.startswith("mps")
        unknown = (
            text is None and isinstance(place, (ast.Name, ast.Attribute)) and "device" in ast.unparse(place)
        )
        return f".to({ast.unparse(node.args[0])})" if named or unknown else ""
    for keyword in node.keywords:
        if keyword.arg == "device" and (text_of(position.value(keyword.value)) or "").startswith("mps"):
            return f"device={ast.unparse(keyword.value)}"
    return ""


def _is_cpu(node: ast.expr, position: Position) -> bool:
    """Return whether an expression is on the CPU: moved there in this scope, or made by torch without a device."""
    if any(_moves_to_cpu(one, ast.unparse(node)) for one in ast.walk(position.scope.node)):
        return True
    value = position.value(node)
    if not isinstance(value, ast.Call):
        return False
    last = value.func.attr if isinstance(value.func, ast.Attribute) else ""
    if last == "cpu" or (last == "to" and value.args and text_of(value.args[0]) == "cpu"):
        return True
    made = position.called_by(value).startswith("torch.")
    return made and not any(keyword.arg == "device" for keyword in value.keywords)


def _moves_to_cpu(node: ast.AST, name: str) -> bool:
    """Return whether a node is `x.to("cpu")` or `x.cpu()` for the expression `name`, which moves a module in place."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    if node.func.attr not in ("to", "cpu") or ast.unparse(node.func.value) != name:
        return False
    return node.func.attr == "cpu" or (bool(node.args) and text_of(node.args[0]) == "cpu")


@on(ast.Assign)
def late_variable(node: ast.Assign, position: Position) -> Iterator[Hit]:
    """Report an MPS variable that is set after torch has read it: `os.environ[...] = "1"` below `import torch`."""
    for target in node.targets:
        if isinstance(target, ast.Subscript) and position.name(target.value) in ("os.environ", "environ"):
            yield from _late(target, text_of(target.slice), position)


@on_call("setdefault", "putenv", "update")
def late_call(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report a call that sets an MPS variable after torch has read it: `os.environ.setdefault`, `os.putenv`."""
    called = position.called
    if called in ("os.environ.setdefault", "environ.setdefault", "os.putenv"):
        yield from _late(node, text_of(node.args[0]) if node.args else None, position)
    elif called in ("os.environ.update", "environ.update"):
        names = [text_of(key) for arg in node.args if isinstance(arg, ast.Dict) for key in arg.keys]
        for name in [*names, *(keyword.arg for keyword in node.keywords)]:
            yield from _late(node, name, position)


def _late(node: ast.AST, variable: str | None, position: Position) -> Iterator[Hit]:
    if variable and _VARIABLE.match(variable) and position.torch_imported_at is not None:
        yield Hit(
            "MPS901",
            node,
            f"{variable} is set after torch was imported in line {position.torch_imported_at}.",
        )
