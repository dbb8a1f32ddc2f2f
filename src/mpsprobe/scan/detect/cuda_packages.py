"""Detectors of imports of CUDA-only packages, of choices of flash attention and of builds of CUDA extensions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mpsprobe.scan.findings import Level
from mpsprobe.scan.lookup import cuda_library, cuda_only
from mpsprobe.scan.names import Function, modules_of
from mpsprobe.scan.position import Hit, Position, argument, on, on_call, text_of


@on(ast.Import, ast.ImportFrom)
def cuda_import(node: ast.Import | ast.ImportFrom, position: Position) -> Iterator[Hit]:
    """Report the first import of a package that needs CUDA, unless a handler or a condition guards it."""
    if position.failed_import_is_handled:
        return
    for module in modules_of(node):
        package = cuda_only(module)
        library = cuda_library(module)
        top = module.partition(".")[0]
        if (package is None and library is None) or (top, position.in_function) in position.reported_imports:
            continue
        position.reported_imports.add((top, position.in_function))
        if package is not None:
            code = "MPS402" if position.in_function else "MPS401"
            yield Hit(
                code,
                node,
                f"import of {top}: {_lower(package.why)}",
                fix=f"Instead: {_lower(package.instead)} Or guard it: try / except ImportError.",
                links=(package.source,),
            )
        elif library is not None and not position.in_function:
            yield Hit(
                "MPS405",
                node,
                f"import of {top}: {_lower(library.why)}",
                fix=f"Instead: {_lower(library.instead)}",
                links=(library.source,),
            )


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:] if not sentence[:2].isupper() else sentence


_FLASH = re.compile(r"flash_attention_[23]$|kernels-community/(vllm-)?flash-attn")
_NAMES = {"attn_implementation", "_attn_implementation", "attention_implementation"}
_FLAGS = re.compile(r"use_flash_?(attn|attention)(_?2)?$|flash_attn$|use_flash$")
_BUILDERS = {"torch.utils.cpp_extension.load", "torch.utils.cpp_extension.load_inline"}


def _is_flash(node: ast.expr | None) -> bool:
    return _FLASH.match(text_of(node) or "") is not None


@on(ast.keyword)
def asked_by_keyword(node: ast.keyword, position: Position) -> Iterator[Hit]:
    """Report an argument that selects flash attention: `attn_implementation="flash_attention_2"`."""
    if node.arg in _NAMES and _is_flash(node.value) and not position.failed_import_is_handled:
        yield Hit("MPS403", node, f"{ast.unparse(node)} needs flash_attn.")
    elif node.arg and _FLAGS.fullmatch(node.arg) and _true(node.value) and not position.conditions:
        yield Hit("MPS403", node, f"{node.arg}=True needs flash_attn.", Level.WARNING)


@on_call("get", "pop", "getattr")
def asked_by_fallback(node: ast.Call, _position: Position) -> Iterator[Hit]:
    """Report flash attention as a default value: `kwargs.get("attn_implementation", "flash_attention_2")`."""
    if len(node.args) >= 2:
        name = text_of(node.args[-2])
        if name in _NAMES and _is_flash(node.args[-1]):
            yield Hit("MPS403", node, f"{name!r} is flash attention unless it is given.")


@on(ast.Assign)
def asked_in_assignment(node: ast.Assign, position: Position) -> Iterator[Hit]:
    """Report an assignment that selects flash attention: `config._attn_implementation = "flash_attention_2"`."""
    for target in node.targets:
        name = target.id if isinstance(target, ast.Name) else getattr(target, "attr", "")
        if name in _NAMES and _is_flash(node.value) and not position.conditions:
            yield Hit("MPS403", node, f"{name} is set to {ast.unparse(node.value)}.")


@on(ast.FunctionDef, ast.AsyncFunctionDef)
def asked_by_default(node: Function, _position: Position) -> Iterator[Hit]:
    """Report a parameter whose default selects flash attention: `def __init__(self, use_flash_attn=True)`."""
    arguments = [*node.args.posonlyargs, *node.args.args]
    pairs: list[tuple[ast.arg, ast.expr | None]] = [
        *zip(arguments[len(arguments) - len(node.args.defaults) :], node.args.defaults, strict=True),
        *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
    ]
    for parameter, default in pairs:
        if default is None:
            continue
        if parameter.arg in _NAMES and _is_flash(default):
            yield Hit("MPS403", default, f"{parameter.arg} defaults to {ast.unparse(default)}.")
        elif _FLAGS.fullmatch(parameter.arg) and _true(default):
            yield Hit("MPS403", default, f"{parameter.arg} defaults to True.", Level.WARNING)


@on_call("CUDAExtension", "load", "load_inline")
def cuda_build(node: ast.Call, position: Position) -> Iterator[Hit]:
    """Report an extension that is compiled with CUDA: `load(sources=["kernel.cu"])`, `CUDAExtension(...)`."""
    called = position.called
    if called == "torch.utils.cpp_extension.CUDAExtension":
        if not position.conditions:
            yield Hit("MPS404", node, "CUDAExtension needs nvcc.")
    elif called in _BUILDERS and _has_cuda(node, position) and not position.failure_is_handled:
        yield Hit("MPS404", node, f"{called.rpartition('.')[2]}() compiles CUDA sources.")


def _has_cuda(node: ast.Call, position: Position) -> bool:
    if any(keyword.arg in ("cuda_sources", "extra_cuda_cflags") for keyword in node.keywords):
        return True
    with_cuda = argument(node, "with_cuda")
    if with_cuda is not None and _true(with_cuda):
        return True
    sources = argument(node, "sources", 1)
    sources = position.value(sources) if sources is not None else None
    return sources is not None and any(
        (text_of(n) or "").endswith(".cu") for n in ast.walk(sources) if isinstance(n, ast.Constant)
    )


def _true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True
