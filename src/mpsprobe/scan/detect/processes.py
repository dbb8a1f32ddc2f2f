"""Worker processes by fork, and MPS variables that are set too late."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mpsprobe.scan.detect.registry import on
from mpsprobe.scan.site import Hit, Site, argument, text_of

_VARIABLE = re.compile(r"PYTORCH_(ENABLE_MPS_FALLBACK|MPS_\w+|DEBUG_MPS_\w+)$")


@on(ast.Call)
def fork(node: ast.Call, site: Site) -> Iterator[Hit]:
    """A start method of "fork", and os.fork()."""
    called = site.called(node)
    last = called.rpartition(".")[2]
    if called == "os.fork":
        if site.names.knows("torch"):
            yield Hit("MPS601", node, "os.fork() in a program that uses torch.")
        return
    method: ast.expr | None = None
    if last in ("set_start_method", "get_context"):
        method = argument(node, "method", 0)
    elif last == "start_processes":
        method = argument(node, "start_method")
    else:
        method = argument(node, "multiprocessing_context") or argument(node, "mp_context")
    text = text_of(site.value(method)) if method is not None else None
    if text == "fork":
        yield Hit("MPS601", node, f'{last or "this"}(...) starts processes by "fork".')


@on(ast.Assign)
def late_variable(node: ast.Assign, site: Site) -> Iterator[Hit]:
    """`os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] = "1"` below `import torch`."""
    for target in node.targets:
        if isinstance(target, ast.Subscript) and site.name(target.value) in ("os.environ", "environ"):
            yield from _late(target, text_of(target.slice), site)


@on(ast.Call)
def late_call(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`os.environ.setdefault(...)`, `os.putenv(...)` and `os.environ.update(...)`."""
    called = site.called(node)
    if called in ("os.environ.setdefault", "environ.setdefault", "os.putenv"):
        yield from _late(node, text_of(node.args[0]) if node.args else None, site)
    elif called in ("os.environ.update", "environ.update"):
        names = [text_of(key) for arg in node.args if isinstance(arg, ast.Dict) for key in arg.keys]
        for name in [*names, *(keyword.arg for keyword in node.keywords)]:
            yield from _late(node, name, site)


def _late(node: ast.AST, variable: str | None, site: Site) -> Iterator[Hit]:
    if variable and _VARIABLE.match(variable) and site.torch_imported_at is not None:
        yield Hit("MPS901", node, f"{variable} is set after torch was imported in line {site.torch_imported_at}.")
