"""Worker processes by fork, and MPS variables that are set too late."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mpsprobe.scan.detect.registry import on, on_call
from mpsprobe.scan.site import Hit, Site, argument, text_of

_CONTEXTS = ("multiprocessing_context", "mp_context", "start_method")
_VARIABLE = re.compile(r"PYTORCH_(ENABLE_MPS_FALLBACK|MPS_\w+|DEBUG_MPS_\w+)$")


@on_call("fork")
def bare_fork(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`os.fork()`."""
    if site.called == "os.fork" and site.names.knows("torch"):
        yield Hit("MPS601", node, "os.fork() in a program that uses torch.")


@on_call("set_start_method", "get_context")
def start_method(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`multiprocessing.set_start_method("fork")`."""
    method = argument(node, "method", 0)
    if method is not None and text_of(site.value(method)) == "fork":
        yield Hit("MPS601", node, f'{ast.unparse(node.func)} chooses "fork".')


@on(ast.keyword)
def forked_workers(node: ast.keyword, site: Site) -> Iterator[Hit]:
    """`DataLoader(..., multiprocessing_context="fork")`."""
    if node.arg in _CONTEXTS and text_of(site.value(node.value)) == "fork":
        yield Hit("MPS601", node, f'{node.arg}="fork" starts workers by fork.')


@on(ast.Assign)
def late_variable(node: ast.Assign, site: Site) -> Iterator[Hit]:
    """`os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] = "1"` below `import torch`."""
    for target in node.targets:
        if isinstance(target, ast.Subscript) and site.name(target.value) in ("os.environ", "environ"):
            yield from _late(target, text_of(target.slice), site)


@on_call("setdefault", "putenv", "update")
def late_call(node: ast.Call, site: Site) -> Iterator[Hit]:
    """`os.environ.setdefault(...)`, `os.putenv(...)` and `os.environ.update(...)`."""
    called = site.called
    if called in ("os.environ.setdefault", "environ.setdefault", "os.putenv"):
        yield from _late(node, text_of(node.args[0]) if node.args else None, site)
    elif called in ("os.environ.update", "environ.update"):
        names = [text_of(key) for arg in node.args if isinstance(arg, ast.Dict) for key in arg.keys]
        for name in [*names, *(keyword.arg for keyword in node.keywords)]:
            yield from _late(node, name, site)


def _late(node: ast.AST, variable: str | None, site: Site) -> Iterator[Hit]:
    if variable and _VARIABLE.match(variable) and site.torch_imported_at is not None:
        yield Hit(
            "MPS901", node, f"{variable} is set after torch was imported in line {site.torch_imported_at}."
        )
